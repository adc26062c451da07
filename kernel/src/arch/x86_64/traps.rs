//! Traps: the interrupt descriptor table and what happens behind it.
//!
//! The processor numbers exceptions 0 to 31 (SDM volume 3, table 7-1); device and timer interrupts come at 32 to 255. A trap from
//! user mode ends `enter_user`: [`from_user`] handles an interrupt at once and reports an exception to the thread's loop.
//! The kernel itself runs with interrupts off, so a trap from kernel mode is one of three things: an interrupt that ends
//! the idle loop's halt, a page fault in a copy to or from user memory (its address is in the exception table, and execution
//! goes on at the fix-up), or a bug in the kernel, which ends in a report.

use core::arch::global_asm;

use x86_64::VirtAddr;
use x86_64::registers::control::Cr2;
use x86_64::structures::idt::InterruptDescriptorTable;

use super::context::Trap;
use crate::arch::x86_64::{interrupts, report, segments, usercopy};

/// Page fault error code: the access was an instruction fetch.
pub const INSTRUCTION_FETCH: u64 = 1 << 4;

const NMI: u8 = 2;
/// IA32_GS_BASE (SDM volume 4, table 2-2).
const GS_BASE: u32 = 0xc000_0101;
const DOUBLE_FAULT: u8 = 8;
const PAGE_FAULT: u8 = 14;
const MACHINE_CHECK: u8 = 18;

/// Exceptions for which the processor pushes an error code.
const WITH_ERROR_CODE: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

global_asm!(
    // One stub of 16 bytes per vector: an error code if the processor pushed none, the vector, and on.
    ".align 16",
    ".global trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    "    .align 16",
    "    .if vector > 31 || (({with_error_code} >> vector) & 1) == 0",
    "    push 0",
    "    .endif",
    "    .if vector < 128",
    "    push vector",
    "    .else",
    "    .byte 0x68",
    "    .long vector",
    "    .endif",
    "    jmp trap_common",
    "    .set vector, vector + 1",
    ".endr",

    // Vector, error code, RIP, CS, ...: did it come from user mode?
    "trap_common:",
    "    test byte ptr [rsp + 24], 3",
    "    jz 2f",
    "    swapgs",
    "    cmp byte ptr [rsp], {nmi}",
    "    je 3f",
    "    jmp user_trap",
    // An NMI from user mode is handled on its own stack, and the program goes on unknowing.
    "3:  call 4f",
    "    swapgs",
    "    add rsp, 16",
    "    iretq",
    "2:  cmp byte ptr [rsp], {nmi}",
    "    je 5f",
    "6:  call 4f",
    "    add rsp, 16",
    "    iretq",
    // An NMI in the kernel may come where the GS base is still, or again, the program's. It tells by itself: the kernel's is in
    // the upper half, and no program can have such a one.
    "5:  push rax",
    "    push rcx",
    "    push rdx",
    "    mov ecx, {gs_base}",
    "    rdmsr",
    "    test edx, edx",
    "    pop rdx",
    "    pop rcx",
    "    pop rax",
    "    js 6b",
    "    swapgs",
    "    jmp 3b",

    // Saves the registers as a `KernelTrapFrame`, calls `kernel_trap`, restores them.
    "4:  push rax",
    "    push rbx",
    "    push rcx",
    "    push rdx",
    "    push rsi",
    "    push rdi",
    "    push rbp",
    "    push r8",
    "    push r9",
    "    push r10",
    "    push r11",
    "    push r12",
    "    push r13",
    "    push r14",
    "    push r15",
    "    cld",
    "    mov rdi, rsp",
    "    mov rbp, rsp",
    "    and rsp, -16",
    "    call {kernel_trap}",
    "    mov rsp, rbp",
    "    pop r15",
    "    pop r14",
    "    pop r13",
    "    pop r12",
    "    pop r11",
    "    pop r10",
    "    pop r9",
    "    pop r8",
    "    pop rbp",
    "    pop rdi",
    "    pop rsi",
    "    pop rdx",
    "    pop rcx",
    "    pop rbx",
    "    pop rax",
    "    ret",
    with_error_code = const WITH_ERROR_CODE,
    nmi = const NMI,
    gs_base = const GS_BASE,
    kernel_trap = sym kernel_trap,
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// The registers of kernel code that trapped, in the order in which the entry code pushes them.
#[derive(Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the architecture's")]
pub struct KernelTrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    return_address: u64,
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

static IDT: spin::Once<InterruptDescriptorTable> = spin::Once::new();

/// Loads the interrupt descriptor table on this core.
pub fn init() {
    IDT.call_once(build).load();
}

fn build() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    let stub = |vector: u8| VirtAddr::from_ptr(&raw const trap_stubs) + 16 * u64::from(vector);
    // SAFETY: each stub is an entry for its vector, and the stacks of the table exist.
    unsafe {
        idt.divide_error.set_handler_addr(stub(0));
        idt.debug.set_handler_addr(stub(1));
        idt.non_maskable_interrupt.set_handler_addr(stub(NMI)).set_stack_index(segments::NMI_STACK);
        let breakpoint = idt.breakpoint.set_handler_addr(stub(3));
        breakpoint.set_privilege_level(x86_64::PrivilegeLevel::Ring3);
        let overflow = idt.overflow.set_handler_addr(stub(4));
        overflow.set_privilege_level(x86_64::PrivilegeLevel::Ring3);
        idt.bound_range_exceeded.set_handler_addr(stub(5));
        idt.invalid_opcode.set_handler_addr(stub(6));
        idt.device_not_available.set_handler_addr(stub(7));
        idt.double_fault.set_handler_addr(stub(DOUBLE_FAULT)).set_stack_index(segments::FAULT_STACK);
        idt.invalid_tss.set_handler_addr(stub(10));
        idt.segment_not_present.set_handler_addr(stub(11));
        idt.stack_segment_fault.set_handler_addr(stub(12));
        idt.general_protection_fault.set_handler_addr(stub(13));
        idt.page_fault.set_handler_addr(stub(PAGE_FAULT));
        idt.x87_floating_point.set_handler_addr(stub(16));
        idt.alignment_check.set_handler_addr(stub(17));
        idt.machine_check.set_handler_addr(stub(MACHINE_CHECK)).set_stack_index(segments::NMI_STACK);
        idt.simd_floating_point.set_handler_addr(stub(19));
        idt.virtualization.set_handler_addr(stub(20));
        idt.cp_protection_exception.set_handler_addr(stub(21));
        for vector in 32..=255 {
            idt[vector].set_handler_addr(stub(vector));
        }
    }
    idt
}

/// A trap ended a user thread's run: interrupts are handled here.
pub fn from_user(vector: u8, code: u64) -> Trap {
    if super::cpu::features().smap {
        // A program may have set RFLAGS.AC, which would lift SMAP in the kernel.
        usercopy::forbid_user_access();
    }
    match vector {
        PAGE_FAULT => Trap::PageFault { address: Cr2::read_raw(), code },
        DOUBLE_FAULT | MACHINE_CHECK => report::fatal_user_trap(vector, code),
        0..32 => Trap::Exception { vector, code },
        _ => {
            interrupts::handle(vector);
            Trap::Interrupt
        }
    }
}

/// A trap from kernel mode, and every NMI.
extern "C" fn kernel_trap(frame: &mut KernelTrapFrame) {
    match frame.vector as u8 {
        NMI => report::non_maskable_interrupt(frame),
        vector if vector >= 32 => interrupts::handle(vector),
        PAGE_FAULT | 13 => match usercopy::fix_up(frame.rip) {
            Some(rip) => frame.rip = rip,
            None => report::fatal_trap(frame),
        },
        _ => report::fatal_trap(frame),
    }
}
