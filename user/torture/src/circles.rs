//! Descriptors that are sent into a circle of sockets, and then nobody has one of these any more: the memory behind them
//! must come back (unix(7), `SCM_RIGHTS`).

use std::time::{Duration, Instant};

use user_sys::{Child, Ended, Res, must, sys};

use crate::{Options, Verdict, aftermath};

/// Bytes that each round leaves in a circle: all of them together are more than the machine should have.
const LOST: usize = 64 << 20;
const ROUNDS: usize = 8;
/// The caches of the kernel's allocators, and what else comes and goes.
const SLACK_KB: u64 = 16 << 10;
/// A circle is found in milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Round after round, as an ordinary user.
pub fn run(_options: &Options) -> Verdict {
    let before = free_kb()?;
    for round in 0..ROUNDS {
        for circle in [pair, datagrams, unaccepted] {
            let ended = Child::try_spawn(|| i32::from(lose(circle).is_err()));
            match ended.map(Child::wait) {
                Ok(Ended::Exited(0)) => await_memory(before).map_err(|m| format!("round {round}: {m}"))?,
                other => return Err(format!("round {round}: {other:?}")),
            }
        }
    }
    aftermath::check()
}

fn lose(circle: fn(i32) -> Res) -> Result<(), user_sys::Errno> {
    sys!(setresuid, 1000, 1000, 1000)?;
    let file = sys!(memfd_create, c"lost", 0)? as i32;
    let block = vec![7_u8; 1 << 20];
    for _ in 0..LOST / block.len() {
        sys!(write, file, &block[..], block.len())?;
    }
    circle(file).map(drop)
}

/// Both ends of a connection in the queue of one.
fn pair(file: i32) -> Res {
    let mut ends = [0_i32; 2];
    sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, &mut ends)?;
    send(ends[0], &[ends[0], ends[1], file])
}

/// Two pairs of which each carries the other.
fn datagrams(file: i32) -> Res {
    let (mut one, mut other) = ([0_i32; 2], [0_i32; 2]);
    sys!(socketpair, libc::AF_UNIX, libc::SOCK_DGRAM, 0, &mut one)?;
    sys!(socketpair, libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, &mut other)?;
    send(one[0], &[other[0], other[1], file])?;
    send(other[0], &[one[0], one[1]])
}

/// A listener in the queue of a connection that it has not accepted.
fn unaccepted(file: i32) -> Res {
    let address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    let (listener, client) = (
        sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)? as i32,
        sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)? as i32,
    );
    // An abstract name of one zero byte.
    sys!(bind, listener, &address, 4)?;
    sys!(listen, listener, 1)?;
    sys!(connect, client, &address, 4)?;
    send(client, &[listener, file])
}

/// Sends one byte and `files`.
fn send(through: i32, files: &[i32]) -> Res {
    let bytes = size_of_val(files);
    let mut control = [0_u64; 8];
    control[0] = 16 + bytes as u64;
    control[1] = u64::from(libc::SOL_SOCKET as u32) | u64::from(libc::SCM_RIGHTS as u32) << 32;
    for (at, &file) in files.iter().enumerate() {
        control[2 + at / 2] |= u64::from(file as u32) << (at % 2 * 32);
    }
    let part = libc::iovec { iov_base: c"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    let message = Message {
        name: 0,
        name_length: 0,
        parts: &raw const part as u64,
        count: 1,
        control: control.as_ptr() as u64,
        control_length: (16 + bytes as u64).next_multiple_of(8),
        flags: 0,
    };
    sys!(sendmsg, through, &raw const message as u64, 0)
}

/// `struct msghdr`.
#[repr(C)]
struct Message {
    name: u64,
    name_length: u64,
    parts: u64,
    count: u64,
    control: u64,
    control_length: u64,
    flags: u64,
}

fn free_kb() -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| error.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| "no MemFree".to_owned())
}

/// Waits until as much memory is free as was `before`.
fn await_memory(before: u64) -> Verdict {
    let end = Instant::now() + PATIENCE;
    loop {
        let free = free_kb()?;
        if free + SLACK_KB >= before {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("{free} kB free, before it was {before}"));
        }
        must(sys!(sched_yield));
    }
}
