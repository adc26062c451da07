//! The nrk kernel: entry for both platforms. See `ARCHITECTURE.md` for the map.
//!
//! `unsafe` code is fenced: it may stand in `arch`, `memory` (the frame and heap allocators), `sched` (the executor's core),
//! `sync` (the implementation of `lock_api`'s unsafe traits) and `uaccess`; the other modules deny it, here or in their parent.
#![cfg_attr(target_os = "none", no_std, no_main)]
// What leads into the kernel (boot, traps, devices) is the bare machine's: there dead code is found. The unix platform only
// runs tests, which reach a part; without them it is empty, for cargo builds it before any integration test.
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

#[cfg(any(target_os = "none", test))]
extern crate alloc;

#[cfg(any(target_os = "none", test))]
mod arch;
#[cfg(target_os = "none")]
#[deny(unsafe_code)]
mod boot;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod cmdline;
#[cfg(target_os = "none")]
#[deny(unsafe_code)]
mod device;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod dump;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod errno;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod fs;
#[cfg(target_os = "none")]
#[deny(unsafe_code)]
mod integration_main;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod logger;
#[cfg(any(target_os = "none", test))]
mod memory;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod net;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod percore;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod process;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod random;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod replicated;
#[cfg(any(target_os = "none", test))]
mod sched;
#[cfg(any(target_os = "none", test))]
mod sync;
#[cfg(any(target_os = "none", test))]
#[deny(unsafe_code)]
mod syscall;
#[cfg(any(target_os = "none", test))]
mod uaccess;

/// What the platform found out about the machine.
#[cfg(target_os = "none")]
pub struct Machine {
    /// The kernel command line.
    pub command_line: &'static [u8],
    /// The initramfs, as the boot loader left it.
    pub initramfs: Option<&'static [u8]>,
    /// Cores, memory nodes, controllers.
    pub tables: arch::x86_64::acpi::Tables,
}

/// Called before there is memory to allocate: only the tests of early faults have anything to do here.
#[cfg(target_os = "none")]
pub fn early_main(command_line: &[u8]) {
    integration_main::run_early(command_line);
}

/// Writes a line to the console.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::arch::console::print(format_args!("{}\n", format_args!($($argument)*))) };
}

/// On a host the kernel only runs its tests.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("nrk: this binary is the unix platform for `cargo test`; `cargo xtask run` boots the kernel");
}
