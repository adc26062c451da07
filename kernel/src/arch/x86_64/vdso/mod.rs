//! The vDSO: the time and the core number without a system call (vdso(7)).
//!
//! The [`image`] is an ELF shared object of one page, assembled from `image.S` into the kernel's read-only data. Its functions read
//! a data page, which is mapped just before it and holds the [`Parameters`] of the clock; where those say that the TSC
//! cannot be used, they make the system call. `memory/vdso.rs` maps both into programs.

use core::slice;

core::arch::global_asm!(include_str!("image.S"));

unsafe extern "C" {
    static nrk_vdso_start: u8;
    static nrk_vdso_end: u8;
}

/// The shared object.
pub fn image() -> &'static [u8] {
    let (start, end) = (&raw const nrk_vdso_start, &raw const nrk_vdso_end);
    // SAFETY: the two symbols enclose the image, which is never written.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// What the functions compute the time from: nanoseconds since boot are `(TSC - base) * multiplier >> 32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// TSC at boot.
    pub base: u64,
    /// Nanoseconds per tick, times 2^32; 0: the TSC cannot be used.
    pub multiplier: u64,
    /// Nanoseconds to add for the time since the Unix epoch.
    pub wall_offset: u64,
    /// Whether every core has its number in bits 0 to 11 of `IA32_TSC_AUX` and its node above, and RDTSCP is there.
    pub core_in_tsc_aux: bool,
}

impl Parameters {
    /// The beginning of the data page.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let words = [self.base, self.multiplier, self.wall_offset, u64::from(self.core_in_tsc_aux)];
        bytes.chunks_exact_mut(8).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        bytes
    }
}

#[cfg(test)]
mod tests;
