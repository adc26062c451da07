//! /proc/PID/{stat,statm,status,limits,io,schedstat}: proc(5).

use core::fmt::Write;

use super::task::Task;
use crate::arch;
use crate::errno::Errno;
use crate::fs::machine;
use crate::fs::pseudo::Text;
use crate::memory::{PAGE_SIZE, SpaceStatistics};
use crate::process::usage::{TICK, Totals};
use crate::process::{Resource, RunState, UNLIMITED};

/// The state in one letter.
fn state(task: &Task) -> char {
    match task.thread() {
        Err(_) => 'Z',
        Ok(_) if !task.is_thread() && task.process.is_stopped() => 'T',
        Ok(thread) => match thread.state() {
            RunState::Running => 'R',
            RunState::Sleeping => 'S',
            RunState::Stopped => 'T',
        },
    }
}

fn usage(task: &Task) -> Totals {
    match task.is_thread() {
        true => task.thread().map_or_else(|_| Totals::default(), |thread| thread.usage().totals(arch::now())),
        false => task.process.usage(),
    }
}

fn sizes(task: &Task) -> SpaceStatistics {
    task.thread().map_or_else(|_| SpaceStatistics::default(), |thread| thread.space().statistics())
}

/// The foreground group and the device of the controlling terminal, or what says that there is none.
fn terminal(task: &Task) -> (u64, i64) {
    match task.process.terminal() {
        Some(terminal) => (terminal.stat().special_device, i64::from(terminal.foreground())),
        None => (0, -1),
    }
}

/// 52 numbers on a line.
pub fn stat(task: &Task, text: &mut Text) -> Result<(), Errno> {
    let (process, thread) = (&task.process, task.thread().ok());
    let (usage, children, sizes) = (usage(task), process.children_usage(), sizes(task));
    let (tty, foreground) = terminal(task);
    write!(text, "{} (", task.id())?;
    text.push(thread.as_ref().map(|thread| thread.name()).unwrap_or_default().as_bytes())?;
    write!(text, ") {} {} {} {} ", state(task), process.ppid(), process.pgid(), process.sid())?;
    // tty_nr tpgid flags minflt cminflt majflt cmajflt
    write!(text, "{tty} {foreground} 0 {} {} 0 0 ", usage.faults, children.faults)?;
    write!(text, "{} {} ", usage.user / TICK, usage.system / TICK)?;
    write!(text, "{} {} ", children.user / TICK, children.system / TICK)?;
    let nice = thread.as_ref().map_or(0, |thread| thread.scheduling().nice);
    let threads = process.thread_count().max(1);
    // priority nice num_threads itrealvalue starttime
    write!(text, "{} {nice} {threads} 0 {} ", 20 + nice, process.started() / TICK)?;
    let resident = sizes.resident_anonymous + sizes.resident_object;
    let limit = process.rlimit(Resource::Rss).soft;
    write!(text, "{} {resident} {limit} ", sizes.mapped * PAGE_SIZE)?;
    let image = process.image();
    // startcode endcode startstack kstkesp kstkeip
    write!(text, "0 0 {} 0 0 ", image.stack_start)?;
    let (blocked, pending) =
        thread.as_ref().map_or((0, 0), |thread| (thread.blocked().bits(), thread.pending_apart().0.bits()));
    let (ignored, caught) = process.actions().summary();
    let old = u64::from(u32::MAX >> 1);
    write!(text, "{} {} ", pending & old, blocked & old)?;
    write!(text, "{} {} ", ignored.bits() & old, caught.bits() & old)?;
    // wchan nswap cnswap exit_signal processor rt_priority policy delayacct guest cguest
    write!(text, "0 0 0 17 0 0 0 0 0 0 ")?;
    // start_data end_data start_brk
    write!(text, "0 0 0 {} {} ", image.arguments.0, image.arguments.1)?;
    let status = process.exit_status().map_or(0, |status| status.wait_status());
    writeln!(text, "{} {} {status}", image.environment.0, image.environment.1)?;
    Ok(())
}

/// Sizes in pages.
pub fn statm(task: &Task, text: &mut Text) -> Result<(), Errno> {
    let sizes = sizes(task);
    let resident = sizes.resident_anonymous + sizes.resident_object;
    let SpaceStatistics { mapped, resident_object, text: code, data, .. } = sizes;
    Ok(writeln!(text, "{mapped} {resident} {resident_object} {code} 0 {data} 0")?)
}

/// The same for people.
pub fn status(task: &Task, text: &mut Text) -> Result<(), Errno> {
    let process = &task.process;
    let thread = task.thread().ok();
    text.push(b"Name:\t")?;
    text.push(thread.as_ref().map(|thread| thread.name()).unwrap_or_default().as_bytes())?;
    if let Some(thread) = &thread {
        writeln!(text, "\nUmask:\t{:04o}", thread.fs().umask())?;
    } else {
        text.push(b"\n")?;
    }
    let state = state(task);
    let word = match state {
        'R' => "running",
        'S' => "sleeping",
        'T' => "stopped",
        _ => "zombie",
    };
    writeln!(text, "State:\t{state} ({word})\nTgid:\t{}\nNgid:\t0", process.pid())?;
    writeln!(text, "Pid:\t{}\nPPid:\t{}\nTracerPid:\t0", task.id(), process.ppid())?;
    if let Some(thread) = &thread {
        let c = thread.credentials();
        writeln!(text, "Uid:\t{}\t{}\t{}\t{}", c.uid, c.euid, c.suid, c.fsuid)?;
        writeln!(text, "Gid:\t{}\t{}\t{}\t{}", c.gid, c.egid, c.sgid, c.fsgid)?;
        writeln!(text, "FDSize:\t{}", thread.files().capacity())?;
        text.push(b"Groups:\t")?;
        c.groups.iter().try_for_each(|group| write!(text, "{group} "))?;
        text.push(b"\n")?;
        memory(task, text)?;
    }
    writeln!(text, "Threads:\t{}", process.thread_count())?;
    if let Some(thread) = &thread {
        signals(task, thread, text)?;
        const ALL: u64 = 0x1ff_ffff_ffff;
        let credentials = thread.credentials();
        let set = |yes: bool| if yes { ALL } else { 0 };
        writeln!(text, "CapInh:\t{:016x}\nCapPrm:\t{:016x}", 0, set(credentials.permitted))?;
        let effective = set(credentials.effective);
        writeln!(text, "CapEff:\t{effective:016x}\nCapBnd:\t{ALL:016x}\nCapAmb:\t{:016x}", 0)?;
    }
    cores(text)?;
    let usage = usage(task);
    writeln!(text, "voluntary_ctxt_switches:\t{}", usage.voluntary_switches)?;
    writeln!(text, "nonvoluntary_ctxt_switches:\t{}", usage.involuntary_switches)?;
    Ok(())
}

fn memory(task: &Task, text: &mut Text) -> Result<(), Errno> {
    let sizes = sizes(task);
    let rows = [
        ("VmPeak", sizes.peak_mapped),
        ("VmSize", sizes.mapped),
        ("VmLck", sizes.locked),
        ("VmPin", 0),
        ("VmHWM", sizes.peak_resident),
        ("VmRSS", sizes.resident_anonymous + sizes.resident_object),
        ("RssAnon", sizes.resident_anonymous),
        ("RssFile", sizes.resident_object),
        ("RssShmem", 0),
        ("VmData", sizes.data),
        ("VmStk", sizes.stack),
        ("VmExe", sizes.text),
        ("VmLib", 0),
        ("VmPTE", 0),
        ("VmSwap", 0),
    ];
    for (name, pages) in rows {
        writeln!(text, "{name}:\t{:>8} kB", pages * (PAGE_SIZE / 1024))?;
    }
    Ok(())
}

fn signals(task: &Task, thread: &crate::process::Thread, text: &mut Text) -> Result<(), Errno> {
    let (own, shared) = thread.pending_apart();
    let (ignored, caught) = task.process.actions().summary();
    writeln!(text, "SigQ:\t0/{}", task.process.rlimit(Resource::PendingSignals).soft)?;
    writeln!(text, "SigPnd:\t{:016x}\nShdPnd:\t{:016x}", own.bits(), shared.bits())?;
    writeln!(text, "SigBlk:\t{:016x}\nSigIgn:\t{:016x}", thread.blocked().bits(), ignored.bits())?;
    Ok(writeln!(text, "SigCgt:\t{:016x}", caught.bits())?)
}

fn cores(text: &mut Text) -> Result<(), Errno> {
    let cores = machine::get().cores;
    let mask = if cores >= 64 { u64::MAX } else { (1 << cores) - 1 };
    writeln!(text, "Cpus_allowed:\t{mask:x}\nCpus_allowed_list:\t0-{}", cores - 1)?;
    Ok(writeln!(text, "Mems_allowed:\t1\nMems_allowed_list:\t0")?)
}

/// The limits of getrlimit(2), as a table.
pub fn limits(task: &Task, text: &mut Text) -> Result<(), Errno> {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    writeln!(text, "{:<25} {:<20} {:<20} {:<10}", "Limit", "Soft Limit", "Hard Limit", "Units")?;
    for (resource, (name, unit)) in Resource::ALL.into_iter().zip(NAMES) {
        let limit = task.process.rlimit(resource);
        writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", Value(limit.soft), Value(limit.hard))?;
    }
    Ok(())
}

/// A limit's value in words.
struct Value(u64);

impl core::fmt::Display for Value {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            UNLIMITED => f.pad("unlimited"),
            value => f.pad(&alloc::format!("{value}")),
        }
    }
}

/// Bytes read and written are not counted.
pub fn io(task: &Task, text: &mut Text) -> Result<(), Errno> {
    task.inspect()?;
    let names = ["rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"];
    Ok(names.iter().try_for_each(|name| writeln!(text, "{name}: 0"))?)
}

/// Nanoseconds on the processor, nanoseconds waiting for it (not counted), time slices.
pub fn schedstat(task: &Task, text: &mut Text) -> Result<(), Errno> {
    let usage = usage(task);
    let slices = usage.voluntary_switches + usage.involuntary_switches;
    Ok(writeln!(text, "{} 0 {slices}", usage.user + usage.system)?)
}
