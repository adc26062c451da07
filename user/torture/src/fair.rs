//! The scheduler is fair: a process that sleeps is served in time beside busy ones, those share the processor by weight, and classes are
//! heeded: SCHED_FIFO above, SCHED_IDLE below. sched(7)

use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::sleep;
use std::time::{Duration, Instant};

use user_sys::{Child, must, sys};

use crate::naps::{self, NAP, become_nobody};
use crate::shared::Shared;
use crate::{Options, Verdict};

/// Beside how many busy processes one sleeps, where nobody said otherwise.
const HOGS: [usize; 3] = [1, 100, 1000];
/// So many of them are busy while the others are made; these wait at a gate until all are there, for it would take minutes.
const BUSY_AT_ONCE: usize = 100;
/// How long the first nap may take then: opening the gate to hundreds takes some hundred microseconds, and while those who were
/// let in have the grace that there is, a microsecond's debt is paid by waiting for as many as there are processes.
const OWED: Duration = Duration::from_millis(300);

/// How long shares are counted, from when all that compete are there.
const COUNTED: Duration = Duration::from_millis(1500);
/// Nice values, and what each gets of a thousand rounds: by weights of 1024, 335 and 15.
const SHARES: [(i32, Range<usize>); 3] = [(0, 730..760), (5, 230..260), (19, 6..16)];
/// How long one of real time keeps the processor.
const URGENT: Duration = Duration::from_millis(50);

/// `fair [HOGS] [LOOSE]`: with 1 as the second argument, times are only told.
pub fn run(options: &Options) -> Verdict {
    let (given, loose) = (options.number(0, 0)?, options.number(1, 0)? == 1);
    for hogs in HOGS.into_iter().filter(|&hogs| given == 0 || hogs == given) {
        let naps = naps_beside(hogs)?;
        let first = if hogs > BUSY_AT_ONCE { OWED } else { naps::LONGEST };
        let late = naps::judge("fair", &format!("{hogs} busy processes"), &naps, first);
        if !loose {
            late?;
        }
    }
    check_shares(SHARES.map(|(nice, _)| nice), &[])?;
    // Each is given another value while it waits or runs.
    check_shares([19, 0, 5], &SHARES.map(|(nice, _)| nice))?;
    check_idle()?;
    if sys!(geteuid) == Ok(0) { check_real_time() } else { Ok(()) }
}

/// A process that counts rounds for ever, once `ready` returns.
fn hog(rounds: &AtomicUsize, ready: impl FnOnce()) -> Child {
    Child::spawn(|| {
        ready();
        loop {
            rounds.fetch_add(1, Relaxed);
        }
    })
}

fn set_nice(process: i32, nice: i32) {
    must(sys!(setpriority, libc::PRIO_PROCESS, process, nice));
}

fn set_policy(policy: i32, priority: i32) {
    must(sys!(sched_setscheduler, 0, policy, &priority));
}

fn end(hogs: Vec<Child>) {
    for hog in &hogs {
        must(hog.kill(libc::SIGKILL));
    }
    for hog in hogs {
        hog.wait();
    }
}

/// How long naps take beside so many busy processes; the first follows at once on their making.
fn naps_beside(count: usize) -> Result<Vec<Duration>, String> {
    let shared = Shared::new()?;
    let mut gate = [0; 2];
    must(sys!(pipe2, &mut gate, libc::O_CLOEXEC));
    let pass = || {
        must(sys!(close, gate[1]));
        must(sys!(read, gate[0], &mut [0_u8], 1));
    };
    let hogs = (0..count).map(|index| {
        let waits = index + BUSY_AT_ONCE < count;
        hog(shared.counter(0), || {
            become_nobody();
            if waits {
                pass()
            }
        })
    });
    let hogs: Vec<Child> = hogs.collect();
    gate.iter().for_each(|&end| {
        must(sys!(close, end));
    });
    let naps = naps::take();
    end(hogs);
    Ok(naps)
}

/// What processes get of a thousand rounds; `change` is called when all are there.
fn shares(hogs: Vec<Child>, shared: &Shared, change: impl FnOnce(&[Child])) -> Vec<usize> {
    let count =
        || -> Vec<usize> { (0..hogs.len()).map(|index| shared.counter(index).load(Relaxed)).collect() };
    while count().contains(&0) {
        sleep(NAP);
    }
    change(&hogs);
    let before = count();
    sleep(COUNTED);
    let after = count();
    end(hogs);
    let rounds: Vec<usize> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let all = rounds.iter().sum::<usize>().max(1);
    rounds.into_iter().map(|of_one| of_one * 1000 / all).collect()
}

/// Whether processes that begin with these nice values, and are given others later, share as [`SHARES`] says.
fn check_shares(nice: [i32; 3], later: &[i32]) -> Verdict {
    let shared = Shared::new()?;
    let start = |(index, &nice)| hog(shared.counter(index), move || set_nice(0, nice));
    let hogs = nice.iter().enumerate().map(start).collect();
    let got = shares(hogs, &shared, |hogs| {
        hogs.iter().zip(later).for_each(|(hog, &nice)| set_nice(hog.pid(), nice));
    });
    println!("fair: nice 0, 5 and 19 get {got:?} of 1000, having begun with {nice:?}");
    let wrong = SHARES.iter().zip(&got).find(|((_, expected), got)| !expected.contains(got));
    wrong.map_or(Ok(()), |((nice, expected), got)| Err(format!("nice {nice} got {got}, not {expected:?}")))
}

/// SCHED_IDLE gets next to nothing beside another, but not nothing.
fn check_idle() -> Verdict {
    let shared = Shared::new()?;
    let idle = hog(shared.counter(0), || set_policy(libc::SCHED_IDLE, 0));
    let other = hog(shared.counter(1), || ());
    let got = shares(vec![idle, other], &shared, |_| ());
    println!("fair: SCHED_IDLE gets {} of 1000", got[0]);
    if got[0] <= 10 { Ok(()) } else { Err(format!("SCHED_IDLE got {} of 1000", got[0])) }
}

/// While one of SCHED_FIFO runs, no other does.
fn check_real_time() -> Verdict {
    let shared = Shared::new()?;
    let other = hog(shared.counter(0), become_nobody);
    let urgent = Child::spawn(|| {
        set_policy(libc::SCHED_FIFO, 1);
        let (start, before) = (Instant::now(), shared.counter(0).load(Relaxed));
        while start.elapsed() < URGENT {}
        i32::from(shared.counter(0).load(Relaxed) != before)
    });
    let ended = urgent.wait();
    end(vec![other]);
    if ended == user_sys::Ended::Exited(0) {
        Ok(())
    } else {
        Err(format!("SCHED_FIFO beside another: {ended}"))
    }
}
