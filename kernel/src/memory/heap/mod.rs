//! The kernel's heap: per-core lists of free objects by size class, over slabs of frames.
//!
//! An allocation of up to 2 KiB pops an object from the running core's list of its class; a release pushes it to the running core's
//! list, whichever core it was allocated on. Lists that run empty or long exchange a batch with the *depot* of their class, which
//! knows the slabs (`slab.rs`). Larger allocations are blocks of frames.
//!
//! Running out gives null. Blocks above 32 KiB, which only what programs make grow needs, are refused at the watermark already (see
//! `frame/allocator.rs`), so a small infallible allocation always finds the reserve.
//!
//! On the bare machine a [`Heap`] is the global allocator; on a host it is compiled and tested as a plain object.
//!
//! Lock order: a core's lists, a depot, then the frame allocator's.

mod class;
mod slab;

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use class::{CLASSES, Source, batch, source};
use slab::{Depot, List, position};

use super::frame::{Purpose, address_of, allocate_block, free_block};
use crate::arch;
use crate::percore::PerCore;
use crate::sync::SpinLock;

/// Blocks of a higher order are refused at the watermark.
const LARGEST_KERNEL_ORDER: u8 = 3;

/// A heap.
pub struct Heap {
    lists: PerCore<SpinLock<[List; CLASSES]>>,
    depots: [SpinLock<Depot>; CLASSES],
}

impl Heap {
    /// A heap that has no memory yet; it takes what it needs.
    pub const fn new() -> Self {
        let mut depots = [const { SpinLock::new(Depot::new(0)) }; CLASSES];
        let mut class = 1;
        while class < CLASSES {
            depots[class] = SpinLock::new(Depot::new(class));
            class += 1;
        }
        Self { lists: crate::per_core!(SpinLock::new([const { List::EMPTY }; CLASSES])), depots }
    }

    /// Pages in slabs.
    pub fn slab_pages(&self) -> usize {
        self.depots.iter().map(|depot| depot.lock().pages()).sum()
    }

    fn allocate_object(&self, class: usize) -> *mut u8 {
        let mut lists = self.lists.here().lock();
        let list = &mut lists[class];
        if list.count() == 0 {
            self.depots[class].lock().take(list, batch(class));
        }
        list.pop().unwrap_or_default()
    }

    /// # Safety
    /// `object` came from `allocate_object(class)`, and nobody uses it any more.
    unsafe fn release_object(&self, object: *mut u8, class: usize) {
        let mut lists = self.lists.here().lock();
        let list = &mut lists[class];
        if list.count() >= 2 * batch(class) {
            self.depots[class].lock().put(list, batch(class));
        }
        // SAFETY: the caller gives the object back.
        unsafe { list.push(object) };
    }
}

fn allocate_frames(order: u8) -> *mut u8 {
    let purpose = if order > LARGEST_KERNEL_ORDER { Purpose::User } else { Purpose::Kernel };
    allocate_block(order, purpose).map_or(ptr::null_mut(), |frame| arch::phys_to_virt(address_of(frame)))
}

// SAFETY: objects and blocks are disjoint, as large as the layout asks and aligned to it (`class::source`), and stay
// the caller's until it releases them with the same layout.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match source(layout) {
            Source::Slab(class) => self.allocate_object(class),
            Source::Frames(order) => allocate_frames(order),
            Source::None => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        match source(layout) {
            // SAFETY: the same layout has the same source, so this is where the memory came from.
            Source::Slab(class) => unsafe { self.release_object(memory, class) },
            Source::Frames(order) => free_block(position(memory).0, order),
            Source::None => {}
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        if source(wanted) == source(layout) {
            return memory;
        }
        // SAFETY: the caller vouches for the layouts; the new memory is distinct, and both are valid for the smaller size.
        unsafe {
            let new = self.alloc(wanted);
            if !new.is_null() {
                ptr::copy_nonoverlapping(memory, new, layout.size().min(size));
                self.dealloc(memory, layout);
            }
            new
        }
    }
}

/// The kernel's heap; on a host the tests' own allocator is in its place.
#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: Heap = Heap::new();

/// Pages in the slabs of the kernel's heap: `Slab` in /proc/meminfo.
pub fn slab_pages() -> usize {
    HEAP.slab_pages()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::frame::statistics;
    use proptest::prelude::*;
    use std::sync::mpsc;

    fn filled(heap: &Heap, layout: Layout, mark: u8) -> *mut u8 {
        // SAFETY: the layouts of these tests have a size.
        let memory = unsafe { heap.alloc(layout) };
        assert!(!memory.is_null() && memory.addr() % layout.align() == 0);
        // SAFETY: the memory was allocated with this size.
        unsafe { memory.write_bytes(mark, layout.size()) };
        memory
    }

    fn holds(memory: *mut u8, size: usize, mark: u8) -> bool {
        // SAFETY: callers pass memory of that size, which they filled.
        unsafe { core::slice::from_raw_parts(memory, size) }.iter().all(|&byte| byte == mark)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is allocated, released and resized, live memory is never given twice and keeps its contents.
        #[test]
        fn live_memory_keeps_its_contents(
            steps in proptest::collection::vec(
                (0usize..3, 1usize..10_000, 0u32..8, any::<prop::sample::Index>()), 1..400),
        ) {
            let heap = Heap::new();
            let mut live: Vec<(*mut u8, Layout, u8)> = Vec::new();
            for (step, (kind, size, shift, pick)) in steps.into_iter().enumerate() {
                let mark = step as u8;
                if kind == 0 || live.is_empty() {
                    let layout = Layout::from_size_align(size, 1 << shift).unwrap();
                    live.push((filled(&heap, layout, mark), layout, mark));
                    continue;
                }
                let (memory, layout, mark) = live.swap_remove(pick.index(live.len()));
                prop_assert!(holds(memory, layout.size(), mark));
                if kind == 1 {
                    // SAFETY: allocated above with this layout.
                    unsafe { heap.dealloc(memory, layout) };
                } else {
                    // SAFETY: allocated above with this layout; the new size is not zero.
                    let moved = unsafe { heap.realloc(memory, layout, size) };
                    prop_assert!(holds(moved, size.min(layout.size()), mark));
                    let layout = Layout::from_size_align(size, layout.align()).unwrap();
                    // SAFETY: it has this size now.
                    unsafe { moved.write_bytes(mark, size) };
                    live.push((moved, layout, mark));
                }
            }
            for (memory, layout, mark) in live {
                prop_assert!(holds(memory, layout.size(), mark));
                // SAFETY: allocated above with this layout.
                unsafe { heap.dealloc(memory, layout) };
            }
        }
    }

    #[test]
    fn what_other_cores_release_goes_back_to_the_frames() {
        static HEAP: Heap = Heap::new();
        let layout = Layout::new::<[u64; 8]>();
        let (sender, receiver) = mpsc::channel::<usize>();
        let releaser = std::thread::spawn(move || {
            let addresses: Vec<_> = receiver.iter().collect();
            for address in addresses {
                // SAFETY: the other thread allocated it with this layout and gave it away.
                unsafe { HEAP.dealloc(core::ptr::with_exposed_provenance_mut(address), layout) };
            }
        });
        for _ in 0..20_000 {
            sender.send(filled(&HEAP, layout, 7).expose_provenance()).unwrap();
        }
        assert!(HEAP.slab_pages() >= 20_000 / 64);
        drop(sender);
        releaser.join().unwrap();
        // Two cores keep at most two batches each, which may be spread over as many slabs.
        assert!(HEAP.slab_pages() <= 4 * 32 + 1, "{} pages are kept", HEAP.slab_pages());
    }

    #[test]
    fn an_exhausted_heap_says_null_and_recovers() {
        let heap = Heap::new();
        let huge = Layout::from_size_align(1 << 30, 4096).unwrap();
        // SAFETY: the layout has a size.
        assert!(unsafe { heap.alloc(huge) }.is_null());
        let before = statistics().free;
        let large = Layout::from_size_align(1 << 20, 4096).unwrap();
        let memory = filled(&heap, large, 1);
        // SAFETY: allocated with this layout.
        unsafe { heap.dealloc(memory, large) };
        assert!(statistics().free + 4096 > before, "other tests allocate meanwhile, but not that much");
    }
}
