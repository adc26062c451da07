//! Control messages (RFC 792, RFC 1122 3.2.2): echo is answered, errors are sent, and errors that arrive reach the socket
//! whose packet they are about.

use alloc::sync::Arc;
use core::net::Ipv4Addr;

use hw::pool::Frame;

use super::counters::Counter;
use super::link::Link;
use super::stack::Stack;
use super::wire::{
    self, Endpoint, ICMP_HEADER, IPV4_HEADER, Ipv4, Ipv4Template, be16, checksum_add, protocol,
};
use crate::errno::Errno;

const ECHO_REPLY: u8 = 0;
const DESTINATION_UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Bytes of the packet in question that an error quotes, at most (RFC 1812, 4.3.2.3).
const QUOTED: usize = 576 - IPV4_HEADER - ICMP_HEADER;

/// Why a packet could not be delivered; codes of "destination unreachable".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// Nobody here speaks the protocol.
    Protocol = 2,
    /// Nobody listens on the port.
    Port = 3,
}

impl Stack {
    /// Takes in a control message.
    pub fn receive_icmp(self: &Arc<Self>, link: &Arc<Link>, frame: &Frame, ip: &Ipv4, to_all: bool) {
        self.counters.count(Counter::IcmpInMsgs);
        let message = &frame[ip.payload()];
        if message.len() < ICMP_HEADER || checksum_add(0, message) != 0xffff {
            return self.counters.count(Counter::IcmpInErrors);
        }
        match message[0] {
            ECHO_REQUEST => {
                self.counters.count(Counter::IcmpInEchos);
                // Not to broadcasts, so that nobody is flooded in another's name (Linux: icmp_echo_ignore_broadcasts).
                if !to_all {
                    self.send_echo_reply(ip, message);
                }
            }
            ECHO_REPLY => self.counters.count(Counter::IcmpInEchoReps),
            DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM => {
                self.counters.count(Counter::IcmpInDestUnreachs);
                self.receive_error(link, message);
            }
            _ => {}
        }
    }

    fn send_echo_reply(self: &Arc<Self>, ip: &Ipv4, request: &[u8]) {
        let Ok(mut path) = self.path(ip.source, Some(ip.destination), None) else { return };
        let template = Ipv4Template {
            tos: ip.tos,
            fragment: (self.next_identification(), 0),
            ..Ipv4Template::new(ip.destination, ip.source, protocol::ICMP)
        };
        let sent = self.send_fragmented(&mut path, &template, request.len(), &mut |reply| {
            reply.copy_from_slice(request);
            reply[0] = ECHO_REPLY;
            fill_checksum(reply);
        });
        if sent.is_ok() {
            self.counters.count(Counter::IcmpOutMsgs);
            self.counters.count(Counter::IcmpOutEchoReps);
        }
    }

    /// Tells the sender of a packet that it was not delivered. Never about errors, broadcasts or later fragments.
    pub fn send_unreachable(self: &Arc<Self>, link: &Arc<Link>, frame: &[u8], ip: &Ipv4, why: Unreachable) {
        let about_error =
            ip.protocol == protocol::ICMP && !matches!(frame[ip.payload()].first(), Some(&ECHO_REQUEST));
        let to_one = !link.is_broadcast(ip.destination) && !ip.destination.is_multicast();
        if about_error || !to_one || ip.source.is_unspecified() || !self.may_send_icmp_error() {
            return;
        }
        let Ok(mut path) = self.path(ip.source, Some(ip.destination), None) else { return };
        let quote = &frame[ip.packet()][..ip.total.min(QUOTED)];
        let template = Ipv4Template::new(ip.destination, ip.source, protocol::ICMP);
        let sent = self.send_ip(&mut path, &template, ICMP_HEADER + quote.len(), None, &mut |message| {
            message[..ICMP_HEADER].fill(0);
            message[0] = DESTINATION_UNREACHABLE;
            message[1] = why as u8;
            message[ICMP_HEADER..].copy_from_slice(quote);
            fill_checksum(message);
        });
        if sent.is_ok() {
            self.counters.count(Counter::IcmpOutMsgs);
            self.counters.count(Counter::IcmpOutDestUnreachs);
        }
    }

    /// Hands an error to the socket that sent the packet which it quotes.
    fn receive_error(self: &Arc<Self>, link: &Arc<Link>, message: &[u8]) {
        let (kind, code) = (message[0], message[1]);
        let Some(error) = errno(kind, code) else { return };
        let Some(flow) = QuotedFlow::parse(&message[ICMP_HEADER..]) else { return };
        self.undeliverable_flow(&flow, error, kind == DESTINATION_UNREACHABLE && matches!(code, 2 | 3));
        let _ = link;
    }

    /// One of our own packets found no neighbour: as if a router had said so.
    pub fn undeliverable(self: &Arc<Self>, packet: &[u8]) {
        if let Some(flow) = QuotedFlow::parse(packet) {
            self.undeliverable_flow(&flow, Errno::EHOSTUNREACH, true);
        }
    }

    fn undeliverable_flow(self: &Arc<Self>, flow: &QuotedFlow, error: Errno, hard: bool) {
        match flow.protocol {
            protocol::TCP => self.tcp_undeliverable(flow, error),
            protocol::UDP => self.udp.undeliverable(flow, error, hard),
            _ => {}
        }
    }
}

/// What the quote in an error tells about the packet: a flow, from us to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedFlow {
    /// Protocol number.
    pub protocol: u8,
    /// Our end.
    pub local: Endpoint,
    /// The peer's end.
    pub remote: Endpoint,
    /// For TCP, the sequence number of the segment.
    pub sequence: u32,
}

impl QuotedFlow {
    /// Parses the front of a packet; its end may be missing, so lengths and checksums are not looked at.
    fn parse(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0xf) * 4;
        if packet[0] >> 4 != 4 || header < IPV4_HEADER || packet.len() < header + 8 {
            return None;
        }
        let transport = &packet[header..];
        let end = |at: usize, port: usize| {
            Endpoint::new(Ipv4Addr::from_bits(wire::be32(packet, at)), be16(transport, port))
        };
        Some(Self {
            protocol: packet[9],
            local: end(12, 0),
            remote: end(16, 2),
            sequence: wire::be32(transport, 4),
        })
    }
}

/// What Linux makes of an error message (`icmp_err_convert`).
fn errno(kind: u8, code: u8) -> Option<Errno> {
    match (kind, code) {
        (DESTINATION_UNREACHABLE, 0 | 6 | 9 | 11) => Some(Errno::ENETUNREACH),
        (DESTINATION_UNREACHABLE, 2) => Some(Errno::ENOPROTOOPT),
        (DESTINATION_UNREACHABLE, 3) => Some(Errno::ECONNREFUSED),
        // Path MTU discovery: packets are never larger than what every link carries here.
        (DESTINATION_UNREACHABLE, 4) => None,
        (DESTINATION_UNREACHABLE | TIME_EXCEEDED, _) => Some(Errno::EHOSTUNREACH),
        (PARAMETER_PROBLEM, _) => Some(Errno::EPROTO),
        _ => None,
    }
}

/// Computes the checksum of a control message and stores it.
pub fn fill_checksum(message: &mut [u8]) {
    message[2..4].fill(0);
    let sum = !checksum_add(0, message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}
