//! Raw copies to and from user memory.
//!
//! Each instruction that touches a user address has an entry in the exception table (section `.extable`: pairs of instruction
//! address and fix-up). A fault there goes on at the fix-up, which reports how much was left to copy. SMAP is lifted for the length of
//! the copy, where there is SMAP: the functions exist with and without.

use core::arch::{asm, global_asm};

use super::cpu;
use crate::memory::VirtAddr;

macro_rules! copy_function {
    ($name:literal, $before:literal, $after:literal) => {
        global_asm!(
            concat!(".global ", $name),
            concat!($name, ":"),
            // RDI: target, RSI: source, RDX: bytes. Returns the bytes not copied in RAX.
            $before,
            "    mov rcx, rdx",
            "    and edx, 7",
            "    shr rcx, 3",
            "11: rep movsq",
            "    mov ecx, edx",
            "12: rep movsb",
            "    xor eax, eax",
            $after,
            "    ret",
            // RCX words and RDX bytes were left. The word that faulted may begin on the page before: its bytes are copied one by
            // one, lest a caller who resolves the fault of the first byte left wait for that of another page.
            "13: lea rcx, [rcx * 8 + rdx]",
            "    jmp 12b",
            "14: mov rax, rcx",
            $after,
            "    ret",
            ".pushsection .extable, \"a\"",
            "    .quad 11b, 13b",
            "    .quad 12b, 14b",
            ".popsection",
        );
    };
}

copy_function!("user_copy", "", "");
copy_function!("user_copy_smap", "stac", "clac");

macro_rules! exchange_function {
    ($name:literal, $before:literal, $after:literal) => {
        global_asm!(
            concat!(".global ", $name),
            concat!($name, ":"),
            // RDI: address, ESI: expected, EDX: new. Returns the value found in RAX, or all ones after a fault.
            $before,
            "    mov eax, esi",
            "11: lock cmpxchg [rdi], edx",
            $after,
            "    ret",
            "12: mov rax, -1",
            $after,
            "    ret",
            ".pushsection .extable, \"a\"",
            "    .quad 11b, 12b",
            ".popsection",
        );
    };
}

exchange_function!("user_exchange", "", "");
exchange_function!("user_exchange_smap", "stac", "clac");

unsafe extern "C" {
    fn user_copy(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn user_copy_smap(to: *mut u8, from: *const u8, len: usize) -> usize;
    fn user_exchange(address: *mut u32, old: u32, new: u32) -> u64;
    fn user_exchange_smap(address: *mut u32, old: u32, new: u32) -> u64;
    static __extable_start: [u64; 2];
    static __extable_end: [u64; 2];
}

/// Where to go on after a fault of the instruction at `rip`, if it is one of the copies above.
pub fn fix_up(rip: u64) -> Option<u64> {
    let start = &raw const __extable_start;
    // SAFETY: the linker script puts both symbols around the table, an array of pairs.
    let len = unsafe { (&raw const __extable_end).offset_from_unsigned(start) };
    // SAFETY: as above.
    let table = unsafe { core::slice::from_raw_parts(start, len) };
    table.iter().find(|entry| entry[0] == rip).map(|entry| entry[1])
}

/// # Safety
/// The kernel's side of the copy must be valid for `len` bytes, the other be a range of the user half.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> usize {
    // SAFETY: as the caller promises; faults on the user's side are fixed up.
    let left = unsafe {
        if cpu::features().smap { user_copy_smap(to, from, len) } else { user_copy(to, from, len) }
    };
    len - left
}

/// Copies kernel memory that may not be there, until a fault: for backtraces. Returns the number of bytes copied.
///
/// # Safety
/// `to` must be valid for writes of `len` bytes; `from` must not be a device's register.
pub unsafe fn copy_kernel(to: *mut u8, from: *const u8, len: usize) -> usize {
    // SAFETY: as the caller promises; a fault is fixed up.
    len - unsafe { user_copy(to, from, len) }
}

/// Copies `len` bytes from user memory to `to`, until a fault. Returns the number of bytes copied.
///
/// # Safety
/// `to` must be valid for writes of `len` bytes; `from` must be a range of the user half.
pub unsafe fn copy_from_user(to: *mut u8, from: VirtAddr, len: usize) -> usize {
    // SAFETY: as the caller promises.
    unsafe { copy(to, from.as_u64() as *const u8, len) }
}

/// Copies `len` bytes from `from` to user memory, until a fault. Returns the number of bytes copied.
///
/// # Safety
/// `from` must be valid for reads of `len` bytes; `to` must be a range of the user half.
pub unsafe fn copy_to_user(to: VirtAddr, from: *const u8, len: usize) -> usize {
    // SAFETY: as the caller promises.
    unsafe { copy(to.as_u64() as *mut u8, from, len) }
}

/// Stores `new` in the user's 32-bit word at `address` if it holds `old`. Returns what it held; `None` after a fault.
/// The address must be one of the user half.
pub fn compare_exchange_user(address: VirtAddr, old: u32, new: u32) -> Option<u32> {
    let word = address.as_u64() as *mut u32;
    // SAFETY: `uaccess` checked that the word lies in the user half; faults are fixed up.
    let found = unsafe {
        if cpu::features().smap { user_exchange_smap(word, old, new) } else { user_exchange(word, old, new) }
    };
    u32::try_from(found).ok()
}

/// Makes user memory unreachable outside the copies above, whatever the program did to its flags.
pub fn forbid_user_access() {
    // SAFETY: the caller knows that the processor has SMAP; the instruction only clears RFLAGS.AC.
    unsafe { asm!("clac", options(nomem, nostack)) };
}
