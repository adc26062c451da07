//! A link: a NIC (eth0, eth1, ...) or the loopback (lo), with its addresses and neighbours.
//!
//! Sending writes straight into the NIC's transmit buffer; the doorbell is rung once per batch, by [`Link::flush`]. Packets on
//! the loopback go into a queue that whoever entered the stack empties when it leaves (`Stack::finish`), so
//! delivery never recurses.
//!
//! // Lock order: a socket, then a context, then the neighbours, then the NIC.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hw::MacAddress;
use hw::nic::{ETHERNET_HEADER, Nic, Offload, RxChecksum, Statistics, TxError};
use hw::pool::Frame;

use super::dhcp::Dhcp;
use super::neighbour::{Hop, Neighbours, Question};
use super::tcp::Contexts;
use super::wire::{self, ether_type};
use crate::sync::{RwSpinLock, SpinLock};

/// MTU of the loopback, as Linux has it.
pub const LOOPBACK_MTU: usize = 65536;
/// Packets that may wait on the loopback.
const LOOPBACK_QUEUE: usize = 1024;
/// Where the broadcast address leads on Ethernet.
const BROADCAST_MAC: MacAddress = MacAddress([0xff; 6]);

/// An address of this machine on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The address.
    pub address: Ipv4Addr,
    /// Bits of the network part.
    pub prefix: u8,
}

impl Assigned {
    /// The mask of the network part.
    pub fn mask(&self) -> Ipv4Addr {
        mask(self.prefix)
    }

    /// Whether `other` is on the same network.
    pub fn contains(&self, other: Ipv4Addr) -> bool {
        self.address & self.mask() == other & self.mask()
    }

    /// The address that reaches all on the network; none on links of two hosts (RFC 3021) and single addresses.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        (self.prefix < 31).then(|| self.address | !self.mask())
    }
}

/// The mask with `prefix` bits set.
pub fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}

/// Where a packet goes on its link.
#[derive(Clone, Copy, Debug)]
pub enum NextHop {
    /// To one neighbour.
    Neighbour(Hop),
    /// To all.
    Broadcast,
    /// To those who listen to this group.
    Multicast(Ipv4Addr),
}

/// Why a packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The NIC's queue is full; there will be room soon.
    Full,
    /// No memory for a packet that has to wait.
    NoMemory,
    /// Longer than the MTU, or beyond what the device accepts.
    Refused,
    /// The link is down or its device is broken.
    Down,
}

enum Device {
    Loopback(Loopback),
    Nic(SpinLock<Box<dyn Nic>>),
}

#[derive(Default)]
struct Loopback {
    queue: SpinLock<VecDeque<Frame>>,
    /// Somebody is emptying the queue.
    draining: AtomicBool,
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
}

/// A link.
pub struct Link {
    /// `lo`, `eth0`, ...
    pub name: String,
    /// Number as ioctls and netlink give it; from 1.
    pub index: u32,
    /// Its own hardware address; all zeroes on the loopback.
    pub mac: MacAddress,
    /// Largest IP packet in bytes.
    pub mtu: usize,
    /// The device fills in TCP and UDP checksums.
    pub tx_checksum: bool,
    /// Who else is on it.
    pub neighbours: Neighbours,
    /// Asks for the link's address, if somebody does.
    pub dhcp: Dhcp,
    /// smoltcp's view of this link, one per core.
    pub contexts: Contexts,
    addresses: RwSpinLock<Vec<Assigned>>,
    up: AtomicBool,
    /// Something was sent, or may have been received, since the last doorbell.
    unflushed: AtomicBool,
    device: Device,
}

impl Link {
    /// The loopback.
    pub fn loopback(index: u32) -> Self {
        let device = Device::Loopback(Loopback::default());
        Self::new("lo".into(), index, MacAddress([0; 6]), LOOPBACK_MTU, true, device)
    }

    /// The link of a NIC.
    pub fn ethernet(name: String, index: u32, nic: Box<dyn Nic>) -> Self {
        let (mac, capabilities) = (nic.mac(), nic.capabilities());
        let device = Device::Nic(SpinLock::new(nic));
        Self::new(name, index, mac, usize::from(capabilities.mtu), capabilities.tx_checksum, device)
    }

    fn new(name: String, index: u32, mac: MacAddress, mtu: usize, tx_checksum: bool, device: Device) -> Self {
        Self {
            name,
            index,
            mac,
            mtu,
            tx_checksum,
            neighbours: Neighbours::default(),
            dhcp: Dhcp::default(),
            contexts: Contexts::new(),
            addresses: RwSpinLock::default(),
            up: AtomicBool::new(true),
            unflushed: AtomicBool::new(false),
            device,
        }
    }

    /// Whether this is the loopback.
    pub fn is_loopback(&self) -> bool {
        matches!(self.device, Device::Loopback(_))
    }

    /// Whether it carries packets at all (`IFF_UP`).
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether there is a carrier (`IFF_RUNNING`).
    pub fn has_carrier(&self) -> bool {
        match &self.device {
            Device::Loopback(_) => true,
            Device::Nic(nic) => nic.lock().link_up(),
        }
    }

    /// Takes the link up or down.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
        if !up {
            self.neighbours.clear();
        }
    }

    /// Its addresses, the primary one first.
    pub fn addresses(&self) -> Vec<Assigned> {
        self.addresses.read().clone()
    }

    /// The primary address.
    pub fn primary(&self) -> Option<Assigned> {
        self.addresses.read().first().copied()
    }

    /// The own address from which to talk to `other`: one of its network, else the primary one.
    pub fn source_for(&self, other: Ipv4Addr) -> Option<Ipv4Addr> {
        let addresses = self.addresses.read();
        let near = addresses.iter().find(|own| own.contains(other));
        near.or(addresses.first()).map(|own| own.address)
    }

    /// Replaces the addresses.
    pub fn set_addresses(&self, addresses: Vec<Assigned>) {
        *self.addresses.write() = addresses;
    }

    /// Whether `address` is that of this machine on this link.
    pub fn has_address(&self, address: Ipv4Addr) -> bool {
        self.addresses.read().iter().any(|own| own.address == address)
    }

    /// Whether `address` reaches all hosts of this link.
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || self.addresses.read().iter().any(|own| own.broadcast() == Some(address))
    }

    /// Whether `address` is on a network of this link.
    pub fn is_near(&self, address: Ipv4Addr) -> bool {
        self.addresses.read().iter().any(|own| own.contains(address))
    }

    /// Sends an IP packet of `length` bytes, written by `fill`; `checksum` gives the start of a TCP or UDP header in
    /// the packet, and of the checksum field in it, if the device is to fill that in.
    ///
    /// `fill` is called if and only if the answer is `Ok`.
    pub fn send(
        &self,
        hop: &mut NextHop,
        length: usize,
        checksum: Option<(usize, usize)>,
        now: u64,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), SendError> {
        if length > self.mtu {
            return Err(SendError::Refused);
        }
        if !self.is_up() {
            return Err(SendError::Down);
        }
        let nic = match &self.device {
            Device::Loopback(loopback) => return loopback.send(length, fill),
            Device::Nic(nic) => nic,
        };
        let mac = match hop {
            NextHop::Broadcast => BROADCAST_MAC,
            NextHop::Multicast(group) => multicast_mac(*group),
            NextHop::Neighbour(hop) => match self.neighbours.resolve(hop, now) {
                Some((mac, question)) => {
                    question.into_iter().for_each(|question| self.ask(question));
                    mac
                }
                None => return self.park(hop.address, length, checksum, now, fill),
            },
        };
        let offload = offload(checksum);
        self.transmit(&mut **nic.lock(), mac, ether_type::IPV4, length, offload, fill)
    }

    /// Has a packet wait for its neighbour. Its checksum is completed now, since who sends it later knows nothing about it.
    fn park(
        &self,
        address: Ipv4Addr,
        length: usize,
        checksum: Option<(usize, usize)>,
        now: u64,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), SendError> {
        let mut packet = zeroed(length).ok_or(SendError::NoMemory)?;
        fill(&mut packet);
        if let Some((start, field)) = checksum {
            let sum = !wire::checksum_add(0, &packet[start..]);
            packet[start + field..start + field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        // A packet that cannot even wait is lost, as any packet may be.
        if let Ok(Some(question)) = self.neighbours.park(address, packet, now) {
            self.ask(question);
        }
        Ok(())
    }

    /// Sends a packet whose neighbour's hardware address has become known.
    pub fn send_parked(&self, mac: MacAddress, packet: &[u8]) -> Result<(), SendError> {
        let Device::Nic(nic) = &self.device else { return Err(SendError::Refused) };
        let fill = &mut |buffer: &mut [u8]| buffer.copy_from_slice(packet);
        self.transmit(&mut **nic.lock(), mac, ether_type::IPV4, packet.len(), Offload::None, fill)
    }

    /// Asks for the hardware address of a neighbour.
    pub fn ask(&self, question: Question) {
        let Some(source) = self.source_for(question.address) else { return };
        let to = question.to.unwrap_or(BROADCAST_MAC);
        self.send_arp(to, 1, source, MacAddress([0; 6]), question.address);
    }

    /// Sends an ARP packet (RFC 826): operation 1 asks, 2 answers. A lost one is asked for again.
    pub fn send_arp(
        &self,
        to: MacAddress,
        operation: u16,
        source: Ipv4Addr,
        target_mac: MacAddress,
        target: Ipv4Addr,
    ) {
        let Device::Nic(nic) = &self.device else { return };
        let fill = &mut |packet: &mut [u8]| {
            // Ethernet, IPv4, lengths 6 and 4.
            packet[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
            packet[6..8].copy_from_slice(&operation.to_be_bytes());
            packet[8..14].copy_from_slice(&self.mac.0);
            packet[14..18].copy_from_slice(&source.octets());
            packet[18..24].copy_from_slice(&target_mac.0);
            packet[24..28].copy_from_slice(&target.octets());
        };
        let _ = self.transmit(&mut **nic.lock(), to, ether_type::ARP, 28, Offload::None, fill);
    }

    fn transmit(
        &self,
        nic: &mut dyn Nic,
        mac: MacAddress,
        ether_type: u16,
        length: usize,
        offload: Offload,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), SendError> {
        let sent = nic.transmit(ETHERNET_HEADER + length, offload, &mut |frame| {
            wire::emit_ethernet(frame, mac, self.mac, ether_type);
            fill(&mut frame[ETHERNET_HEADER..]);
            super::trace::frame(&self.name, "out", frame);
        });
        match sent {
            Ok(()) => {
                self.unflushed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(TxError::Full) => Err(SendError::Full),
            Err(TxError::Broken) => Err(SendError::Down),
            Err(TxError::Length | TxError::Offload) => Err(SendError::Refused),
        }
    }

    /// Whether a packet would find room in the device's queue.
    pub fn has_room(&self) -> bool {
        match &self.device {
            Device::Loopback(loopback) => loopback.queue.lock().len() < LOOPBACK_QUEUE,
            Device::Nic(nic) => nic.lock().can_transmit(),
        }
    }

    /// The next frame that the NIC has received.
    pub fn receive(&self) -> Option<Frame> {
        let nic = self.nic()?;
        // The device learns with the doorbell that it may fill buffers again: also those of frames that nobody gets to see, damaged ones.
        self.unflushed.store(true, Ordering::Relaxed);
        nic.lock().receive()
    }

    /// Rings the doorbell if there may be something to tell the device.
    pub fn flush(&self) {
        if let Device::Nic(nic) = &self.device
            && self.unflushed.load(Ordering::Relaxed)
            && self.unflushed.swap(false, Ordering::Relaxed)
        {
            nic.lock().flush();
        }
    }

    /// The NIC; `None` on the loopback.
    pub fn nic(&self) -> Option<&SpinLock<Box<dyn Nic>>> {
        match &self.device {
            Device::Loopback(_) => None,
            Device::Nic(nic) => Some(nic),
        }
    }

    /// Counters since the start.
    pub fn statistics(&self) -> Statistics {
        match &self.device {
            Device::Nic(nic) => nic.lock().statistics(),
            Device::Loopback(loopback) => loopback.statistics(),
        }
    }

    /// Hands the packets that wait on the loopback to `deliver`, `budget` at most, unless another core does so already.
    /// Returns whether some are left.
    pub fn drain(&self, budget: usize, mut deliver: impl FnMut(Frame)) -> bool {
        let Device::Loopback(loopback) = &self.device else { return false };
        for _ in 0..budget {
            if loopback.draining.swap(true, Ordering::Acquire) {
                return false;
            }
            let frame = loopback.queue.lock().pop_front();
            let Some(frame) = frame else {
                loopback.draining.store(false, Ordering::SeqCst);
                // One may have come between the look and the release; its sender then saw us still at work.
                if loopback.queue.lock().is_empty() {
                    return false;
                }
                continue;
            };
            deliver(frame);
            loopback.draining.store(false, Ordering::SeqCst);
        }
        !loopback.queue.lock().is_empty()
    }
}

impl Loopback {
    fn send(&self, length: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), SendError> {
        let mut packet = zeroed(length).ok_or(SendError::NoMemory)?;
        let mut queue = self.queue.lock();
        if queue.len() >= LOOPBACK_QUEUE || queue.try_reserve(1).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Err(SendError::Full);
        }
        fill(&mut packet);
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        // Nothing between sender and receiver can damage it.
        queue.push_back(Frame::from_vec(packet, RxChecksum::Good));
        Ok(())
    }

    fn statistics(&self) -> Statistics {
        let (packets, bytes) = (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        Statistics {
            rx_packets: packets,
            rx_bytes: bytes,
            tx_packets: packets,
            tx_bytes: bytes,
            tx_dropped: self.dropped.load(Ordering::Relaxed),
            ..Statistics::default()
        }
    }
}

fn offload(checksum: Option<(usize, usize)>) -> Offload {
    checksum.map_or(Offload::None, |(start, field)| Offload::Checksum {
        start: (ETHERNET_HEADER + start) as u16,
        offset: field as u16,
    })
}

/// The group address on Ethernet of an IPv4 group (RFC 1112, 6.4).
fn multicast_mac(group: Ipv4Addr) -> MacAddress {
    let [_, b, c, d] = group.octets();
    MacAddress([0x01, 0x00, 0x5e, b & 0x7f, c, d])
}

/// `length` zero bytes; `None` when there is no memory.
pub fn zeroed(length: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).ok()?;
    bytes.resize(length, 0);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_masks_and_broadcast_addresses() {
        let own = Assigned { address: Ipv4Addr::new(172, 31, 0, 10), prefix: 24 };
        assert_eq!(own.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(own.broadcast(), Some(Ipv4Addr::new(172, 31, 0, 255)));
        assert!(own.contains(Ipv4Addr::new(172, 31, 0, 20)) && !own.contains(Ipv4Addr::new(172, 31, 1, 20)));
        assert_eq!((mask(0), mask(32)), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST));
        assert_eq!(Assigned { prefix: 32, ..own }.broadcast(), None);
    }

    #[test]
    fn the_loopback_gives_back_what_was_sent_in_order() {
        let link = Link::loopback(1);
        let mut hop = NextHop::Neighbour(Hop::new(Ipv4Addr::LOCALHOST));
        for n in 0..3u8 {
            link.send(&mut hop, 20, None, 0, &mut |packet| packet[0] = n).unwrap();
        }
        let mut seen = Vec::new();
        assert!(link.drain(2, |frame| seen.push(frame[0])));
        assert!(!link.drain(9, |frame| seen.push(frame[0])));
        assert_eq!(seen, [0, 1, 2]);
        assert_eq!(link.statistics().rx_packets, 3);
    }

    #[test]
    fn a_full_loopback_refuses_and_counts() {
        let link = Link::loopback(1);
        let mut hop = NextHop::Broadcast;
        (0..LOOPBACK_QUEUE).for_each(|_| link.send(&mut hop, 20, None, 0, &mut |_| ()).unwrap());
        assert!(!link.has_room());
        assert_eq!(link.send(&mut hop, 20, None, 0, &mut |_| ()), Err(SendError::Full));
        assert_eq!(link.statistics().tx_dropped, 1);
    }
}
