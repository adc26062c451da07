//! Addresses and page arithmetic.

use core::fmt;

/// Bytes of a base page.
pub const PAGE_SIZE: usize = 4096;
/// Bytes of a large page.
pub const LARGE_PAGE_SIZE: usize = 2 << 20;
/// First address past user space: the last page below the canonical hole stays free, as on Linux.
pub const USER_END: usize = 0x7fff_ffff_f000;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address as it is; no check.
            pub const fn new(address: u64) -> Self {
                Self(address)
            }
            /// The address as a number.
            pub const fn as_u64(self) -> u64 {
                self.0
            }
            /// The address as a number of the machine's word.
            pub const fn as_usize(self) -> usize {
                self.0 as usize
            }
            /// Whether the address is a multiple of `align`, a power of two.
            pub const fn is_aligned(self, align: usize) -> bool {
                self.0 & (align as u64 - 1) == 0
            }
            /// The next multiple of `align`, a power of two, at or below.
            pub const fn align_down(self, align: usize) -> Self {
                Self(self.0 & !(align as u64 - 1))
            }
            /// `self + bytes`, unless it overflows.
            pub fn checked_add(self, bytes: usize) -> Option<Self> {
                self.0.checked_add(bytes as u64).map(Self)
            }
            /// Offset within the base page.
            pub const fn page_offset(self) -> usize {
                self.0 as usize & (PAGE_SIZE - 1)
            }
        }

        impl core::ops::Add<usize> for $name {
            type Output = Self;
            fn add(self, bytes: usize) -> Self {
                Self(self.0.wrapping_add(bytes as u64))
            }
        }

        impl core::ops::Sub<$name> for $name {
            type Output = usize;
            fn sub(self, other: Self) -> usize {
                self.0.wrapping_sub(other.0) as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A virtual address: any 64-bit number, canonical or not.
    VirtAddr
);
address!(
    /// A physical address.
    PhysAddr
);

/// `bytes` rounded up to whole pages; `None` on overflow.
pub fn page_round_up(bytes: usize) -> Option<usize> {
    Some(bytes.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1))
}
