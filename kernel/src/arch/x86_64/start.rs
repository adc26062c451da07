//! From the boot protocol's end to the kernel proper.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::CoreId;
use crate::arch::x86_64::acpi::{PhysicalMemory, Tables};
use crate::arch::x86_64::boot::{self, BootInfo};
use crate::arch::x86_64::layout::DIRECT_MAP;
use crate::arch::x86_64::{
    apic, clock, console, core_area, cpu, entry, interrupts, paging, pci, segments, stacks, traps,
};
use crate::memory::{self, MemoryRange, PhysAddr};

/// The first core's way from the boot loader's end to the kernel proper.
pub fn start(info: BootInfo) -> ! {
    let core = CoreId(0);
    core_area::init(core);
    cpu::enable_features();
    cpu::set_core_number(core);
    console::init();
    segments::init(&stacks::boot_core());
    traps::init();
    entry::init();
    crate::early_main(info.command_line);
    let free = boot::take_over(&info);
    paging::set_kernel_root(boot::root());
    let usable: heapless::Vec<MemoryRange, { boot::MAX_RANGES }> = free
        .iter()
        .map(|range| MemoryRange { start: range.start.as_u64(), end: range.end().as_u64(), node: 0 })
        .collect();
    memory::init(&usable, &[]);
    memory::set_node(core, 0);
    let tables = info.rsdp.map_or_else(Tables::default, |rsdp| Tables::read(&DirectMap, rsdp));
    apic::init(core);
    clock::init(&tables);
    interrupts::init(&tables);
    pci::init(&tables);
    crate::boot::kernel_main(Box::leak(Box::new(crate::Machine {
        command_line: info.command_line,
        initramfs: info.initramfs.map(|range| direct_map_slice(range.start, range.len)),
        tables,
    })))
}

/// Memory as the firmware left it.
struct DirectMap;

impl PhysicalMemory for DirectMap {
    fn bytes(&self, at: PhysAddr, len: usize) -> Option<&[u8]> {
        // ACPI tables lie in memory that the direct map covers: below 4 GiB, in an ACPI or reserved range.
        let end = at.checked_add(len)?;
        (end.as_u64() <= 1 << 32).then(|| direct_map_slice(at, len))
    }
}

/// Memory that nobody writes to, as bytes.
fn direct_map_slice(start: PhysAddr, len: usize) -> &'static [u8] {
    // SAFETY: callers pass memory that the direct map covers and that is not free.
    unsafe { core::slice::from_raw_parts(phys_to_virt(start), len) }
}

/// Where the direct map has the byte of physical memory at `phys`.
#[inline]
pub fn phys_to_virt(phys: PhysAddr) -> *mut u8 {
    (DIRECT_MAP + phys.as_u64()) as *mut u8
}

/// Pauses in a spin loop.
#[inline]
pub fn relax() {
    core::hint::spin_loop();
}

/// Interrupts the halt of `core`.
pub fn wake_core(core: CoreId) {
    apic::send(core, apic::WAKE_VECTOR);
}

/// 32 random bytes: RDSEED or RDRAND where there is one (SDM volume 1, section 7.3.17), mixed with the time.
pub fn random_seed() -> [u8; 32] {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let features = cpu::features();
    if !features.rdseed && !features.rdrand && !WARNED.swap(true, Ordering::Relaxed) {
        log::warn!("random: the processor has no random numbers; only the time seeds the generator");
    }
    let mut seed = [0; 32];
    for (index, word) in seed.chunks_exact_mut(8).enumerate() {
        let number = hardware_random().unwrap_or(0) ^ cpu::tsc().rotate_left(16 * index as u32);
        word.copy_from_slice(&number.to_le_bytes());
    }
    seed
}

fn hardware_random() -> Option<u64> {
    let features = cpu::features();
    // The instructions may come back empty-handed for a moment.
    for _ in 0..100 {
        let mut number = 0;
        // SAFETY: CPUID reports the instruction.
        let ok = unsafe {
            if features.rdseed {
                core::arch::x86_64::_rdseed64_step(&mut number)
            } else if features.rdrand {
                core::arch::x86_64::_rdrand64_step(&mut number)
            } else {
                0
            }
        };
        if ok == 1 {
            return Some(number);
        }
    }
    None
}
