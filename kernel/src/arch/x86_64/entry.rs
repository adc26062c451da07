//! Into user mode and back.
//!
//! [`enter_user`] is an ordinary function call for its caller: it loads a thread's registers, and returns when the thread traps,
//! with the registers stored again. The kernel's callee-saved registers wait on the core's one stack meanwhile,
//! and [`CoreArea::kernel_rsp`](super::core_area::CoreArea) remembers where.
//!
//! A system call comes in through SYSCALL (SDM volume 3, section 6.8.8), everything else through the IDT. The way back is
//! SYSRET where RCX and RCX's twin R11 say what SYSRET makes of them, as after a system call, and IRET otherwise.
//!
//! The extended state and the segment bases stay in the processor until another thread needs it: a thread that
//! traps, waits and goes on as the only one pays nothing for them.

use core::arch::{global_asm, naked_asm};
use core::ptr;
use core::sync::atomic::Ordering;

use x86_64::registers::model_specific::{FsBase, KernelGsBase, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;

use super::context::{Registers, Trap, UserContext};
use super::core_area::{self, KERNEL_RSP, REGISTERS, USER_RSP};
use super::{cpu, segments, traps};
use crate::memory::USER_END;

/// Number that the system-call entry gives as vector; no interrupt has it.
const SYSTEM_CALL: u64 = 0x100;

/// What [`run_user`] returns in RAX and RDX.
#[repr(C)]
struct RawTrap {
    vector: u64,
    code: u64,
}

macro_rules! register_offsets {
    ($asm:ident, [$($line:literal,)*], $($extra:tt)*) => {
        $asm! {
            $($line,)*
            rax = const core::mem::offset_of!(Registers, rax),
            rbx = const core::mem::offset_of!(Registers, rbx),
            rcx = const core::mem::offset_of!(Registers, rcx),
            rdx = const core::mem::offset_of!(Registers, rdx),
            rsi = const core::mem::offset_of!(Registers, rsi),
            rdi = const core::mem::offset_of!(Registers, rdi),
            rbp = const core::mem::offset_of!(Registers, rbp),
            rsp = const core::mem::offset_of!(Registers, rsp),
            r8 = const core::mem::offset_of!(Registers, r8),
            r9 = const core::mem::offset_of!(Registers, r9),
            r10 = const core::mem::offset_of!(Registers, r10),
            r11 = const core::mem::offset_of!(Registers, r11),
            r12 = const core::mem::offset_of!(Registers, r12),
            r13 = const core::mem::offset_of!(Registers, r13),
            r14 = const core::mem::offset_of!(Registers, r14),
            r15 = const core::mem::offset_of!(Registers, r15),
            rip = const core::mem::offset_of!(Registers, rip),
            rflags = const core::mem::offset_of!(Registers, rflags),
            $($extra)*
        }
    };
}

register_offsets!(
    global_asm,
    [
    // SYSCALL: RIP is in RCX, RFLAGS in R11, interrupts are off, the stack is the user's.
    ".global system_call_entry",
    "system_call_entry:",
    "    swapgs",
    "    mov gs:[{user_rsp}], rsp",
    "    mov rsp, gs:[{registers}]",
    "    mov [rsp + {rax}], rax",
    "    mov [rsp + {rbx}], rbx",
    "    mov [rsp + {rcx}], rcx",
    "    mov [rsp + {rdx}], rdx",
    "    mov [rsp + {rsi}], rsi",
    "    mov [rsp + {rdi}], rdi",
    "    mov [rsp + {rbp}], rbp",
    "    mov [rsp + {r8}], r8",
    "    mov [rsp + {r9}], r9",
    "    mov [rsp + {r10}], r10",
    "    mov [rsp + {r11}], r11",
    "    mov [rsp + {r12}], r12",
    "    mov [rsp + {r13}], r13",
    "    mov [rsp + {r14}], r14",
    "    mov [rsp + {r15}], r15",
    "    mov [rsp + {rip}], rcx",
    "    mov [rsp + {rflags}], r11",
    "    mov rcx, gs:[{user_rsp}]",
    "    mov [rsp + {rsp}], rcx",
    "    mov eax, {system_call}",
    "    jmp back_in_kernel",

    // A trap from user mode, on the trap stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. GS is the kernel's.
    ".global user_trap",
    "user_trap:",
    "    push rdi",
    "    mov rdi, gs:[{registers}]",
    "    mov [rdi + {rax}], rax",
    "    mov [rdi + {rbx}], rbx",
    "    mov [rdi + {rcx}], rcx",
    "    mov [rdi + {rdx}], rdx",
    "    mov [rdi + {rsi}], rsi",
    "    pop rax",
    "    mov [rdi + {rdi}], rax",
    "    mov [rdi + {rbp}], rbp",
    "    mov [rdi + {r8}], r8",
    "    mov [rdi + {r9}], r9",
    "    mov [rdi + {r10}], r10",
    "    mov [rdi + {r11}], r11",
    "    mov [rdi + {r12}], r12",
    "    mov [rdi + {r13}], r13",
    "    mov [rdi + {r14}], r14",
    "    mov [rdi + {r15}], r15",
    "    pop rax",
    "    pop rdx",
    "    pop rcx",
    "    mov [rdi + {rip}], rcx",
    "    pop rcx",
    "    pop rcx",
    "    mov [rdi + {rflags}], rcx",
    "    pop rcx",
    "    mov [rdi + {rsp}], rcx",

    // RAX and RDX hold the result of `run_user`, which returns here.
    "back_in_kernel:",
    "    mov rsp, gs:[{kernel_rsp}]",
    "    cld",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop rbx",
    "    pop rbp",
    "    ret",
    ],
    user_rsp = const USER_RSP,
    kernel_rsp = const KERNEL_RSP,
    registers = const REGISTERS,
    system_call = const SYSTEM_CALL
);

unsafe extern "C" {
    fn system_call_entry();
}

/// Runs a user thread until it traps. With `by_sysret`, RCX and R11 must equal RIP and RFLAGS.
///
/// # Safety
/// RIP must be below [`USER_END`], RFLAGS have interrupts on and no privileged bit, and the current page tables must be the thread's.
#[unsafe(naked)]
unsafe extern "C" fn run_user(registers: *mut Registers, by_sysret: bool) -> RawTrap {
    register_offsets!(
        naked_asm,
        [
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov gs:[{kernel_rsp}], rsp",
        "mov gs:[{registers}], rdi",
        "mov rbx, [rdi + {rbx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rax, [rdi + {rax}]",
        "test sil, sil",
        "mov rsi, [rdi + {rsi}]",
        "jz 2f",
        "mov rcx, [rdi + {rip}]",
        "mov r11, [rdi + {rflags}]",
        "mov rsp, [rdi + {rsp}]",
        "mov rdi, [rdi + {rdi}]",
        "swapgs",
        "sysretq",
        "2:",
        "mov rcx, [rdi + {rcx}]",
        "mov r11, [rdi + {r11}]",
        "push {user_data}",
        "push qword ptr [rdi + {rsp}]",
        "push qword ptr [rdi + {rflags}]",
        "push {user_code}",
        "push qword ptr [rdi + {rip}]",
        "mov rdi, [rdi + {rdi}]",
        "swapgs",
        "iretq",
        ],
        kernel_rsp = const KERNEL_RSP,
        registers = const REGISTERS,
        user_data = const segments::USER_DATA.0,
        user_code = const segments::USER_CODE.0
    )
}

/// Sets this core's system-call entry up.
pub fn init() {
    let entry = system_call_entry as *const () as u64;
    LStar::write(x86_64::VirtAddr::new(entry));
    let order =
        Star::write(segments::USER_CODE, segments::USER_DATA, segments::KERNEL_CODE, segments::KERNEL_DATA);
    assert!(order.is_ok(), "the descriptors are not in the order that SYSCALL needs");
    // What a program has in RFLAGS must not reach the kernel: interrupts, direction, alignment check (SMAP), trap, nested task.
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::TRAP_FLAG
            | RFlags::NESTED_TASK
            | RFlags::ID,
    );
}

/// RFLAGS bits that a program may choose: arithmetic, trap, direction, alignment check, ID.
const USER_FLAGS: u64 = 0x0024_4dd5;
const TRAP: u64 = RFlags::TRAP_FLAG.bits();

/// Runs the thread whose registers are in `context` until it traps; an interrupt has been handled when this returns.
///
/// The thread's address space must be the current one.
pub fn enter_user(context: &mut UserContext) -> Trap {
    let area = core_area::here();
    if !ptr::eq(area.loaded.load(Ordering::Relaxed), &raw const *context.extended.area) {
        load(context);
    }
    let registers = &mut context.registers;
    registers.rflags = registers.rflags & USER_FLAGS | super::context::RFLAGS_INITIAL;
    if registers.rip >= USER_END as u64 {
        // No such address can be fetched from; the program gets the fault that fetching would give.
        return Trap::PageFault { address: registers.rip, code: traps::INSTRUCTION_FETCH };
    }
    // SYSRET with the trap flag traps before the first instruction, and so would for ever; IRET behind it.
    let differences =
        registers.rcx ^ registers.rip | registers.r11 ^ registers.rflags | registers.rflags & TRAP;
    let by_sysret = differences == 0;
    // SAFETY: the instruction pointer and the flags were just checked, the caller activated the address space.
    let raw = unsafe { run_user(registers, by_sysret) };
    match raw.vector {
        SYSTEM_CALL => Trap::SystemCall,
        vector => traps::from_user(vector as u8, raw.code),
    }
}

/// Puts the extended state and the segment bases of `context` into the processor; whose were there are saved first.
#[inline(never)]
fn load(context: &UserContext) {
    let area = core_area::here();
    save_loaded();
    // SAFETY: the area belongs to a thread whose state was made by `initial`, saved by the processor or validated by `replace`.
    unsafe { restore_extended(&raw const *context.extended.area) };
    area.loaded.store((&raw const *context.extended.area).cast_mut(), Ordering::Relaxed);
    FsBase::write(x86_64::VirtAddr::new_truncate(context.registers.fs_base));
    KernelGsBase::write(x86_64::VirtAddr::new_truncate(context.registers.gs_base));
}

/// Saves the extended state that is in the processor to the thread that it belongs to, which loses its claim on the processor.
fn save_loaded() {
    let area = core_area::here();
    let owner = area.loaded.swap(ptr::null_mut(), Ordering::Relaxed);
    if !owner.is_null() {
        // SAFETY: `loaded` points to a live area: it is cleared before the area is freed (`forget`).
        unsafe { save_extended(owner) };
    }
}

/// Brings the area at `state` up to date if its thread's state is in the processor; the processor's copy is no longer used.
pub fn save(state: *const super::context::XsaveArea) {
    if ptr::eq(core_area::here().loaded.load(Ordering::Relaxed), state) {
        save_loaded();
    }
}

/// Forgets the processor's copy of the state at `state`, which is about to be replaced or freed.
pub fn forget(state: *const super::context::XsaveArea) {
    let area = core_area::here();
    if ptr::eq(area.loaded.load(Ordering::Relaxed), state) {
        area.loaded.store(ptr::null_mut(), Ordering::Relaxed);
    }
}

/// # Safety
/// `area` must be valid for writes.
unsafe fn save_extended(area: *mut super::context::XsaveArea) {
    let features = cpu::features();
    // SAFETY: the area is valid, aligned to 64 bytes and large enough for every component of XCR0; without XSAVE, FXSAVE's 512 bytes fit.
    unsafe {
        if features.xsaveopt {
            core::arch::asm!("xsaveopt64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
        } else if features.xsave {
            core::arch::asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack));
        } else {
            core::arch::asm!("fxsave64 [{}]", in(reg) area, options(nostack));
        }
    }
}

/// # Safety
/// `area` must hold a state that the processor accepts.
unsafe fn restore_extended(area: *const super::context::XsaveArea) {
    // SAFETY: as the caller promises.
    unsafe {
        if cpu::features().xsave {
            core::arch::asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, readonly));
        } else {
            core::arch::asm!("fxrstor64 [{}]", in(reg) area, options(nostack, readonly));
        }
    }
}
