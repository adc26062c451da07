//! The platform of unit tests: the kernel as a Linux process.
//!
//! Cores are host threads (numbered as they first ask), the clock is CLOCK_MONOTONIC, physical memory is one
//! anonymous mapping, and there is no user space: every raw user copy reports a fault at its first byte, so code
//! under test works on kernel buffers.

use core::sync::atomic::{AtomicU16, Ordering};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{CoreId, MAX_CORES};
use crate::memory::{PhysAddr, VirtAddr};

pub use super::x86_64_arch::{
    context::{Registers, Trap, UserContext},
    paging, signal_frame, vdso,
};

/// Bytes of pretended physical memory.
pub const MEMORY_SIZE: usize = 256 << 20;

/// Pauses in a spin loop. Host threads may share a core, so it yields.
pub fn relax() {
    std::thread::yield_now();
}

/// The core that runs this: one per host thread.
pub fn core_id() -> CoreId {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    thread_local!(static ID: CoreId = CoreId(NEXT.fetch_add(1, Ordering::Relaxed) % MAX_CORES as u16));
    ID.with(|id| *id)
}

/// Monotonic nanoseconds since the first call.
pub fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Nanoseconds to add to [`now`] for the time since the Unix epoch.
pub fn wall_clock_offset() -> u64 {
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    epoch.saturating_sub(now())
}

/// There is no interval timer; tests poll the timers themselves.
pub fn set_timer(_deadline: u64) {}

/// Nothing interrupts a test.
pub fn wait_for_interrupt() {
    std::thread::yield_now();
}

/// None come.
pub fn take_interrupts() {}

/// Cores of a test never sleep.
pub fn wake_core(_core: CoreId) {}

/// Where the byte of physical memory at `phys` is mapped.
///
/// # Panics
/// If `phys` lies outside the pretended memory: a bug in the code under test.
pub fn phys_to_virt(phys: PhysAddr) -> *mut u8 {
    static MEMORY: OnceLock<usize> = OnceLock::new();
    let base = *MEMORY.get_or_init(|| {
        // SAFETY: a fresh anonymous mapping aliases nothing.
        let map = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                MEMORY_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(map, libc::MAP_FAILED, "no memory for the test platform");
        map as usize
    });
    assert!(phys.as_usize() < MEMORY_SIZE, "{phys:?} is outside the test platform's memory");
    (base + phys.as_usize()) as *mut u8
}

/// Copies nothing: there is no user space. Returns the number of bytes copied.
///
/// # Safety
/// None needed here; the bare machine's twin requires `dst` to be valid for `len` bytes.
pub unsafe fn copy_from_user(_dst: *mut u8, _src: VirtAddr, _len: usize) -> usize {
    0
}

/// Copies nothing: there is no user space. Returns the number of bytes copied.
///
/// # Safety
/// None needed here; the bare machine's twin requires `src` to be valid for `len` bytes.
pub unsafe fn copy_to_user(_dst: VirtAddr, _src: *const u8, _len: usize) -> usize {
    0
}

/// Fails: there is no user space.
pub fn compare_exchange_user(_address: VirtAddr, _old: u32, _new: u32) -> Option<u32> {
    None
}

/// 32 random bytes from the host.
pub fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    assert_eq!(got, 32, "getrandom on the host");
    seed
}

/// There is no user space to enter: every attempt comes back as an interrupt.
pub fn enter_user(_context: &mut UserContext) -> Trap {
    Trap::Interrupt
}

/// The console of a test is the host's standard output.
pub mod console {
    /// Writes formatted text.
    pub fn print(text: core::fmt::Arguments<'_>) {
        std::print!("{text}");
    }

    /// Writes bytes as they are; those that are no text become replacement characters.
    pub fn write_bytes(bytes: &[u8]) {
        std::print!("{}", std::string::String::from_utf8_lossy(bytes));
    }
}

/// The extended state of a processor with AVX: what frames are built for in tests.
pub fn extended_layout() -> signal_frame::ExtendedLayout {
    signal_frame::ExtendedLayout { features: 7, size: 832 }
}

/// CPUID.1:EDX of a plain x86-64 processor, for `AT_HWCAP`.
pub fn hardware_capabilities() -> u32 {
    0x078b_fbff
}
