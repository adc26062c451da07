//! Threads and descriptors in the dump (see [`crate::dump`]).

use alloc::sync::Arc;
use core::fmt::{self, Write};

use super::{Process, RunState, Thread, list};
use crate::fs::{FdTable, proc};
use crate::syscall;

/// Writes what each thread does, and what each process has open and could do with it.
pub fn dump(out: &mut dyn Write) -> fmt::Result {
    list().iter().try_for_each(|process| of_process(process, out))
}

fn of_process(process: &Arc<Process>, out: &mut dyn Write) -> fmt::Result {
    let threads = process.threads();
    threads.iter().try_for_each(|thread| of_thread(thread, out))?;
    threads.first().map_or(Ok(()), |leader| descriptors(&leader.files(), out))
}

fn of_thread(thread: &Thread, out: &mut dyn Write) -> fmt::Result {
    let (tid, name) = (thread.tid(), thread.name());
    write!(out, "thread {tid} of {}, {}: ", thread.process().pid(), name.as_bytes().escape_ascii())?;
    match (thread.state(), thread.waiting_call()) {
        (RunState::Running, _) => writeln!(out, "runs"),
        (RunState::Stopped, _) => writeln!(out, "is stopped"),
        (RunState::Sleeping, None) => writeln!(out, "waits"),
        (RunState::Sleeping, Some(number)) => writeln!(out, "waits in {}", syscall::name(number)),
    }
}

fn descriptors(files: &FdTable, out: &mut dyn Write) -> fmt::Result {
    let mut next = 0;
    while let Some((fd, open)) = files.next(next) {
        next = fd + 1;
        write!(out, "  {fd}: ")?;
        match proc::file_name(&open) {
            Ok(name) => write!(out, "{}", name.escape_ascii())?,
            Err(error) => write!(out, "{error:?}")?,
        }
        writeln!(out, ", ready for {:?}", open.file.poll())?;
        open.file.describe(out)?;
    }
    Ok(())
}
