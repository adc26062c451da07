//! The split virtqueue (VIRTIO 2.7), in which each buffer is a single descriptor.
//!
//! Three arrays lie in shared memory: the descriptor table and the available ring, which the driver writes, and the used
//! ring, which the device writes. Indices run freely through 16 bits and are reduced to positions by a mask.
//!
//! Whatever the device writes is checked against what it was given: [`Queue`] remembers the capacity of each posted
//! descriptor, and an index, a length or a repetition that cannot be is a [`DeviceFault`].

use alloc::boxed::Box;
use core::sync::atomic::{Ordering, fence};

use hw::dma::NoMemory;
use hw::nic::DeviceFault;
use hw::{BusAddress, Dma, DmaAllocator};

/// The size of a descriptor (VIRTIO 2.7.5): address, length, flags, next.
const DESCRIPTOR: usize = 16;
/// Descriptor flag: the device writes the buffer, rather than reading it.
const WRITE: u16 = 2;
/// The rings begin with flags and index (VIRTIO 2.7.6, 2.7.8).
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
/// The size of an entry of the available ring, and of the used ring: descriptor and length.
const AVAILABLE_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;
/// Available ring: no interrupts, please (VIRTIO 2.7.7). Used ring: no notifications, please (VIRTIO 2.7.10).
const SUPPRESS: u16 = 1;
/// The two rings are written by different sides, so they do not share cache lines.
const CACHE_LINE: usize = 64;

/// Who writes the buffer of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The driver has; the device reads.
    DeviceReads,
    /// The device does.
    DeviceWrites,
}

/// A buffer that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Its descriptor.
    pub descriptor: u16,
    /// How many bytes the device wrote. Meaningless for a buffer that it read.
    pub length: u32,
}

/// What [`Queue::posted`] holds for a descriptor that the device does not have.
const NOT_POSTED: u32 = 0;
/// What it holds for a buffer that the device reads: the length in its completion means nothing.
const ANY_LENGTH: u32 = u32::MAX;

/// A virtqueue.
pub struct Queue {
    memory: Dma,
    available: usize,
    used: usize,
    size: u16,
    /// Whether VIRTIO_F_EVENT_IDX is in force.
    event_index: bool,
    /// The capacity of each descriptor that the device has.
    posted: Box<[u32]>,
    /// Where the next buffer goes in the available ring.
    next_available: u16,
    /// Where it went when the device was last notified.
    last_notified: u16,
    /// Where the next completion is in the used ring, and up to where there are any for sure.
    next_used: u16,
    seen_used: u16,
}

impl Queue {
    /// A queue of `size` descriptors, a power of two of at most 32768 (VIRTIO 2.7). Interrupts are suppressed.
    pub fn new(allocator: &dyn DmaAllocator, size: u16, event_index: bool) -> Result<Self, NoMemory> {
        assert!(size.is_power_of_two(), "the size of a split virtqueue is a power of two");
        let entries = usize::from(size);
        let available = entries * DESCRIPTOR;
        // Behind each ring is the index at which the other side wants to be told (VIRTIO 2.7.6, 2.7.8).
        let used = (available + ENTRIES + entries * AVAILABLE_ENTRY + 2).next_multiple_of(CACHE_LINE);
        let memory = allocator.allocate(used + ENTRIES + entries * USED_ENTRY + 2)?;
        let mut queue = Self {
            memory,
            available,
            used,
            size,
            event_index,
            posted: alloc::vec![NOT_POSTED; entries].into_boxed_slice(),
            next_available: 0,
            last_notified: 0,
            next_used: 0,
            seen_used: 0,
        };
        queue.suppress_interrupts();
        Ok(queue)
    }

    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the descriptor table, the available ring and the used ring are.
    pub fn addresses(&self) -> [BusAddress; 3] {
        let start = self.memory.bus();
        [start, start.add(self.available), start.add(self.used)]
    }

    /// How many buffers the device has.
    pub fn in_flight(&self) -> u16 {
        self.next_available.wrapping_sub(self.next_used)
    }

    /// Gives the device a buffer of `length` bytes under a descriptor that it does not have (VIRTIO 2.7.13).
    /// The device sees it at once, but looks only when notified, or when busy anyway.
    ///
    /// # Panics
    /// When the device has the descriptor already, it does not exist, or the buffer is empty: errors of the driver.
    pub fn post(&mut self, descriptor: u16, address: BusAddress, length: u32, access: Access) {
        let slot = &mut self.posted[usize::from(descriptor)];
        assert!(*slot == NOT_POSTED && length != 0, "a descriptor is posted once, with a buffer");
        let (capacity, flags) = match access {
            Access::DeviceReads => (ANY_LENGTH, 0),
            Access::DeviceWrites => (length, WRITE),
        };
        *slot = capacity;
        let entry = usize::from(descriptor) * DESCRIPTOR;
        self.memory.write::<u64>(entry, address.0);
        self.memory.write::<u64>(entry + 8, u64::from(length) | u64::from(flags) << 32);
        let position = usize::from(self.next_available & (self.size - 1));
        self.memory.write::<u16>(self.available + ENTRIES + position * AVAILABLE_ENTRY, descriptor);
        self.next_available = self.next_available.wrapping_add(1);
        // Descriptor and entry before the index that publishes them (VIRTIO 2.7.13.3.1).
        fence(Ordering::Release);
        self.memory.write::<u16>(self.available + INDEX, self.next_available);
    }

    /// The next buffer that the device is done with (VIRTIO 2.7.14).
    pub fn pop(&mut self) -> Result<Option<Completion>, DeviceFault> {
        if self.next_used == self.seen_used && !self.look_for_used()? {
            return Ok(None);
        }
        let position = usize::from(self.next_used & (self.size - 1));
        let entry = self.used + ENTRIES + position * USED_ENTRY;
        let (id, length) = (self.memory.read::<u32>(entry), self.memory.read::<u32>(entry + 4));
        let capacity = self.posted.get_mut(id as usize).ok_or(DeviceFault::Index)?;
        match core::mem::replace(capacity, NOT_POSTED) {
            NOT_POSTED => return Err(DeviceFault::Duplicate),
            capacity if length > capacity => return Err(DeviceFault::Length),
            _ => {}
        }
        self.next_used = self.next_used.wrapping_add(1);
        Ok(Some(Completion { descriptor: id as u16, length }))
    }

    /// How many completions [`pop`](Self::pop) can give for sure.
    pub fn ready(&self) -> u16 {
        self.used_index().wrapping_sub(self.next_used)
    }

    /// Whether the device has to be notified of what was posted since the last call (VIRTIO 2.7.13.4).
    pub fn needs_notification(&mut self) -> bool {
        let new = self.next_available;
        let old = core::mem::replace(&mut self.last_notified, new);
        if new == old {
            return false;
        }
        // The index that was written before what the device writes is read: else each side could miss the other.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = self.memory.read::<u16>(self.used + ENTRIES + usize::from(self.size) * USED_ENTRY);
            // Whether the wanted index lies in [old, new) (VIRTIO 2.7.10).
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.memory.read::<u16>(self.used + FLAGS) & SUPPRESS == 0
        }
    }

    /// Asks the device not to interrupt (VIRTIO 2.7.7). It may nevertheless.
    pub fn suppress_interrupts(&mut self) {
        if self.event_index {
            // An index that has just passed: it comes round after 65,535 more buffers.
            self.set_used_event(self.next_used.wrapping_sub(1));
        } else {
            self.memory.write::<u16>(self.available + FLAGS, SUPPRESS);
        }
    }

    /// Asks the device to interrupt once `count` more buffers, at least one, are done (VIRTIO 2.7.7); without event index,
    /// with the next. True when they are done already, in which case no interrupt may come.
    pub fn request_interrupt(&mut self, count: u16) -> bool {
        if self.event_index {
            self.set_used_event(self.next_used.wrapping_add(count - 1));
        } else {
            self.memory.write::<u16>(self.available + FLAGS, 0);
        }
        // The request before the look: else a buffer used in between would be seen by neither side.
        fence(Ordering::SeqCst);
        self.ready() >= if self.event_index { count } else { 1 }
    }

    fn set_used_event(&mut self, index: u16) {
        self.memory.write::<u16>(self.available + ENTRIES + usize::from(self.size) * AVAILABLE_ENTRY, index);
    }

    fn used_index(&self) -> u16 {
        self.memory.read::<u16>(self.used + INDEX)
    }

    /// Reads how far the device has come; whether that is further than before.
    fn look_for_used(&mut self) -> Result<bool, DeviceFault> {
        let index = self.used_index();
        if index.wrapping_sub(self.next_used) > self.in_flight() {
            return Err(DeviceFault::Index);
        }
        // The index before the entries that it vouches for (VIRTIO 2.7.14).
        fence(Ordering::Acquire);
        let further = index != self.seen_used;
        self.seen_used = index;
        Ok(further)
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;

    use hw::fake::FakeMemory;
    use proptest::prelude::*;

    use super::*;
    use crate::fake::DeviceRing;

    const BUFFER: BusAddress = BusAddress(0x5_0000_0000);

    fn pair(size: u16, event_index: bool) -> (Queue, DeviceRing) {
        let memory = FakeMemory::new();
        let queue = Queue::new(&memory, size, event_index).unwrap();
        let ring = DeviceRing::new(memory, queue.addresses().map(|address| address.0), size, event_index);
        (queue, ring)
    }

    fn completion(descriptor: u16, length: u32) -> Result<Option<Completion>, DeviceFault> {
        Ok(Some(Completion { descriptor, length }))
    }

    #[test]
    fn the_parts_are_aligned_and_do_not_overlap() {
        for size in [1, 2, 256, 32768] {
            let queue = Queue::new(&FakeMemory::new(), size, true).unwrap();
            let [table, available, used] = queue.addresses().map(|address| address.0);
            assert_eq!((table % 16, available % 2, used % 4), (0, 0, 0));
            assert!(available >= table + 16 * u64::from(size));
            assert!(used >= available + 6 + 2 * u64::from(size));
            assert!(table + queue.memory.length() as u64 >= used + 6 + 8 * u64::from(size));
        }
    }

    #[test]
    fn the_device_sees_what_was_posted() {
        let (mut queue, mut ring) = pair(4, true);
        queue.post(2, BUFFER, 2048, Access::DeviceWrites);
        queue.post(0, BUFFER.add(64), 100, Access::DeviceReads);
        let first = ring.take().unwrap();
        assert_eq!((first.id, first.address, first.length, first.device_writes), (2, BUFFER.0, 2048, true));
        let second = ring.take().unwrap();
        assert_eq!((second.id, second.address, second.length), (0, BUFFER.0 + 64, 100));
        assert!(!second.device_writes && ring.take().is_none());
        assert_eq!(queue.in_flight(), 2);
    }

    #[test]
    fn indices_wrap_around() {
        let (mut queue, mut ring) = pair(8, true);
        for round in 0..70_000u32 {
            let descriptor = (round % 8) as u16;
            queue.post(descriptor, BUFFER, 64, Access::DeviceWrites);
            assert!(queue.needs_notification(), "round {round}");
            let buffer = ring.take().unwrap();
            ring.complete(buffer.id.into(), round % 65);
            ring.want_notification(true);
            assert_eq!(queue.pop(), completion(descriptor, round % 65));
            assert_eq!(queue.pop(), Ok(None));
        }
    }

    #[test]
    fn a_descriptor_that_does_not_exist_is_a_fault() {
        for id in [4, 0x1_0000, u32::MAX] {
            let (mut queue, mut ring) = pair(4, true);
            queue.post(0, BUFFER, 64, Access::DeviceWrites);
            ring.complete(id, 0);
            assert_eq!(queue.pop(), Err(DeviceFault::Index));
        }
    }

    #[test]
    fn a_length_beyond_the_buffer_is_a_fault() {
        let (mut queue, mut ring) = pair(4, true);
        queue.post(0, BUFFER, 64, Access::DeviceWrites);
        ring.complete(0, 65);
        assert_eq!(queue.pop(), Err(DeviceFault::Length));
    }

    #[test]
    fn the_length_of_a_buffer_that_was_read_does_not_matter() {
        let (mut queue, mut ring) = pair(4, true);
        queue.post(0, BUFFER, 64, Access::DeviceReads);
        ring.complete(0, u32::MAX);
        assert_eq!(queue.pop(), completion(0, u32::MAX));
    }

    #[test]
    fn a_buffer_completed_twice_is_a_fault() {
        let (mut queue, mut ring) = pair(4, true);
        queue.post(0, BUFFER, 64, Access::DeviceWrites);
        queue.post(1, BUFFER, 64, Access::DeviceWrites);
        ring.complete_all(&[(1, 0), (1, 0)]);
        assert_eq!(queue.pop(), completion(1, 0));
        assert_eq!(queue.pop(), Err(DeviceFault::Duplicate));
    }

    #[test]
    fn more_completions_than_buffers_are_a_fault() {
        for index in [2, 0x8000, 0xffff] {
            let (mut queue, mut ring) = pair(4, true);
            queue.post(0, BUFFER, 64, Access::DeviceWrites);
            ring.set_used_index(index);
            assert_eq!(queue.pop(), Err(DeviceFault::Index), "index {index}");
        }
    }

    #[test]
    fn an_index_that_goes_back_is_a_fault() {
        let (mut queue, mut ring) = pair(4, true);
        for descriptor in 0..3 {
            queue.post(descriptor, BUFFER, 64, Access::DeviceWrites);
        }
        ring.complete_all(&[(0, 0), (1, 0)]);
        assert_eq!(queue.pop(), completion(0, 0));
        assert_eq!(queue.pop(), completion(1, 0));
        ring.set_used_index(1);
        assert_eq!(queue.pop(), Err(DeviceFault::Index));
    }

    #[test]
    fn the_device_is_notified_once_per_batch_and_only_when_it_wants() {
        for event_index in [false, true] {
            let (mut queue, mut ring) = pair(8, event_index);
            assert!(!queue.needs_notification(), "nothing was posted");
            (0..3).for_each(|descriptor| queue.post(descriptor, BUFFER, 64, Access::DeviceReads));
            assert!(queue.needs_notification());
            assert!(!queue.needs_notification(), "nothing new");
            ring.want_notification(false);
            queue.post(3, BUFFER, 64, Access::DeviceReads);
            assert!(!queue.needs_notification(), "the device is at work");
            while ring.take().is_some() {}
            ring.want_notification(true);
            queue.post(4, BUFFER, 64, Access::DeviceReads);
            assert!(queue.needs_notification(), "the device went to sleep");
        }
    }

    #[test]
    fn interrupts_come_only_on_request() {
        for event_index in [false, true] {
            let (mut queue, mut ring) = pair(8, event_index);
            (0..8).for_each(|descriptor| queue.post(descriptor, BUFFER, 64, Access::DeviceWrites));
            ring.complete(0, 0);
            assert!(!ring.wants_interrupt(), "a new queue is silent");
            assert!(queue.request_interrupt(1), "work is there already");
            queue.pop().unwrap();
            assert!(!queue.request_interrupt(1));
            ring.complete(1, 0);
            assert!(ring.wants_interrupt());
            queue.pop().unwrap();
            queue.suppress_interrupts();
            ring.complete(2, 0);
            assert!(!ring.wants_interrupt());
        }
    }

    #[test]
    fn an_interrupt_can_wait_for_several_buffers() {
        let (mut queue, mut ring) = pair(8, true);
        (0..8).for_each(|descriptor| queue.post(descriptor, BUFFER, 64, Access::DeviceReads));
        assert!(!queue.request_interrupt(3));
        ring.complete_all(&[(0, 0), (1, 0)]);
        assert!(!ring.wants_interrupt());
        ring.complete(2, 0);
        assert!(ring.wants_interrupt());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Post { choice: usize, length: u32 },
        Take,
        Complete { choice: usize, length: u32 },
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<usize>(), 1..2000u32).prop_map(|(choice, length)| Step::Post { choice, length }),
            Just(Step::Take),
            (any::<usize>(), any::<u32>()).prop_map(|(choice, length)| Step::Complete { choice, length }),
            Just(Step::Pop),
        ]
    }

    proptest! {
        /// The model: a set of free descriptors, a queue of posted ones, a set that the device holds, a queue of done ones.
        #[test]
        fn buffers_travel_as_in_the_model(
            steps in prop::collection::vec(step(), 1..300),
            event_index in any::<bool>(),
            start in prop_oneof![19 => Just(0), 1 => Just(65_520u32)],
        ) {
            let (mut queue, mut ring) = pair(8, event_index);
            for _ in 0..start {
                queue.post(0, BUFFER, 1, Access::DeviceWrites);
                ring.take().unwrap();
                ring.complete(0, 1);
                queue.pop().unwrap();
            }
            let mut free: Vec<u16> = (0..8).collect();
            let mut posted = VecDeque::new();
            let mut held = Vec::new();
            let mut done = VecDeque::new();
            for step in steps {
                match step {
                    Step::Post { choice, length } if !free.is_empty() => {
                        let descriptor = free.swap_remove(choice % free.len());
                        queue.post(descriptor, BUFFER.add(choice % 4096), length, Access::DeviceWrites);
                        posted.push_back((descriptor, BUFFER.add(choice % 4096).0, length));
                    }
                    Step::Take => {
                        let taken = ring.take().map(|buffer| (buffer.id, buffer.address, buffer.length));
                        prop_assert_eq!(taken, posted.pop_front());
                        held.extend(taken);
                    }
                    Step::Complete { choice, length } if !held.is_empty() => {
                        let (id, _, capacity) = held.swap_remove(choice % held.len());
                        ring.complete(id.into(), length % (capacity + 1));
                        done.push_back(Completion { descriptor: id, length: length % (capacity + 1) });
                    }
                    Step::Pop => {
                        let expected = done.pop_front();
                        prop_assert_eq!(queue.pop(), Ok(expected));
                        free.extend(expected.map(|completion| completion.descriptor));
                    }
                    Step::Post { .. } | Step::Complete { .. } => {}
                }
                prop_assert_eq!(usize::from(queue.ready()), done.len());
                prop_assert_eq!(usize::from(queue.in_flight()), 8 - free.len());
            }
        }

        /// Whatever the device writes, the queue gives each buffer back at most once, and then reports a fault.
        #[test]
        fn no_device_can_confuse_the_queue(
            entries in prop::collection::vec((0..12u32, 0..200u32), 8),
            index in prop_oneof![0..12u16, any::<u16>()],
        ) {
            let (mut queue, mut ring) = pair(8, true);
            (0..8).for_each(|descriptor| queue.post(descriptor, BUFFER, 100, Access::DeviceWrites));
            ring.complete_all(&entries);
            ring.set_used_index(index);
            let mut seen = Vec::new();
            while let Ok(Some(completion)) = queue.pop() {
                prop_assert!(completion.length <= 100);
                prop_assert!(completion.descriptor < 8);
                prop_assert!(!seen.contains(&completion.descriptor));
                seen.push(completion.descriptor);
            }
            prop_assert!(seen.len() <= usize::from(index));
        }
    }
}
