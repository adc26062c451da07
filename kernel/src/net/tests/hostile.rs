//! Frames that nobody sane would send: no panic, no leak, and everything works afterwards.

use super::*;
use crate::net::tcp::Flow;
use crate::net::wire::{Ipv4Template, Tcp, protocol, pseudo_header_sum};
use proptest::prelude::*;

/// A TCP segment to `b`, with a right checksum, from any host.
fn segment(network: &Network, from: Endpoint, port: u16, sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 54 + data.len()];
    frame[..6].copy_from_slice(&network.b.link.mac.0);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12] = 8;
    let length = 20 + data.len();
    Ipv4Template::new(from.address, network.b.address, protocol::TCP).emit(&mut frame[14..]);
    let tcp = &mut frame[34..];
    tcp[..2].copy_from_slice(&from.port.to_be_bytes());
    tcp[2..4].copy_from_slice(&port.to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    (tcp[12], tcp[13]) = (0x50, flags);
    tcp[14..16].copy_from_slice(&[0xff, 0xff]);
    tcp[20..].copy_from_slice(data);
    let pseudo = pseudo_header_sum(from.address, network.b.address, protocol::TCP, length);
    let sum = !checksum_add(pseudo, &*tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn fix_checksums(frame: &mut [u8]) {
    if frame.len() < 54 || frame[12..14] != [8, 0] || frame[14] != 0x45 {
        return;
    }
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]])).clamp(40, frame.len() - 14);
    frame[16..18].copy_from_slice(&(total as u16).to_be_bytes());
    frame[24..26].fill(0);
    let sum = !checksum_add(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let ip = crate::net::wire::Ipv4::parse(frame, 14).unwrap();
    let range = ip.payload();
    let field = match ip.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 2,
    };
    frame[range.start + field..range.start + field + 2].fill(0);
    let start = match ip.protocol {
        protocol::ICMP => 0,
        other => pseudo_header_sum(ip.source, ip.destination, other, range.len()),
    };
    let sum = !checksum_add(start, &frame[range.clone()]);
    frame[range.start + field..range.start + field + 2].copy_from_slice(&sum.to_be_bytes());
}

fn still_works(network: &mut Network) {
    network.weather = Weather::default();
    network.run(5 * SECOND);
    let (client, server, listener) = network.connection(4321);
    write(&client, b"alive").unwrap();
    network.run(SECOND);
    assert_eq!(read(&server).unwrap(), b"alive");
    [client, server, listener].iter().for_each(|socket| socket.close());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..100)) {
        let mut network = Network::calm();
        for mut frame in frames {
            network.b.receive(&frame);
            if frame.len() > 14 {
                frame[..6].copy_from_slice(&network.b.link.mac.0);
                let kind = if frame[13] & 1 == 0 { [8, 0] } else { [8, 6] };
                frame[12..14].copy_from_slice(&kind);
                network.b.receive(&frame);
            }
        }
        still_works(&mut network);
    }

    /// Frames of a real connection, changed in places, with checksums that are right again: they get as deep as can be.
    #[test]
    fn mutated_frames_do_no_harm(
        seed in any::<u64>(),
        changes in prop::collection::vec((any::<usize>(), 14usize..70, any::<u8>()), 1..300),
    ) {
        let mut network = Network::new(seed, Weather { loss: 20, repeat: 50, delay: 50, damage: 0 });
        let (client, server, listener) = network.connection(80);
        for round in 0..10u8 {
            let _ = (write(&client, &[round; 2000]), write(&server, &[round; 900]));
            network.run(MILLISECOND);
            let frames: Vec<_> = network.log.iter().cloned().collect();
            for &(which, at, value) in changes.iter().skip(usize::from(round)).step_by(10) {
                let mut frame = frames[which % frames.len()].clone();
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
                fix_checksums(&mut frame);
                let to = if frame[..6] == network.b.link.mac.0 { &network.b } else { &network.a };
                to.receive(&frame);
            }
            let _ = (read(&client), read(&server));
        }
        [client, server, listener].iter().for_each(|socket| socket.close());
        still_works(&mut network);
    }

    /// Arbitrary segments of one flow, well formed each: the state machine is walked at random.
    #[test]
    fn arbitrary_segments_do_no_harm(
        steps in prop::collection::vec((0u8..64, -4i32..4, -4i32..4, 0usize..40, 0u16..4), 1..200),
        close_at in 0usize..200,
    ) {
        let mut network = Network::calm();
        let listener = network.b.listen(80, 8);
        let from = Endpoint::new(network.a.address, 1234);
        network.b.receive(&segment(&network, from, 80, 99, Tcp::SYN, &[]));
        let mut accepted = None;
        let (mut next, mut acknowledged) = (100u32, 0u32);
        for (n, (flags, ahead, ack_ahead, length, window)) in steps.into_iter().enumerate() {
            for frame in network.b.sent().iter().filter(|frame| frame.len() >= 54 && frame[23] == protocol::TCP) {
                acknowledged = u32::from_be_bytes(frame[38..42].try_into().unwrap())
                    .wrapping_add(u32::from(frame[47] & 3 != 0)).wrapping_add(frame.len() as u32 - 34 - u32::from(frame[46] >> 4) * 4);
                next = u32::from_be_bytes(frame[42..46].try_into().unwrap());
            }
            let data = vec![n as u8; length];
            let sequence = next.wrapping_add_signed(ahead);
            let mut frame = segment(&network, from, 80, sequence, flags, &data);
            frame[42..46].copy_from_slice(&acknowledged.wrapping_add_signed(ack_ahead).to_be_bytes());
            frame[48..50].copy_from_slice(&(window * 500).to_be_bytes());
            fix_checksums(&mut frame);
            network.b.receive(&frame);
            accepted = accepted.or_else(|| listener.accept().ok());
            if let Some(socket) = &accepted {
                let _ = (read(socket), write(socket, &[1; 700]));
                if n == close_at {
                    socket.close();
                }
            }
            CLOCK.set(clock() + MILLISECOND * 50);
            network.b.stack.expire();
        }
        listener.close();
        still_works(&mut network);
    }
}

#[test]
fn a_flood_of_openings_is_bounded_and_does_not_shut_others_out() {
    let mut network = Network::calm();
    let listener = network.b.listen(80, 16);
    for n in 0..5000u32 {
        let from = Endpoint::new(Ipv4Addr::from_bits(0x0a00_000a + n % 200), 1000 + n as u16);
        network.b.receive(&segment(&network, from, 80, n, Tcp::SYN, &[]));
    }
    let live = || {
        let flows = network.b.stack.tcp.flows();
        flows.iter().filter(|(_, flow)| matches!(flow, Flow::Socket(_))).count()
    };
    assert!(live() <= 17, "{}", live());
    network.b.sent();
    // After their second of grace, the forgotten make room.
    network.run(2 * SECOND);
    let client = TcpSocket::new(&network.a.stack);
    let _ = client.connect(network.b.at(80));
    assert!(network.run_until(10 * SECOND, || !listener.poll().is_empty()));
    network.run(200 * SECOND);
    listener.close();
    client.close();
    network.run(200 * SECOND);
    assert_eq!(network.b.stack.memory.used(), 0);
}

#[test]
fn packets_from_impossible_senders_are_dropped() {
    let network = Network::calm();
    let _listener = network.b.listen(80, 16);
    for from in
        [[127, 0, 0, 1], [10, 0, 0, 2], [224, 0, 0, 1], [10, 0, 0, 255], [255, 255, 255, 255], [0, 0, 0, 0]]
    {
        let from = Endpoint::new(from.into(), 1234);
        network.b.receive(&segment(&network, from, 80, 1, Tcp::SYN, &[]));
        network.b.receive(&segment(&network, from, 81, 1, Tcp::SYN, &[]));
    }
    assert!(network.b.sent().is_empty());
    assert!(network.b.stack.tcp.flows().is_empty());
}

#[test]
fn a_wrong_checksum_is_dropped() {
    let network = Network::calm();
    let from = Endpoint::new(network.a.address, 1234);
    let mut frame = segment(&network, from, 81, 1, Tcp::SYN, &[]);
    frame[50] ^= 1;
    network.b.receive(&frame);
    assert!(network.b.sent().is_empty());
    frame[50] ^= 1;
    network.b.receive(&frame);
    assert_eq!(network.b.sent().len(), 1);
}

/// A device whose buffers are all full goes on only when it is told that some are empty again, and nothing may be sent for long.
#[test]
fn the_device_hears_of_buffers_that_come_back_though_nothing_is_sent() {
    let host = Host::new(1, true);
    host.cable.arrived.lock().unwrap().push_back(Frame::from_vec(vec![0; 60], RxChecksum::Unknown));
    let rings = || *host.cable.rings.lock().unwrap();
    host.stack.finish(&host.link);
    assert_eq!(rings(), 0);
    let frame = host.link.receive().unwrap();
    host.stack.receive(&host.link, frame);
    host.stack.finish(&host.link);
    assert_eq!((rings(), host.cable.sent.lock().unwrap().len()), (1, 0));
    host.stack.finish(&host.link);
    assert_eq!(rings(), 1);
}
