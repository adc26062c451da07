//! Random sequences of system calls with plausible arguments: descriptors that exist, pointers into memory
//! that is there, small numbers, flags; and now and then something else.
//!
//! The same seed gives the same sequences. Each sequence runs in a child of its own; the kernel has to
//! outlive all of them.

use user_sys::child::exit_now;
use user_sys::{Child, Map, Rng, must, sys};

use crate::allowed::{FILE, Sandbox, allowed};
use crate::scratch::Scratch;
use crate::{Options, Verdict, aftermath};

/// Calls in one sequence.
const CALLS: usize = 300;

/// Seconds that a sequence may take: it may block its own timer.
const PATIENCE: u64 = 3;

/// The last number that is tried.
const LAST: usize = 462;

/// Calls that are drawn more often, because a kernel spends its life in them and they depend on one another.
const COMMON: &[usize] = &[
    0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12, 16, 17, 18, 19, 20, 22, 23, 25, 28, 32, 33, 35, 39, 41, 42, 43, 44,
    45, 46, 47, 48, 49, 50, 51, 53, 54, 55, 56, 72, 74, 77, 79, 80, 82, 83, 84, 86, 87, 88, 89, 202, 213,
    217, 232, 233, 257, 262, 263, 281, 283, 286, 288, 290, 291, 292, 293, 302, 326, 436,
];

/// Runs N sequences from SEED on.
pub fn run(options: &Options) -> Verdict {
    options.refuse_root_on_host()?;
    let (seed, count) = (options.number(0, 1)?, options.number(1, 100)?);
    let mut rng = Rng::new(seed as u64);
    let mut hung = 0;
    for _ in 0..count {
        let (sequence_seed, _scratch) = (rng.next_u64(), Scratch::enter()?);
        let child = Child::spawn(|| sequence(sequence_seed, options.in_guest));
        let group = child.pid();
        hung += usize::from(child.wait_at_most(PATIENCE).is_none());
        let _ = sys!(kill, -group, libc::SIGKILL);
        while matches!(sys!(wait4, -1, 0, libc::WNOHANG, 0), Ok(1..)) {}
    }
    println!("fuzz: seed {seed}, {count} sequences of {CALLS} calls, {hung} stopped by the clock");
    aftermath::check()
}

/// One sequence.
fn sequence(seed: u64, in_guest: bool) -> i32 {
    Sandbox::enter(in_guest, 2000);
    let mut rng = Rng::new(seed);
    let memory = Map::new(8);
    for (offset, byte) in FILE.to_bytes_with_nul().iter().enumerate() {
        user_sys::map::poke(memory.start() + offset, *byte);
    }
    make_descriptors();
    let own = sys!(gettid);
    for _ in 0..CALLS {
        let nr = if rng.below(4) == 0 { rng.below(LAST + 1) } else { rng.pick(COMMON) };
        let args = std::array::from_fn(|_| argument(&mut rng, &memory));
        if allowed(nr, &args, in_guest) {
            // SAFETY: this child exists to make such calls; whatever they do to the process ends with it.
            let _ = unsafe { user_sys::call(nr, &args) };
        }
        if sys!(gettid) != own {
            exit_now(0);
        }
    }
    0
}

/// One of each kind of descriptor, from 3 on.
fn make_descriptors() {
    let mut pair = [0_i32; 2];
    must(sys!(pipe2, &mut pair, libc::O_NONBLOCK));
    let _ = sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0, &mut pair);
    let _ = sys!(socket, libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
    let _ = sys!(socket, libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0);
    let _ = sys!(epoll_create1, 0);
    let _ = sys!(eventfd2, 1, libc::EFD_NONBLOCK);
    let _ = sys!(timerfd_create, libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK);
    let _ = sys!(open, c".", libc::O_RDONLY, 0);
    let _ = sys!(memfd_create, c"fuzz", 0);
}

/// A plausible argument, mostly.
fn argument(rng: &mut Rng, memory: &Map) -> usize {
    match rng.below(16) {
        0..=4 => rng.below(20),
        5..=8 => memory.page(rng.below(8)),
        9 => memory.start() + rng.below(8 * 4096),
        10 => 1 << rng.below(24),
        11 => rng.below(65536),
        12 => rng.pick(&[0, usize::MAX, libc::AT_FDCWD as usize, 4096, 8192]),
        13 => memory.end() - rng.below(64),
        14 => rng.next_u64() as usize & 0xffff_ffff,
        _ => rng.next_u64() as usize,
    }
}
