//! The receive queue (VIRTIO 5.1.6.3, 5.1.6.4).
//!
//! Every descriptor always has a buffer: when a frame is handed out its buffer goes with it, and a fresh one from the
//! pool takes its place. When the pool is empty, because the frames are still in use further up, the
//! frame is copied and its buffer goes back to the device. The device can thus never be starved by a slow reader.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hw::dma::NoMemory;
use hw::nic::{Arrival, DeviceFault, ETHERNET_HEADER};
use hw::{Buffer, DmaAllocator, Frame, Pool};

use crate::header;
use crate::queue::{Access, Queue};

/// How many frames may be in use further up before frames are copied, as a multiple of the queue's size.
const SPARE: usize = 1;
/// The longest frame that is put together from several buffers.
const LONGEST: usize = 65_535 + ETHERNET_HEADER;

/// A queue of buffers that the device fills.
pub struct ReceiveQueue {
    /// The virtqueue.
    pub queue: Queue,
    /// The buffer of each descriptor.
    buffers: Box<[Buffer]>,
    /// Whether frames may span several buffers (VIRTIO_NET_F_MRG_RXBUF).
    mergeable: bool,
}

impl ReceiveQueue {
    /// A queue of buffers of `buffer_size` bytes each, all of them posted.
    pub fn new(
        allocator: &dyn DmaAllocator,
        queue: Queue,
        buffer_size: usize,
        mergeable: bool,
    ) -> Result<Self, NoMemory> {
        let size = usize::from(queue.size());
        let pool = Pool::new(allocator, size * (1 + SPARE), buffer_size)?;
        let buffers: Box<[Buffer]> = core::iter::from_fn(|| pool.take()).take(size).collect();
        let mut receive = Self { queue, buffers, mergeable };
        (0..receive.queue.size()).for_each(|descriptor| receive.post(descriptor));
        Ok(receive)
    }

    /// The next arrival, if there is one.
    pub fn poll(&mut self) -> Result<Option<Arrival>, DeviceFault> {
        let Some(completion) = self.queue.pop()? else { return Ok(None) };
        let (descriptor, length) = (completion.descriptor, completion.length as usize);
        let header = header::decode(self.filled(descriptor, length)).ok_or(DeviceFault::Length)?;
        if self.mergeable && header.buffers != 1 {
            return self.merge(descriptor, length, header).map(Some);
        }
        if length < header::LENGTH + ETHERNET_HEADER {
            self.post(descriptor);
            return Ok(Some(Arrival::Damaged));
        }
        let buffer = &mut self.buffers[usize::from(descriptor)];
        let frame = buffer.hand_out(header::LENGTH..length, header.checksum);
        self.post(descriptor);
        Ok(Some(frame.map_or(Arrival::Dropped, Arrival::Frame)))
    }

    /// Puts together a frame that begins in the buffer of `descriptor` and goes on in the next completions, all of
    /// which the device reports at once (VIRTIO 5.1.6.4).
    fn merge(
        &mut self,
        descriptor: u16,
        length: usize,
        header: header::Received,
    ) -> Result<Arrival, DeviceFault> {
        let more = header.buffers.checked_sub(1).ok_or(DeviceFault::Incomplete)?;
        let mut bytes = Vec::new();
        let mut fits = append(&mut bytes, &self.filled(descriptor, length)[header::LENGTH..]);
        self.post(descriptor);
        for _ in 0..more {
            let piece = self.queue.pop()?.ok_or(DeviceFault::Incomplete)?;
            fits = fits && append(&mut bytes, self.filled(piece.descriptor, piece.length as usize));
            self.post(piece.descriptor);
        }
        Ok(match fits {
            false => Arrival::Dropped,
            true if bytes.len() < ETHERNET_HEADER => Arrival::Damaged,
            true => Arrival::Frame(Frame::from_vec(bytes, header.checksum)),
        })
    }

    /// The bytes that the device wrote into the buffer of a descriptor; [`Queue::pop`] checked how many those can be.
    fn filled(&self, descriptor: u16, length: usize) -> &[u8] {
        &self.buffers[usize::from(descriptor)].bytes()[..length]
    }

    /// Gives the buffer of a descriptor to the device.
    fn post(&mut self, descriptor: u16) {
        let buffer = &self.buffers[usize::from(descriptor)];
        self.queue.post(descriptor, buffer.bus(), buffer.capacity() as u32, Access::DeviceWrites);
    }
}

/// Adds a piece to a frame; false when the frame gets too long, or there is no memory for it.
fn append(frame: &mut Vec<u8>, piece: &[u8]) -> bool {
    let fits = frame.len() + piece.len() <= LONGEST && frame.try_reserve(piece.len()).is_ok();
    if fits {
        frame.extend_from_slice(piece);
    }
    fits
}
