//! The receive ring (8254x 3.2).
//!
//! The device owns the descriptors from head up to, but not including, tail. Each descriptor always has a buffer: when a
//! frame is handed out another takes the place of its own, and the descriptor goes back to the device, which
//! hears of that by the tail, once per batch.

use alloc::boxed::Box;
use core::sync::atomic::{Ordering, fence};

use hw::dma::NoMemory;
use hw::nic::{Arrival, DeviceFault};
use hw::{Buffer, BusAddress, Dma, DmaAllocator, Pool};

use crate::descriptor::{self, Received};

/// What the device takes a buffer to have (RCTL.BSIZE zero).
pub const BUFFER_SIZE: usize = 2048;

/// The ring and its buffers.
pub struct ReceiveRing {
    ring: Dma,
    buffers: Box<[Buffer]>,
    /// The descriptor that is done next.
    next: usize,
    /// Whether the pieces of a frame that is too long are being skipped.
    skipping: bool,
}

impl ReceiveRing {
    /// A ring of `size` descriptors, a multiple of eight (8254x 13.4.27).
    pub fn new(allocator: &dyn DmaAllocator, size: usize) -> Result<Self, NoMemory> {
        let ring = allocator.allocate(size * descriptor::SIZE)?;
        let pool = Pool::new(allocator, 2 * size, BUFFER_SIZE)?;
        let buffers = core::iter::from_fn(|| pool.take()).take(size).collect();
        let mut receive = Self { ring, buffers, next: 0, skipping: false };
        (0..size).for_each(|index| receive.prepare(index));
        Ok(receive)
    }

    /// Where the ring is.
    pub fn bus(&self) -> BusAddress {
        self.ring.bus()
    }

    /// The number of descriptors.
    pub fn size(&self) -> usize {
        self.buffers.len()
    }

    /// Up to where the device may fill: the descriptor before the next, so that head never meets tail.
    pub fn tail(&self) -> usize {
        self.next.checked_sub(1).unwrap_or(self.size() - 1)
    }

    /// Whether something has arrived.
    pub fn is_ready(&self) -> bool {
        let status = self.ring.read::<u8>(self.next * descriptor::SIZE + descriptor::STATUS);
        status & descriptor::DONE != 0
    }

    /// The next arrival, if there is one.
    pub fn poll(&mut self) -> Result<Option<Arrival>, DeviceFault> {
        if !self.is_ready() {
            return Ok(None);
        }
        // The rest of the descriptor, and the frame, after the bit that vouches for them.
        fence(Ordering::Acquire);
        let index = self.next;
        let received = Received::new(self.ring.read::<u64>(index * descriptor::SIZE + descriptor::CONTROL));
        let length = received.length(BUFFER_SIZE)?;
        let skipped = core::mem::replace(&mut self.skipping, !received.is_last());
        let arrival = if skipped || !received.is_last() || !received.is_sound() {
            Arrival::Damaged
        } else {
            let frame = self.buffers[index].hand_out(0..length, received.checksum());
            frame.map_or(Arrival::Dropped, Arrival::Frame)
        };
        self.prepare(index);
        self.next = (index + 1) % self.size();
        Ok(Some(arrival))
    }

    /// Makes a descriptor ready to be filled.
    fn prepare(&mut self, index: usize) {
        let entry = index * descriptor::SIZE;
        self.ring.write::<u64>(entry + descriptor::ADDRESS, self.buffers[index].bus().0);
        self.ring.write::<u64>(entry + descriptor::CONTROL, 0);
    }
}
