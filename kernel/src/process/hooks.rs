//! What the rest of the kernel does for processes without being below them: set once at boot.

use alloc::sync::Arc;

use super::status::ExitStatus;
use crate::errno::Errno;
use crate::fs::File;
use crate::fs::standard::Standard;
use crate::sync::SpinLock;

/// A request of reboot(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// `LINUX_REBOOT_CMD_RESTART`
    Restart,
    /// `LINUX_REBOOT_CMD_HALT`
    Halt,
    /// `LINUX_REBOOT_CMD_POWER_OFF`
    PowerOff,
}

/// The hooks; every one has a default that does without.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// The first process has ended.
    pub init_exited: fn(ExitStatus),
    /// reboot(2).
    pub power: fn(PowerRequest),
    /// Opens /dev/console, for the first process.
    pub open_console: fn() -> Result<Arc<dyn File>, Errno>,
    /// The first process's standard stream, where it is not the console.
    pub standard: fn(Standard) -> Option<Arc<dyn File>>,
    /// Reads the kernel's log from the given offset on into the buffer; returns the number of bytes. For syslog(2).
    pub read_log: fn(usize, &mut [u8]) -> usize,
    /// Where the vDSO is mapped into an address space: `AT_SYSINFO_EHDR`.
    pub map_vdso: fn(&crate::memory::AddressSpace) -> Option<crate::memory::VirtAddr>,
}

static HOOKS: SpinLock<Hooks> = SpinLock::new(Hooks {
    init_exited: |status| log::info!("the first process has ended: {status:?}"),
    power: |request| log::warn!("{request:?} is asked for, but nothing can do it"),
    open_console: || Err(Errno::ENODEV),
    standard: |_| None,
    read_log: |_, _| 0,
    map_vdso: |_| None,
});

/// Changes the hooks.
pub fn set(change: impl FnOnce(&mut Hooks)) {
    change(&mut HOOKS.lock());
}

/// The hooks as they are.
pub(crate) fn get() -> Hooks {
    *HOOKS.lock()
}

pub(super) fn init_exited(status: ExitStatus) {
    (get().init_exited)(status);
}
