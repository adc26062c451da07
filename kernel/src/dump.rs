//! What the kernel is doing, as text: for whoever wonders why nothing happens.
//!
//! The text is in /proc/nrk/dump; and a non-maskable interrupt (QEMU's command `nmi`) has it printed on the console, below the
//! registers of each core. The interrupt's handler takes no lock and only wakes the task that prints: a core that is stuck
//! in the kernel shows its backtrace and nothing more, and if no core is stuck, the text says what each thread waits for.
//!
//! Each part of the kernel tells about itself: [`sched::dump`], [`process::dump`], [`net::dump`].

use core::fmt::{self, Write};

use crate::fs;
#[cfg(target_os = "none")]
use crate::fs::proc;
use crate::{arch, net, process, sched};

/// Puts the text into /proc, and has non-maskable interrupts print it. At boot.
#[cfg(target_os = "none")]
pub fn start() {
    proc::register(proc::Folder::Nrk, "dump", write);
    let task = sched::spawn(arch::core_id(), sched::Priority::Urgent, async {
        loop {
            sched::wait_for_wake().await;
            let mut text = alloc::string::String::new();
            // A string refuses nothing.
            let _ = write(&mut text);
            arch::console::print(format_args!("{text}"));
        }
    });
    arch::report::wake_by_non_maskable_interrupt(task);
}

/// Writes the text.
fn write(out: &mut dyn Write) -> fmt::Result {
    let now = arch::now();
    writeln!(out, "dump: {} s after the start", Seconds(now))?;
    sched::dump(fs::machine::get().cores, now, out)?;
    process::dump(out)?;
    net::dump(net::stack(), now, out)
}

/// A time in nanoseconds, in seconds.
pub struct Seconds(pub u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000)
    }
}

/// A deadline as seen from `now`: how long until it comes, or since it came.
pub struct Deadline {
    /// When it is, in nanoseconds.
    pub at: u64,
    /// The time.
    pub now: u64,
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at, self.at.checked_sub(self.now)) {
            (sched::timer::NEVER, _) => f.write_str("never"),
            (_, Some(left)) => write!(f, "in {} s", Seconds(left)),
            (at, None) => write!(f, "{} s ago", Seconds(self.now - at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

    #[test]
    fn deadlines_are_told_from_the_present() {
        let at = |at| format!("{}", Deadline { at, now: 5_000_000_000 });
        assert_eq!(at(u64::MAX), "never");
        assert_eq!(at(5_250_000_000), "in 0.250000 s");
        assert_eq!(at(3_999_999_000), "1.000001 s ago");
    }

    #[test]
    fn every_part_tells_about_itself() {
        let process = process::tests::process();
        let mut text = String::new();
        write(&mut text).unwrap();
        for wanted in ["dump: ", "core 0: ", &format!("thread {}", process.pid()), "lo: up"] {
            assert!(text.lines().any(|line| line.starts_with(wanted)), "no {wanted:?} in {text}");
        }
    }
}
