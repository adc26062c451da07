//! The registers of a user thread.
//!
//! [`UserContext`] holds what the entry code saves and restores: general registers, segment bases and the
//! extended (x87, SSE, AVX, ...) state. A thread owns its context; nobody else touches it.

use alloc::boxed::Box;

/// The general registers of a user thread, in the order in which the entry code stores them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// Everything that a thread has in the processor.
#[derive(Clone)]
pub struct UserContext {
    /// General registers.
    pub registers: Registers,
    /// Extended state.
    pub extended: ExtendedState,
}

/// Most bytes of extended state that this kernel lets a program use: x87, SSE, AVX, AVX-512 and PKRU.
pub const MAX_EXTENDED_STATE: usize = 2696;

/// The x87 control word with all exceptions masked, double extended precision.
const INITIAL_CONTROL_WORD: u16 = 0x037f;
/// MXCSR with all exceptions masked.
const INITIAL_MXCSR: u32 = 0x1f80;

/// The XSAVE area of a thread, in the standard format (Intel SDM volume 1, section 13.4).
#[derive(Clone)]
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; MAX_EXTENDED_STATE.next_multiple_of(64)]);

/// The extended state of a thread.
///
/// While the thread is the last that ran on its core, the processor holds a newer copy: [`bytes`](Self::bytes) fetches it.
pub struct ExtendedState {
    /// Read and written by the processor.
    pub(super) area: Box<XsaveArea>,
}

impl Clone for ExtendedState {
    fn clone(&self) -> Self {
        super::save_extended(&self.area);
        Self { area: self.area.clone() }
    }
}

impl Drop for ExtendedState {
    fn drop(&mut self) {
        super::forget_extended(&self.area);
    }
}

impl ExtendedState {
    /// The area as XSAVE writes it, up to date.
    pub fn bytes(&self) -> &[u8] {
        super::save_extended(&self.area);
        &self.area.0
    }

    /// Replaces the state. The caller vouches that the processor accepts it (XRSTOR faults on a malformed header).
    pub fn replace(&mut self, bytes: &[u8]) {
        super::forget_extended(&self.area);
        self.area.0[..bytes.len()].copy_from_slice(bytes);
        self.area.0[bytes.len()..].fill(0);
    }

    /// Makes it the initial state again.
    pub fn reset(&mut self) {
        let mut start = [0; 28];
        start[0..2].copy_from_slice(&INITIAL_CONTROL_WORD.to_le_bytes());
        start[24..28].copy_from_slice(&INITIAL_MXCSR.to_le_bytes());
        self.replace(&start);
    }

    /// The state after FNINIT, with all exceptions masked (SDM volume 1, section 13.6: XINUSE of zero).
    pub fn initial() -> Self {
        let mut area = Box::new(XsaveArea([0; _]));
        area.0[0..2].copy_from_slice(&INITIAL_CONTROL_WORD.to_le_bytes());
        area.0[24..28].copy_from_slice(&INITIAL_MXCSR.to_le_bytes());
        Self { area }
    }
}

impl UserContext {
    /// A thread about to start at `rip` with stack pointer `rsp`, interrupts on, everything else zero.
    pub fn new(rip: u64, rsp: u64) -> Self {
        let registers = Registers { rip, rsp, rflags: RFLAGS_INITIAL, ..Registers::default() };
        Self { registers, extended: ExtendedState::initial() }
    }

    /// Begins anew, as a thread about to start at `rip` with stack pointer `rsp`.
    pub fn restart_at(&mut self, rip: u64, rsp: u64) {
        self.registers = Registers { rip, rsp, rflags: RFLAGS_INITIAL, ..Registers::default() };
        self.extended.reset();
    }

    /// Sets the base of FS, which programs use for thread-local storage.
    pub fn set_fs_base(&mut self, base: u64) {
        self.registers.fs_base = base;
        self.reload();
    }

    /// Sets the base of GS.
    pub fn set_gs_base(&mut self, base: u64) {
        self.registers.gs_base = base;
        self.reload();
    }

    /// Segment bases are loaded together with the extended state: has both loaded at the next entry to user mode.
    fn reload(&self) {
        super::save_extended(&self.extended.area);
    }

    /// The number and the arguments of a system call, as syscall(2) passes them.
    pub fn system_call(&self) -> (u64, [u64; 6]) {
        let r = &self.registers;
        (r.rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9])
    }
}

/// Interrupts on, and the bit that is always set.
pub const RFLAGS_INITIAL: u64 = 0x202;

/// Why a user thread came back to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// The SYSCALL instruction; number and arguments are in the context.
    SystemCall,
    /// A page fault at `address` (CR2).
    PageFault {
        /// The address that was accessed.
        address: u64,
        /// The error code (SDM volume 3, section 4.7).
        code: u64,
    },
    /// Another exception.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, or 0.
        code: u64,
    },
    /// An interrupt, already handled: time to look at what became runnable.
    Interrupt,
}
