//! The bare x86-64 machine.
//!
//! - `boot` brings the machine from the boot loader's state to Rust code at its final address, with final page tables.
//! - `start` then sets up, in this order: the core's own area, processor features, console, segments, traps, memory,
//!   ACPI, interrupts, the clock; and hands over to the kernel proper.
//! - From there on the kernel is in one of three places: in user mode (`entry`), in the executor on the core's one stack, or halted
//!   in `interrupts::wait`.
//!
//! On a unix host only the parts that execute no privileged instruction are compiled, for their tests.

pub mod acpi;
pub mod context;
pub mod layout;
pub mod paging;
mod rtc;
pub mod signal_frame;
mod symbols;
pub mod vdso;

#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod core_area;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
pub mod exit;
#[cfg(target_os = "none")]
pub mod faults;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod pci;
#[cfg(target_os = "none")]
mod registers;
#[cfg(target_os = "none")]
pub mod report;
#[cfg(target_os = "none")]
pub mod segments;
#[cfg(target_os = "none")]
pub mod stacks;
#[cfg(target_os = "none")]
pub mod start;
#[cfg(target_os = "none")]
pub mod traps;
#[cfg(target_os = "none")]
pub mod usercopy;

#[cfg(target_os = "none")]
pub use self::{
    clock::{now, set_timer, wall_clock_offset},
    context::{Registers, Trap, UserContext},
    core_area::core_id,
    cpu::{extended_layout, hardware_capabilities},
    entry::enter_user,
    exit::exit,
    interrupts::{take as take_interrupts, wait as wait_for_interrupt},
    registers::{dma_memory, map_registers},
    start::{phys_to_virt, random_seed, relax, start, wake_core},
    usercopy::{compare_exchange_user, copy_from_user, copy_to_user},
};

/// Brings the saved state of the thread that owns `area` up to date.
fn save_extended(area: &context::XsaveArea) {
    #[cfg(target_os = "none")]
    entry::save(area);
    #[cfg(not(target_os = "none"))]
    let _ = area;
}

/// The state in `area` is about to be replaced or freed: the processor's copy is void.
fn forget_extended(area: &context::XsaveArea) {
    #[cfg(target_os = "none")]
    entry::forget(area);
    #[cfg(not(target_os = "none"))]
    let _ = area;
}
