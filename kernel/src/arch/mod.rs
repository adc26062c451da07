//! The platform: every item that the rest of the kernel takes from the machine it runs on.
//!
//! Two platforms supply the same items: `x86_64`, the bare machine, and `unix`, a Linux process in which unit
//! tests and models run. On a unix x86-64 host the bare-metal code is compiled as well, as module `x86_64_arch`,
//! so that its page tables, descriptors and parsers are tested there; a privileged instruction would kill
//! the test process, so the parts that execute one are compiled for the bare machine only.
//!
//! What a platform supplies:
//! - `relax()`: a pause in a spin loop; `core_id()`: which core runs this;
//! - `now()`: monotonic nanoseconds since boot; `wall_clock_offset()`; `set_timer(deadline)`;
//! - `wait_for_interrupt()`: sleep until something happens; `take_interrupts()`: handle what has come; `wake_core(core)`;
//! - `phys_to_virt(phys)`: where physical memory is mapped;
//! - `copy_from_user`, `copy_to_user`, `compare_exchange_user`: the raw copies under `uaccess.rs`;
//! - `UserContext`, `enter_user`: run a user thread until it traps;
//! - `paging`: page-table format, activation and TLB flushes;
//! - `random_seed()`, `exit(status)`, `console`.

#[cfg(target_os = "none")]
pub mod x86_64;
#[cfg(target_os = "none")]
pub use x86_64::*;

#[cfg(not(target_os = "none"))]
pub mod unix;
#[cfg(not(target_os = "none"))]
pub use unix::*;

#[cfg(all(not(target_os = "none"), target_arch = "x86_64"))]
#[path = "x86_64/mod.rs"]
pub mod x86_64_arch;

/// The most cores that this kernel drives.
pub const MAX_CORES: usize = 64;

/// A core, numbered from 0 in the order in which the firmware lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(pub u16);
