//! Where frames come from: the buddies of all nodes, and before them a small cache per core.
//!
//! The fast path takes a frame from the core's cache, which no other core touches but in distress. A cache is
//! filled and emptied in batches, so the lock of the node is taken once for many frames. When the nodes are empty, the caches
//! of all cores are called in before an allocation fails.
//!
//! Each allocation says what it is for ([`Purpose`]): what a program can make grow is refused while the reserve that the
//! kernel's own small objects need is all that is left.
//!
//! Lock order: cache, then node. Two caches or two nodes are never held at once.

use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::buddy::{Buddy, ORDERS};
use super::metadata::{FrameNumber, MetadataMap, Sections};
use crate::arch::CoreId;
use crate::percore::PerCore;
use crate::sync::SpinLock;

/// The most NUMA nodes.
pub const MAX_NODES: usize = 8;

/// No free frame is left for this purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// What memory is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Something that a program can make grow: refused when only the reserve is left.
    User,
    /// A small object of the kernel, bounded by other means: may use the reserve.
    Kernel,
}

/// Order of a 2 MiB frame.
pub const LARGE_ORDER: u8 = 9;

const CACHE_SIZE: usize = 64;
const BATCH: usize = CACHE_SIZE / 2;
const LARGE_CACHE_SIZE: usize = 4;

/// Frames that a core keeps for itself.
struct Cache {
    small: heapless::Vec<FrameNumber, CACHE_SIZE>,
    /// 2 MiB frames: only those that were freed here, never fetched in advance.
    large: heapless::Vec<FrameNumber, LARGE_CACHE_SIZE>,
}

static CACHES: PerCore<SpinLock<Cache>> =
    crate::per_core!(SpinLock::new(Cache { small: heapless::Vec::new(), large: heapless::Vec::new() }));

static NODES: [SpinLock<Buddy>; MAX_NODES] = {
    let mut nodes = [const { SpinLock::new(Buddy::new(0)) }; MAX_NODES];
    let mut node = 1;
    while node < MAX_NODES {
        nodes[node] = SpinLock::new(Buddy::new(node as u8));
        node += 1;
    }
    nodes
};

/// The node of each core.
static NODE_OF_CORE: PerCore<AtomicU8> = crate::per_core!(AtomicU8::new(0));

/// Frames managed, free or not.
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// Frames free in the nodes; those in the caches are not counted.
static FREE: AtomicU64 = AtomicU64::new(0);
/// Frames kept for [`Purpose::Kernel`].
static RESERVE: AtomicU64 = AtomicU64::new(0);

/// The reserve is a 64th of memory, but at least 2 MiB.
const RESERVE_FRACTION: u64 = 64;
const RESERVE_MINIMUM: u64 = (2 << 20) / 4096;

/// How much memory there is, in frames of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Managed by the allocator.
    pub total: u64,
    /// Free.
    pub free: u64,
    /// Free, and programs may have it.
    pub available: u64,
}

/// How much memory there is.
pub fn statistics() -> Statistics {
    let cached: usize = CACHES.iter().map(|cache| cache.lock().frames()).sum();
    let free = FREE.load(Ordering::Relaxed) + cached as u64;
    let total = TOTAL.load(Ordering::Relaxed);
    Statistics { total, free, available: free.saturating_sub(RESERVE.load(Ordering::Relaxed)) }
}

/// Refuses when only the reserve is left: called before memory is taken from the heap for what a program can make grow.
///
/// # Errors
/// [`OutOfMemory`] below the watermark.
pub fn admit(purpose: Purpose) -> Result<(), OutOfMemory> {
    let below = FREE.load(Ordering::Relaxed) < RESERVE.load(Ordering::Relaxed);
    if below && purpose == Purpose::User { Err(OutOfMemory) } else { Ok(()) }
}

/// Gives the frames of `range`, which nobody uses, to `node`. Their metadata has its place.
pub fn add(node: u8, range: Range<FrameNumber>) {
    let frames = u64::from(range.end - range.start);
    NODES[usize::from(node)].lock().add(&Sections, range);
    let total = TOTAL.fetch_add(frames, Ordering::Relaxed) + frames;
    FREE.fetch_add(frames, Ordering::Relaxed);
    RESERVE.store((total / RESERVE_FRACTION).max(RESERVE_MINIMUM).min(total / 4), Ordering::Relaxed);
}

/// Says that `core` belongs to `node`: it gets its frames from there while there are any.
pub fn set_node(core: CoreId, node: u8) {
    NODE_OF_CORE.of(core).store(node, Ordering::Relaxed);
}

/// Takes one frame. Its contents are what its last user left.
pub fn allocate(purpose: Purpose) -> Result<FrameNumber, OutOfMemory> {
    let cached = CACHES.here().lock().small.pop();
    match cached {
        Some(frame) => admit(purpose).map(|()| frame).inspect_err(|_| free(frame)),
        None => refill(purpose),
    }
}

/// Gives back one frame.
pub fn free(frame: FrameNumber) {
    CACHES.here().lock().free(frame);
}

/// Gives back many frames, singly allocated.
pub fn free_many(frames: impl Iterator<Item = FrameNumber>) {
    let mut cache = CACHES.here().lock();
    frames.for_each(|frame| cache.free(frame));
}

/// Takes a block of `1 << order` frames, aligned to its size.
pub fn allocate_block(order: u8, purpose: Purpose) -> Result<FrameNumber, OutOfMemory> {
    match order {
        0 => return allocate(purpose),
        LARGE_ORDER => {
            if let Some(frame) = CACHES.here().lock().large.pop() {
                return admit(purpose).map(|()| frame).inspect_err(|_| free_block(frame, order));
            }
        }
        _ => {}
    }
    prepare();
    admit(purpose)?;
    let attempt = || from_nodes(|buddy| buddy.allocate(&Sections, order).map(|frame| (frame, 1 << order)));
    attempt()
        .or_else(|| {
            call_in_caches();
            attempt()
        })
        .ok_or(OutOfMemory)
}

/// Gives back a block of `1 << order` frames.
pub fn free_block(frame: FrameNumber, order: u8) {
    match order {
        0 => return free(frame),
        LARGE_ORDER if CACHES.here().lock().large.push(frame).is_ok() => return,
        _ => {}
    }
    to_nodes(&[frame], order);
}

/// Takes `count` frames in a row, the first aligned to `1 << align_order` frames.
pub fn allocate_run(
    count: FrameNumber,
    align_order: u8,
    purpose: Purpose,
) -> Result<FrameNumber, OutOfMemory> {
    let order = count.next_power_of_two().trailing_zeros().max(u32::from(align_order)) as u8;
    if usize::from(order) >= ORDERS {
        return Err(OutOfMemory);
    }
    let first = allocate_block(order, purpose)?;
    node_of(first).lock().split(&Sections, first, order);
    free_run(first + count..first + (1 << order));
    Ok(first)
}

/// Gives back a run of frames, each of which was allocated singly or by [`allocate_run`].
pub fn free_run(frames: Range<FrameNumber>) {
    // Block by block would be faster, but a block's buddy may only be looked at once both were blocks of the same order.
    for frame in frames {
        to_nodes(&[frame], 0);
    }
}

fn node_of(frame: FrameNumber) -> &'static SpinLock<Buddy> {
    &NODES[usize::from(Sections.metadata(frame).state().node)]
}

/// Gives blocks back to the nodes that they came from.
fn to_nodes(frames: &[FrameNumber], order: u8) {
    let node = |frame: &FrameNumber| Sections.metadata(*frame).state().node;
    for run in frames.chunk_by(|a, b| node(a) == node(b)) {
        let mut buddy = NODES[usize::from(node(&run[0]))].lock();
        run.iter().for_each(|&frame| buddy.free(&Sections, frame, order));
    }
    FREE.fetch_add((frames.len() as u64) << order, Ordering::Relaxed);
}

/// Calls `take` with the core's own node and then the others, until one gives something; `take` also says how many frames.
fn from_nodes<T>(mut take: impl FnMut(&mut Buddy) -> Option<(T, u64)>) -> Option<T> {
    let home = usize::from(NODE_OF_CORE.here().load(Ordering::Relaxed));
    let (taken, frames) =
        (0..MAX_NODES).find_map(|distance| take(&mut NODES[(home + distance) % MAX_NODES].lock()))?;
    FREE.fetch_sub(frames, Ordering::Relaxed);
    Some(taken)
}

/// Takes a batch of frames; one is the result, the rest goes to the core's cache.
#[cold]
fn refill(purpose: Purpose) -> Result<FrameNumber, OutOfMemory> {
    prepare();
    admit(purpose)?;
    let attempt = || {
        from_nodes(|buddy| {
            let mut batch = heapless::Vec::<_, BATCH>::new();
            while !batch.is_full() {
                let Some(frame) = buddy.allocate(&Sections, 0) else { break };
                let _ = batch.push(frame);
            }
            let frames = batch.len() as u64;
            (frames > 0).then_some((batch, frames))
        })
    };
    let mut batch = attempt()
        .or_else(|| {
            call_in_caches();
            attempt()
        })
        .ok_or(OutOfMemory)?;
    // Reversed: the cache gives what came last, and memory is handed out in ascending order.
    batch.reverse();
    let first = batch.pop().ok_or(OutOfMemory)?;
    let overflow = CACHES.here().lock().small.extend_from_slice(&batch).is_err();
    if overflow {
        to_nodes(&batch, 0);
    }
    Ok(first)
}

/// Gives the frames in all caches back to their nodes.
#[cold]
fn call_in_caches() {
    for cache in CACHES.iter() {
        let mut cache = cache.lock();
        to_nodes(&cache.small, 0);
        cache.small.clear();
        to_nodes(&cache.large, LARGE_ORDER);
        cache.large.clear();
    }
}

impl Cache {
    fn free(&mut self, frame: FrameNumber) {
        if self.small.is_full() {
            let rest = CACHE_SIZE - BATCH;
            to_nodes(&self.small[rest..], 0);
            self.small.truncate(rest);
        }
        // There is room: the cache is no longer full.
        let _ = self.small.push(frame);
    }

    fn frames(&self) -> usize {
        self.small.len() + (self.large.len() << LARGE_ORDER)
    }
}

/// On a host the memory of the test platform is added when it is first needed; the boot code does it on the machine.
#[cfg(not(target_os = "none"))]
fn prepare() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let memory = super::MemoryRange { start: 0, end: crate::arch::MEMORY_SIZE as u64, node: 0 };
        super::init(&[memory], &[]);
    });
}

#[cfg(target_os = "none")]
fn prepare() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_to_where_they_were_taken() {
        let run = allocate_run(5, 2, Purpose::Kernel).unwrap();
        assert_eq!(run % 4, 0);
        free_run(run..run + 5);
        let large = allocate_block(LARGE_ORDER, Purpose::User).unwrap();
        assert_eq!(large % 512, 0);
        free_block(large, LARGE_ORDER);
        assert_eq!(allocate_block(LARGE_ORDER, Purpose::User), Ok(large), "from this core's cache");
        free_block(large, LARGE_ORDER);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert_eq!(allocate_run(1 << 30, 0, Purpose::Kernel), Err(OutOfMemory));
        assert_eq!(allocate_run(1, 19, Purpose::Kernel), Err(OutOfMemory));
        assert_eq!(allocate_block(18, Purpose::Kernel), Err(OutOfMemory), "the test platform has 256 MiB");
    }

    #[test]
    fn statistics_count_what_is_taken() {
        let _first = allocate(Purpose::Kernel).map(free);
        let before = statistics();
        assert!(before.total > 60_000 && before.free <= before.total && before.available < before.free);
    }
}
