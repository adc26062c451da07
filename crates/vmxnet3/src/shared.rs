//! The shared area: what the device reads when it is activated (`Vmxnet3_DriverShared`), with the descriptions of the
//! queues (`Vmxnet3_TxQueueDesc`, `Vmxnet3_RxQueueDesc`) behind it.
//!
//! Only the fields that differ from zero are named.

use hw::dma::NoMemory;
use hw::{BusAddress, Dma, DmaAllocator};

/// The area of the driver.
mod driver {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 8;
    pub const GUEST: usize = 12;
    pub const REVISIONS: usize = 16;
    pub const UPT_VERSIONS: usize = 20;
    pub const FEATURES: usize = 24;
    pub const QUEUES: usize = 40;
    pub const QUEUES_LENGTH: usize = 52;
    pub const MTU: usize = 56;
    pub const MAX_RECEIVE_PIECES: usize = 60;
    pub const TRANSMIT_QUEUES: usize = 62;
    pub const RECEIVE_QUEUES: usize = 63;
    pub const AUTO_MASK: usize = 80;
    pub const INTERRUPTS: usize = 81;
    pub const EVENT_INTERRUPT: usize = 82;
    pub const MODERATION: usize = 83;
    pub const INTERRUPT_CONTROL: usize = 108;
    pub const RECEIVE_MODE: usize = 120;
    pub const EVENTS: usize = 696;
    pub const SIZE: usize = 720;
}

/// The description of a queue of either kind.
mod queue {
    /// Receive queue: whether the device wants to hear of filled descriptors.
    pub const UPDATE_PRODUCER: usize = 0;
    /// The command ring, the second one of a receive queue, the completion ring.
    pub const RING: usize = 16;
    pub const SECOND_RING: usize = 24;
    pub const COMPLETION_RING: usize = 32;
    /// Their sizes, in descriptors.
    pub const RING_SIZE: usize = 56;
    pub const SECOND_RING_SIZE: usize = 60;
    pub const COMPLETION_RING_SIZE: usize = 64;
    pub const INTERRUPT: usize = 72;
    /// After an error, whether the device has stopped the queue.
    pub const STOPPED: usize = 80;
    pub const SIZE: usize = 256;
}

const MAGIC: u32 = 0xbabe_fee1;
/// The version of the driver: any.
const VERSION: u32 = 1;
/// `gosBits` 64 and `gosType` Linux. The type chooses among behaviours of the device; this one lets frames be in pieces.
const GUEST: u32 = 2 | 1 << 2;
/// Verify checksums of received frames (`UPT1_F_RXCSUM`).
const RECEIVE_CHECKSUM: u64 = 1;
/// Let the device choose how often it interrupts (`UPT1_IML_ADAPTIVE`).
const ADAPTIVE: u8 = 8;
/// Interrupts are off, all of them (`VMXNET3_IC_DISABLE_ALL`).
const ALL_OFF: u32 = 1;
/// Accept what is for this station, for all, and for any group. Virtual machines have few neighbours.
const UNICAST_BROADCAST_MULTICAST: u32 = 0x01 | 0x04 | 0x08;
/// Where the descriptions of the queues are: transmit first. They are aligned to 128 bytes.
const TRANSMIT: usize = driver::SIZE.next_multiple_of(128);
const RECEIVE: usize = TRANSMIT + queue::SIZE;

/// Where a ring is, and how many entries it has.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its first entry, aligned to 512 bytes.
    pub bus: BusAddress,
    /// The number of entries, a multiple of 32.
    pub size: usize,
}

/// The rings of a transmit queue.
#[derive(Clone, Copy, Debug)]
pub struct TransmitRings {
    /// What the driver fills.
    pub commands: Place,
    /// What the device fills.
    pub completions: Place,
}

/// The rings of a receive queue.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveRings {
    /// What the driver fills with buffers in which frames begin.
    pub heads: Place,
    /// What the driver could fill with buffers in which frames go on.
    pub bodies: Place,
    /// What the device fills.
    pub completions: Place,
}

/// Which interrupt vector is for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// Received frames.
    pub receive: u8,
    /// Sent frames.
    pub transmit: u8,
    /// Events.
    pub event: u8,
    /// The number of vectors.
    pub count: u8,
    /// Whether the device masks a vector when it interrupts by it.
    pub auto_mask: bool,
}

/// What the device reports in the area.
pub mod event {
    /// A receive queue had an error.
    pub const RECEIVE_ERROR: u32 = 1 << 0;
    /// A transmit queue had an error.
    pub const TRANSMIT_ERROR: u32 = 1 << 1;
    /// The link went up or down.
    pub const LINK: u32 = 1 << 2;
}

/// The shared area.
pub struct Shared {
    memory: Dma,
}

impl Shared {
    /// Allocates the area and describes everything but the queues.
    pub fn new(allocator: &dyn DmaAllocator, mtu: u16, vectors: Vectors) -> Result<Self, NoMemory> {
        let mut memory = allocator.allocate(RECEIVE + queue::SIZE)?;
        let queues = memory.bus().add(TRANSMIT);
        memory.write::<u32>(driver::MAGIC, MAGIC);
        memory.write::<u32>(driver::VERSION, VERSION);
        memory.write::<u32>(driver::GUEST, GUEST);
        memory.write::<u32>(driver::REVISIONS, 1);
        memory.write::<u32>(driver::UPT_VERSIONS, 1);
        memory.write::<u64>(driver::FEATURES, RECEIVE_CHECKSUM);
        memory.write::<u64>(driver::QUEUES, queues.0);
        memory.write::<u32>(driver::QUEUES_LENGTH, 2 * queue::SIZE as u32);
        memory.write::<u32>(driver::MTU, mtu.into());
        memory.write::<u16>(driver::MAX_RECEIVE_PIECES, 1);
        memory.write::<u8>(driver::TRANSMIT_QUEUES, 1);
        memory.write::<u8>(driver::RECEIVE_QUEUES, 1);
        memory.write::<u8>(driver::AUTO_MASK, vectors.auto_mask.into());
        memory.write::<u8>(driver::INTERRUPTS, vectors.count);
        memory.write::<u8>(driver::EVENT_INTERRUPT, vectors.event);
        (0..usize::from(vectors.count))
            .for_each(|vector| memory.write::<u8>(driver::MODERATION + vector, ADAPTIVE));
        memory.write::<u32>(driver::INTERRUPT_CONTROL, ALL_OFF);
        memory.write::<u32>(driver::RECEIVE_MODE, UNICAST_BROADCAST_MULTICAST);
        memory.write::<u8>(TRANSMIT + queue::INTERRUPT, vectors.transmit);
        memory.write::<u8>(RECEIVE + queue::INTERRUPT, vectors.receive);
        Ok(Self { memory })
    }

    /// Describes the rings of the transmit queue.
    pub fn describe_transmit(&mut self, rings: TransmitRings) {
        self.describe(TRANSMIT, queue::RING, queue::RING_SIZE, rings.commands);
        self.describe(TRANSMIT, queue::COMPLETION_RING, queue::COMPLETION_RING_SIZE, rings.completions);
    }

    /// Describes the rings of the receive queue.
    pub fn describe_receive(&mut self, rings: ReceiveRings) {
        self.describe(RECEIVE, queue::RING, queue::RING_SIZE, rings.heads);
        self.describe(RECEIVE, queue::SECOND_RING, queue::SECOND_RING_SIZE, rings.bodies);
        self.describe(RECEIVE, queue::COMPLETION_RING, queue::COMPLETION_RING_SIZE, rings.completions);
    }

    fn describe(&mut self, queue: usize, address: usize, size: usize, place: Place) {
        self.memory.write::<u64>(queue + address, place.bus.0);
        self.memory.write::<u32>(queue + size, place.size as u32);
    }

    /// Where the area is.
    pub fn bus(&self) -> BusAddress {
        self.memory.bus()
    }

    /// Lets the device interrupt, where vectors are not masked.
    pub fn allow_interrupts(&mut self) {
        self.memory.write::<u32>(driver::INTERRUPT_CONTROL, 0);
    }

    /// The events that have not been cleared yet.
    pub fn events(&self) -> u32 {
        self.memory.read::<u32>(driver::EVENTS)
    }

    /// Whether the device wants to hear of filled receive descriptors.
    pub fn wants_producer(&self) -> bool {
        self.memory.read::<u8>(RECEIVE + queue::UPDATE_PRODUCER) != 0
    }

    /// Whether the device has stopped a queue, as of the last [`GetQueueStatus`](crate::registers::Command).
    pub fn is_stopped(&self) -> bool {
        [TRANSMIT, RECEIVE].iter().any(|start| self.memory.read::<u8>(start + queue::STOPPED) != 0)
    }
}
