//! The tables that this core uses: CR3 and the TLB. On a host there are none, and nothing happens.

use crate::memory::PhysAddr;

/// Makes the tables with the root at `root` those of this core; user translations of the old ones are forgotten.
///
/// The caller sees to it that the tables outlive their use.
pub fn load(root: PhysAddr) {
    #[cfg(target_os = "none")]
    // SAFETY: every root shares the kernel's half (`PageTable::new`), so the code goes on; the caller keeps the tables.
    unsafe {
        core::arch::asm!("mov cr3, {}", in(reg) root.as_u64(), options(nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    let _ = root;
}

/// Forgets all translations of this core but the global ones.
pub fn reload() {
    #[cfg(target_os = "none")]
    // SAFETY: writes back the root that is in use.
    unsafe {
        core::arch::asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
    }
}

/// Forgets the translation of the page at `address` on this core.
pub fn invalidate(address: u64) {
    #[cfg(target_os = "none")]
    // SAFETY: forgetting a translation has no effect but the time to find it again.
    unsafe {
        core::arch::asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    let _ = address;
}
