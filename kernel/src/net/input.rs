//! The way in: a frame is taken apart, checked, and handed to the one socket that it is for.

use alloc::sync::Arc;
use core::net::Ipv4Addr;

use hw::nic::{ETHERNET_HEADER, RxChecksum};
use hw::pool::Frame;

use super::counters::Counter;
use super::icmp::Unreachable;
use super::link::Link;
use super::stack::Stack;
use super::wire::{Ipv4, be16, ether_type, protocol};
use super::{trace, wire};

/// The one group of which every host is a member (RFC 1112).
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

impl Stack {
    /// Takes in an Ethernet frame from `link`.
    pub fn receive(self: &Arc<Self>, link: &Arc<Link>, frame: Frame) {
        trace::frame(&link.name, "in", &frame);
        if frame.len() < ETHERNET_HEADER || !link.is_up() || !is_for(link, &frame) {
            return;
        }
        match be16(&frame, 12) {
            ether_type::IPV4 => self.receive_packet(link, frame, ETHERNET_HEADER),
            ether_type::ARP => self.receive_arp(link, &frame[ETHERNET_HEADER..]),
            _ => {}
        }
    }

    /// Takes in the IP packet that starts at `start` in `frame`.
    pub fn receive_packet(self: &Arc<Self>, link: &Arc<Link>, frame: Frame, start: usize) {
        self.counters.count(Counter::IpInReceives);
        if link.is_loopback() {
            trace::packet(&link.name, "lo", &frame[start..]);
        }
        let Ok(ip) = Ipv4::parse(&frame, start) else {
            return self.counters.count(Counter::IpInHdrErrors);
        };
        if ip.protocol == protocol::TCP && !ip.is_fragment() && self.receive_established(link, &frame, &ip) {
            return;
        }
        let to_all = link.is_broadcast(ip.destination) || ip.destination == ALL_HOSTS;
        if !self.may_be_source(link, &ip) {
            return self.counters.count(Counter::IpInHdrErrors);
        }
        if self.receive_dhcp(link, &frame, &ip) {
            return;
        }
        // A loopback address never comes from outside (RFC 1122, 3.2.1.3).
        let martian = ip.destination.is_loopback() && !link.is_loopback();
        if martian || !(to_all || self.is_local(ip.destination)) {
            return self.counters.count(Counter::IpInAddrErrors);
        }
        if !ip.is_fragment() {
            return self.deliver(link, frame, ip, to_all);
        }
        self.counters.count(Counter::IpReasmReqds);
        if let Some(whole) = self.reassembly.add(&frame, &ip, self.now()) {
            self.counters.count(Counter::IpReasmOKs);
            if let Ok(ip) = Ipv4::parse(&whole, 0) {
                self.deliver(link, whole, ip, to_all);
            }
        }
    }

    /// Whether a packet may come from its source address: a host's, and not one of ours unless over the loopback.
    fn may_be_source(&self, link: &Link, ip: &Ipv4) -> bool {
        let source = ip.source;
        if source.is_unspecified() {
            // Only who has no address yet.
            return ip.protocol == protocol::UDP;
        }
        if source.is_multicast() || link.is_broadcast(source) {
            return false;
        }
        link.is_loopback() || !(source.is_loopback() || self.is_local(source))
    }

    fn deliver(self: &Arc<Self>, link: &Arc<Link>, frame: Frame, ip: Ipv4, to_all: bool) {
        self.counters.count(Counter::IpInDelivers);
        let wanted_raw = self.raw.deliver(link, &frame, &ip);
        match ip.protocol {
            protocol::TCP if to_all => {}
            protocol::TCP if self.checksum_is_right(&frame, &ip, Counter::TcpInCsumErrors) => {
                self.receive_tcp(link, &frame, &ip);
            }
            protocol::UDP => self.receive_udp(link, frame, &ip, to_all),
            protocol::ICMP => self.receive_icmp(link, &frame, &ip, to_all),
            protocol::TCP => self.counters.count(Counter::TcpInErrs),
            _ if wanted_raw || to_all => {}
            _ => {
                self.counters.count(Counter::IpInUnknownProtos);
                self.send_unreachable(link, &frame, &ip, Unreachable::Protocol);
            }
        }
    }

    /// Whether the TCP or UDP checksum is right, as the device says or else as computed here.
    pub fn checksum_is_right(&self, frame: &Frame, ip: &Ipv4, wrong: Counter) -> bool {
        let right = frame.checksum() == RxChecksum::Good || ip.transport_checksum_is_right(frame);
        if !right {
            self.counters.count(wrong);
        }
        right
    }

    /// Answers and learns from an ARP packet (RFC 826).
    fn receive_arp(&self, link: &Link, packet: &[u8]) {
        // Ethernet and IPv4, lengths 6 and 4.
        if packet.len() < 28 || packet[..6] != [0, 1, 8, 0, 6, 4] {
            return;
        }
        let mac = hw::MacAddress([packet[8], packet[9], packet[10], packet[11], packet[12], packet[13]]);
        let source = Ipv4Addr::from_bits(wire::be32(packet, 14));
        let target = Ipv4Addr::from_bits(wire::be32(packet, 24));
        let (is_question, for_us) = (be16(packet, 6) == 1, link.has_address(target));
        if !mac.is_station() || source.is_multicast() || source.is_broadcast() || link.has_address(source) {
            return;
        }
        if !source.is_unspecified() && link.is_near(source) {
            for waiting in link.neighbours.learn(source, mac, is_question && for_us, self.now()) {
                // One that finds no room is lost, as any packet may be.
                let _ = link.send_parked(mac, &waiting);
            }
        }
        if is_question && for_us {
            link.send_arp(mac, 2, target, mac, source);
        }
    }
}

/// Whether the frame's Ethernet destination includes this host: NICs may run promiscuously.
fn is_for(link: &Link, frame: &[u8]) -> bool {
    frame[0] & 1 != 0 || frame[..6] == link.mac.0
}
