//! The transmit queue: a ring of frames, and a ring in which the device reports those that are sent.
//!
//! Every descriptor has its own piece of memory, into which a frame is written by whoever sends it. Completions are
//! collected only when there is no room otherwise.

use core::sync::atomic::{Ordering, fence};

use hw::dma::NoMemory;
use hw::nic::DeviceFault;
use hw::{Dma, DmaAllocator};

use crate::descriptor::{self, COMPLETION_MARK, Checksum};
use crate::ring::Cursor;
use crate::shared::{Place, TransmitRings};

/// The rings and the memory of the frames.
pub struct TransmitQueue {
    commands: Dma,
    completions: Dma,
    frames: Dma,
    stride: usize,
    size: usize,
    /// Where the next frame goes, and the oldest that is not known to be sent.
    next: Cursor,
    oldest: Cursor,
    in_flight: usize,
    /// Where the device reports next.
    completion: Cursor,
    /// Whether somebody found the queue full and waits for an interrupt.
    pub waited_for: bool,
}

impl TransmitQueue {
    /// A queue of `size` descriptors, a multiple of 32, for frames of at most `max_frame` bytes.
    pub fn new(allocator: &dyn DmaAllocator, size: usize, max_frame: usize) -> Result<Self, NoMemory> {
        let stride = max_frame.next_multiple_of(64);
        Ok(Self {
            commands: allocator.allocate(size * descriptor::SIZE)?,
            completions: allocator.allocate(size * descriptor::SIZE)?,
            frames: allocator.allocate(size * stride)?,
            stride,
            size,
            next: Cursor::new(size),
            oldest: Cursor::new(size),
            in_flight: 0,
            completion: Cursor::new(size),
            waited_for: false,
        })
    }

    /// Where the rings are.
    pub fn rings(&self) -> TransmitRings {
        let place = |ring: &Dma| Place { bus: ring.bus(), size: self.size };
        TransmitRings { commands: place(&self.commands), completions: place(&self.completions) }
    }

    /// Up to where descriptors are filled.
    pub fn filled(&self) -> usize {
        self.next.index()
    }

    /// Whether there is room for a frame. One descriptor stays unused, so that a full ring is told from an empty one.
    pub fn has_room(&mut self) -> Result<bool, DeviceFault> {
        if self.in_flight == self.size - 1 {
            self.reclaim()?;
        }
        Ok(self.in_flight < self.size - 1)
    }

    /// Queues a frame, which `fill` writes. The caller has made sure that there is room.
    pub fn send(&mut self, length: usize, checksum: Option<Checksum>, fill: &mut dyn FnMut(&mut [u8])) {
        let index = self.next.index();
        let start = index * self.stride;
        fill(self.frames.slice_mut(start..start + length));
        let (control, offload) = descriptor::transmit::words(length as u32, checksum, self.next.generation());
        let entry = index * descriptor::SIZE;
        self.commands.write::<u64>(entry, self.frames.bus().add(start).0);
        self.commands.write::<u32>(entry + descriptor::transmit::OFFLOAD, offload);
        // Frame and descriptor before the mark that vouches for them.
        fence(Ordering::Release);
        self.commands.write::<u32>(entry + descriptor::transmit::CONTROL, control);
        self.next.advance();
        self.in_flight += 1;
    }

    fn reclaim(&mut self) -> Result<(), DeviceFault> {
        // A device that reports for ever must not keep the core: one round of the ring at most.
        for _ in 0..self.size {
            let entry = self.completion.index() * descriptor::SIZE;
            let mark = self.completions.read::<u32>(entry + COMPLETION_MARK);
            if !descriptor::is_complete(mark, self.completion.generation()) {
                break;
            }
            fence(Ordering::Acquire);
            self.sent(descriptor::transmitted(self.completions.read::<u32>(entry)))?;
            self.completion.advance();
        }
        Ok(())
    }

    /// Takes note that all frames up to that of a descriptor are sent.
    fn sent(&mut self, index: usize) -> Result<(), DeviceFault> {
        let others = self.oldest.distance_to(index).ok_or(DeviceFault::Index)?;
        if others >= self.in_flight {
            return Err(DeviceFault::Duplicate);
        }
        for _ in 0..=others {
            self.oldest.advance();
            self.in_flight -= 1;
        }
        Ok(())
    }
}
