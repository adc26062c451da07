//! Is the machine still there? Ordinary work after the extraordinary.

use std::io::{Read, Write};
use std::process::Command;
use std::{fs, thread};

use user_sys::{Child, Ended};

use crate::Verdict;

/// Allocates, writes a file and reads it back, forks, executes, starts a thread.
pub fn check() -> Verdict {
    let block = vec![0x5a_u8; 1 << 20];
    let path = format!("/tmp/torture.{}", std::process::id());
    let outcome = file_round_trip(&path, &block);
    let _ = fs::remove_file(&path);
    outcome.map_err(|error| format!("afterwards: file: {error}"))?;
    expect("fork", Child::try_spawn(|| 42).map(Child::wait), Ended::Exited(42))?;
    let status = Command::new("/proc/self/exe")
        .arg("noop")
        .output()
        .map_err(|error| format!("afterwards: exec: {error}"))?;
    if !status.status.success() {
        return Err(format!("afterwards: exec: {}", status.status));
    }
    match thread::Builder::new().spawn(|| 7).map(thread::JoinHandle::join) {
        Ok(Ok(7)) => Ok(()),
        other => Err(format!("afterwards: thread: {other:?}")),
    }
}

fn file_round_trip(path: &str, block: &[u8]) -> std::io::Result<()> {
    fs::File::create(path)?.write_all(block)?;
    let mut back = Vec::new();
    fs::File::open(path)?.read_to_end(&mut back)?;
    if back != block {
        return Err(std::io::Error::other("other bytes came back"));
    }
    Ok(())
}

fn expect(what: &str, got: Result<Ended, user_sys::Errno>, wanted: Ended) -> Verdict {
    match got {
        Ok(ended) if ended == wanted => Ok(()),
        Ok(ended) => Err(format!("afterwards: {what}: {ended}")),
        Err(errno) => Err(format!("afterwards: {what}: {}", user_sys::errno_name(errno))),
    }
}
