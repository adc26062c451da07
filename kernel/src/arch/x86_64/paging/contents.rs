//! Clearing and copying whole pages.
//!
//! Processors have string instructions that do this as fast as memory allows (Intel's optimisation manual, "Fast-string
//! operation"). QEMU's emulator takes each of their steps for an instruction of its own: there a plain loop, unrolled, needs half
//! of the time. Which one is used is decided once, by what CPUID says of the hypervisor.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::memory::PAGE_SIZE;

/// How pages are cleared and copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Method {
    Unknown,
    StringInstructions,
    Loop,
}

static METHOD: AtomicU8 = AtomicU8::new(Method::Unknown as u8);

fn use_loop() -> bool {
    let mut method = METHOD.load(Ordering::Relaxed);
    if method == Method::Unknown as u8 {
        method = if is_emulated() { Method::Loop } else { Method::StringInstructions } as u8;
        METHOD.store(method, Ordering::Relaxed);
    }
    method == Method::Loop as u8
}

/// Whether QEMU's emulator runs this: its signature in the first leaf for hypervisors.
fn is_emulated() -> bool {
    let hypervisor = __cpuid(1).ecx & 1 << 31 != 0;
    let leaf = __cpuid(0x4000_0000);
    hypervisor
        && [leaf.ebx, leaf.ecx, leaf.edx]
            == [u32::from_le_bytes(*b"TCGT"), u32::from_le_bytes(*b"CGTC"), u32::from_le_bytes(*b"GTCG")]
}

/// Fills a page with zeroes.
///
/// # Safety
/// `page` is a whole page, aligned, and the caller's to write.
pub unsafe fn clear_page(page: *mut u8) {
    // SAFETY: as the caller promises.
    unsafe { if use_loop() { clear_by_loop(page) } else { clear_by_string(page) } }
}

/// Copies a page.
///
/// # Safety
/// Both are whole pages, aligned, and not the same; `to` is the caller's to write.
pub unsafe fn copy_page(to: *mut u8, from: *const u8) {
    // SAFETY: as the caller promises.
    unsafe { if use_loop() { copy_by_loop(to, from) } else { copy_by_string(to, from) } }
}

/// # Safety
/// As [`clear_page`].
unsafe fn clear_by_string(page: *mut u8) {
    // SAFETY: writes 512 words from `page` on; the direction flag is clear, as the ABI has it.
    unsafe {
        asm!("rep stosq", inout("rdi") page => _, inout("rcx") PAGE_SIZE / 8 => _, in("rax") 0u64,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// As [`clear_page`].
unsafe fn clear_by_loop(page: *mut u8) {
    // SAFETY: writes 64 bytes at a time, from `page` to the end of the page.
    unsafe {
        asm!(
            "2:",
            "mov qword ptr [{page}], 0",
            "mov qword ptr [{page} + 8], 0",
            "mov qword ptr [{page} + 16], 0",
            "mov qword ptr [{page} + 24], 0",
            "mov qword ptr [{page} + 32], 0",
            "mov qword ptr [{page} + 40], 0",
            "mov qword ptr [{page} + 48], 0",
            "mov qword ptr [{page} + 56], 0",
            "add {page}, 64",
            "cmp {page}, {end}",
            "jne 2b",
            page = inout(reg) page => _,
            end = in(reg) page.wrapping_add(PAGE_SIZE),
            options(nostack),
        );
    }
}

/// # Safety
/// As [`copy_page`].
unsafe fn copy_by_string(to: *mut u8, from: *const u8) {
    // SAFETY: copies 512 words from `from` to `to`; the direction flag is clear, as the ABI has it.
    unsafe {
        asm!("rep movsq", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") PAGE_SIZE / 8 => _,
            options(nostack, preserves_flags));
    }
}

/// # Safety
/// As [`copy_page`].
unsafe fn copy_by_loop(to: *mut u8, from: *const u8) {
    // SAFETY: copies 32 bytes at a time, from the start of both pages to their end.
    unsafe {
        asm!(
            "2:",
            "mov {a}, [{from}]",
            "mov {b}, [{from} + 8]",
            "mov {c}, [{from} + 16]",
            "mov {d}, [{from} + 24]",
            "mov [{to}], {a}",
            "mov [{to} + 8], {b}",
            "mov [{to} + 16], {c}",
            "mov [{to} + 24], {d}",
            "add {from}, 32",
            "add {to}, 32",
            "cmp {from}, {end}",
            "jne 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            end = in(reg) from.wrapping_add(PAGE_SIZE),
            a = out(reg) _,
            b = out(reg) _,
            c = out(reg) _,
            d = out(reg) _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pages, aligned.
    #[repr(align(4096))]
    struct Pages([[u8; PAGE_SIZE]; 3]);

    #[test]
    fn exactly_one_page_is_cleared() {
        for clear in [clear_page, clear_by_loop, clear_by_string] {
            let mut pages = Box::new(Pages([[7; PAGE_SIZE]; 3]));
            // SAFETY: the page in the middle.
            unsafe { clear(pages.0[1].as_mut_ptr()) };
            assert!(pages.0[1] == [0; PAGE_SIZE] && pages.0[0] == pages.0[2] && pages.0[0] == [7; PAGE_SIZE]);
        }
    }

    #[test]
    fn exactly_one_page_is_copied() {
        for copy in [copy_page, copy_by_loop, copy_by_string] {
            let mut pages = Box::new(Pages([[7; PAGE_SIZE]; 3]));
            let source = Box::new(Pages([core::array::from_fn(|index| ((index * 31) >> 3) as u8); 3]));
            // SAFETY: the pages in the middle of both.
            unsafe { copy(pages.0[1].as_mut_ptr(), source.0[1].as_ptr()) };
            assert!(
                pages.0[1] == source.0[1] && pages.0[0] == [7; PAGE_SIZE] && pages.0[2] == [7; PAGE_SIZE]
            );
        }
    }

    #[test]
    fn this_is_no_emulator_or_the_loop_is_used() {
        assert_eq!(use_loop(), is_emulated());
    }
}
