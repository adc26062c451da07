//! Every system call with wrong pointers and extreme numbers.
//!
//! For each number from 0 to [`LAST`], each argument in turn takes each bad value, over several backgrounds
//! of sound ones. A child makes the calls; when one ends it or hangs it, the next child goes on behind that
//! call. What a call returns is not looked at (conformance does): the kernel has to live, and to work
//! afterwards.

use std::sync::atomic::Ordering::SeqCst;

use user_sys::child::exit_now;
use user_sys::map::mmap;
use user_sys::{Child, Map, PAGE, must, sys};

use crate::allowed::{FILE, Sandbox, allowed};
use crate::scratch::Scratch;
use crate::shared::Shared;
use crate::{Options, Verdict, aftermath};

/// The last number that is tried; Linux 6.10 has 462 calls.
const LAST: usize = 462;

/// Children that one number may use up before the rest of its calls is left out.
const CHILDREN_PER_CALL: usize = 40;

/// Seconds without progress after which a child is given up: a call that blocks signals too can hang it.
const STUCK: u64 = 2;

/// Where in the shared page the next call's index, and the count of calls made, are kept.
const NEXT: usize = 0;
const MADE: usize = 1;

/// Bad values that are numbers.
const NUMBERS: [usize; 14] = [
    0,
    usize::MAX,
    2,
    7,
    0x1000,
    0xffff_ffff,
    0x8000_0000,
    0x7fff_ffff,
    1 << 32,
    0x7fff_ffff_ffff_ffff,
    1 << 63,
    (1 << 63) + 1,
    0x1_0000_0001_0000,
    usize::MAX - 4095,
];

/// Bad values that are addresses whatever is mapped.
const ADDRESSES: [usize; 8] = [
    8,
    0x0000_7fff_ffff_e000 + 4095,
    0x0000_7fff_ffff_ffff,
    0x0000_8000_0000_0000,
    0x8000_0000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ffff_fff8,
];

/// Memory with edges: a readable and writable page, a read-only page, and nothing behind either.
#[derive(Debug)]
struct Places {
    good: Map,
    read_only: Map,
}

impl Places {
    fn new() -> Self {
        let places = Self { good: Map::new(2), read_only: Map::new(1) };
        for (offset, byte) in FILE.to_bytes_with_nul().iter().enumerate() {
            user_sys::map::poke(places.good.start() + offset, *byte);
        }
        must(places.read_only.protect(libc::PROT_READ));
        places
    }

    /// Every value that an argument takes.
    fn bad_values(&self) -> Vec<usize> {
        let end = self.good.end();
        let around = [end, end - 1, end - 8, end - 12, self.good.start() - 1, self.good.start() + 1];
        let read_only = [self.read_only.start(), self.read_only.end() - 1, self.read_only.end() + 16 * PAGE];
        NUMBERS.iter().chain(&ADDRESSES).chain(&around).chain(&read_only).copied().collect()
    }

    /// Backgrounds: what the other arguments are.
    fn backgrounds(&self) -> [[usize; 6]; 5] {
        let good = self.good.start();
        [
            [0; 6],
            [good; 6],
            [3, good, 64, 0, 0, 0],
            [good, 3, good, 64, good, 8],
            [libc::AT_FDCWD as usize, good, good, 16, good, 1],
        ]
    }

    /// The arguments of every call: each bad value in each place over each background, then in all places.
    fn all_arguments(&self) -> Vec<[usize; 6]> {
        let (values, mut all) = (self.bad_values(), Vec::new());
        for background in self.backgrounds() {
            for place in 0..6 {
                all.extend(values.iter().map(|&value| {
                    let mut args = background;
                    args[place] = value;
                    args
                }));
            }
        }
        all.extend(values.iter().map(|&value| [value; 6]));
        all
    }
}

/// All numbers, one after the other.
pub fn run(options: &Options) -> Verdict {
    options.refuse_root_on_host()?;
    let dir = Scratch::enter()?;
    let (mut made, mut ended, mut hung, mut skipped) = (0, 0, 0, 0);
    for nr in 0..=LAST {
        let tally = one_call(nr, options.in_guest)?;
        made += tally.made;
        ended += tally.ended;
        hung += tally.hung;
        skipped += usize::from(tally.made == 0);
    }
    drop(dir);
    println!(
        "badptr: {made} calls of {} numbers; {skipped} numbers left out, {ended} children ended, {hung} hung",
        LAST + 1
    );
    aftermath::check()
}

/// What came of one number.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    made: usize,
    ended: usize,
    hung: usize,
}

/// Makes all calls of number `nr`, in as many children as that takes.
fn one_call(nr: usize, in_guest: bool) -> Result<Tally, String> {
    let places = Places::new();
    let arguments = places.all_arguments();
    let shared = Shared::new()?;
    let mut tally = Tally::default();
    for _ in 0..CHILDREN_PER_CALL {
        let child = Child::spawn(|| make_calls(nr, &arguments, &shared, in_guest));
        let group = child.pid();
        let finished = watch(child, &shared);
        let _ = sys!(kill, -group, libc::SIGKILL);
        reap_strays();
        match finished {
            Finished::All => break,
            Finished::Ended => tally.ended += 1,
            Finished::Hung => tally.hung += 1,
        }
        if shared.counter(NEXT).load(SeqCst) >= arguments.len() {
            break;
        }
    }
    tally.made = shared.counter(MADE).load(SeqCst);
    Ok(tally)
}

/// How a child finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finished {
    All,
    Ended,
    Hung,
}

/// The status of a child that has made all its calls.
const ALL_MADE: i32 = 77;

/// Waits for the child as long as it makes progress.
fn watch(mut child: Child, shared: &Shared) -> Finished {
    let (mut last, mut since) = (usize::MAX, std::time::Instant::now());
    loop {
        match child.wait_for(libc::WNOHANG) {
            Ok(Some(user_sys::Ended::Exited(ALL_MADE))) => return Finished::All,
            Ok(Some(_)) | Err(_) => return Finished::Ended,
            Ok(None) => {}
        }
        let next = shared.counter(NEXT).load(SeqCst);
        if next != last {
            (last, since) = (next, std::time::Instant::now());
        }
        if since.elapsed().as_secs() >= STUCK {
            return Finished::Hung;
        }
        let _ = sys!(nanosleep, &user_sys::timespec(0, 500_000), 0);
    }
}

/// Waits for children that are there without our having made them: CLONE_PARENT makes some.
fn reap_strays() {
    while matches!(sys!(wait4, -1, 0, libc::WNOHANG, 0), Ok(1..)) {}
}

/// Makes the calls from the shared index on.
fn make_calls(nr: usize, arguments: &[[usize; 6]], shared: &Shared, in_guest: bool) -> i32 {
    Sandbox::enter(in_guest, 3000);
    give_descriptor_three();
    let own = sys!(gettid);
    loop {
        let index = shared.counter(NEXT).fetch_add(1, SeqCst);
        let Some(args) = arguments.get(index) else { return ALL_MADE };
        if !allowed(nr, args, in_guest) {
            continue;
        }
        shared.counter(MADE).fetch_add(1, SeqCst);
        // SAFETY: this child exists to make this call; whatever it does to the process ends with the process.
        let _ = unsafe { user_sys::call(nr, args) };
        if sys!(gettid) != own {
            exit_now(0);
        }
    }
}

/// Puts a pipe's reading end at descriptor 3, and closes its other end: reads find the end at once.
fn give_descriptor_three() {
    let mut ends = [0_i32; 2];
    must(sys!(pipe2, &mut ends, libc::O_NONBLOCK));
    let _ = sys!(dup2, ends[0], 3);
    let _ = sys!(close_range, 4, u32::MAX, 0);
    let _ = mmap(0, PAGE, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_stands_in_every_place() {
        let places = Places::new();
        let (values, all) = (places.bad_values(), places.all_arguments());
        for place in 0..6 {
            assert!(values.iter().all(|value| all.iter().any(|args| args[place] == *value)));
        }
        assert_eq!(all.len(), values.len() * (5 * 6 + 1));
    }
}
