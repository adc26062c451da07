//! The nrk kernel: entry for both platforms. See `ARCHITECTURE.md` for the map.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(
    dead_code,
    unused_imports,
    reason = "the unix platform runs tests only, and some modules offer what further cores and devices will use"
)]

extern crate alloc;

mod arch;
#[cfg(target_os = "none")]
mod boot;
mod cmdline;
#[cfg(target_os = "none")]
mod device;
mod errno;
mod fs;
#[cfg(all(target_os = "none", feature = "integration-test"))]
mod integration_main;
mod logger;
mod memory;
mod net;
mod percore;
mod process;
mod random;
mod replicated;
mod sched;
mod sync;
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
