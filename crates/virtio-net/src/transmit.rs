//! The transmit queue (VIRTIO 5.1.6.1, 5.1.6.2).
//!
//! Every descriptor has its own piece of memory, for one header and one frame, into which the frame is written by whoever
//! sends it. Descriptors that the device is done with are collected only when there is no other left, so that
//! sending causes neither interrupts nor register accesses.

use alloc::vec::Vec;

use hw::dma::NoMemory;
use hw::nic::{DeviceFault, Offload};
use hw::{Dma, DmaAllocator};

use crate::header;
use crate::queue::{Access, Queue};

/// A queue of frames that the device sends.
pub struct TransmitQueue {
    /// The virtqueue.
    pub queue: Queue,
    memory: Dma,
    stride: usize,
    /// The descriptors that the device does not have.
    free: Vec<u16>,
    /// Whether somebody found the queue full and waits for an interrupt.
    waited_for: bool,
}

impl TransmitQueue {
    /// A queue of frames of at most `max_frame` bytes.
    pub fn new(allocator: &dyn DmaAllocator, queue: Queue, max_frame: usize) -> Result<Self, NoMemory> {
        let stride = (header::LENGTH + max_frame).next_multiple_of(64);
        let memory = allocator.allocate(stride * usize::from(queue.size()))?;
        // The lowest descriptors first: with little traffic few cache lines are touched.
        let free = (0..queue.size()).rev().collect();
        Ok(Self { queue, memory, stride, free, waited_for: false })
    }

    /// Whether there is room for a frame. If not, an interrupt is asked for, for when there is.
    pub fn has_room(&mut self) -> Result<bool, DeviceFault> {
        if !self.free.is_empty() {
            return Ok(true);
        }
        self.reclaim()?;
        if self.free.is_empty() {
            self.waited_for = true;
            self.wait_is_over()?;
        }
        Ok(!self.free.is_empty())
    }

    /// Gives the device a frame, which `fill` writes, under a descriptor that is free; false when there is none.
    pub fn send(&mut self, length: usize, offload: Offload, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        let Some(descriptor) = self.free.pop() else { return false };
        let start = usize::from(descriptor) * self.stride;
        let total = header::LENGTH + length;
        let (header, frame) = self.memory.slice_mut(start..start + total).split_at_mut(header::LENGTH);
        header.copy_from_slice(&header::encode(offload));
        fill(frame);
        let address = self.memory.bus().add(start);
        self.queue.post(descriptor, address, total as u32, Access::DeviceReads);
        true
    }

    /// Whether somebody waited for room and now has it. If he still waits, an interrupt is asked for.
    pub fn wait_is_over(&mut self) -> Result<bool, DeviceFault> {
        // Half of the queue at once, so that a fast sender is not woken for every single frame.
        let enough = self.queue.in_flight().div_ceil(2).max(1);
        if !self.waited_for || !self.queue.request_interrupt(enough) {
            return Ok(false);
        }
        self.reclaim()?;
        Ok(true)
    }

    /// Collects the descriptors that the device is done with.
    fn reclaim(&mut self) -> Result<(), DeviceFault> {
        while let Some(completion) = self.queue.pop()? {
            self.free.push(completion.descriptor);
        }
        if self.waited_for && !self.free.is_empty() {
            self.waited_for = false;
            self.queue.suppress_interrupts();
        }
        Ok(())
    }
}
