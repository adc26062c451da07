//! Faults on purpose, for the integration tests of their reports.

/// Reads the byte at `address`.
pub fn read(address: u64) {
    // SAFETY: the point is the fault, which ends the kernel.
    unsafe { core::arch::asm!("mov al, [{}]", in(reg) address, out("al") _, options(nostack, readonly)) };
}

/// Loads from a non-canonical address.
pub fn general_protection() {
    read(0x8000_0000_0000_0000);
}

/// Grows the stack into its guard page.
pub fn overflow_stack() {
    // SAFETY: the point is the fault, which ends the kernel.
    unsafe { core::arch::asm!("2: push rax", "jmp 2b", options(noreturn)) };
}
