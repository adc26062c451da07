//! A line per packet in the log, at level trace of target `net`.

use core::fmt;

use hw::nic::ETHERNET_HEADER;

use super::wire::{Ipv4, Tcp, Udp, be16, ether_type, protocol};

/// Logs an Ethernet frame if somebody wants to see it.
pub fn frame(link: &str, direction: &str, frame: &[u8]) {
    if log::log_enabled!(target: "net", log::Level::Trace) {
        log::trace!(target: "net", "{link} {direction} {}", Ethernet(frame));
    }
}

/// Logs an IP packet if somebody wants to see it.
pub fn packet(link: &str, direction: &str, packet: &[u8]) {
    if log::log_enabled!(target: "net", log::Level::Trace) {
        log::trace!(target: "net", "{link} {direction} {}", Packet(packet));
    }
}

struct Ethernet<'a>(&'a [u8]);

impl fmt::Display for Ethernet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() < ETHERNET_HEADER {
            return write!(f, "{} bytes, too short", self.0.len());
        }
        match be16(self.0, 12) {
            ether_type::IPV4 => Packet(&self.0[ETHERNET_HEADER..]).fmt(f),
            ether_type::ARP => write!(f, "ARP, {} bytes", self.0.len()),
            other => write!(f, "type {other:#06x}, {} bytes", self.0.len()),
        }
    }
}

struct Packet<'a>(&'a [u8]);

impl fmt::Display for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(ip) = Ipv4::parse(self.0, 0) else {
            return write!(f, "malformed IPv4, {} bytes", self.0.len());
        };
        let (source, destination, payload) = (ip.source, ip.destination, &self.0[ip.payload()]);
        if ip.fragment_offset != 0 {
            return write!(f, "{source} > {destination} fragment at {}", ip.fragment_offset);
        }
        match ip.protocol {
            protocol::TCP => match Tcp::parse(payload) {
                Ok(tcp) => write!(
                    f,
                    "{source}:{} > {destination}:{} TCP {} seq {} ack {} len {}",
                    tcp.source_port,
                    tcp.destination_port,
                    Flags(tcp.flags),
                    tcp.sequence,
                    tcp.acknowledgment,
                    tcp.payload
                ),
                Err(_) => write!(f, "{source} > {destination} malformed TCP"),
            },
            protocol::UDP => match Udp::parse(payload) {
                Ok(udp) => write!(
                    f,
                    "{source}:{} > {destination}:{} UDP len {}",
                    udp.source_port,
                    udp.destination_port,
                    udp.length - 8
                ),
                Err(_) => write!(f, "{source} > {destination} malformed UDP"),
            },
            protocol::ICMP if payload.len() >= 2 => {
                write!(f, "{source} > {destination} ICMP type {} code {}", payload[0], payload[1])
            }
            other => write!(f, "{source} > {destination} protocol {other}, {} bytes", ip.total),
        }
    }
}

struct Flags(u8);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As tcpdump writes them.
        const NAMES: [(u8, &str); 5] =
            [(Tcp::SYN, "S"), (Tcp::FIN, "F"), (Tcp::RST, "R"), (8, "P"), (Tcp::ACK, ".")];
        NAMES.iter().filter(|(bit, _)| self.0 & bit != 0).try_for_each(|(_, name)| f.write_str(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_segment_reads_as_tcpdump_writes_it() {
        let mut bytes = [0; 40];
        let (a, b) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        super::super::wire::Ipv4Template::new(a, b, protocol::TCP).emit(&mut bytes);
        bytes[20..32].copy_from_slice(&[0, 80, 1, 0, 0, 0, 0, 5, 0, 0, 0, 9]);
        (bytes[32], bytes[33]) = (0x50, Tcp::SYN | Tcp::ACK);
        assert_eq!(Packet(&bytes).to_string(), "10.0.0.1:80 > 10.0.0.2:256 TCP S. seq 5 ack 9 len 0");
        assert_eq!(Ethernet(&[0; 3]).to_string(), "3 bytes, too short");
    }
}
