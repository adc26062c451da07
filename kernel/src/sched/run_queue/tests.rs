//! What a queue does in single situations; what holds in all of them is in [`model`](super::model).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::fair::virtual_time;
use super::*;

#[derive(Clone)]
pub struct Task(pub Arc<(u32, Entity)>);

impl Schedulable for Task {
    fn entity(&self) -> &Entity {
        &self.0.1
    }
}

pub fn task(name: u32, share: Share) -> Task {
    Task(Arc::new((name, Entity::new(share))))
}

fn queue_of(shares: &[Share]) -> RunQueue<Task> {
    let mut queue = RunQueue::new();
    queue.try_reserve(shares.len()).unwrap();
    (0..).zip(shares).for_each(|(name, &share)| queue.wake(task(name, share)));
    queue
}

/// Runs whoever is to run for `time` nanoseconds and puts it back; returns its name.
fn turn(queue: &mut RunQueue<Task>, time: u64, yields: bool) -> u32 {
    let task = queue.pick().cloned().unwrap();
    queue.charge(time);
    let name = task.0.0;
    queue.put_back(yields);
    name
}

fn turns(queue: &mut RunQueue<Task>, count: usize, time: u64) -> Vec<u32> {
    (0..count).map(|_| turn(queue, time, false)).collect()
}

const MS: u64 = 1_000_000;

#[test]
fn an_empty_queue_has_nothing_to_run() {
    let mut queue = queue_of(&[]);
    assert!(queue.pick().is_none() && !queue.is_preempted());
    assert_eq!((queue.waiting(), queue.slice()), ((0, 0), TICK));
}

#[test]
fn ranks_go_first_and_equals_in_order_of_arrival() {
    let fifo = Share::real_time(7, false);
    let mut queue = queue_of(&[Share::fair(-20), fifo, Share::real_time(9, true), fifo, Share::URGENT]);
    assert_eq!(queue.waiting(), (1, 4));
    let order: Vec<u32> = (0..5)
        .map(|_| {
            let task = queue.pick().cloned().unwrap();
            queue.sleep();
            task.0.0
        })
        .collect();
    assert_eq!(order, [4, 2, 1, 3, 0]);
}

#[test]
fn fifo_goes_on_until_it_yields_and_round_robin_for_a_round() {
    let fifo = Share::real_time(5, false);
    let mut queue = queue_of(&[fifo, fifo]);
    assert_eq!(turns(&mut queue, 3, 10 * ROUND), [0, 0, 0]);
    assert_eq!((turn(&mut queue, MS, true), turn(&mut queue, MS, false)), (0, 1));
    let round_robin = Share::real_time(5, true);
    let mut queue = queue_of(&[round_robin, round_robin]);
    assert_eq!(turns(&mut queue, 6, ROUND / 2), [0, 0, 1, 1, 0, 0]);
}

#[test]
fn a_ranked_task_preempts_lower_ones_and_goes_on_after_higher_ones() {
    let low = Share::real_time(5, false);
    let mut queue = queue_of(&[low, low]);
    queue.pick().unwrap();
    assert!(!queue.is_preempted());
    queue.wake(task(7, Share::real_time(6, false)));
    assert!(queue.is_preempted());
    queue.put_back(false);
    let high = queue.pick().cloned().unwrap();
    queue.sleep();
    assert_eq!((high.0.0, turn(&mut queue, MS, false)), (7, 0));
}

#[test]
fn fair_tasks_of_one_weight_take_turns() {
    let mut queue = queue_of(&[Share::fair(0); 3]);
    assert_eq!(turns(&mut queue, 7, LONGEST_REQUEST), [0, 1, 2, 0, 1, 2, 0]);
}

/// Runs hogs, in turns of `time`, for `total`.
fn run_hogs(queue: &mut RunQueue<Task>, time: u64, total: u64) {
    turns(queue, (total / time) as usize, time);
}

/// Has the running task sleep.
fn sleep(queue: &mut RunQueue<Task>) -> Task {
    let task = queue.running.clone().unwrap();
    queue.sleep();
    task
}

#[test]
fn one_that_wakes_preempts_hogs_after_whatever_it_did_before() {
    for hogs in [1, 100, 1000] {
        let mut queue = queue_of(&vec![Share::fair(0); hogs + 1]);
        // It was the first to run and has had a whole request in advance, when all others are still to have theirs.
        queue.pick().cloned().unwrap();
        queue.charge(LONGEST_REQUEST);
        let sleeper = sleep(&mut queue);
        for _ in 0..20 {
            run_hogs(&mut queue, MS / 2, MS);
            queue.pick().unwrap();
            queue.charge(MS / 10);
            assert!(!queue.is_preempted());
            queue.wake(sleeper.clone());
            assert!(queue.is_preempted(), "{hogs} hogs");
            queue.put_back(false);
            assert_eq!(queue.pick().unwrap().0.0, sleeper.0.0);
            queue.charge(MS / 50);
            sleep(&mut queue);
        }
    }
}

#[test]
fn who_burns_and_naps_has_no_more_than_its_share_and_the_grace() {
    const HOGS: usize = 99;
    let mut queue = queue_of(&vec![Share::fair(0); HOGS + 1]);
    let (mut total, mut had) = (0, 0);
    while total < 10_000 * MS {
        let task = queue.pick().cloned().unwrap();
        let time = queue.slice();
        queue.charge(time);
        total += time;
        if task.0.0 == 0 {
            had += time;
            queue.sleep();
            queue.wake(task);
        } else {
            queue.put_back(false);
        }
    }
    let due = total / (HOGS as u64 + 1);
    let most = due + total / fair::GRACE_PART + fair::MOST_GRACE + LONGEST_REQUEST;
    assert!((due - LONGEST_REQUEST..=most).contains(&had), "{had} of {total}, {due} are due");
}

#[test]
fn a_batch_task_waits_for_its_turn_and_an_idle_one_makes_way() {
    let mut queue = queue_of(&[Share::fair(0)]);
    queue.pick().cloned().unwrap();
    queue.charge(MS / 10);
    queue.wake(task(1, Share::batch(0)));
    assert!(!queue.is_preempted());

    let mut queue = queue_of(&[Share::idle()]);
    queue.pick().cloned().unwrap();
    queue.charge(MS / 10);
    queue.wake(task(1, Share::fair(19)));
    assert!(queue.is_preempted());
}

#[test]
fn an_idle_task_gets_next_to_nothing_beside_others_and_all_when_alone() {
    let mut queue = queue_of(&[Share::idle(), Share::fair(0)]);
    let ran = turns(&mut queue, 2000, LONGEST_REQUEST);
    let idle = ran.iter().filter(|&&name| name == 0).count();
    assert!((1..=10).contains(&idle), "{idle} of 2000");
    while queue.pick().unwrap().0.0 != 1 {
        queue.charge(MS);
        queue.put_back(false);
    }
    sleep(&mut queue);
    assert_eq!(turns(&mut queue, 3, MS), [0; 3]);
}

#[test]
fn a_debt_without_grace_is_paid_by_waiting() {
    let mut queue = queue_of(&[Share::fair(0); 2]);
    let greedy = queue.pick().cloned().unwrap();
    queue.charge(LONGEST_REQUEST);
    queue.sleep();
    queue.fair.grace = 0;
    let lag = greedy.entity().lag.get() as i64;
    assert_eq!(lag, -(virtual_time(LONGEST_REQUEST / 2, 1024) as i64));
    // At once it has to wait for the other ...
    queue.wake(greedy.clone());
    assert!(!queue.fair.is_eligible(greedy.entity()));
    // ... which, after a while, has had as much.
    turn(&mut queue, LONGEST_REQUEST, false);
    queue.fair.grace = 0;
    assert!(queue.fair.is_eligible(greedy.entity()));
}

#[test]
fn what_a_sleeper_is_owed_it_has_when_it_wakes() {
    let mut queue = queue_of(&[Share::fair(0); 2]);
    assert_eq!(turn(&mut queue, LONGEST_REQUEST, false), 0);
    let owed = queue.pick().cloned().unwrap();
    assert_eq!(owed.0.0, 1);
    queue.sleep();
    let lag = owed.entity().lag.get() as i64;
    assert_eq!(lag, virtual_time(LONGEST_REQUEST / 2, 1024) as i64);
    turn(&mut queue, MS, false);
    queue.wake(owed.clone());
    let now = queue.fair.now();
    assert!((distance(now, owed.entity().vruntime.get()) - lag).abs() <= 2);
}

#[test]
fn one_that_moves_to_another_queue_owes_and_is_owed_a_request_at_most() {
    for advance in [0, LONGEST_REQUEST] {
        let mut queue = queue_of(&[Share::fair(0); 2]);
        let first = queue.pick().cloned().unwrap();
        queue.charge(advance);
        queue.sleep();
        let mut other = queue_of(&[Share::fair(0); 3]);
        turns(&mut other, 100, MS);
        other.wake(first.clone());
        let lag = distance(other.fair.now(), first.entity().vruntime.get());
        assert!(lag.unsigned_abs() <= virtual_time(LONGEST_REQUEST, 1024) + 2, "{lag}");
        assert!(turns(&mut other, 20, LONGEST_REQUEST).contains(&0));
    }
}

/// What `count` turns of `time` give to each of `tasks` tasks, in turns.
fn counted(queue: &mut RunQueue<Task>, tasks: usize, count: usize, time: u64) -> Vec<usize> {
    let ran = turns(queue, count, time);
    (0..tasks as u32).map(|name| ran.iter().filter(|&&other| other == name).count()).collect()
}

#[test]
fn shares_are_those_of_the_weights() {
    let mut queue = queue_of(&[0, 5, 19].map(Share::fair));
    // 1024, 335 and 15.
    assert_eq!(counted(&mut queue, 3, 13740, MS / 10), [10240, 3350, 150]);
}

#[test]
fn another_nice_value_counts_at_once_for_one_that_waits_runs_or_sleeps() {
    let mut queue = queue_of(&[Share::fair(19); 4]);
    let sleeper = queue.pick().cloned().unwrap();
    queue.sleep();
    let running = queue.pick().cloned().unwrap();
    let waiting: Vec<Task> = (2..4).map(|name| find(&queue, name)).collect();
    queue.change(&sleeper, Share::fair(5));
    assert_eq!(queue.fair.weight(), 3 * 15);
    queue.change(&waiting[0], Share::fair(0));
    assert_eq!(queue.fair.weight(), 1024 + 2 * 15);
    queue.change(&running, Share::fair(0));
    assert_eq!(queue.fair.weight(), 2 * 1024 + 15);
    queue.put_back(false);
    queue.wake(sleeper);
    assert_eq!(queue.fair.weight(), 2 * 1024 + 335 + 15);
    let counts = counted(&mut queue, 4, 2398 * 10, MS / 10);
    let shares = [3350, 10240, 10240, 150];
    let off = counts.iter().zip(shares).map(|(&count, share)| count.abs_diff(share));
    assert!(off.max() < Some(2 * LONGEST_REQUEST as usize / (MS as usize / 10)), "{counts:?}");
}

/// A task that waits in a heap.
fn find(queue: &RunQueue<Task>, name: u32) -> Task {
    queue.fair.waiting().chain(&queue.only).find(|task| task.0.0 == name).unwrap().clone()
}

#[test]
fn one_whose_nice_value_changes_all_the_time_does_not_keep_the_core() {
    let mut queue = queue_of(&[Share::fair(0); 2]);
    let restless = queue.pick().cloned().unwrap();
    let mut had = 0;
    while !queue.is_preempted() {
        queue.charge(MS / 10);
        had += MS / 10;
        let nice = if had % (MS / 5) == 0 { 0 } else { 1 };
        queue.change(&restless, Share::fair(nice));
        assert!(had < 2 * LONGEST_REQUEST, "it goes on");
    }
    queue.put_back(false);
    assert_eq!(queue.pick().unwrap().0.0, 1);
}

#[test]
fn a_task_becomes_real_time_and_fair_again_wherever_it_is() {
    let (fair, fifo) = (Share::fair(0), Share::real_time(1, false));
    let mut queue = queue_of(&[fair; 4]);
    let sleeper = queue.pick().cloned().unwrap();
    queue.sleep();
    let running = queue.pick().cloned().unwrap();
    let waiting = find(&queue, 2);
    queue.change(&waiting, fifo);
    assert!(queue.is_preempted());
    assert_eq!((queue.waiting(), queue.fair.weight()), ((0, 2), 2 * 1024));
    queue.change(&running, fifo);
    assert!(!queue.is_preempted());
    queue.change(&sleeper, fifo);
    queue.wake(sleeper.clone());
    assert_eq!((queue.waiting(), queue.fair.weight()), ((0, 3), 1024));
    queue.put_back(true);
    // In the order in which they became what they are; the last yielded.
    for task in [&waiting, &sleeper, &running] {
        let next = queue.pick().cloned().unwrap();
        assert_eq!(next.0.0, task.0.0);
        queue.change(&next, fair);
        queue.put_back(false);
    }
    assert_eq!((queue.waiting(), queue.fair.weight()), ((0, 4), 4 * 1024));
    let counts = counted(&mut queue, 4, 400, LONGEST_REQUEST);
    assert!(counts.iter().all(|count| count.abs_diff(100) <= 1), "{counts:?}");
}

#[test]
fn the_only_one_that_waits_can_change_too() {
    let mut queue = queue_of(&[Share::fair(0)]);
    let only = find(&queue, 0);
    queue.change(&only, Share::fair(19));
    assert_eq!(queue.fair.weight(), 15);
    queue.change(&only, Share::URGENT);
    assert_eq!((queue.waiting(), queue.fair.weight()), ((1, 0), 0));
    queue.change(&only, Share::idle());
    assert_eq!((queue.waiting(), queue.fair.weight()), ((0, 1), 3));
    assert_eq!(queue.pick().unwrap().0.0, 0);
}

#[test]
fn who_yields_lets_another_go_first_whatever_it_is_owed() {
    let mut queue = queue_of(&[Share::fair(0); 3]);
    // Each yields after next to nothing, as those do who wait for a lock in a loop.
    let ran: Vec<u32> = (0..9).map(|_| turn(&mut queue, 1000, true)).collect();
    assert!(ran.windows(2).all(|pair| pair[0] != pair[1]), "{ran:?}");
    assert!((0..3).all(|name| ran.iter().filter(|&&other| other == name).count() >= 2), "{ran:?}");
    let mut queue = queue_of(&[Share::fair(0)]);
    assert_eq!((turn(&mut queue, MS, true), turn(&mut queue, MS, true)), (0, 0));
}

/// Each member of a chain burns less than its request, makes the next, and ends.
fn turns_of_chains(chains: u32, others: usize, turns: usize) -> usize {
    let mut queue = queue_of(&vec![Share::fair(0); others]);
    queue.try_reserve(others + chains as usize + 1).unwrap();
    let link = || task(u32::MAX, Share::fair(0));
    (0..chains).for_each(|_| queue.wake(link()));
    let mut of_chains = 0;
    for _ in 0..turns {
        let is_link = queue.pick().unwrap().0.0 == u32::MAX;
        queue.charge(14 * MS / 10);
        if is_link {
            of_chains += 1;
            let next = link();
            queue.inherit(next.entity());
            queue.sleep();
            queue.wake(next);
        } else {
            queue.put_back(false);
        }
    }
    of_chains
}

#[test]
fn who_makes_a_successor_and_ends_gains_nothing_but_the_grace() {
    const TURNS: usize = 20_000;
    let grace = TURNS / fair::GRACE_PART as usize;
    for (chains, others) in [(1, 10), (4, 10), (16, 10), (16, 50)] {
        let due = TURNS * chains as usize / (chains as usize + others);
        let got = turns_of_chains(chains, others, TURNS);
        assert!(got <= due + grace + TURNS / 100, "{chains} chains beside {others}: {got}, due {due}");
    }
}

#[test]
fn what_a_task_is_owed_is_not_taken_through_real_time() {
    let mut queue = queue_of(&[Share::fair(19); 4]);
    let owed = find(&queue, 0);
    turns(&mut queue, 40, MS / 10);
    queue.change(&owed, Share::real_time(1, false));
    queue.change(&owed, Share::fair(-20));
    assert_eq!(owed.entity().lag.get(), 0);
}

#[test]
fn slices_end_with_requests_while_others_wait() {
    let mut queue = queue_of(&[Share::fair(0); 2]);
    queue.pick().unwrap();
    assert_eq!(queue.slice(), FIRST_REQUEST);
    queue.charge(MS);
    assert_eq!(queue.slice(), FIRST_REQUEST - MS);
    queue.sleep();
    queue.pick().cloned().unwrap();
    assert_eq!(queue.slice(), TICK);
}

#[test]
fn virtual_time_wraps_around() {
    let mut queue = queue_of(&[]);
    queue.fair.enter(task(0, Share::idle()).entity());
    let far = task(0, Share::idle());
    far.entity().vruntime.set(u64::MAX - (1 << 40));
    queue.fair.leave(far.entity());
    (0..2).for_each(|name| queue.wake(task(name, Share::fair(0))));
    assert_eq!(counted(&mut queue, 2, 2000, LONGEST_REQUEST), [1000, 1000]);
}
