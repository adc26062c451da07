//! What arrives, taken apart and checked before anything acts on it.
//!
//! Parsing yields small copies of the header fields and offsets into the frame, never references, so that a frame can
//! move on (into a socket's queue) after it was looked at. Checksums: RFC 1071; IPv4: RFC 791; TCP: RFC 9293; UDP: RFC 768.

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::Range;

use hw::nic::ETHERNET_HEADER;

/// Bytes of an IPv4 header without options, as this stack sends them.
pub const IPV4_HEADER: usize = 20;
/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;
/// Bytes of a TCP header without options.
pub const TCP_HEADER: usize = 20;
/// Bytes of an ICMP header.
pub const ICMP_HEADER: usize = 8;
/// Time to live of every packet that says nothing else (RFC 1700).
pub const DEFAULT_TTL: u8 = 64;

/// Protocol numbers of IPv4.
pub mod protocol {
    /// Internet control messages.
    pub const ICMP: u8 = 1;
    /// Transmission control.
    pub const TCP: u8 = 6;
    /// User datagrams.
    pub const UDP: u8 = 17;
}

/// Types of Ethernet payloads.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// Address resolution.
    pub const ARP: u16 = 0x0806;
}

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The host.
    pub address: Ipv4Addr,
    /// The port, in host order.
    pub port: u16,
}

impl Endpoint {
    /// Any address, any port.
    pub const UNSPECIFIED: Self = Self { address: Ipv4Addr::UNSPECIFIED, port: 0 };

    /// The endpoint of these two.
    pub const fn new(address: Ipv4Addr, port: u16) -> Self {
        Self { address, port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a big-endian number; the caller has checked the length.
pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big-endian number; the caller has checked the length.
pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(be32(bytes, at))
}

/// The one's-complement sum of `data`, continued from `sum`, in 16 bits and not complemented.
pub fn checksum_add(sum: u16, data: &[u8]) -> u16 {
    // Any byte order gives the right sum in that order (RFC 1071, 2.B), so whole words are added as they lie.
    let mut total = u64::from(sum.to_be());
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let (next, carry) = total.overflowing_add(u64::from_ne_bytes(*word));
        total = next + u64::from(carry);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let (next, carry) = total.overflowing_add(u64::from_ne_bytes(last));
    total = next + u64::from(carry);
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::from_be(total as u16)
}

/// The sum over the pseudo-header of TCP and UDP (RFC 9293, 3.1).
pub fn pseudo_header_sum(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> u16 {
    let mut header = [0; 12];
    header[..4].copy_from_slice(&source.octets());
    header[4..8].copy_from_slice(&destination.octets());
    header[9] = protocol;
    header[10..].copy_from_slice(&(length as u16).to_be_bytes());
    checksum_add(0, &header)
}

/// Why a packet was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The header of an IPv4 packet within a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    /// Where the packet starts in the frame.
    pub start: usize,
    /// Bytes of the header, with options.
    pub header: usize,
    /// Bytes of the packet.
    pub total: usize,
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
    /// What it carries, see [`protocol`].
    pub protocol: u8,
    /// Hops it may still travel.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Groups the fragments of a packet.
    pub identification: u16,
    /// Where this fragment's payload belongs, in bytes.
    pub fragment_offset: usize,
    /// Whether fragments follow.
    pub more_fragments: bool,
}

impl Ipv4 {
    /// Parses the packet that starts at `start` in `frame`; its header checksum is verified.
    pub fn parse(frame: &[u8], start: usize) -> Result<Self, Malformed> {
        let packet = frame.get(start..).ok_or(Malformed)?;
        if packet.len() < IPV4_HEADER || packet[0] >> 4 != 4 {
            return Err(Malformed);
        }
        let header = usize::from(packet[0] & 0xf) * 4;
        let total = usize::from(be16(packet, 2));
        if header < IPV4_HEADER || total < header || packet.len() < total {
            return Err(Malformed);
        }
        if checksum_add(0, &packet[..header]) != 0xffff {
            return Err(Malformed);
        }
        let fragment = be16(packet, 6);
        Ok(Self {
            start,
            header,
            total,
            source: address(packet, 12),
            destination: address(packet, 16),
            protocol: packet[9],
            ttl: packet[8],
            tos: packet[1],
            identification: be16(packet, 4),
            fragment_offset: usize::from(fragment & 0x1fff) * 8,
            more_fragments: fragment & 0x2000 != 0,
        })
    }

    /// Whether this is a piece of a larger packet.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// Where the whole packet lies in its frame.
    pub fn packet(&self) -> Range<usize> {
        self.start..self.start + self.total
    }

    /// Where the payload lies in the frame.
    pub fn payload(&self) -> Range<usize> {
        self.start + self.header..self.start + self.total
    }

    /// Whether the TCP or UDP checksum of the payload is right.
    pub fn transport_checksum_is_right(&self, frame: &[u8]) -> bool {
        let payload = &frame[self.payload()];
        let sum = pseudo_header_sum(self.source, self.destination, self.protocol, payload.len());
        checksum_add(sum, payload) == 0xffff
    }
}

/// The header of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// Sequence number of the first byte (or SYN).
    pub sequence: u32,
    /// Next sequence number expected from the other side, if [`Tcp::ACK`].
    pub acknowledgment: u32,
    /// Control bits.
    pub flags: u8,
    /// Bytes of payload.
    pub payload: usize,
}

impl Tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 16;

    /// Parses the segment in `payload`. The checksum is verified elsewhere.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        if payload.len() < TCP_HEADER {
            return Err(Malformed);
        }
        let header = usize::from(payload[12] >> 4) * 4;
        if header < TCP_HEADER || header > payload.len() {
            return Err(Malformed);
        }
        Ok(Self {
            source_port: be16(payload, 0),
            destination_port: be16(payload, 2),
            sequence: be32(payload, 4),
            acknowledgment: be32(payload, 8),
            flags: payload[13],
            payload: payload.len() - header,
        })
    }

    /// Whether one of these control bits is set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Sequence numbers that the segment takes: its payload, SYN and FIN.
    pub fn sequence_length(&self) -> u32 {
        self.payload as u32 + u32::from(self.has(Self::SYN)) + u32::from(self.has(Self::FIN))
    }
}

/// The header of a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// Bytes of header and data.
    pub length: usize,
    /// Whether the sender computed a checksum.
    pub has_checksum: bool,
}

impl Udp {
    /// Parses the datagram in `payload`.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        if payload.len() < UDP_HEADER {
            return Err(Malformed);
        }
        let length = usize::from(be16(payload, 4));
        if length < UDP_HEADER || length > payload.len() {
            return Err(Malformed);
        }
        Ok(Self {
            source_port: be16(payload, 0),
            destination_port: be16(payload, 2),
            length,
            has_checksum: be16(payload, 6) != 0,
        })
    }
}

/// What to write into an IPv4 header.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Template {
    /// Sender.
    pub source: Ipv4Addr,
    /// Receiver.
    pub destination: Ipv4Addr,
    /// What it carries.
    pub protocol: u8,
    /// Hops it may travel.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Identification, and flags with offset as in bytes 6 and 7.
    pub fragment: (u16, u16),
}

/// "Don't fragment", in the flags of [`Ipv4Template::fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments", in the flags of [`Ipv4Template::fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;

impl Ipv4Template {
    /// A whole packet with the usual time to live.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self { source, destination, protocol, ttl: DEFAULT_TTL, tos: 0, fragment: (0, DONT_FRAGMENT) }
    }

    /// Writes the header of `packet`, whose length counts, into its first [`IPV4_HEADER`] bytes.
    pub fn emit(&self, packet: &mut [u8]) {
        let total = packet.len() as u16;
        packet[0] = 0x45;
        packet[1] = self.tos;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[4..6].copy_from_slice(&self.fragment.0.to_be_bytes());
        packet[6..8].copy_from_slice(&self.fragment.1.to_be_bytes());
        packet[8] = self.ttl;
        packet[9] = self.protocol;
        packet[10..12].fill(0);
        packet[12..16].copy_from_slice(&self.source.octets());
        packet[16..20].copy_from_slice(&self.destination.octets());
        let sum = !checksum_add(0, &packet[..IPV4_HEADER]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Writes an Ethernet header into the front of `frame`.
pub fn emit_ethernet(frame: &mut [u8], destination: hw::MacAddress, source: hw::MacAddress, ether_type: u16) {
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0);
    frame[12..ETHERNET_HEADER].copy_from_slice(&ether_type.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slow_sum(data: &[u8]) -> u16 {
        let sum: u32 = data
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        ((folded & 0xffff) + (folded >> 16)) as u16
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_rfc_1071(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let (fast, slow) = (checksum_add(0, &data), slow_sum(&data));
            prop_assert!(fast == slow || (fast % 0xffff == 0 && slow % 0xffff == 0));
        }

        #[test]
        fn sums_continue_at_even_offsets(data in prop::collection::vec(any::<u8>(), 0..100), at in 0usize..50) {
            let at = (at * 2).min(data.len() & !1);
            prop_assert_eq!(
                checksum_add(checksum_add(0, &data[..at]), &data[at..]) % 0xffff,
                checksum_add(0, &data) % 0xffff
            );
        }

        #[test]
        fn no_bytes_make_a_parser_panic(frame in prop::collection::vec(any::<u8>(), 0..128), start in 0usize..200) {
            if let Ok(ip) = Ipv4::parse(&frame, start) {
                let _ = ip.transport_checksum_is_right(&frame);
            }
            let _ = (Tcp::parse(&frame), Udp::parse(&frame));
        }
    }

    #[test]
    fn a_header_written_is_the_header_read() {
        let mut packet = [0; 48];
        let (source, destination) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        Ipv4Template { tos: 4, ..Ipv4Template::new(source, destination, protocol::UDP) }.emit(&mut packet);
        let ip = Ipv4::parse(&packet, 0).unwrap();
        assert_eq!((ip.source, ip.destination, ip.protocol), (source, destination, protocol::UDP));
        assert_eq!((ip.ttl, ip.tos, ip.total, ip.is_fragment()), (64, 4, 48, false));
        packet[15] ^= 1;
        assert_eq!(Ipv4::parse(&packet, 0), Err(Malformed));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut packet = [0; 28];
        Ipv4Template::new(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, protocol::UDP).emit(&mut packet);
        assert_eq!(Ipv4::parse(&packet[..27], 0), Err(Malformed));
        let mut datagram = [0, 1, 0, 2, 0, 9, 0, 0];
        assert_eq!(Udp::parse(&datagram), Err(Malformed));
        datagram[5] = 7;
        assert_eq!(Udp::parse(&datagram), Err(Malformed));
        let mut segment = [0; 20];
        segment[12] = 0x60;
        assert_eq!(Tcp::parse(&segment), Err(Malformed));
    }
}
