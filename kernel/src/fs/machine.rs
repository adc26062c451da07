//! What /proc and /sys say about the machine, told by the boot code.

use crate::sync::SpinLock;

/// Facts that do not change after boot.
#[derive(Clone, Copy)]
pub struct Machine {
    /// The kernel's command line.
    pub command_line: &'static [u8],
    /// Cores in use.
    pub cores: usize,
    /// Cycles per second of the time-stamp counter.
    pub frequency: u64,
}

static MACHINE: SpinLock<Machine> =
    SpinLock::new(Machine { command_line: b"", cores: 1, frequency: 1_000_000_000 });

/// Tells the facts; at boot.
pub fn set(machine: Machine) {
    *MACHINE.lock() = machine;
}

/// The facts.
pub fn get() -> Machine {
    *MACHINE.lock()
}
