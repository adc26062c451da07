//! Opens until EMFILE: exactly as many as the limit says, of every kind, again and again.

use user_sys::{Errno, Res, must, sys};

use crate::{Options, Verdict, aftermath};

/// Descriptors that a process may have while this runs.
const LIMIT: usize = 1024;

/// A kind of descriptor: its name, how to get one, how many descriptors that makes.
type Kind = (&'static str, fn() -> Res, usize);

const KINDS: [Kind; 7] = [
    ("dup", || sys!(dup, 0), 1),
    ("open", || sys!(open, c"/dev/null", libc::O_RDONLY, 0), 1),
    ("pipe", || sys!(pipe2, &mut [0_i32; 2], 0), 2),
    ("socketpair", || sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, &mut [0_i32; 2]), 2),
    ("eventfd", || sys!(eventfd2, 0, 0), 1),
    ("epoll", || sys!(epoll_create1, 0), 1),
    ("memfd", || sys!(memfd_create, c"fds", 0), 1),
];

/// Each kind, five times.
pub fn run(_options: &Options) -> Verdict {
    let limit = libc::rlimit { rlim_cur: LIMIT as u64, rlim_max: LIMIT as u64 };
    must(sys!(prlimit64, 0, libc::RLIMIT_NOFILE, &limit, 0));
    must(sys!(close_range, 3, u32::MAX, 0));
    for round in 0..5 {
        for (name, open, size) in KINDS {
            fill(open, size).map_err(|message| format!("{name}, round {round}: {message}"))?;
        }
    }
    aftermath::check()
}

/// Opens until it is refused, checks the number, and closes all.
fn fill(open: fn() -> Res, size: usize) -> Verdict {
    let mut opened = 0;
    let errno = loop {
        match open() {
            Ok(_) => opened += size,
            Err(errno) => break errno,
        }
    };
    must(sys!(close_range, 3, u32::MAX, 0));
    match errno {
        Errno::EMFILE if opened == (LIMIT - 3) / size * size => Ok(()),
        errno => Err(format!("{} after {opened}", user_sys::errno_name(errno))),
    }
}
