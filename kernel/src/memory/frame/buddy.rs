//! The buddy allocator of one NUMA node: blocks of `1 << order` frames, aligned to their size, 4 KiB to 1 GiB.
//!
//! A free block is linked into the list of its order through its head's [`Metadata`], so the free memory itself is never
//! touched. A freed block merges with its buddy as long as that is free and whole. Where merging must stop, at the edges of
//! the memory that was added, is written in the metadata of the blocks in which it was added (`top`): hence the buddy that is
//! looked at always is a block that this allocator made, and its metadata has been written.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::metadata::{BlockState, FrameNumber, Metadata, MetadataMap, NONE};

/// Orders of blocks: 0 (4 KiB) to 18 (1 GiB).
pub const ORDERS: usize = 19;

/// Free memory of one node.
pub struct Buddy {
    node: u8,
    /// First block of each order, or `NONE`.
    heads: [FrameNumber; ORDERS],
    /// Bit `n` is set while the list of order `n` has a block.
    available: u32,
}

impl Buddy {
    /// An allocator without memory.
    pub const fn new(node: u8) -> Self {
        Self { node, heads: [NONE; ORDERS], available: 0 }
    }

    /// Adds the frames of `range`, which nobody uses. Takes time by the number of blocks, not of frames.
    pub fn add(&mut self, map: &impl MetadataMap, range: Range<FrameNumber>) {
        for (frame, order) in blocks(range) {
            let state = BlockState { free: false, order, node: self.node, top: Some(order) };
            map.metadata(frame).set_state(state);
            self.push(map, frame, order);
        }
    }

    /// Takes a block of `1 << order` frames, aligned to its size.
    pub fn allocate(&mut self, map: &impl MetadataMap, order: u8) -> Option<FrameNumber> {
        let fitting = self.available & u32::MAX.checked_shl(u32::from(order)).unwrap_or(0);
        if fitting == 0 {
            return None;
        }
        let from = fitting.trailing_zeros() as u8;
        let frame = self.heads[usize::from(from)];
        self.unlink(map, frame, from);
        for smaller in (order..from).rev() {
            let right = frame + (1 << smaller);
            self.make_block(map, right, smaller);
            self.push(map, right, smaller);
        }
        let head = map.metadata(frame);
        head.set_state(BlockState { free: false, order, ..head.state() });
        Some(frame)
    }

    /// Gives back the block of `1 << order` frames at `frame`, which was allocated so, or [split](Self::split) so.
    pub fn free(&mut self, map: &impl MetadataMap, mut frame: FrameNumber, mut order: u8) {
        while map.metadata(frame).state().top != Some(order) {
            let buddy = frame ^ (1 << order);
            let state = map.metadata(buddy).state();
            if !(state.free && state.order == order) {
                break;
            }
            self.unlink(map, buddy, order);
            frame = frame.min(buddy);
            order += 1;
        }
        self.push(map, frame, order);
    }

    /// Makes the allocated block at `frame` into allocated blocks of one frame each.
    pub fn split(&self, map: &impl MetadataMap, frame: FrameNumber, order: u8) {
        let head = map.metadata(frame);
        head.set_state(BlockState { order: 0, ..head.state() });
        for single in frame + 1..frame + (1 << order) {
            self.make_block(map, single, 0);
        }
    }

    /// Writes the metadata of the head of an allocated block that came about by splitting.
    fn make_block(&self, map: &impl MetadataMap, frame: FrameNumber, order: u8) {
        map.metadata(frame).set_state(BlockState { free: false, order, node: self.node, top: None });
    }

    fn push(&mut self, map: &impl MetadataMap, frame: FrameNumber, order: u8) {
        let head = map.metadata(frame);
        let next = core::mem::replace(&mut self.heads[usize::from(order)], frame);
        head.next.store(next, Ordering::Relaxed);
        head.previous.store(NONE, Ordering::Relaxed);
        head.set_state(BlockState { free: true, order, ..head.state() });
        if next != NONE {
            map.metadata(next).previous.store(frame, Ordering::Relaxed);
        }
        self.available |= 1 << order;
    }

    fn unlink(&mut self, map: &impl MetadataMap, frame: FrameNumber, order: u8) {
        let Metadata { next, previous, .. } = map.metadata(frame);
        let (next, previous) = (next.load(Ordering::Relaxed), previous.load(Ordering::Relaxed));
        match previous {
            NONE => self.heads[usize::from(order)] = next,
            _ => map.metadata(previous).next.store(next, Ordering::Relaxed),
        }
        if next != NONE {
            map.metadata(next).previous.store(previous, Ordering::Relaxed);
        }
        if self.heads[usize::from(order)] == NONE {
            self.available &= !(1 << order);
        }
        let head = map.metadata(frame);
        head.set_state(BlockState { free: false, ..head.state() });
    }
}

/// The fewest aligned blocks that make up `range`, in ascending order.
pub fn blocks(range: Range<FrameNumber>) -> impl Iterator<Item = (FrameNumber, u8)> {
    let mut at = range.start;
    core::iter::from_fn(move || {
        let left = range.end.checked_sub(at).filter(|&left| left > 0)?;
        let order = at.trailing_zeros().min(left.ilog2()).min(ORDERS as u32 - 1) as u8;
        let frame = at;
        at += 1 << order;
        Some((frame, order))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Metadata full of rubbish, as memory that nobody cleared.
    struct Rubbish(Vec<Metadata>);

    impl Rubbish {
        fn new(frames: usize) -> Self {
            let rubbish = |_| {
                let metadata = Metadata::default();
                metadata.set_state(BlockState { free: true, order: 0, node: 9, top: None });
                metadata
            };
            Self((0..frames).map(rubbish).collect())
        }
    }

    impl MetadataMap for Rubbish {
        fn metadata(&self, frame: FrameNumber) -> &Metadata {
            &self.0[frame as usize]
        }
    }

    fn shape(buddy: &Buddy, map: &Rubbish) -> Vec<(u8, FrameNumber)> {
        let mut found = Vec::new();
        for order in 0..ORDERS as u8 {
            let mut at = buddy.heads[usize::from(order)];
            while at != NONE {
                assert_eq!(map.metadata(at).state().order, order);
                found.push((order, at));
                at = map.metadata(at).next.load(Ordering::Relaxed);
            }
            assert_eq!(buddy.available >> order & 1 == 1, buddy.heads[usize::from(order)] != NONE);
        }
        found.sort_unstable();
        found
    }

    #[test]
    fn blocks_cover_a_range_with_aligned_pieces() {
        assert_eq!(blocks(5..16).collect::<Vec<_>>(), [(5, 0), (6, 1), (8, 3)]);
        assert_eq!(blocks(3..3).count(), 0);
        assert_eq!(blocks(0..1 << 20).collect::<Vec<_>>().len(), 4);
    }

    #[test]
    fn an_exhausted_allocator_refuses_and_recovers() {
        let map = Rubbish::new(8);
        let mut buddy = Buddy::new(0);
        buddy.add(&map, 0..8);
        assert_eq!(buddy.allocate(&map, 4), None);
        assert_eq!(buddy.allocate(&map, 200), None);
        let all: Vec<_> = (0..8).map(|_| buddy.allocate(&map, 0).unwrap()).collect();
        assert_eq!(buddy.allocate(&map, 0), None);
        all.into_iter().for_each(|frame| buddy.free(&map, frame, 0));
        assert_eq!(buddy.allocate(&map, 3), Some(0));
    }

    #[test]
    fn a_split_block_is_freed_frame_by_frame() {
        let map = Rubbish::new(16);
        let mut buddy = Buddy::new(0);
        buddy.add(&map, 0..16);
        let frame = buddy.allocate(&map, 3).unwrap();
        buddy.split(&map, frame, 3);
        (frame..frame + 8).for_each(|single| buddy.free(&map, single, 0));
        assert_eq!(shape(&buddy, &map), [(4, 0)]);
    }

    proptest! {
        /// Blocks are aligned, inside the added memory, never overlap, and all merge back when all are freed.
        #[test]
        fn behaves_as_a_set_of_disjoint_blocks(
            cuts in proptest::collection::btree_set(0u32..512, 2..8),
            steps in proptest::collection::vec((0u8..8, any::<prop::sample::Index>(), any::<bool>()), 1..300),
        ) {
            let map = Rubbish::new(512);
            let mut buddy = Buddy::new(3);
            let cuts: Vec<_> = cuts.into_iter().collect();
            let ranges: Vec<_> = cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
            ranges.iter().for_each(|range| buddy.add(&map, range.clone()));
            let total: u64 = ranges.iter().map(|range| u64::from(range.end - range.start)).sum();
            let whole = shape(&buddy, &map);

            let mut live: BTreeMap<FrameNumber, u8> = BTreeMap::new();
            for (order, pick, free) in steps {
                if free && !live.is_empty() {
                    let (&frame, &order) = live.iter().nth(pick.index(live.len())).unwrap();
                    live.remove(&frame);
                    buddy.free(&map, frame, order);
                } else if let Some(frame) = buddy.allocate(&map, order) {
                    let end = frame + (1 << order);
                    prop_assert_eq!(frame % (1 << order), 0);
                    prop_assert!(ranges.iter().any(|range| range.start <= frame && end <= range.end));
                    let before = live.range(..end).next_back();
                    prop_assert!(before.is_none_or(|(&at, &order)| at + (1 << order) <= frame));
                    prop_assert_eq!(map.metadata(frame).state().node, 3);
                    live.insert(frame, order);
                } else {
                    // Refused: then no free block is large enough.
                    prop_assert!(shape(&buddy, &map).iter().all(|&(free, _)| free < order));
                }
                let used: u64 = live.values().map(|&order| 1u64 << order).sum();
                let free: u64 = shape(&buddy, &map).iter().map(|&(order, _)| 1u64 << order).sum();
                prop_assert_eq!(free, total - used);
            }
            live.into_iter().for_each(|(frame, order)| buddy.free(&map, frame, order));
            prop_assert_eq!(shape(&buddy, &map), whole);
        }
    }
}
