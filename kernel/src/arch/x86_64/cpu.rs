//! What the processor can do, and the control registers that turn it on.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _xgetbv, _xsetbv};

use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags, Msr};

use super::signal_frame::ExtendedLayout;
use crate::arch::CoreId;
use crate::memory::PhysAddr;

/// Features that change what the kernel does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// 1 GiB pages.
    pub huge_pages: bool,
    /// The kernel faults when it touches user pages without saying so.
    pub smap: bool,
    /// XSAVE with the compaction-free optimisation XSAVEOPT.
    pub xsaveopt: bool,
    /// XSAVE at all.
    pub xsave: bool,
    /// The local APIC is reached through model-specific registers.
    pub x2apic: bool,
    /// The local APIC's timer takes a TSC value.
    pub tsc_deadline: bool,
    /// RDRAND.
    pub rdrand: bool,
    /// RDSEED.
    pub rdseed: bool,
    /// RDTSCP, which gives the core's number along with the time.
    pub rdtscp: bool,
    /// CPUID.1:EDX, for `AT_HWCAP`.
    pub hwcap: u32,
    /// State components that XCR0 turns on.
    pub xcr0: u64,
    /// Bytes of the XSAVE area for those.
    pub xsave_size: u32,
}

static FEATURES: spin::Once<Features> = spin::Once::new();

/// x87, SSE, AVX and AVX-512 (opmask, upper halves): what programs may use, where the processor has it.
const WANTED_XCR0: u64 = 0b1110_0111;

/// The features of this machine; all cores are taken to be alike.
pub fn features() -> &'static Features {
    FEATURES.call_once(detect)
}

fn detect() -> Features {
    let [max, _, _, _] = cpuid(0, 0);
    let [_, _, ecx1, edx1] = cpuid(1, 0);
    let ebx7 = if max >= 7 { cpuid(7, 0)[1] } else { 0 };
    let extended = cpuid(0x8000_0000, 0)[0];
    let edx81 = if extended >= 0x8000_0001 { cpuid(0x8000_0001, 0)[3] } else { 0 };
    let xsave = ecx1 & 1 << 26 != 0;
    let supported = if xsave { u64::from(cpuid(0xd, 0)[0]) } else { 0 };
    // AVX-512 comes in three components that must be turned on together.
    let avx512 = supported & 0xe0 == 0xe0 && supported & 4 != 0;
    let xcr0 = supported & WANTED_XCR0 & if avx512 { !0 } else { !0xe0 };
    Features {
        huge_pages: edx81 & 1 << 26 != 0,
        smap: ebx7 & 1 << 20 != 0,
        xsave,
        xsaveopt: xsave && cpuid(0xd, 1)[0] & 1 != 0,
        x2apic: ecx1 & 1 << 21 != 0,
        tsc_deadline: ecx1 & 1 << 24 != 0,
        rdrand: ecx1 & 1 << 30 != 0,
        rdseed: ebx7 & 1 << 18 != 0,
        rdtscp: edx81 & 1 << 27 != 0,
        hwcap: edx1,
        xcr0,
        xsave_size: xsave_size(xcr0),
    }
}

/// End of the last enabled component in the standard format (SDM volume 1, section 13.4.3).
fn xsave_size(xcr0: u64) -> u32 {
    let legacy_and_header = 576;
    (2..63).filter(|bit| xcr0 & 1 << bit != 0).fold(legacy_and_header, |end, bit| {
        let [size, offset, _, _] = cpuid(0xd, bit);
        end.max(size + offset)
    })
}

fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Turns on what the kernel relies on: write protection, SMEP, SMAP, UMIP, global pages, SSE, XSAVE, SYSCALL, NX.
pub fn enable_features() {
    let features = features();
    let ebx7 = cpuid(7, 0)[1];
    let ecx7 = cpuid(7, 0)[2];
    let mut cr4 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION
        | Cr4Flags::PAGE_GLOBAL
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE
        | Cr4Flags::MACHINE_CHECK_EXCEPTION;
    cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, ebx7 & 1 << 7 != 0);
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, features.smap);
    cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, ecx7 & 1 << 2 != 0);
    cr4.set(Cr4Flags::OSXSAVE, features.xsave);
    // SAFETY: paging with PAE is on already; the other bits only turn features on that CPUID reports.
    unsafe { Cr4::write(cr4) };
    let cr0 = Cr0Flags::PAGING
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::MONITOR_COPROCESSOR
        | Cr0Flags::EXTENSION_TYPE
        | Cr0Flags::PROTECTED_MODE_ENABLE;
    // SAFETY: keeps paging and protection on; the rest is as the SDM recommends for SSE (volume 3, section 15.1).
    unsafe { Cr0::write(cr0) };
    let efer = EferFlags::SYSTEM_CALL_EXTENSIONS
        | EferFlags::LONG_MODE_ENABLE
        | EferFlags::LONG_MODE_ACTIVE
        | EferFlags::NO_EXECUTE_ENABLE;
    // SAFETY: long mode stays on; NX is in use by the tables; SYSCALL is set up by `entry`.
    unsafe { Efer::write(efer) };
    if features.xsave {
        // SAFETY: CR4.OSXSAVE was set above, and only components that CPUID reports are turned on.
        unsafe { set_xcr0(features.xcr0) };
    }
}

/// Has RDTSCP tell programs which core they run on.
pub fn set_core_number(core: CoreId) {
    const TSC_AUX: u32 = 0xc000_0103;
    if features().rdtscp {
        // SAFETY: CPUID reports RDTSCP, and with it this register, which has no effect on the kernel.
        unsafe { Msr::new(TSC_AUX).write(u64::from(core.0)) };
    }
}

/// # Safety
/// CR4.OSXSAVE must be set and `value` a combination that the processor supports.
#[target_feature(enable = "xsave")]
unsafe fn set_xcr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { _xsetbv(0, value) };
    // SAFETY: XCR0 is readable once OSXSAVE is set.
    debug_assert_eq!(unsafe { _xgetbv(0) }, value);
}

/// Makes `root` the current page tables.
pub fn load_root(root: PhysAddr) {
    // SAFETY: callers pass a root whose upper half maps the kernel as the current one does.
    unsafe { asm!("mov cr3, {}", in(reg) root.as_u64(), options(nostack, preserves_flags)) };
}

/// The time-stamp counter.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC has no precondition.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CPUID.1:EDX, for `AT_HWCAP`.
pub fn hardware_capabilities() -> u32 {
    features().hwcap
}

/// How the extended state of a thread is laid out: for signal frames.
pub fn extended_layout() -> ExtendedLayout {
    let features = features();
    if features.xsave {
        ExtendedLayout { features: features.xcr0, size: features.xsave_size as usize }
    } else {
        // What FXSAVE writes: x87 and SSE.
        ExtendedLayout { features: 3, size: 512 }
    }
}
