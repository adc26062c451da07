//! What a network driver gives back.
//!
//! A driver crate exports one [`Driver`]: which PCI functions it knows and how to start one. What comes out is a
//! `Box<dyn `[`Nic`]`>`: one receive and one transmit queue, owned by one task, so that no call takes a lock. A driver
//! with several queue pairs gives one `Nic` per pair.
//!
//! The task that owns it runs, after an interrupt:
//!
//! 1. [`acknowledge`](Nic::acknowledge) with what the interrupt handlers recorded;
//! 2. [`disable_interrupts`](Nic::disable_interrupts);
//! 3. [`receive`](Nic::receive) until there is nothing more, or enough for one turn;
//!    [`transmit`](Nic::transmit) whatever is to be sent;
//! 4. [`flush`](Nic::flush), once for the whole batch;
//! 5. [`enable_interrupts`](Nic::enable_interrupts): if that says that work arrived meanwhile, from 2 again, else wait.
//!
//! Devices are not trusted. One that breaks its protocol is stopped and from then on answers [`Nic::fault`]; no call
//! panics, and none waits.

use alloc::boxed::Box;
use core::fmt;

use bitflags::bitflags;

use crate::clock::TimedOut;
use crate::dma::NoMemory;
use crate::irq::IrqError;
use crate::pci::{PciDevice, PciError, PciId};
use crate::pool::Frame;

/// The length of an Ethernet header: two addresses and a type.
pub const ETHERNET_HEADER: usize = 14;
/// The length of a VLAN tag (IEEE 802.1Q), by which a frame may be longer than header and MTU.
pub const VLAN_TAG: usize = 4;

/// An entry of the kernel's list of network drivers.
pub struct Driver {
    /// A short name, as for a log line.
    pub name: &'static str,
    /// Whether it drives this kind of function.
    pub matches: fn(PciId) -> bool,
    /// Starts a device. Its interrupts are off until [`Nic::enable_interrupts`].
    pub start: fn(PciDevice) -> Result<Box<dyn Nic>, StartError>,
}

/// A hardware (MAC) address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether a station may have it: neither a group address nor all zeroes.
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// A locally administered address made from `seed`, for a device that has none of its own.
    pub fn local(seed: u64) -> Self {
        // Spreads a seed that differs in few bits (Steele, Lea and Flood, OOPSLA 2014: SplitMix64).
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let [a, b, c, d, e, ..] = (mixed ^ (mixed >> 27)).to_be_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

bitflags! {
    /// What a network device has to report. Its bits are the `causes` of [`Irq`](crate::Irq).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Events: u32 {
        /// Frames have been received.
        const RX = 1;
        /// Room has been made for frames to be sent.
        const TX = 2;
        /// The link went up or down, or the device itself needs attention.
        const LINK = 4;
    }
}

/// What a device knows about the TCP or UDP checksum of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: software has to verify it.
    Unknown,
    /// The data is right. The field itself may be incomplete, in a frame that never left this machine.
    Good,
}

/// What a device is to add to a frame on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Nothing: the frame is complete.
    None,
    /// The Internet checksum (RFC 1071) of everything from `start` on, stored at `start + offset`, where the sum of the
    /// pseudo-header has been put already. Only if [`Capabilities::tx_checksum`].
    Checksum {
        /// Where the TCP or UDP header starts, in bytes from the start of the frame.
        start: u16,
        /// Where its checksum field is, in bytes from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}

impl Offload {
    /// Whether a device can do this to a frame of `length` bytes.
    pub fn fits(self, length: usize, capabilities: Capabilities) -> bool {
        match self {
            Self::None => true,
            Self::Checksum { start, offset } => {
                capabilities.tx_checksum && usize::from(start) + usize::from(offset) + 2 <= length
            }
        }
    }
}

/// What a device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The largest payload of an Ethernet frame in bytes, without the Ethernet header.
    pub mtu: u16,
    /// [`Offload::Checksum`] is possible.
    pub tx_checksum: bool,
    /// Received frames may be [`RxChecksum::Good`].
    pub rx_checksum: bool,
    /// How many frames can wait to be received.
    pub rx_depth: u16,
    /// How many frames can wait to be sent.
    pub tx_depth: u16,
}

impl Capabilities {
    /// The longest frame that can be sent, in bytes.
    pub fn max_frame(&self) -> usize {
        usize::from(self.mtu) + ETHERNET_HEADER + VLAN_TAG
    }

    /// Whether a frame of `length` bytes can be sent with this offload, before anything else is looked at.
    pub fn check(&self, length: usize, offload: Offload) -> Result<(), TxError> {
        if !(ETHERNET_HEADER..=self.max_frame()).contains(&length) {
            return Err(TxError::Length);
        }
        if offload.fits(length, *self) { Ok(()) } else { Err(TxError::Offload) }
    }
}

/// Counters since the start, as in /proc/net/dev.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames lost because there was no memory for them.
    pub rx_dropped: u64,
    /// Frames lost because they were damaged or made no sense.
    pub rx_errors: u64,
    /// Frames given to the device.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames refused, because the queue was full or they could not be sent.
    pub tx_dropped: u64,
}

impl Statistics {
    /// Counts what was received, and passes on the frame if it is one.
    pub fn count_received(&mut self, arrival: Arrival) -> Option<Frame> {
        match arrival {
            Arrival::Frame(frame) => {
                self.rx_packets += 1;
                self.rx_bytes += frame.len() as u64;
                return Some(frame);
            }
            Arrival::Dropped => self.rx_dropped += 1,
            Arrival::Damaged => self.rx_errors += 1,
        }
        None
    }

    /// Counts a frame of `length` bytes that was to be sent.
    pub fn count_sent(&mut self, length: usize, result: Result<(), TxError>) {
        match result {
            Ok(()) => {
                self.tx_packets += 1;
                self.tx_bytes += length as u64;
            }
            Err(_) => self.tx_dropped += 1,
        }
    }
}

/// What a driver found in its receive ring.
#[derive(Debug)]
pub enum Arrival {
    /// A frame.
    Frame(Frame),
    /// A frame for which there was no memory.
    Dropped,
    /// Something that is no frame.
    Damaged,
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxError {
    /// The queue is full. [`Events::TX`] will follow.
    Full,
    /// Longer than [`Capabilities::max_frame`], or too short for an Ethernet header.
    Length,
    /// The offload is beyond the frame, or beyond the device.
    Offload,
    /// The device is broken; see [`Nic::fault`].
    Broken,
}

/// How a device broke its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceFault {
    /// It reported an index beyond its ring, or more completions than it was given buffers.
    Index,
    /// It reported more bytes than the buffer has, or fewer than its own header.
    Length,
    /// It reported the same buffer twice.
    Duplicate,
    /// A frame of several pieces, of which some are missing.
    Incomplete,
    /// It asked to be reset.
    NeedsReset,
    /// It has vanished from its bus.
    Gone,
}

impl fmt::Display for DeviceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Index => "completion index out of range",
            Self::Length => "completion length out of range",
            Self::Duplicate => "buffer completed twice",
            Self::Incomplete => "frame with missing pieces",
            Self::NeedsReset => "device needs a reset",
            Self::Gone => "device does not answer",
        })
    }
}

/// Why a device could not be started. It has been stopped again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Its configuration space is wrong.
    Pci(PciError),
    /// No memory for its rings and buffers.
    NoMemory,
    /// No interrupt for it.
    Irq(IrqError),
    /// It did not answer in time; the text says to what.
    TimedOut(&'static str),
    /// It lacks something that the driver needs; the text says what.
    Unsupported(&'static str),
    /// It reports a value that makes no sense; the text says which.
    BadValue(&'static str),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => write!(f, "{error}"),
            Self::NoMemory => f.write_str("out of memory"),
            Self::Irq(error) => write!(f, "no interrupt: {error:?}"),
            Self::TimedOut(what) => write!(f, "no answer in time: {what}"),
            Self::Unsupported(what) => write!(f, "unsupported: {what}"),
            Self::BadValue(what) => write!(f, "bad value: {what}"),
        }
    }
}

impl core::error::Error for StartError {}

impl From<PciError> for StartError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}

impl From<NoMemory> for StartError {
    fn from(_: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl From<IrqError> for StartError {
    fn from(error: IrqError) -> Self {
        Self::Irq(error)
    }
}

impl TimedOut {
    /// As an error of a driver's start, naming what did not answer.
    pub fn waiting_for(self, what: &'static str) -> StartError {
        StartError::TimedOut(what)
    }
}

/// A started network interface with one receive and one transmit queue. Dropping it stops the device.
pub trait Nic: Send {
    /// The hardware address.
    fn mac(&self) -> MacAddress;

    /// What the device can do; it does not change.
    fn capabilities(&self) -> Capabilities;

    /// Whether there is a carrier, as of the last [`Events::LINK`].
    fn link_up(&self) -> bool;

    /// Counters since the start.
    fn statistics(&self) -> Statistics;

    /// How the device broke its protocol, if it did. It then receives and sends nothing any more.
    fn fault(&self) -> Option<DeviceFault>;

    /// The next received frame, if there is one. It may be kept as long as wanted; the device does not run dry by that.
    fn receive(&mut self) -> Option<Frame>;

    /// Whether [`transmit`](Self::transmit) has room for a frame. If not, [`Events::TX`] will follow.
    fn can_transmit(&mut self) -> bool;

    /// Sends a frame of `length` bytes, which `fill` writes straight into the device's memory. The bytes it finds
    /// there are arbitrary. `fill` is not called when an error is returned. The device may send the frame at once, and
    /// does so at the latest after [`flush`](Self::flush).
    fn transmit(
        &mut self,
        length: usize,
        offload: Offload,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), TxError>;

    /// Tells the device about what was sent and received since the last time. Once per batch: it may cost a trap to
    /// the hypervisor.
    fn flush(&mut self);

    /// Asks the device not to interrupt for received and sent frames. Some may come nevertheless.
    fn disable_interrupts(&mut self);

    /// Asks for an interrupt for the next received frame (and for room, after [`TxError::Full`]). True when there is
    /// work already, for which no interrupt may come.
    fn enable_interrupts(&mut self) -> bool;

    /// Takes note of interrupts. `pending` is what the handlers recorded; the answer is what really happened.
    /// Called by the task, not by the handler.
    fn acknowledge(&mut self, pending: Events) -> Events;
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const CAPABILITIES: Capabilities =
        Capabilities { mtu: 1500, tx_checksum: true, rx_checksum: true, rx_depth: 1, tx_depth: 1 };

    #[test]
    fn an_offload_must_lie_inside_of_the_frame() {
        let udp = Offload::Checksum { start: 34, offset: 6 };
        assert!(udp.fits(42, CAPABILITIES));
        assert!(!udp.fits(41, CAPABILITIES));
        assert!(!udp.fits(42, Capabilities { tx_checksum: false, ..CAPABILITIES }));
        assert!(Offload::None.fits(0, CAPABILITIES));
        assert!(!Offload::Checksum { start: u16::MAX, offset: u16::MAX }.fits(1514, CAPABILITIES));
    }

    #[test]
    fn only_ethernet_frames_within_the_mtu_can_be_sent() {
        let check = |length| CAPABILITIES.check(length, Offload::None);
        assert_eq!((check(13), check(14)), (Err(TxError::Length), Ok(())));
        assert_eq!((check(1518), check(1519)), (Ok(()), Err(TxError::Length)));
        let outside = Offload::Checksum { start: 14, offset: 0 };
        assert_eq!(CAPABILITIES.check(15, outside), Err(TxError::Offload));
    }

    #[test]
    fn every_frame_is_counted_once() {
        let mut statistics = Statistics::default();
        let frame = Frame::from_vec(alloc::vec![0; 60], RxChecksum::Unknown);
        assert_eq!(statistics.count_received(Arrival::Frame(frame)).unwrap().len(), 60);
        assert!(statistics.count_received(Arrival::Dropped).is_none());
        assert!(statistics.count_received(Arrival::Damaged).is_none());
        statistics.count_sent(100, Ok(()));
        statistics.count_sent(100, Err(TxError::Full));
        let expected = Statistics {
            rx_packets: 1,
            rx_bytes: 60,
            rx_dropped: 1,
            rx_errors: 1,
            tx_packets: 1,
            tx_bytes: 100,
            tx_dropped: 1,
        };
        assert_eq!(statistics, expected);
    }

    #[test]
    fn a_local_address_is_one_a_station_may_have() {
        for seed in [0, 1, u64::MAX, 0x1234_5678] {
            let mac = MacAddress::local(seed);
            assert!(mac.is_station() && mac.0[0] & 2 == 2, "{mac}");
        }
        assert_ne!(MacAddress::local(1), MacAddress::local(2));
    }

    #[test]
    fn group_addresses_and_zero_are_not_stations() {
        assert!(!MacAddress([0xff; 6]).is_station());
        assert!(!MacAddress([1, 0, 0x5e, 0, 0, 1]).is_station());
        assert!(!MacAddress([0; 6]).is_station());
        assert_eq!(MacAddress([0x56, 0xb4, 0x44, 0xe9, 0x62, 0xd0]).to_string(), "56:b4:44:e9:62:d0");
    }
}
