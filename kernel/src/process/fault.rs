//! Which signal an exception of a user thread becomes: Intel SDM volume 3, chapter 6, and sigaction(2) on `si_code`.

use super::signal::{SI_KERNEL, Signal, SignalInfo};
use crate::arch::UserContext;
use crate::memory::{Access, Fault, VirtAddr};
use crate::uaccess::is_user_range;

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRALN: i32 = 1;
const BUS_ADRERR: i32 = 2;
const FPE_INTDIV: i32 = 1;
const FPE_FLTDIV: i32 = 3;
const FPE_FLTOVF: i32 = 4;
const FPE_FLTUND: i32 = 5;
const FPE_FLTRES: i32 = 6;
const FPE_FLTINV: i32 = 7;
const ILL_ILLOPN: i32 = 2;
const TRAP_TRACE: i32 = 2;

/// The kind of access that a page fault's error code tells (SDM volume 3, section 4.7).
pub fn access(code: u64) -> Access {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    match code {
        _ if code & FETCH != 0 => Access::Execute,
        _ if code & WRITE != 0 => Access::Write,
        _ => Access::Read,
    }
}

/// What a program is told of an error code. What is mapped in the kernel's half is not its business: there, a page seems always to be
/// (as on Linux, arch/x86/mm/fault.c).
pub fn visible_code(address: u64, code: u64) -> u64 {
    const PRESENT: u64 = 1;
    if is_user_range(VirtAddr::new(address), 1) { code } else { code | PRESENT }
}

/// The signal for a page fault that cannot be served; `None` when only memory is missing.
pub fn page_fault(fault: Fault, address: u64) -> Option<SignalInfo> {
    match fault {
        Fault::NotMapped => Some(SignalInfo::fault(Signal::SEGV, SEGV_MAPERR, address)),
        Fault::NotPermitted => Some(SignalInfo::fault(Signal::SEGV, SEGV_ACCERR, address)),
        Fault::PastEnd => Some(SignalInfo::fault(Signal::BUS, BUS_ADRERR, address)),
        Fault::OutOfMemory => None,
    }
}

/// The signal for any other exception.
pub fn exception(vector: u8, context: &UserContext) -> SignalInfo {
    let at = context.registers.rip;
    match vector {
        0 => SignalInfo::fault(Signal::FPE, FPE_INTDIV, at),
        1 => SignalInfo::fault(Signal::TRAP, TRAP_TRACE, at),
        3 => SignalInfo::kernel(Signal::TRAP),
        6 => SignalInfo::fault(Signal::ILL, ILL_ILLOPN, at),
        11 | 12 => SignalInfo::kernel(Signal::BUS),
        16 => SignalInfo::fault(Signal::FPE, x87_code(context.extended.bytes()), at),
        17 => SignalInfo::fault(Signal::BUS, BUS_ADRALN, 0),
        19 => SignalInfo::fault(Signal::FPE, sse_code(context.extended.bytes()), at),
        _ => SignalInfo::fault(Signal::SEGV, SI_KERNEL, 0),
    }
}

/// Control word at 0, status word at 2: the exceptions raised and not masked.
fn x87_code(state: &[u8]) -> i32 {
    let word = |at: usize| u16::from_le_bytes([state[at], state[at + 1]]);
    floating_point_code(word(2) & !word(0))
}

/// MXCSR at 24: flags in bits 0 to 5, their masks in bits 7 to 12.
fn sse_code(state: &[u8]) -> i32 {
    let mxcsr = u16::from_le_bytes([state[24], state[25]]);
    floating_point_code(mxcsr & !(mxcsr >> 7))
}

fn floating_point_code(raised: u16) -> i32 {
    const INVALID: u16 = 1;
    const DENORMAL: u16 = 1 << 1;
    const DIVISION_BY_ZERO: u16 = 1 << 2;
    const OVERFLOW: u16 = 1 << 3;
    const UNDERFLOW: u16 = 1 << 4;
    match raised {
        _ if raised & INVALID != 0 => FPE_FLTINV,
        _ if raised & DIVISION_BY_ZERO != 0 => FPE_FLTDIV,
        _ if raised & OVERFLOW != 0 => FPE_FLTOVF,
        _ if raised & (UNDERFLOW | DENORMAL) != 0 => FPE_FLTUND,
        _ => FPE_FLTRES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_faults_say_what_was_wrong_and_where() {
        let info = page_fault(Fault::NotPermitted, 0x1234).unwrap();
        assert_eq!((info.signal(), info.code(), info.address()), (Signal::SEGV, 2, 0x1234));
        assert_eq!(page_fault(Fault::PastEnd, 0).unwrap().signal(), Signal::BUS);
        assert_eq!(page_fault(Fault::OutOfMemory, 0), None);
        assert_eq!((access(4), access(6), access(0x14)), (Access::Read, Access::Write, Access::Execute));
        assert_eq!((visible_code(0x1234, 4), visible_code(0xffff_8000_0000_0000, 4)), (4, 5));
    }

    #[test]
    fn floating_point_exceptions_are_told_apart() {
        let mut context = UserContext::new(0x40_0000, 0);
        let mut state = context.extended.bytes().to_vec();
        // Divide-by-zero raised and unmasked in MXCSR; overflow raised and unmasked in the x87 words.
        state[24..28].copy_from_slice(&(0x1f80_u32 & !(1 << 9) | 1 << 2).to_le_bytes());
        state[0..4].copy_from_slice(&[0x37, 0x03, 0x08, 0]);
        context.extended.replace(&state);
        assert_eq!(exception(19, &context).code(), FPE_FLTDIV);
        assert_eq!(exception(16, &context).code(), FPE_FLTOVF);
        assert_eq!(exception(0, &context).address(), 0x40_0000);
        assert_eq!(exception(13, &context).signal(), Signal::SEGV);
    }
}
