//! Files of procfs about the machine as a whole: proc(5).

use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch;
use crate::errno::Errno;
use crate::fs::machine;
use crate::fs::pseudo::Text;
use crate::memory::{self, PAGE_SIZE};
use crate::process;
use crate::process::usage::TICK;
use crate::process::uts::{RELEASE, VERSION};

const SECOND: u64 = 1_000_000_000;

/// An empty file: there are no such things.
pub fn nothing(_: &(), _: &mut Text) -> Result<(), Errno> {
    Ok(())
}

/// The kernel's command line.
pub fn cmdline(_: &(), text: &mut Text) -> Result<(), Errno> {
    text.push(machine::get().command_line)?;
    text.push(b"\n")
}

/// Seconds since boot, and those that the cores were idle.
pub fn uptime(_: &(), text: &mut Text) -> Result<(), Errno> {
    let up = arch::now() / (SECOND / 100);
    let idle = Cpu::now().idle;
    Ok(writeln!(text, "{}.{:02} {}.{:02}", up / 100, up % 100, idle / 100, idle % 100)?)
}

/// What the processes that there are, and have been seen, have used; in ticks.
struct Cpu {
    user: u64,
    system: u64,
    idle: u64,
}

impl Cpu {
    /// Processes that have gone would make the sums smaller, so the largest seen are kept.
    fn now() -> Self {
        static USER: AtomicU64 = AtomicU64::new(0);
        static SYSTEM: AtomicU64 = AtomicU64::new(0);
        let (mut user, mut system) = (0, 0);
        for process in process::list() {
            let (own, children) = (process.usage(), process.children_usage());
            user += own.user + children.user;
            system += own.system + children.system;
        }
        let user = USER.fetch_max(user, Ordering::Relaxed).max(user) / TICK;
        let system = SYSTEM.fetch_max(system, Ordering::Relaxed).max(system) / TICK;
        let all = arch::now() / TICK * machine::get().cores as u64;
        Self { user, system, idle: all.saturating_sub(user + system) }
    }
}

/// Time of the cores, and some counts. The cores share the work evenly, as far as this says.
pub fn stat(_: &(), text: &mut Text) -> Result<(), Errno> {
    let (cpu, cores) = (Cpu::now(), machine::get().cores as u64);
    writeln!(text, "cpu  {} 0 {} {} 0 0 0 0 0 0", cpu.user, cpu.system, cpu.idle)?;
    for core in 0..cores {
        let (user, system, idle) = (cpu.user / cores, cpu.system / cores, cpu.idle / cores);
        writeln!(text, "cpu{core} {user} 0 {system} {idle} 0 0 0 0 0 0")?;
    }
    let (_, last) = process::counts();
    writeln!(text, "intr 0")?;
    writeln!(text, "ctxt 0")?;
    writeln!(text, "btime {}", arch::wall_clock_offset() / SECOND)?;
    writeln!(text, "processes {last}")?;
    writeln!(text, "procs_running {}", process::running())?;
    writeln!(text, "procs_blocked 0")?;
    Ok(())
}

/// Load: how many threads run now, since no averages are kept; runnable and all threads; the last process id.
pub fn loadavg(_: &(), text: &mut Text) -> Result<(), Errno> {
    let (running, (all, last)) = (process::running(), process::counts());
    Ok(writeln!(text, "{running}.00 {running}.00 {running}.00 {running}/{all} {last}")?)
}

/// Memory, in KiB. File data is counted as used: it cannot be given up.
pub fn meminfo(_: &(), text: &mut Text) -> Result<(), Errno> {
    let statistics = memory::statistics();
    let kib = |frames: u64| frames * (PAGE_SIZE as u64 / 1024);
    let slab = memory::slab_pages() as u64;
    let rows = [
        ("MemTotal", statistics.total),
        ("MemFree", statistics.free),
        ("MemAvailable", statistics.available),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", 0),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", slab),
        ("SReclaimable", 0),
        ("SUnreclaim", slab),
    ];
    for (name, frames) in rows {
        writeln!(text, "{:<15} {:>8} kB", alloc::format!("{name}:"), kib(frames))?;
    }
    writeln!(text, "HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB")?;
    Ok(())
}

/// Counts of memory events; redis and others look for the names.
pub fn vmstat(_: &(), text: &mut Text) -> Result<(), Errno> {
    let statistics = memory::statistics();
    Ok(writeln!(text, "nr_free_pages {}\npgfault 0\npgmajfault 0\noom_kill 0", statistics.free)?)
}

/// File systems that mount(2) knows.
pub fn filesystems(_: &(), text: &mut Text) -> Result<(), Errno> {
    text.push(b"nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\tramfs\n")
}

/// Major numbers.
pub fn devices(_: &(), text: &mut Text) -> Result<(), Errno> {
    text.push(b"Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n")
}

/// There is no swap.
pub fn swaps(_: &(), text: &mut Text) -> Result<(), Errno> {
    text.push(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
}

/// The kernel's version, in the shape in which programs take it apart.
pub fn version(_: &(), text: &mut Text) -> Result<(), Errno> {
    Ok(writeln!(text, "Linux version {RELEASE} (nrk) {VERSION}")?)
}
