//! Threads and descriptors in the dump (see [`crate::dump`]).

use alloc::sync::Arc;
use core::fmt::{self, Write};

use super::{Process, RunState, Thread, current, list};
use crate::fs::{FdTable, proc};
use crate::syscall;

/// Writes what each thread does, and what each process has open and could do with it.
pub fn dump(out: &mut dyn Write) -> fmt::Result {
    list().iter().try_for_each(|process| of_process(process, out))
}

/// Writes what this core does, for a report of the kernel's end: it waits for no lock and allocates nothing.
pub fn describe_core(out: &mut dyn Write) -> fmt::Result {
    let Some(current) = current::try_here() else { return write!(out, "between two threads") };
    let Some(thread) = &*current else { return write!(out, "in no process") };
    write!(out, "in process {}", thread.process().pid())?;
    if let Some(name) = thread.try_name() {
        write!(out, " ({})", name.as_bytes().escape_ascii())?;
    }
    write!(out, ", thread {}", thread.tid())?;
    match thread.call() {
        Some(number) => write!(out, ", in {} (system call {number})", syscall::name(number)),
        None => write!(out, ", in no system call"),
    }
}

fn of_process(process: &Arc<Process>, out: &mut dyn Write) -> fmt::Result {
    let threads = process.threads();
    threads.iter().try_for_each(|thread| of_thread(thread, out))?;
    threads.first().map_or(Ok(()), |leader| descriptors(&leader.files(), out))
}

fn of_thread(thread: &Thread, out: &mut dyn Write) -> fmt::Result {
    let (tid, name) = (thread.tid(), thread.name());
    write!(out, "thread {tid} of {}, {}: ", thread.process().pid(), name.as_bytes().escape_ascii())?;
    match (thread.state(), thread.call()) {
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

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::super::tests::process;
    use super::*;

    fn described() -> String {
        let mut text = String::new();
        describe_core(&mut text).unwrap();
        text
    }

    #[test]
    fn a_report_says_who_runs_and_in_which_call() {
        let process = process();
        let thread = process.leader().unwrap();
        thread.set_name(super::super::Name::new(b"name"));
        assert_eq!(described(), "in no process");
        let running = current::enter(&thread);
        let who = format!("in process {} (name), thread {}, in ", process.pid(), thread.tid());
        assert_eq!(described(), format!("{who}no system call"));
        thread.begin_call(0);
        assert_eq!(described(), format!("{who}read (system call 0)"));
        thread.end_call();
        assert_eq!(described(), format!("{who}no system call"));
        drop(running);
    }

    #[test]
    fn a_report_waits_for_no_lock() {
        let held = current::try_here().unwrap();
        assert_eq!(described(), "between two threads");
        drop(held);
    }
}
