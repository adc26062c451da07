//! The numbers of the virtio specification that the driver uses.
//!
//! Written out here because the published `virtio-spec` crate offers its layouts through raw pointers only, whereas
//! registers are reached through [`hw::Mmio`] here.

use bitflags::bitflags;

/// The vendor of all virtio devices (VIRTIO 4.1.2).
pub const VENDOR: u16 = 0x1af4;
/// A network device, modern: 0x1040 plus the device type (VIRTIO 4.1.2, 5.1.1).
pub const DEVICE_MODERN: u16 = 0x1041;
/// A network device that also speaks the interface from before the standard (VIRTIO 4.1.2.1).
pub const DEVICE_TRANSITIONAL: u16 = 0x1000;

/// Feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u64);

bitflags! {
    impl Features: u64 {
        /// The device computes checksums of sent frames (VIRTIO 5.1.3).
        const CSUM = 1 << 0;
        /// The device may leave out checksums of received frames, or verify them (VIRTIO 5.1.3).
        const GUEST_CSUM = 1 << 1;
        /// The device tells its MTU (VIRTIO 5.1.3).
        const MTU = 1 << 3;
        /// The device has an address (VIRTIO 5.1.3).
        const MAC = 1 << 5;
        /// A received frame may span several buffers (VIRTIO 5.1.3).
        const MRG_RXBUF = 1 << 15;
        /// The device tells the state of the link (VIRTIO 5.1.3).
        const STATUS = 1 << 16;
        /// Notifications are suppressed by index (VIRTIO 2.7.7, 2.7.10).
        const EVENT_IDX = 1 << 29;
        /// The device follows version 1 (VIRTIO 6).
        const VERSION_1 = 1 << 32;
        /// The device uses bus addresses, through an IOMMU where there is one (VIRTIO 6); [`hw::Dma`] has no others.
        const ACCESS_PLATFORM = 1 << 33;
        /// Memory is ordered as for a device in hardware (VIRTIO 6); on x86 ordinary barriers do that.
        const ORDER_PLATFORM = 1 << 36;
    }
}

/// The device status field (VIRTIO 2.1).
pub mod status {
    /// The driver has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// The features are agreed upon.
    pub const FEATURES_OK: u8 = 8;
    /// The device met an error from which it cannot recover by itself.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// Vendor capability that says where a structure lies (VIRTIO 4.1.4).
pub mod capability {
    /// Which structure.
    pub const TYPE: u16 = 3;
    /// In which base address register.
    pub const BAR: u16 = 4;
    /// At which offset in it.
    pub const OFFSET: u16 = 8;
    /// How many bytes of it.
    pub const LENGTH: u16 = 12;
    /// Only for [`NOTIFY`]: by what the notification offset of a queue is multiplied.
    pub const MULTIPLIER: u16 = 16;

    /// Type: the common configuration.
    pub const COMMON: u8 = 1;
    /// Type: the notification area.
    pub const NOTIFY: u8 = 2;
    /// Type: the interrupt status.
    pub const ISR: u8 = 3;
    /// Type: the configuration of this kind of device.
    pub const DEVICE: u8 = 4;
}

/// The common configuration (VIRTIO 4.1.4.3).
pub mod common {
    /// u32: which half of the device's features is shown.
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    /// u32: that half.
    pub const DEVICE_FEATURE: usize = 4;
    /// u32: which half of the driver's features is written.
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    /// u32: that half.
    pub const DRIVER_FEATURE: usize = 12;
    /// u16: the MSI-X entry for changes of the configuration.
    pub const CONFIG_MSIX_VECTOR: usize = 16;
    /// u8: the status.
    pub const DEVICE_STATUS: usize = 20;
    /// u8: changes whenever the configuration does.
    pub const CONFIG_GENERATION: usize = 21;
    /// u16: which queue the fields below are about.
    pub const QUEUE_SELECT: usize = 22;
    /// u16: its size.
    pub const QUEUE_SIZE: usize = 24;
    /// u16: its MSI-X entry.
    pub const QUEUE_MSIX_VECTOR: usize = 26;
    /// u16: one to use it.
    pub const QUEUE_ENABLE: usize = 28;
    /// u16: where it is notified.
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    /// u64, in two halves: the descriptor table.
    pub const QUEUE_DESC: usize = 32;
    /// u64, in two halves: the available ring.
    pub const QUEUE_DRIVER: usize = 40;
    /// u64, in two halves: the used ring.
    pub const QUEUE_DEVICE: usize = 48;
    /// The size of the structure.
    pub const SIZE: usize = 56;

    /// Not an MSI-X entry: no interrupt, or none could be had (VIRTIO 4.1.5.1.2).
    pub const NO_VECTOR: u16 = 0xffff;
}

/// The interrupt status, which is cleared by reading it (VIRTIO 4.1.4.5).
pub mod isr {
    /// A queue needs attention.
    pub const QUEUE: u8 = 1;
    /// The configuration has changed.
    pub const CONFIG: u8 = 2;
}

/// The configuration of a network device (VIRTIO 5.1.4).
pub mod net {
    /// u8 each: the address.
    pub const MAC: usize = 0;
    /// u16: the status.
    pub const STATUS: usize = 6;
    /// u16: the MTU.
    pub const MTU: usize = 10;

    /// Status: there is a carrier.
    pub const LINK_UP: u16 = 1;
    /// The smallest MTU a device may offer (VIRTIO 5.1.4.1).
    pub const MIN_MTU: u16 = 68;
    /// The MTU of a device that offers none.
    pub const DEFAULT_MTU: u16 = 1500;
}

/// The queues of the first pair (VIRTIO 5.1.2).
pub mod queues {
    /// Received frames.
    pub const RECEIVE: u16 = 0;
    /// Sent frames.
    pub const TRANSMIT: u16 = 1;
}
