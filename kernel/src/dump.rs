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

/// Puts the text into /proc, has non-maskable interrupts print it, and reports of the end say who runs. At boot.
#[cfg(target_os = "none")]
pub fn start() {
    proc::register(proc::Folder::Nrk, "dump", write);
    let task = sched::spawn(arch::core_id(), sched::Priority::Urgent, async {
        loop {
            sched::wait_for_wake().await;
            // The console refuses nothing.
            let _ = write(&mut Console);
        }
    });
    arch::report::wake_by_non_maskable_interrupt(task);
    arch::report::describe_by(process::describe_core);
}

/// The console, piece by piece: when memory has run out there is none for the whole text.
#[cfg(target_os = "none")]
struct Console;

#[cfg(target_os = "none")]
impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        arch::console::print(format_args!("{text}"));
        Ok(())
    }
}

/// Writes the text.
fn write(out: &mut dyn Write) -> fmt::Result {
    let now = arch::now();
    writeln!(out, "dump: {} s after the start", sched::Seconds(now))?;
    sched::dump(fs::machine::get().cores, now, out)?;
    process::dump(out)?;
    net::dump(net::stack(), now, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;

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
