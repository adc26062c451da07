//! Address spaces: policy over [`Mappings`].
//!
//! An [`AddressSpace`] is what the threads of a process share. Here it is decided where a mapping goes, what the limits allow, and
//! how a fault is answered; what is mapped is kept in `replicated/address_space`, behind this space's lock.
//! - `request.rs`, `map.rs`, `remap.rs`: mmap, munmap, mprotect, mremap;
//! - `fork.rs`: copies for children;
//! - `heap_stack.rs`: brk, and the main stack;
//! - `fault.rs`: demand paging, copy on write, access from the kernel;
//! - `advice.rs`: madvise, mlock, msync, mincore;
//! - `turn.rs`: long changes, in pieces;
//! - `report.rs`: what /proc tells.
//!
//! Lock order: the space's lock, then the locks of the objects mapped there. Frames and tables are zeroed and pages of objects
//! fetched without the lock.

mod advice;
mod fault;
mod fork;
mod heap_stack;
mod map;
mod remap;
mod report;
mod request;
mod turn;

use alloc::sync::{Arc, Weak};
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub use advice::{Advice, LockMode, advised_range};
pub use fault::{Access, Fault};
pub use remap::RemapFlags;
pub use report::{Region, SpaceStatistics};
pub use request::{MapError, MapFlags, MapRequest};
pub use turn::Turn;

use super::{OutOfMemory, PAGE_SIZE, PhysAddr, USER_END, VirtAddr, drop_frames};
use crate::arch::{self, paging};
use crate::fs::PageSource;
use crate::percore::PerCore;
use crate::replicated::Operation;
use crate::replicated::address_space::{Backing, Discard, Mappings, Unmap, VmaFlags};
use crate::sched::WaitQueue;
use crate::sync::{SpinLock, SpinLockGuard};

/// Limits of the process, in bytes (getrlimit(2)); `u64::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceLimits {
    /// `RLIMIT_AS`
    pub address_space: u64,
    /// `RLIMIT_DATA`
    pub data: u64,
    /// `RLIMIT_STACK`
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`; `u64::MAX` also for processes that may lock what they like.
    pub locked: u64,
}

impl Default for SpaceLimits {
    /// No limits, but 8 MiB of stack and of locked memory, as Linux begins.
    fn default() -> Self {
        Self { address_space: u64::MAX, data: u64::MAX, stack: 8 << 20, locked: 8 << 20 }
    }
}

/// Where things are.
#[derive(Clone, Copy)]
struct Layout {
    /// Mappings without a wish go below this.
    mmap_base: VirtAddr,
    /// First address of the heap of brk(2).
    brk_start: VirtAddr,
    /// First address past it.
    brk_end: VirtAddr,
    /// First address past the main stack.
    stack_top: VirtAddr,
    /// Flags that new mappings get: mlockall(2) with `MCL_FUTURE`.
    default_flags: VmaFlags,
}

struct State {
    mappings: Mappings,
    layout: Layout,
    limits: SpaceLimits,
    /// Most pages that were resident at once.
    peak_resident: usize,
    /// Most pages that were mapped at once.
    peak_mapped: usize,
}

/// An address space: what the threads of a process share.
pub struct AddressSpace {
    me: Weak<Self>,
    state: SpinLock<State>,
    root: PhysAddr,
    /// The cores whose TLBs may hold translations of this space.
    cores: paging::CoreSet,
    /// Whether somebody has the right to change areas.
    is_changing: AtomicBool,
    /// Who waits for it.
    turns: WaitQueue,
}

/// The space whose tables a core uses.
struct Active {
    /// Where it is: enough to see that nothing has to be done.
    address: AtomicUsize,
    /// Keeps it alive as long.
    space: SpinLock<Option<Arc<AddressSpace>>>,
}

static ACTIVE: PerCore<Active> =
    crate::per_core!(Active { address: AtomicUsize::new(0), space: SpinLock::new(None) });

impl AddressSpace {
    /// A space in which nothing is mapped.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new() -> Result<Arc<Self>, OutOfMemory> {
        let layout = Layout {
            mmap_base: map::mmap_base(VirtAddr::new(USER_END as u64), SpaceLimits::default().stack),
            brk_start: VirtAddr::default(),
            brk_end: VirtAddr::default(),
            stack_top: VirtAddr::new(USER_END as u64),
            default_flags: VmaFlags::empty(),
        };
        Ok(Self::with(Mappings::new()?, layout, SpaceLimits::default()))
    }

    fn with(mappings: Mappings, layout: Layout, limits: SpaceLimits) -> Arc<Self> {
        let root = mappings.root();
        let (peak_resident, peak_mapped) = (mappings.resident().total(), mappings.areas().totals().mapped);
        let state = State { mappings, layout, limits, peak_resident, peak_mapped };
        let cores = paging::CoreSet::new();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            state: SpinLock::new(state),
            root,
            cores,
            is_changing: AtomicBool::new(false),
            turns: WaitQueue::new(),
        })
    }

    /// Has the object of an area remember who maps it.
    fn note_mapper(&self, backing: &Backing) -> Result<(), OutOfMemory> {
        match backing {
            Backing::File { source, .. } => source.mappers().map_or(Ok(()), |mappers| mappers.add(&self.me)),
            Backing::Anonymous => Ok(()),
        }
    }

    /// Sets the limits that mappings and the stack have to keep.
    pub fn set_limits(&self, limits: SpaceLimits) {
        self.state.lock().limits = limits;
    }

    /// Makes this the space of the running core: before a thread enters user mode, or the kernel touches its memory.
    #[inline]
    pub fn activate(self: &Arc<Self>) {
        if ACTIVE.here().address.load(Ordering::Relaxed) != Arc::as_ptr(self).addr() {
            self.switch_to();
        }
    }

    #[cold]
    fn switch_to(self: &Arc<Self>) {
        let (core, active) = (arch::core_id(), ACTIVE.here());
        self.cores.insert(core);
        paging::load(self.root);
        active.address.store(Arc::as_ptr(self).addr(), Ordering::Relaxed);
        let before = active.space.lock().replace(self.clone());
        if let Some(before) = before {
            before.cores.remove(core);
        }
    }

    /// Has the running core use the kernel's own tables, so that the space that it used can go: when a process has ended.
    pub fn deactivate() {
        let active = ACTIVE.here();
        active.address.store(0, Ordering::Relaxed);
        let before = active.space.lock().take();
        if let Some(before) = before {
            if let Some(root) = paging::kernel_root() {
                paging::load(root);
            }
            before.cores.remove(arch::core_id());
        }
    }

    fn lock(&self) -> SpinLockGuard<'_, State> {
        self.state.lock()
    }

    /// Removes areas and pages from `start` to `end`. The caller made room for one more area (`prepare`).
    fn unmap_pages(&self, state: &mut State, start: VirtAddr, end: VirtAddr) {
        self.remove_in_batches(state, start, end, Unmap);
    }

    /// Removes pages from `range`, not the areas; private ones only with `copies`.
    fn discard(&self, state: &mut State, range: Range<VirtAddr>, copies: bool) {
        self.remove_in_batches(state, range.start, range.end, |range| Discard { range, copies });
    }

    /// Removes some of the `pages` of `source` that are mapped here, from `at` on; see [`Mappers::unmap`](super::Mappers::unmap). Says
    /// where to go on, if there may be more.
    pub(super) fn discard_object(
        &self,
        source: &dyn PageSource,
        pages: &Range<u64>,
        copies: bool,
        mut at: VirtAddr,
    ) -> Option<VirtAddr> {
        /// Areas that are looked at under one lock.
        const AREAS: usize = 256;
        let mut state = self.state.lock();
        for _ in 0..AREAS {
            let area = state.mappings.areas().find_from(at)?;
            let end = area.end;
            let range = area.addresses_of(source, pages).map(|range| range.start.max(at)..range.end);
            at = end;
            if let Some(range) = range.filter(|range| !range.is_empty()) {
                let piece_end = state.piece(&range);
                let next = if piece_end < range.end { piece_end } else { end };
                self.discard(&mut state, range.start..piece_end, copies);
                return Some(next);
            }
        }
        Some(at)
    }

    /// Applies a removing operation again and again until it has reached `end`; frames are freed after each flush.
    fn remove_in_batches<O>(
        &self,
        state: &mut State,
        start: VirtAddr,
        end: VirtAddr,
        operation: impl Fn(Range<VirtAddr>) -> O,
    ) where
        O: Operation<Mappings, Response = crate::replicated::address_space::Removed>,
    {
        let mut at = start;
        while at < end {
            let removed = operation(at..end).apply(&mut state.mappings);
            removed.flush.perform(&self.cores);
            // Not before every core has forgotten them.
            drop_frames(removed.retired);
            at = removed.done;
        }
    }
}

/// `bytes` in whole pages.
fn pages(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_SIZE)
}

#[cfg(test)]
mod tests;
