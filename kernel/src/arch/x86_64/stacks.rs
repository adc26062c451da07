//! Kernel stacks, each above a guard page that is not mapped.
//!
//! The first core's stacks are part of the image (section `.stacks`): the stack on which everything runs, and small ones for
//! the exceptions that cannot trust it (interrupt stack table, SDM volume 3, section 7.14.5).

use core::arch::global_asm;

use crate::memory::VirtAddr;

global_asm!(
    ".section .stacks, \"aw\", @nobits",
    ".global fault_stack_guard, fault_stack_top, nmi_stack_guard, nmi_stack_top, trap_stack_guard, trap_stack_top",
    ".align 4096",
    "fault_stack_guard: .skip 4096",
    ".skip 16384",
    "fault_stack_top:",
    "nmi_stack_guard: .skip 4096",
    ".skip 8192",
    "nmi_stack_top:",
    "trap_stack_guard: .skip 4096",
    ".skip 4096",
    "trap_stack_top:",
    ".text",
);

unsafe extern "C" {
    static boot_stack_guard: u8;
    static fault_stack_guard: u8;
    static fault_stack_top: u8;
    static nmi_stack_guard: u8;
    static nmi_stack_top: u8;
    static trap_stack_guard: u8;
    static trap_stack_top: u8;
}

/// The stacks of a core besides the executor's: the addresses from which they grow down.
#[derive(Clone, Copy, Debug)]
pub struct Stacks {
    /// Where the processor stores its frame when a trap comes from user mode; copied from there at once.
    pub trap: VirtAddr,
    /// Double faults.
    pub fault: VirtAddr,
    /// Non-maskable interrupts and machine checks.
    pub nmi: VirtAddr,
}

/// The first core's stacks.
pub fn boot_core() -> Stacks {
    let at = |symbol: *const u8| VirtAddr::new(symbol as u64);
    Stacks {
        trap: at(&raw const trap_stack_top),
        fault: at(&raw const fault_stack_top),
        nmi: at(&raw const nmi_stack_top),
    }
}

/// The guard pages of the stacks in the image.
pub fn guard_pages() -> [VirtAddr; 4] {
    [
        &raw const boot_stack_guard,
        &raw const fault_stack_guard,
        &raw const nmi_stack_guard,
        &raw const trap_stack_guard,
    ]
    .map(|symbol: *const u8| VirtAddr::new(symbol as u64))
}
