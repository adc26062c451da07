//! How long interrupts have to wait: measured while the command line says `latency`.
//!
//! The kernel runs with interrupts off, so whatever goes on in it without a pause (`process/pace.rs`) is time in which the core hears of
//! no device, and nobody's timer. To see the longest such time, the interval timer is kept running: every [`TICK`] it is due, and its
//! interrupt says by how much it came late. What is measured falls short of the truth by a tick at most, costs nothing
//! while it is off, and is the same on every run of a machine that counts instructions.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How often the timer is due while it is watched, in nanoseconds.
pub(super) const TICK: u64 = 50_000;

static WATCHING: AtomicBool = AtomicBool::new(false);
/// In nanoseconds.
static LONGEST: AtomicU64 = AtomicU64::new(0);

/// Whether the timer is watched.
pub(super) fn is_watched() -> bool {
    WATCHING.load(Ordering::Relaxed)
}

/// The timer's interrupt came `late` nanoseconds after it was due.
pub(super) fn note(late: u64) {
    LONGEST.fetch_max(late, Ordering::Relaxed);
}

/// Watches the timer from now on. At boot.
pub fn watch() {
    WATCHING.store(true, Ordering::Relaxed);
}

/// Writes the longest time that the timer's interrupt waited since this was asked last, in nanoseconds, and begins anew:
/// /proc/nrk/latency.
pub fn report(out: &mut dyn fmt::Write) -> fmt::Result {
    writeln!(out, "{}", LONGEST.swap(0, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    #[test]
    fn the_longest_wait_is_told_once() {
        let told = || {
            let mut text = String::new();
            report(&mut text).map(|()| text)
        };
        [3, 700, 20].into_iter().for_each(note);
        assert_eq!(told(), Ok("700\n".into()));
        assert_eq!(told(), Ok("0\n".into()));
    }
}
