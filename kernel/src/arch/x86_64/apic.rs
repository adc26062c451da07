//! The local APIC: interrupts to this core, its timer, and interrupts to other cores (SDM volume 3, chapter 12).
//!
//! Reached through model-specific registers where the processor has the x2APIC mode, through a page of registers otherwise.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::registers::model_specific::Msr;

use super::boot;
use super::cpu;
use crate::arch::{CoreId, MAX_CORES};
use crate::memory::{PAGE_SIZE, PhysAddr};

/// The timer's vector.
pub const TIMER_VECTOR: u8 = 0xf0;
/// The vector by which another core says that there is work.
pub const WAKE_VECTOR: u8 = 0xf1;
/// The vector of interrupts that went away before they were taken.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const ID: u32 = 0x20;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const TIMER: u32 = 0x320;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const TSC_DEADLINE_MODE: u32 = 2 << 17;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_16: u32 = 0b0011;

const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_REGISTERS: u32 = 0x800;
const X2APIC_COMMAND: u32 = 0x830;

/// Virtual address of the register page; unused with x2APIC.
static REGISTERS: AtomicU64 = AtomicU64::new(0);
/// APIC identifier of each core.
static IDS: [AtomicU64; MAX_CORES] = [const { AtomicU64::new(0) }; MAX_CORES];

fn read(register: u32) -> u32 {
    if cpu::features().x2apic {
        // SAFETY: x2APIC mode is on, and `register` is one of the constants above.
        return unsafe { Msr::new(X2APIC_REGISTERS + register / 16).read() } as u32;
    }
    let base = REGISTERS.load(Ordering::Relaxed) as *const u8;
    // SAFETY: `init` mapped the page, and `register` is one of the constants above.
    unsafe { base.add(register as usize).cast::<u32>().read_volatile() }
}

fn write(register: u32, value: u32) {
    if cpu::features().x2apic {
        // SAFETY: x2APIC mode is on; the registers written here do not touch memory.
        return unsafe { Msr::new(X2APIC_REGISTERS + register / 16).write(u64::from(value)) };
    }
    let base = REGISTERS.load(Ordering::Relaxed) as *mut u8;
    // SAFETY: `init` mapped the page; the registers written here do not touch memory.
    unsafe { base.add(register as usize).cast::<u32>().write_volatile(value) }
}

/// Turns this core's local APIC on, its timer still stopped.
///
/// # Panics
/// If there is no room to map its registers, which come first of all devices.
pub fn init(core: CoreId) {
    let mut base = Msr::new(APIC_BASE);
    // SAFETY: every x86-64 processor has this register.
    let value = unsafe { base.read() };
    if cpu::features().x2apic {
        // SAFETY: sets the enable bits of a mode that CPUID reports.
        unsafe { base.write(value | 0xc00) };
    } else {
        let page = boot::map_mmio(PhysAddr::new(value & 0x000f_ffff_ffff_f000), PAGE_SIZE);
        REGISTERS.store(page.expect("room for the APIC's registers").as_u64(), Ordering::Relaxed);
    }
    let shift = if cpu::features().x2apic { 0 } else { 24 };
    IDS[usize::from(core.0)].store(u64::from(read(ID) >> shift), Ordering::Relaxed);
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    write(DIVIDE, DIVIDE_BY_16);
    write(TIMER, MASKED);
}

/// The APIC identifier of `core`, to which devices send their interrupts.
pub fn id_of(core: CoreId) -> u32 {
    IDS[usize::from(core.0)].load(Ordering::Relaxed) as u32
}

/// Tells the local APIC that the interrupt in service has been handled.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Lets the timer count down from its maximum, for calibration. Returns the count.
pub fn start_counting() -> u32 {
    write(INITIAL_COUNT, u32::MAX);
    u32::MAX
}

/// What is left of the count.
pub fn current_count() -> u32 {
    read(CURRENT_COUNT)
}

/// Ends calibration: the timer will interrupt at the times set by [`set_timer_ticks`] or [`set_timer_tsc`].
pub fn enable_timer() {
    write(INITIAL_COUNT, 0);
    let mode = if cpu::features().tsc_deadline { TSC_DEADLINE_MODE } else { 0 };
    write(TIMER, mode | u32::from(TIMER_VECTOR));
}

/// One interrupt after `ticks` of the timer (at least one). For processors without TSC-deadline mode.
pub fn set_timer_ticks(ticks: u32) {
    write(INITIAL_COUNT, ticks.max(1));
}

/// One interrupt when the TSC reaches `tsc`. For processors with TSC-deadline mode.
pub fn set_timer_tsc(tsc: u64) {
    // SAFETY: the caller checked for TSC-deadline mode; zero would disarm, so it is avoided.
    unsafe { Msr::new(TSC_DEADLINE).write(tsc.max(1)) };
}

/// Interrupts `core` with `vector`.
pub fn send(core: CoreId, vector: u8) {
    let id = id_of(core);
    if cpu::features().x2apic {
        // SAFETY: a fixed interrupt to an existing core at a vector with a handler.
        unsafe { Msr::new(X2APIC_COMMAND).write(u64::from(id) << 32 | u64::from(vector)) };
    } else {
        write(COMMAND_HIGH, id << 24);
        write(COMMAND_LOW, u32::from(vector));
    }
}
