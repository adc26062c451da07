//! Frames that no honest peer sends: random bytes, and packets that are right up to some layer and wrong beyond it.
//!
//! The generator is seeded, so a run can be repeated.

use xtask::qemu::MAC;
use xtask::random::Random;

const GUEST: [u8; 4] = [172, 31, 0, 10];
const HOST: [u8; 4] = [172, 31, 0, 20];
/// The largest payload of an Ethernet frame.
const MTU: usize = 1500;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A frame that is wrong in some way.
pub fn malformed(random: &mut Random) -> Vec<u8> {
    let (kind, payload) = match random.below(6) {
        0 => (random.bits() as u16, random_payload(random)),
        1 => (0x0806, arp(random)),
        2 => (0x86dd, random_payload(random)),
        3 => (0x0800, random_payload(random)),
        _ => (0x0800, ipv4(random)),
    };
    let mut frame = if random.chance(8) { vec![0xff; 6] } else { guest_mac() };
    frame.extend([0x02, 0, 0, 0, 0, random.byte()]);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame.truncate(14 + MTU);
    frame
}

/// A frame to the guest of a protocol that it does not know: IEEE 802, 9.2.3, "local experimental".
pub fn unanswered() -> Vec<u8> {
    let mut frame = guest_mac();
    frame.extend([0x02, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.resize(60, 0);
    frame
}

fn guest_mac() -> Vec<u8> {
    MAC.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

fn random_payload(random: &mut Random) -> Vec<u8> {
    let length = random.below(MTU);
    random.bytes(length)
}

/// ARP with wrong types, lengths or operations. The sender's address is nobody's, so no true neighbour is lost.
fn arp(random: &mut Random) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1 + random.byte() % 2];
    packet.extend(random.bytes(6));
    packet.extend([10, random.byte(), random.byte(), random.byte()]);
    packet.extend([0; 6]);
    packet.extend(GUEST);
    damage(random, &mut packet, 8);
    packet
}

fn ipv4(random: &mut Random) -> Vec<u8> {
    let (protocol, mut body) = match random.below(4) {
        0 => (TCP, tcp(random)),
        1 => (UDP, udp(random)),
        2 => (1, icmp(random)),
        _ => (random.byte(), random_payload(random)),
    };
    if matches!(protocol, TCP | UDP) && !random.chance(4) {
        let at = if protocol == TCP { 16 } else { 6 };
        transport_checksum(protocol, &mut body, at);
    }
    let mut header = vec![0x45, 0, 0, 0, random.byte(), random.byte(), 0, 0, 64, protocol, 0, 0];
    header.extend(HOST);
    header.extend(GUEST);
    header[2..4].copy_from_slice(&((20 + body.len()) as u16).to_be_bytes());
    if random.chance(3) {
        // Version and header length, total length, fragment, time to live: one of them, or the source.
        let field = [0, 2, 3, 6, 7, 8, 12][random.below(7)];
        header[field] = random.byte();
    }
    if !random.chance(4) {
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    header.extend(body);
    if random.chance(5) {
        let length = random.below(header.len());
        header.truncate(length);
    }
    header
}

fn tcp(random: &mut Random) -> Vec<u8> {
    let port = if random.chance(2) { 6379 } else { random.bits() as u16 };
    let mut segment = (random.bits() as u16).to_be_bytes().to_vec();
    segment.extend(port.to_be_bytes());
    segment.extend(random.bytes(8));
    // Data offset and flags at random: options that reach beyond the end, SYN with FIN, RST, nothing at all.
    segment.extend([random.byte(), random.byte(), 0xff, 0xff, 0, 0, random.byte(), random.byte()]);
    let length = random.below(200);
    segment.extend(random.bytes(length));
    segment
}

/// Datagrams for any port, the DHCP client's (68) above all.
fn udp(random: &mut Random) -> Vec<u8> {
    let port = if random.chance(2) { 68 } else { random.bits() as u16 };
    let length = random.below(400);
    let stated = if random.chance(3) { random.bits() as u16 } else { 8 + length as u16 };
    let mut datagram = 67u16.to_be_bytes().to_vec();
    datagram.extend(port.to_be_bytes());
    datagram.extend(stated.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(random.bytes(length));
    if port == 68 && length > 244 {
        // A reply in all but its options: BOOTREPLY, Ethernet, and the magic number in its place.
        datagram[8..12].copy_from_slice(&[2, 1, 6, 0]);
        datagram[8 + 236..8 + 240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    }
    datagram
}

fn icmp(random: &mut Random) -> Vec<u8> {
    let length = random.below(100);
    let mut message = vec![random.byte() % 20, random.byte() % 4, 0, 0];
    message.extend(random.bytes(length));
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Overwrites up to two of the first bytes, and perhaps cuts the end off.
fn damage(random: &mut Random, packet: &mut Vec<u8>, first: usize) {
    for _ in 0..random.below(3) {
        let place = random.below(first);
        packet[place] = random.byte();
    }
    if random.chance(3) {
        let length = random.below(packet.len());
        packet.truncate(length);
    }
}

fn transport_checksum(protocol: u8, body: &mut [u8], at: usize) {
    let length = body.len() as u16;
    let pseudo = [&HOST[..], &GUEST, &[0, protocol], &length.to_be_bytes(), body].concat();
    let sum = checksum(&pseudo);
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
