//! Tests of futexes: waiting, waking, requeueing, time-outs, wake operations, and a model of the queues.

use super::super::signal::{Signal, SignalInfo};
use super::super::tests::{Running, process, run_as_thread};
use super::*;
use core::sync::atomic::AtomicU32;
use proptest::prelude::*;

fn key(address: u64) -> Key {
    // Tests run side by side: the test's own thread id keeps their futexes apart.
    Key::Private { space: crate::arch::core_id().0 as usize + 1, address }
}

/// A word that is always there.
struct Present(Arc<AtomicU32>);

impl Present {
    fn new(value: u32) -> Self {
        Self(Arc::new(AtomicU32::new(value)))
    }
}

impl Word for Present {
    fn peek(&self) -> Option<u32> {
        Some(self.0.load(Ordering::Relaxed))
    }

    fn exchange(&self, old: u32, new: u32) -> Option<u32> {
        let result = self.0.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
        Some(result.unwrap_or_else(|found| found))
    }

    fn bring_in(&self, _write: bool) -> Result<(), Errno> {
        unreachable!("it is there")
    }
}

/// A thread that waits while `word` is 0.
fn waiter(
    key: Key,
    bitset: u32,
    word: &Arc<AtomicU32>,
    deadline: Option<u64>,
) -> (Arc<Thread>, Running<Result<(), Errno>>) {
    let thread = process().leader().unwrap();
    let (this, word) = (thread.clone(), Present(word.clone()));
    let running =
        run_as_thread(thread.clone(), async move { wait(&this, key, bitset, &word, 0, deadline).await });
    (thread, running)
}

#[test]
fn a_word_that_has_changed_is_not_waited_for() {
    let word = Arc::new(AtomicU32::new(1));
    assert_eq!(waiter(key(0x10), MATCH_ANY, &word, None).1.result(), Some(Err(Errno::EAGAIN)));
}

#[test]
fn wakes_go_to_those_that_came_first() {
    let word = Arc::new(AtomicU32::new(0));
    let waiters: Vec<_> = (0..3).map(|_| waiter(key(0x20), MATCH_ANY, &word, None).1).collect();
    waiters.iter().for_each(|w| assert_eq!(w.result(), None));
    assert_eq!(wake(key(0x20), 2, MATCH_ANY), 2);
    let results: Vec<_> = waiters.iter().map(Running::result).collect();
    assert_eq!(results, [Some(Ok(())), Some(Ok(())), None]);
    assert_eq!(wake(key(0x24), 9, MATCH_ANY), 0);
    assert_eq!(wake(key(0x20), 9, MATCH_ANY), 1);
}

#[test]
fn a_wake_needs_a_common_bit() {
    let word = Arc::new(AtomicU32::new(0));
    let (_, running) = waiter(key(0x30), 0b10, &word, None);
    assert_eq!(running.result(), None);
    assert_eq!(wake(key(0x30), 1, 0b01), 0);
    assert_eq!(wake(key(0x30), 1, 0b11), 1);
    assert_eq!(running.result(), Some(Ok(())));
}

#[test]
fn timeouts_and_signals_end_a_wait_and_leave_no_entry() {
    let word = Arc::new(AtomicU32::new(0));
    let deadline = crate::arch::now() + 1_000_000;
    let (_, running) = waiter(key(0x40), MATCH_ANY, &word, Some(deadline));
    assert_eq!(running.result_after(deadline), Err(Errno::ETIMEDOUT));
    let (thread, running) = waiter(key(0x40), MATCH_ANY, &word, None);
    assert_eq!(running.result(), None);
    thread.send_signal(SignalInfo::kernel(Signal::TERM)).unwrap();
    assert_eq!(running.result(), Some(Err(Errno::ERESTARTSYS)));
    assert_eq!(wake(key(0x40), 9, MATCH_ANY), 0);
}

#[test]
fn requeued_waiters_wait_for_the_other_futex() {
    let word = Arc::new(AtomicU32::new(0));
    let waiters: Vec<_> = (0..4).map(|_| waiter(key(0x50), MATCH_ANY, &word, None).1).collect();
    waiters.iter().for_each(|w| assert_eq!(w.result(), None));
    let word = Present(word);
    assert_eq!(requeue(key(0x50), key(0x54), 1, 2, Some((&word, 7))), Err(Errno::EAGAIN));
    assert_eq!(requeue(key(0x50), key(0x54), 1, 2, Some((&word, 0))), Ok((1, 2)));
    assert_eq!(wake(key(0x50), 9, MATCH_ANY), 1);
    assert_eq!(wake(key(0x54), 1, MATCH_ANY), 1);
    let done = waiters.iter().filter(|w| w.result() == Some(Ok(()))).count();
    assert_eq!(done, 3);
    assert_eq!(wake(key(0x54), 9, MATCH_ANY), 1);
}

#[test]
fn a_requeued_waiter_still_times_out() {
    let word = Arc::new(AtomicU32::new(0));
    let deadline = crate::arch::now() + 5_000_000;
    let (_, running) = waiter(key(0x60), MATCH_ANY, &word, Some(deadline));
    assert_eq!(running.result(), None);
    assert_eq!(requeue(key(0x60), key(0x164), 0, 9, None), Ok((0, 1)));
    assert_eq!(running.result_after(deadline), Err(Errno::ETIMEDOUT));
    assert_eq!(wake(key(0x164), 9, MATCH_ANY), 0);
}

#[test]
fn wake_op_changes_one_word_and_wakes_on_two() {
    let word = Arc::new(AtomicU32::new(0));
    let (_, first) = waiter(key(0x70), MATCH_ANY, &word, None);
    let (_, second) = waiter(key(0x74), MATCH_ANY, &word, None);
    assert_eq!((first.result(), second.result()), (None, None));
    let target = Present::new(5);
    // FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_GT, 4)
    let operation = WakeOperation::decode(1 << 28 | 4 << 24 | 3 << 12 | 4).unwrap();
    assert_eq!(wake_op((key(0x70), 1), (key(0x74), 1), operation, &target), Ok(2));
    assert_eq!(target.peek(), Some(8));
    assert_eq!((first.result(), second.result()), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn wake_operations_are_decoded_with_their_signs() {
    let negative = WakeOperation::decode(1 << 28 | 2 << 24 | 0xfff << 12 | 0xfff).unwrap();
    assert_eq!(negative.apply(5), 4);
    assert!(negative.holds(-2i32 as u32) && !negative.holds(0));
    let shift = WakeOperation::decode(1 << 31 | 2 << 28 | 5 << 12).unwrap();
    assert_eq!(shift.apply(1), 33);
    assert_eq!(WakeOperation::decode(5 << 28), Err(Errno::ENOSYS));
    assert_eq!(WakeOperation::decode(6 << 24), Err(Errno::ENOSYS));
}

/// A word whose page is away, at first also for writing.
struct Away(SpinLock<(bool, bool, u32)>);

impl Word for Away {
    fn peek(&self) -> Option<u32> {
        let (readable, _, value) = *self.0.lock();
        readable.then_some(value)
    }

    fn exchange(&self, old: u32, new: u32) -> Option<u32> {
        let (_, writable, value) = &mut *self.0.lock();
        let found = writable.then_some(*value)?;
        if found == old {
            *value = new;
        }
        Some(found)
    }

    fn bring_in(&self, write: bool) -> Result<(), Errno> {
        assert!(TABLE[key(0x80).bucket()].0.entries.try_lock().is_some());
        let (readable, writable, _) = &mut *self.0.lock();
        *readable = true;
        *writable |= write;
        Ok(())
    }
}

#[test]
fn a_page_that_is_away_is_fetched_without_the_lock() {
    let (waiter, word) = (Arc::new(Waiter::default()), Away(SpinLock::new((false, false, 1))));
    assert_eq!(enqueue(&waiter, key(0x80), 1, &word, 0, Waker::noop()), Err(Errno::EAGAIN));
    let add_two = WakeOperation::decode(1 << 28 | 2 << 12).unwrap();
    assert_eq!(wake_op((key(0x80), 1), (key(0x80), 1), add_two, &word), Ok(0));
    assert_eq!(word.peek(), Some(3));
}

#[test]
fn no_wake_is_lost_between_cores() {
    let (word, key) = (Arc::new(AtomicU32::new(0)), key(0x90));
    let changer = word.clone();
    let other = std::thread::spawn(move || {
        for _ in 0..500 {
            while changer.load(Ordering::SeqCst) != 0 {
                std::thread::yield_now();
            }
            changer.store(1, Ordering::SeqCst);
            wake(key, 1, MATCH_ANY);
        }
    });
    for _ in 0..500 {
        let (_, running) = waiter(key, MATCH_ANY, &word, None);
        while running.result().is_none() {
            std::thread::yield_now();
        }
        while word.swap(0, Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
    other.join().unwrap();
}

proptest! {
    /// Against a list of (futex, bits) in the order of arrival.
    #[test]
    fn queues_behave_like_a_list(operations in prop::collection::vec((0u8..4, 0u64..3, 0u64..3, 1u32..4, 0usize..3), 1..40)) {
        let at = |n: u64| key(0x1000 + n * 4);
        let mut model: Vec<(u64, u32)> = Vec::new();
        let mut waiters: Vec<Arc<Waiter>> = Vec::new();
        let word = Present::new(0);
        for (operation, a, b, bits, count) in operations {
            match operation {
                0 | 1 => {
                    let waiter = Arc::new(Waiter::default());
                    enqueue(&waiter, at(a), bits, &word, 0, Waker::noop()).unwrap();
                    waiters.push(waiter);
                    model.push((a, bits));
                }
                2 => {
                    let mut left = count;
                    let before = model.len();
                    let keep: Vec<bool> = model.iter().map(|&(f, m)| {
                        let hit = f == a && m & bits != 0 && left > 0;
                        left -= usize::from(hit);
                        !hit
                    }).collect();
                    let mut flags = keep.iter();
                    model.retain(|_| *flags.next().unwrap());
                    let mut flags = keep.iter();
                    prop_assert_eq!(wake(at(a), count, bits), before - model.len());
                    for (waiter, kept) in waiters.iter().zip(&keep) {
                        prop_assert_eq!(waiter.bucket.load(Ordering::Relaxed) != NOWHERE, *kept);
                    }
                    waiters.retain(|_| *flags.next().unwrap());
                }
                _ if a != b => {
                    let moved = model.iter().filter(|&&(f, _)| f == a).count().min(count);
                    prop_assert_eq!(requeue(at(a), at(b), 0, count, None), Ok((0, moved)));
                    for _ in 0..moved {
                        let from = model.iter().position(|&(f, _)| f == a).unwrap();
                        let (_, bits) = model.remove(from);
                        model.push((b, bits));
                        let waiter = waiters.remove(from);
                        waiters.push(waiter);
                    }
                }
                _ => {}
            }
        }
        for waiter in &waiters {
            prop_assert!(waiter.leave());
        }
    }
}
