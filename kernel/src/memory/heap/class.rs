//! Size classes: the sizes of objects that slabs are cut into.

use core::alloc::Layout;

use crate::memory::PAGE_SIZE;

/// Object sizes. Above 128 bytes they are what a page holds 24, 16, 12, 9, ... of, so that little of it is left over.
pub const SIZES: [u16; 19] =
    [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 336, 448, 512, 672, 816, 1024, 1360, 2048];

/// Number of size classes.
pub const CLASSES: usize = SIZES.len();

/// The class of each size, in steps of 16 bytes.
static CLASS_OF: [u8; 2048 / 16] = {
    let mut table = [0; 2048 / 16];
    let (mut step, mut class) = (0, 0);
    while step < table.len() {
        if (step + 1) * 16 > SIZES[class] as usize {
            class += 1;
        }
        table[step] = class as u8;
        step += 1;
    }
    table
};

/// Where an allocation comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A slab of this class.
    Slab(usize),
    /// A block of `1 << order` frames.
    Frames(u8),
    /// Nowhere: too large.
    None,
}

/// Where an allocation of `layout` comes from. Depends on the layout only, so that it holds for the release, too.
pub fn source(layout: Layout) -> Source {
    let size = layout.size().max(1);
    // Objects of a class lie at multiples of its size in a page: those of a power of two are aligned to it.
    let size = if layout.align() > 16 { size.max(layout.align()).next_power_of_two() } else { size };
    if size <= 2048 {
        return Source::Slab(usize::from(CLASS_OF[(size - 1) / 16]));
    }
    match size.div_ceil(PAGE_SIZE).next_power_of_two().trailing_zeros() {
        order @ ..=18 => Source::Frames(order as u8),
        _ => Source::None,
    }
}

/// Objects of a class in a slab, which is a page.
pub const fn objects(class: usize) -> u16 {
    (PAGE_SIZE / SIZES[class] as usize) as u16
}

/// How many objects move between a core and the depot at once.
pub const fn batch(class: usize) -> u16 {
    match 2048 / SIZES[class] {
        0..2 => 2,
        many if many > 32 => 32,
        some => some,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn objects_are_large_enough_and_aligned(size in 0usize..=2048, shift in 0u32..12) {
            let align = 1usize << shift;
            match source(Layout::from_size_align(size, align).unwrap()) {
                Source::Slab(class) => {
                    let object = usize::from(SIZES[class]);
                    prop_assert!(object >= size && object % align.min(16) == 0);
                    prop_assert!(align <= 16 || object % align == 0);
                    prop_assert!(object <= 16 || object < 2 * size.max(align));
                }
                other => prop_assert!(false, "{size} bytes are not from {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_larger_than_a_slab_object_comes_in_frames() {
        let of = |size, align| source(Layout::from_size_align(size, align).unwrap());
        assert_eq!(of(2049, 8), Source::Frames(0));
        assert_eq!(of(1, 4096), Source::Frames(0));
        assert_eq!(of(4097, 8), Source::Frames(1));
        assert_eq!(of(3 << 20, 8), Source::Frames(10));
        assert_eq!(of(1 << 30, 8), Source::Frames(18));
        assert_eq!(of((1 << 30) + 1, 8), Source::None);
        assert_eq!(of(isize::MAX as usize, 1), Source::None);
    }
}
