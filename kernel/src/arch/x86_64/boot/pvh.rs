//! The PVH entry (Xen's x86/HVM direct boot ABI, `docs/misc/pvh.pandoc` and `start_info.h`).
//!
//! The loader finds the 32-bit entry point in an ELF note (type 18, `XEN_ELFNOTE_PHYS32_ENTRY`), and
//! enters it in protected mode without paging, with the physical address of an `hvm_start_info` in EBX.
//! The entry builds page tables that map the first GiB three times (at its physical address, in the direct
//! map, and at the kernel's base), switches to 64-bit mode, and calls [`enter`].

use core::arch::global_asm;

use super::super::layout::{DIRECT_MAP, KERNEL_BASE};
use super::{BootInfo, MemoryKind, MemoryRange};
use crate::memory::PhysAddr;

/// Bytes of the first core's stack.
const BOOT_STACK_SIZE: usize = 256 << 10;

global_asm!(
    // The note: name size, descriptor size, type, name, entry point.
    ".section .note.Xen, \"a\", @note",
    ".align 4",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad pvh_entry - {base}",

    ".section .stacks, \"aw\", @nobits",
    ".align 4096",
    ".global boot_stack_guard",
    "boot_stack_guard: .skip 4096",
    "boot_stack: .skip {stack_size}",
    ".global boot_stack_top",
    "boot_stack_top:",

    ".section .bss",
    ".align 4096",
    "boot_pml4: .skip 4096",
    "boot_pdpt_low: .skip 4096",
    "boot_pdpt_high: .skip 4096",
    "boot_pd: .skip 4096",

    ".section .rodata",
    ".align 8",
    "boot_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "boot_gdt_pointer: .word 23",
    "                  .quad boot_gdt - {base}",

    ".section .boot.text, \"ax\"",
    ".code32",
    ".global pvh_entry",
    "pvh_entry:",
    "    cld",
    "    mov esp, offset boot_stack_top - {base}",
    // The page directory: 512 large pages, present and writable.
    "    mov edi, offset boot_pd - {base}",
    "    mov eax, 0x83",
    "    mov ecx, 512",
    "2:  mov [edi], eax",
    "    mov dword ptr [edi + 4], 0",
    "    add eax, 0x200000",
    "    add edi, 8",
    "    loop 2b",
    "    mov eax, offset boot_pd - {base} + 3",
    "    mov [boot_pdpt_low - {base}], eax",
    "    mov [boot_pdpt_high - {base} + 510 * 8], eax",
    "    mov eax, offset boot_pdpt_low - {base} + 3",
    "    mov [boot_pml4 - {base}], eax",
    "    mov [boot_pml4 - {base} + 256 * 8], eax",
    "    mov eax, offset boot_pdpt_high - {base} + 3",
    "    mov [boot_pml4 - {base} + 511 * 8], eax",
    "    mov eax, offset boot_pml4 - {base}",
    "    mov cr3, eax",
    // CR4.PAE; EFER.LME, .NXE and .SCE; CR0.PG, .WP and .PE.
    "    mov eax, 0x20",
    "    mov cr4, eax",
    "    mov ecx, 0xc0000080",
    "    rdmsr",
    "    or eax, 0x901",
    "    wrmsr",
    "    mov eax, 0x80010001",
    "    mov cr0, eax",
    "    lgdt [boot_gdt_pointer - {base}]",
    "    push 8",
    "    mov eax, offset pvh_entry_64 - {base}",
    "    push eax",
    "    retf",
    ".code64",
    "pvh_entry_64:",
    "    mov ax, 16",
    "    mov ds, ax",
    "    mov es, ax",
    "    mov ss, ax",
    "    xor eax, eax",
    "    mov fs, ax",
    "    mov gs, ax",
    "    lea rsp, [boot_stack_top]",
    "    mov edi, ebx",
    "    xor ebp, ebp",
    // It never returns: a backtrace, gdb's too, ends at a caller that is all zeroes.
    "    push 0",
    "    push 0",
    "    push 0",
    "    movabs rax, offset {enter}",
    "    jmp rax",
    ".text",
    base = const KERNEL_BASE,
    stack_size = const BOOT_STACK_SIZE,
    enter = sym enter,
);

const START_MAGIC: u32 = 0x336e_c578;

/// `struct hvm_start_info`, versions 0 and 1.
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist_paddr: u64,
    cmdline_paddr: u64,
    rsdp_paddr: u64,
    memmap_paddr: u64,
    memmap_entries: u32,
    reserved: u32,
}

/// `struct hvm_modlist_entry`.
#[repr(C)]
struct Module {
    paddr: u64,
    size: u64,
    cmdline_paddr: u64,
    reserved: u64,
}

/// `struct hvm_memmap_table_entry`; the types are those of E820.
#[repr(C)]
struct MemoryMapEntry {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// A structure of the boot loader's, through the boot tables' direct map.
///
/// # Safety
/// A `T`, valid for every bit pattern, must lie at `phys`, below 1 GiB, and stay there.
unsafe fn at<T>(phys: u64, index: usize) -> &'static T {
    let first = (DIRECT_MAP + phys) as *const T;
    // SAFETY: the caller's promise, forwarded.
    unsafe { &*first.add(index) }
}

/// The NUL-terminated string at `phys`; at most 64 KiB.
///
/// # Safety
/// As for [`at`].
unsafe fn string_at(phys: u64) -> &'static [u8] {
    if phys == 0 {
        return &[];
    }
    let mut len = 0;
    // SAFETY: the caller's promise, forwarded.
    while len < 64 << 10 && unsafe { *at::<u8>(phys, len) } != 0 {
        len += 1;
    }
    // SAFETY: these bytes were just read.
    unsafe { core::slice::from_raw_parts((DIRECT_MAP + phys) as *const u8, len) }
}

/// The first Rust code: reads the start info, and starts the kernel.
extern "C" fn enter(start_info: u32) -> ! {
    // SAFETY: the loader passes the address of its start info in EBX; if not, the magic tells.
    let info = unsafe { at::<StartInfo>(u64::from(start_info), 0) };
    if info.magic != START_MAGIC {
        super::super::exit::halt();
    }
    let mut memory = heapless::Vec::new();
    if info.version >= 1 {
        for index in 0..info.memmap_entries as usize {
            // SAFETY: version 1 gives so many entries at this address.
            let entry = unsafe { at::<MemoryMapEntry>(info.memmap_paddr, index) };
            let kind = match entry.kind {
                1 => MemoryKind::Usable,
                3 => MemoryKind::Acpi,
                _ => MemoryKind::Reserved,
            };
            // A map longer than we keep loses its last ranges: less memory, nothing worse.
            let _ =
                memory.push(MemoryRange { start: PhysAddr::new(entry.addr), len: entry.size as usize, kind });
        }
    }
    let initramfs = (info.nr_modules > 0).then(|| {
        // SAFETY: there is at least one module in the list.
        let module = unsafe { at::<Module>(info.modlist_paddr, 0) };
        MemoryRange {
            start: PhysAddr::new(module.paddr),
            len: module.size as usize,
            kind: MemoryKind::Reserved,
        }
    });
    let rsdp = (info.rsdp_paddr != 0).then(|| PhysAddr::new(info.rsdp_paddr));
    // SAFETY: the loader's command line is a string at this address.
    let command_line = unsafe { string_at(info.cmdline_paddr) };
    super::super::start(BootInfo { memory, command_line, initramfs, rsdp })
}
