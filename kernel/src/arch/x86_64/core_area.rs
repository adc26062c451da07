//! The area of a core, to which its GS base points while it is in the kernel.
//!
//! It holds what the entry code needs before it has a stack, and the core's number. Rust code reaches it by
//! [`here`]; the entry code by the offsets of its first fields.

use core::arch::asm;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};

use crate::arch::{CoreId, MAX_CORES};

use super::context::{Registers, XsaveArea};

/// One core's area.
#[repr(C, align(128))]
pub struct CoreArea {
    /// Where this area lies, so that one load finds it.
    itself: AtomicU64,
    /// The user's stack pointer, for the moment that the system-call entry needs a register.
    pub user_rsp: AtomicU64,
    /// The kernel's stack pointer while a user thread runs.
    pub kernel_rsp: AtomicU64,
    /// Where to store the registers of the user thread that runs.
    pub registers: AtomicPtr<Registers>,
    /// The thread whose extended state and segment bases are in the processor; null if nobody's.
    pub loaded: AtomicPtr<XsaveArea>,
    id: AtomicU64,
}

/// Offset of [`CoreArea::user_rsp`] from the GS base.
pub const USER_RSP: usize = offset_of!(CoreArea, user_rsp);
/// Offset of [`CoreArea::kernel_rsp`].
pub const KERNEL_RSP: usize = offset_of!(CoreArea, kernel_rsp);
/// Offset of [`CoreArea::registers`].
pub const REGISTERS: usize = offset_of!(CoreArea, registers);

static AREAS: [CoreArea; MAX_CORES] = [const {
    CoreArea {
        itself: AtomicU64::new(0),
        user_rsp: AtomicU64::new(0),
        kernel_rsp: AtomicU64::new(0),
        registers: AtomicPtr::new(ptr::null_mut()),
        loaded: AtomicPtr::new(ptr::null_mut()),
        id: AtomicU64::new(0),
    }
}; MAX_CORES];

/// Makes this core number `id`. The first thing that a core does in Rust.
pub fn init(id: CoreId) {
    let area = &AREAS[usize::from(id.0)];
    area.itself.store(ptr::from_ref(area) as u64, Ordering::Relaxed);
    area.id.store(u64::from(id.0), Ordering::Relaxed);
    GsBase::write(VirtAddr::from_ptr(area));
    KernelGsBase::write(VirtAddr::zero());
}

/// The area of the core that runs this.
#[inline]
pub fn here() -> &'static CoreArea {
    let area: *const CoreArea;
    // SAFETY: in the kernel the GS base is this core's area, whose first word is its address.
    unsafe { asm!("mov {}, gs:[0]", out(reg) area, options(nostack, preserves_flags, readonly, pure)) };
    // SAFETY: `init` stored the address of a static.
    unsafe { &*area }
}

/// The core that runs this.
#[inline]
pub fn core_id() -> CoreId {
    CoreId(here().id.load(Ordering::Relaxed) as u16)
}
