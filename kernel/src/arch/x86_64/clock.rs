//! Time: the TSC, calibrated at boot against the HPET (or the PIT where there is none), and the real-time clock for the date.
//!
//! Nanoseconds since boot are `(tsc - base) * multiplier >> 32`; the vDSO computes the same from the same numbers.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

use crate::arch::x86_64::{acpi, apic, boot, cpu, rtc};

/// How long the calibration takes.
const CALIBRATION: u64 = 4_000_000;
const NANOSECONDS: u64 = 1_000_000_000;
/// Ticks of the PIT per second.
const PIT_FREQUENCY: u64 = 1_193_182;

static TSC_BASE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per TSC tick, times 2^32. Until calibration: 1 GHz.
static MULTIPLIER: AtomicU64 = AtomicU64::new(1 << 32);
/// Ticks of the APIC timer per nanosecond, times 2^32.
static TIMER_RATE: AtomicU64 = AtomicU64::new(0);
static WALL_OFFSET: AtomicU64 = AtomicU64::new(0);

/// The conversion from the TSC to nanoseconds since boot: `((tsc - base) * multiplier) >> 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// TSC at boot.
    pub base: u64,
    /// Nanoseconds per tick, times 2^32.
    pub multiplier: u64,
    /// Nanoseconds to add for the time since the Unix epoch.
    pub wall_offset: u64,
}

/// The conversion in use, for the vDSO.
pub fn conversion() -> Conversion {
    Conversion {
        base: TSC_BASE.load(Ordering::Relaxed),
        multiplier: MULTIPLIER.load(Ordering::Relaxed),
        wall_offset: WALL_OFFSET.load(Ordering::Relaxed),
    }
}

/// Nanoseconds since boot. Never goes back on one core; the TSCs of all cores are taken to be in step.
#[inline]
pub fn now() -> u64 {
    let ticks = cpu::tsc().saturating_sub(TSC_BASE.load(Ordering::Relaxed));
    scale(ticks, MULTIPLIER.load(Ordering::Relaxed))
}

#[inline]
fn scale(value: u64, multiplier: u64) -> u64 {
    ((u128::from(value) * u128::from(multiplier)) >> 32) as u64
}

/// Nanoseconds to add to [`now`] for the time since the Unix epoch.
pub fn wall_clock_offset() -> u64 {
    WALL_OFFSET.load(Ordering::Relaxed)
}

/// Has this core interrupted at `deadline` (nanoseconds since boot), or at once if that has passed; earlier if it is far.
pub fn set_timer(deadline: u64) {
    if deadline == u64::MAX {
        return;
    }
    let wait = deadline.saturating_sub(now());
    if cpu::features().tsc_deadline {
        let multiplier = u128::from(MULTIPLIER.load(Ordering::Relaxed));
        let ticks = (u128::from(wait) << 32) / multiplier;
        apic::set_timer_tsc(cpu::tsc().saturating_add(ticks as u64 + 1));
    } else {
        let ticks = scale(wait, TIMER_RATE.load(Ordering::Relaxed)) + 1;
        apic::set_timer_ticks(u32::try_from(ticks).unwrap_or(u32::MAX));
    }
}

/// A counter of known frequency.
enum Reference {
    Hpet { counter: *const u64, femtoseconds: u64 },
    Pit,
}

/// Calibrates the TSC and this core's APIC timer, and reads the date. All cores are taken to be alike.
pub fn init(tables: &acpi::Tables) {
    let mut reference = hpet(tables).unwrap_or(Reference::Pit);
    let count = apic::start_counting();
    let (start_ns, start_tsc) = reference.sample();
    let (mut end_ns, mut end_tsc) = (start_ns, start_tsc);
    while end_ns - start_ns < CALIBRATION {
        (end_ns, end_tsc) = reference.sample();
    }
    let elapsed = end_ns - start_ns;
    let timer_ticks = u64::from(count - apic::current_count());
    // At least one, so that a broken clock makes time slow, not a division by zero.
    let tsc_ticks = (end_tsc - start_tsc).max(1);
    MULTIPLIER.store(((u128::from(elapsed) << 32) / u128::from(tsc_ticks)).max(1) as u64, Ordering::Relaxed);
    TIMER_RATE
        .store(((u128::from(timer_ticks) << 32) / u128::from(elapsed)).max(1) as u64, Ordering::Relaxed);
    TSC_BASE.store(start_tsc, Ordering::Relaxed);
    WALL_OFFSET.store((rtc::seconds_since_epoch() * NANOSECONDS).saturating_sub(now()), Ordering::Relaxed);
    apic::enable_timer();
    log::debug!("clock: TSC at {} kHz", tsc_ticks * 1_000_000 / elapsed);
}

/// The HPET's main counter (IA-PC HPET specification 1.0a, section 2.3), running.
fn hpet(tables: &acpi::Tables) -> Option<Reference> {
    let registers = boot::map_mmio(tables.hpet?, 1024)?.as_u64() as *mut u64;
    // SAFETY: ACPI says that an HPET is there; capabilities at 0, configuration at 0x10, counter at 0xf0.
    let capabilities = unsafe { registers.read_volatile() };
    let femtoseconds = capabilities >> 32;
    if femtoseconds == 0 || femtoseconds > 100_000_000 {
        return None;
    }
    // SAFETY: as above; bit 0 of the configuration lets the counter run.
    unsafe { registers.add(2).write_volatile(registers.add(2).read_volatile() | 1) };
    // SAFETY: the counter is inside of the mapped registers.
    Some(Reference::Hpet { counter: unsafe { registers.add(0xf0 / 8) }, femtoseconds })
}

impl Reference {
    /// The reference's time in nanoseconds and the TSC of the same moment: of a few tries, the one that took least.
    fn sample(&mut self) -> (u64, u64) {
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..4 {
            let before = cpu::tsc();
            let nanoseconds = self.nanoseconds();
            let took = cpu::tsc() - before;
            if took < best.0 {
                best = (took, nanoseconds, before + took / 2);
            }
        }
        (best.1, best.2)
    }

    fn nanoseconds(&mut self) -> u64 {
        match self {
            // SAFETY: `hpet` mapped the counter.
            Self::Hpet { counter, femtoseconds } => unsafe {
                (u128::from(counter.read_volatile()) * u128::from(*femtoseconds) / 1_000_000) as u64
            },
            Self::Pit => pit_nanoseconds(),
        }
    }
}

/// Time by channel 2 of the PIT (Intel 8254 data sheet): counts down at 1.193182 MHz from 65,536, which is 54 ms and so longer than the
/// calibration. Started by the first call.
fn pit_nanoseconds() -> u64 {
    static STARTED: spin::Once<()> = spin::Once::new();
    let (mut gate, mut data, mut command) =
        (Port::<u8>::new(0x61), Port::<u8>::new(0x42), Port::<u8>::new(0x43));
    // SAFETY: the ports of channel 2 and its gate; nothing else uses them.
    unsafe {
        STARTED.call_once(|| {
            let value = gate.read();
            gate.write(value & !2 | 1);
            command.write(0xb0);
            data.write(0xff);
            data.write(0xff);
        });
        command.write(0x80);
        let count = u64::from(data.read()) | u64::from(data.read()) << 8;
        (0xffff - count) * NANOSECONDS / PIT_FREQUENCY
    }
}

/// Lets `time` pass by the PIT, a clock that had no part in the calibration where there is an HPET. Returns the nanoseconds that passed by it
/// and by [`now`].
pub fn compare(time: core::time::Duration) -> (u64, u64) {
    let (mut passed, mut last) = (0, pit_nanoseconds());
    let start = now();
    while passed < time.as_nanos() as u64 {
        let current = pit_nanoseconds();
        // The counter starts over every 54.9 ms.
        let period = 65_536 * NANOSECONDS / PIT_FREQUENCY;
        passed += if current >= last { current - last } else { current + period - last };
        last = current;
    }
    (passed, now() - start)
}
