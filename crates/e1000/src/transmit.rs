//! The transmit ring (8254x 3.3, 3.4).
//!
//! Every descriptor has its own piece of memory, into which a frame is written by whoever sends it. A frame takes one
//! descriptor, and one more before it when the device is to compute a checksum at other places than last time.
//! Descriptors that the device is done with are collected only when there is no room otherwise.

use core::sync::atomic::{Ordering, fence};

use hw::dma::NoMemory;
use hw::{BusAddress, Dma, DmaAllocator};

use crate::descriptor::{self, Context};

/// The most descriptors that a frame takes.
const PER_FRAME: usize = 2;

/// The ring and the memory of its frames.
pub struct TransmitRing {
    ring: Dma,
    frames: Dma,
    stride: usize,
    size: usize,
    /// Where the next descriptor goes: the tail, once the device is told.
    next: usize,
    /// The oldest descriptor that was not collected yet, and how many there are.
    oldest: usize,
    in_flight: usize,
    /// The context that the device has.
    context: Option<Context>,
    /// Whether somebody found the ring full and waits for an interrupt.
    pub waited_for: bool,
}

impl TransmitRing {
    /// A ring of `size` descriptors, a multiple of eight (8254x 13.4.38), for frames of at most `max_frame` bytes.
    pub fn new(allocator: &dyn DmaAllocator, size: usize, max_frame: usize) -> Result<Self, NoMemory> {
        let stride = max_frame.next_multiple_of(64);
        Ok(Self {
            ring: allocator.allocate(size * descriptor::SIZE)?,
            frames: allocator.allocate(size * stride)?,
            stride,
            size,
            next: 0,
            oldest: 0,
            in_flight: 0,
            context: None,
            waited_for: false,
        })
    }

    /// Where the ring is.
    pub fn bus(&self) -> BusAddress {
        self.ring.bus()
    }

    /// The number of descriptors.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Up to where the device is to send.
    pub fn tail(&self) -> usize {
        self.next
    }

    /// Whether there is room for a frame.
    pub fn has_room(&mut self) -> bool {
        if self.free() < PER_FRAME {
            self.reclaim();
        }
        self.free() >= PER_FRAME
    }

    /// Whether somebody waits for room, and there is some.
    pub fn wait_is_over(&mut self) -> bool {
        self.waited_for && self.has_room()
    }

    /// Queues a frame, which `fill` writes. The caller has made sure that there is room.
    pub fn send(&mut self, length: usize, context: Option<Context>, fill: &mut dyn FnMut(&mut [u8])) {
        if let Some(wanted) = context.filter(|_| self.context != context) {
            self.put(wanted.encode());
            self.context = context;
        }
        let start = self.next * self.stride;
        fill(self.frames.slice_mut(start..start + length));
        // A frame is shorter than 64 KiB: the capabilities say so.
        self.put(descriptor::data(self.frames.bus().add(start).0, length as u16, context.is_some()));
    }

    /// What is left of the ring; one descriptor stays unused, so that a full ring is told from an empty one.
    fn free(&self) -> usize {
        self.size - 1 - self.in_flight
    }

    fn put(&mut self, [address, control]: [u64; 2]) {
        let entry = self.next * descriptor::SIZE;
        self.ring.write::<u64>(entry + descriptor::ADDRESS, address);
        self.ring.write::<u64>(entry + descriptor::CONTROL, control);
        self.next = (self.next + 1) % self.size;
        self.in_flight += 1;
    }

    fn reclaim(&mut self) {
        while self.in_flight > 0 {
            let status = self.ring.read::<u8>(self.oldest * descriptor::SIZE + descriptor::STATUS);
            if status & descriptor::DONE == 0 {
                break;
            }
            self.oldest = (self.oldest + 1) % self.size;
            self.in_flight -= 1;
        }
        // The frames' memory is written again only after the device was seen to be done with it.
        fence(Ordering::Acquire);
    }
}
