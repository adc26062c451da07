//! The nrk kernel: entry for both platforms. See `ARCHITECTURE.md` for the map.
//!
//! `unsafe` code is fenced: it may stand in `arch`, `memory` (the frame and heap allocators), `sched` (the executor's core),
//! `sync` (the implementation of `lock_api`'s unsafe traits) and `uaccess`; the other modules deny it, here or in their parent.
#![cfg_attr(target_os = "none", no_std, no_main)]
// What leads into the kernel (boot, traps, devices) is the bare machine's: there dead code is found. The unix platform only
// runs tests, which reach a part, and without them nothing.
#![cfg_attr(not(target_os = "none"), allow(dead_code))]
#![cfg_attr(not(any(target_os = "none", test)), allow(unused_imports))]

extern crate alloc;

mod arch;
#[cfg(target_os = "none")]
#[deny(unsafe_code)]
mod boot;
#[deny(unsafe_code)]
mod cmdline;
#[cfg(target_os = "none")]
#[deny(unsafe_code)]
mod device;
#[deny(unsafe_code)]
mod dump;
#[deny(unsafe_code)]
mod errno;
#[deny(unsafe_code)]
mod fs;
#[cfg(all(target_os = "none", feature = "integration-test"))]
#[deny(unsafe_code)]
mod integration_main;
#[deny(unsafe_code)]
mod logger;
mod memory;
#[deny(unsafe_code)]
mod net;
#[deny(unsafe_code)]
mod percore;
#[deny(unsafe_code)]
mod process;
#[deny(unsafe_code)]
mod random;
#[deny(unsafe_code)]
mod replicated;
mod sched;
mod sync;
#[deny(unsafe_code)]
mod syscall;
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
    #[cfg(feature = "integration-test")]
    integration_main::run_early(command_line);
    let _ = command_line;
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
