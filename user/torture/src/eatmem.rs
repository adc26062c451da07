//! Takes memory until it is refused, in a child; the parent goes on.
//!
//! Three ways in: pages of the process, pages of files, buffers of pipes and sockets. The child must be
//! refused (ENOMEM, ENOSPC, EFBIG, EMFILE) or be killed; nothing else may be.

use std::sync::atomic::Ordering::SeqCst;

use user_sys::map::{mmap, poke};
use user_sys::{Child, Ended, Errno, PAGE, must, sys};

use crate::shared::Shared;
use crate::{Options, Verdict, aftermath};

const MIB: usize = 1 << 20;

/// Mebibytes that it takes on a host, where nobody said otherwise.
const HOST_LIMIT: usize = 256;

/// All three ways, or the one that is named.
pub fn run(options: &Options) -> Verdict {
    let limit = options.limit.unwrap_or(if options.in_guest { usize::MAX / MIB } else { HOST_LIMIT });
    match options.positional.first().map(String::as_str) {
        None => ["anonymous", "files", "pipes"].iter().try_for_each(|way| eat(way, limit)),
        Some(way) => eat(way, limit),
    }
}

/// One way, in a child.
fn eat(way: &str, limit: usize) -> Verdict {
    let eater: fn(usize, &Shared) -> Result<(), Errno> = match way {
        "anonymous" => anonymous,
        "files" => files,
        "pipes" => pipes,
        other => return Err(format!("no way named {other}")),
    };
    let shared = Shared::new()?;
    let mut child = Child::spawn(|| {
        must(sys!(alarm, 0));
        eater(limit, &shared).map_or_else(Errno::into_raw, |()| 0)
    });
    let ended = child.wait_for(0).map_err(|errno| format!("wait: {}", user_sys::errno_name(errno)))?;
    let taken = shared.counter(0).load(SeqCst);
    match ended {
        Some(Ended::Exited(0)) => println!("eatmem: {way}: {taken} MiB, the limit"),
        Some(Ended::Exited(errno)) => {
            println!("eatmem: {way}: {taken} MiB, then {}", user_sys::errno_name(Errno::new(errno)));
        }
        Some(Ended::Killed(libc::SIGKILL)) => println!("eatmem: {way}: {taken} MiB, then killed"),
        other => return Err(format!("{way}: after {taken} MiB: {other:?}")),
    }
    aftermath::check()
}

/// Private pages, all touched.
fn anonymous(limit: usize, shared: &Shared) -> Result<(), Errno> {
    for taken in 0..limit {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = mmap(0, MIB, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)?;
        (0..MIB).step_by(PAGE).for_each(|offset| poke(at + offset, 1));
        shared.counter(0).store(taken + 1, SeqCst);
    }
    Ok(())
}

/// Pages of files that nobody can find any more, so that they go with the process.
fn files(limit: usize, shared: &Shared) -> Result<(), Errno> {
    let block = vec![1_u8; MIB];
    let fd = sys!(memfd_create, c"eatmem", 0)?;
    for taken in 0..limit {
        let mut written = 0;
        while written < MIB {
            written += sys!(write, fd, &block[written..], MIB - written)?;
        }
        shared.counter(0).store(taken + 1, SeqCst);
    }
    Ok(())
}

/// Buffers of pipes and of socket pairs; EMFILE ends it at the latest.
fn pipes(limit: usize, shared: &Shared) -> Result<(), Errno> {
    let block = vec![1_u8; 65536];
    let mut bytes = 0;
    while bytes < limit.saturating_mul(MIB) {
        let mut ends = [0_i32; 2];
        if shared.counter(1).fetch_add(1, SeqCst).is_multiple_of(2) {
            sys!(pipe2, &mut ends, libc::O_NONBLOCK)?;
        } else {
            sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0, &mut ends)?;
        }
        while let Ok(count) = sys!(write, ends[1], &block[..], block.len()) {
            bytes += count;
        }
        shared.counter(0).store(bytes / MIB, SeqCst);
    }
    Ok(())
}
