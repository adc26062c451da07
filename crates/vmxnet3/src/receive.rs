//! The receive queue: a ring of buffers, and a ring in which the device reports the filled ones.
//!
//! Each descriptor always has a buffer: when a frame is handed out another takes the place of its own. All but one of the
//! descriptors belong to the device; a filled one becomes the new gap, and the old gap is given to the device.

use alloc::boxed::Box;
use core::sync::atomic::{Ordering, fence};

use hw::dma::NoMemory;
use hw::nic::{Arrival, DeviceFault};
use hw::{Buffer, Dma, DmaAllocator, Pool};

use crate::descriptor::{self, COMPLETION_MARK, Received};
use crate::ring::Cursor;
use crate::shared::{Place, ReceiveRings};

/// The size of a buffer in bytes; two share a page.
const BUFFER_SIZE: usize = 2048;
/// The size of the ring of buffers in which frames go on. It stays empty: no frame is longer than a buffer.
const BODIES: usize = 32;

/// The rings and their buffers.
pub struct ReceiveQueue {
    heads: Dma,
    bodies: Dma,
    completions: Dma,
    buffers: Box<[Buffer]>,
    /// Where the device reports next.
    next: Cursor,
    /// The descriptor that it fills next, and the gap.
    expected: Cursor,
    gap: Cursor,
    /// Whether the rest of a frame in pieces is being skipped.
    skipping: bool,
}

impl ReceiveQueue {
    /// A queue of `size` descriptors, a multiple of 32.
    pub fn new(allocator: &dyn DmaAllocator, size: usize) -> Result<Self, NoMemory> {
        let pool = Pool::new(allocator, 2 * size, BUFFER_SIZE)?;
        let mut queue = Self {
            heads: allocator.allocate(size * descriptor::SIZE)?,
            bodies: allocator.allocate(BODIES * descriptor::SIZE)?,
            completions: allocator.allocate((size + BODIES) * descriptor::SIZE)?,
            buffers: core::iter::from_fn(|| pool.take()).take(size).collect(),
            next: Cursor::new(size + BODIES),
            expected: Cursor::new(size),
            gap: Cursor::new(size),
            skipping: false,
        };
        (1..size).for_each(|_| queue.fill_gap());
        Ok(queue)
    }

    /// Where the rings are.
    pub fn rings(&self) -> ReceiveRings {
        ReceiveRings {
            heads: Place { bus: self.heads.bus(), size: self.buffers.len() },
            bodies: Place { bus: self.bodies.bus(), size: BODIES },
            completions: Place { bus: self.completions.bus(), size: self.buffers.len() + BODIES },
        }
    }

    /// The number of descriptors.
    pub fn size(&self) -> usize {
        self.buffers.len()
    }

    /// Up to where descriptors are filled.
    pub fn filled(&self) -> usize {
        self.gap.index()
    }

    /// Whether something has arrived.
    pub fn is_ready(&self) -> bool {
        let mark = self.next.index() * descriptor::SIZE + COMPLETION_MARK;
        descriptor::is_complete(self.completions.read::<u32>(mark), self.next.generation())
    }

    /// The next arrival, if there is one.
    pub fn poll(&mut self) -> Result<Option<Arrival>, DeviceFault> {
        if !self.is_ready() {
            return Ok(None);
        }
        // The rest of the completion, and the frame, after the mark that vouches for them.
        fence(Ordering::Acquire);
        let entry = self.next.index() * descriptor::SIZE;
        let received = Received { words: [0, 8, 12].map(|word| self.completions.read::<u32>(entry + word)) };
        self.next.advance();
        self.skip_to(received)?;
        if received.length() > BUFFER_SIZE {
            return Err(DeviceFault::Length);
        }
        let skipped = core::mem::replace(&mut self.skipping, !received.is_last());
        let arrival = if skipped || !received.is_sound() {
            Arrival::Damaged
        } else {
            let buffer = &mut self.buffers[received.descriptor()];
            let frame = buffer.hand_out(0..received.length(), received.checksum());
            frame.map_or(Arrival::Dropped, Arrival::Frame)
        };
        self.expected.advance();
        self.fill_gap();
        Ok(Some(arrival))
    }

    /// Goes on to the descriptor that was filled. A device may leave some out; one that goes back has reported twice.
    fn skip_to(&mut self, received: Received) -> Result<(), DeviceFault> {
        let skipped = self.expected.distance_to(received.descriptor()).ok_or(DeviceFault::Index)?;
        if received.ring() != 0 {
            return Err(DeviceFault::Index);
        }
        if skipped >= self.size() / 2 {
            return Err(DeviceFault::Duplicate);
        }
        for _ in 0..skipped {
            self.expected.advance();
            self.fill_gap();
        }
        Ok(())
    }

    /// Gives the gap to the device; the next descriptor is the gap now.
    fn fill_gap(&mut self) {
        let index = self.gap.index();
        let entry = index * descriptor::SIZE;
        self.heads.write::<u64>(entry, self.buffers[index].bus().0);
        // The address before the mark that vouches for it.
        fence(Ordering::Release);
        let control = descriptor::receive::control(BUFFER_SIZE as u32, self.gap.generation());
        self.heads.write::<u32>(entry + descriptor::receive::CONTROL, control);
        self.gap.advance();
    }
}
