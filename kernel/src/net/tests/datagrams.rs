//! UDP, ICMP and DHCP between two stacks.

use super::*;
use crate::net::raw::RawSocket;
use crate::net::tcp::Shutdown;
use crate::net::timers::Expires;
use crate::net::udp::{LARGEST, UdpSocket};
use crate::net::wire::protocol;
use crate::sched::Events as Ready;
use crate::sched::fixture::Waiter;

fn bound(host: &Host, port: u16) -> Arc<UdpSocket> {
    let socket = UdpSocket::new(&host.stack);
    socket.bind(Endpoint::new(Ipv4Addr::UNSPECIFIED, port), 0).unwrap();
    socket
}

fn send(socket: &UdpSocket, data: &[u8], to: Endpoint) -> Result<usize, Errno> {
    socket.send(&mut WriteBuf::kernel(data), Some(to), || 0)
}

fn receive(socket: &UdpSocket) -> Result<(Vec<u8>, Endpoint), Errno> {
    let mut bytes = vec![0; LARGEST];
    let mut buf = ReadBuf::kernel(&mut bytes);
    let arrival = socket.receive(&mut buf, false)?.unwrap();
    bytes.truncate(arrival.length);
    Ok((bytes, arrival.from))
}

#[test]
fn the_first_datagrams_arrive_though_the_neighbour_is_unknown() {
    let mut network = Network::calm();
    let (sender, receiver) = (bound(&network.a, 5000), bound(&network.b, 8889));
    (1..=5u8).for_each(|n| assert_eq!(send(&sender, &[n], network.b.at(8889)), Ok(1)));
    network.run(SECOND);
    for n in 1..=5 {
        assert_eq!(receive(&receiver), Ok((vec![n], network.a.at(5000))));
    }
    assert_eq!(receive(&receiver), Err(Errno::EAGAIN));
    // One question, one answer, and the datagrams.
    assert_eq!(network.log.len(), 7);
}

#[test]
fn large_datagrams_go_in_pieces() {
    let mut network = Network::calm();
    let (sender, receiver) = (bound(&network.a, 5000), bound(&network.b, 5001));
    for length in [1472, 1473, 3000, 20_000] {
        let data: Vec<_> = (0..length).map(|n| n as u8).collect();
        assert_eq!(send(&sender, &data, network.b.at(5001)), Ok(length));
        network.run(SECOND);
        assert!(receive(&receiver).unwrap().0 == data, "{length} bytes");
    }
    assert_eq!(send(&sender, &vec![0; LARGEST + 1], network.b.at(5001)), Err(Errno::EMSGSIZE));
}

#[test]
fn a_closed_port_is_reported_to_a_connected_socket() {
    let mut network = Network::calm();
    let socket = UdpSocket::new(&network.a.stack);
    socket.connect(Some(network.b.at(9)), 0).unwrap();
    assert_eq!(socket.send(&mut WriteBuf::kernel(b"x"), None, || 0), Ok(1));
    network.run(SECOND);
    assert!(socket.poll().contains(Ready::ERR));
    assert_eq!(receive(&socket), Err(Errno::ECONNREFUSED));
    assert_eq!(receive(&socket), Err(Errno::EAGAIN));
}

#[test]
fn a_connected_socket_hears_only_its_peer() {
    let mut network = Network::calm();
    let (socket, stranger) = (bound(&network.b, 7), bound(&network.a, 1));
    let peer = bound(&network.a, 2);
    socket.connect(Some(network.a.at(2)), 0).unwrap();
    send(&stranger, b"no", network.b.at(7)).unwrap();
    send(&peer, b"yes", network.b.at(7)).unwrap();
    network.run(SECOND);
    assert_eq!(receive(&socket).unwrap().0, b"yes");
    assert_eq!(receive(&socket), Err(Errno::EAGAIN));
}

#[test]
fn broadcasts_need_permission_and_reach_all_sockets() {
    let mut network = Network::calm();
    let all = Endpoint::new(Ipv4Addr::new(10, 0, 0, 255), 7);
    let sender = UdpSocket::new(&network.a.stack);
    assert_eq!(send(&sender, b"x", all), Err(Errno::EACCES));
    sender.set_options(|options| options.broadcast = true);
    let receivers: Vec<_> = (0..2)
        .map(|_| {
            let socket = UdpSocket::new(&network.b.stack);
            socket.set_options(|options| options.reuse_address = true);
            socket.bind(Endpoint::new(Ipv4Addr::UNSPECIFIED, 7), 0).unwrap();
            socket
        })
        .collect();
    assert_eq!(send(&sender, b"x", all), Ok(1));
    network.run(SECOND);
    receivers.iter().for_each(|socket| assert_eq!(receive(socket).unwrap().0, b"x"));
}

#[test]
fn a_full_receive_buffer_drops_the_newest() {
    let mut network = Network::calm();
    let (sender, receiver) = (bound(&network.a, 1), bound(&network.b, 2));
    receiver.set_options(|options| options.receive_buffer = Some(8000));
    for n in 0..20u8 {
        send(&sender, &[n; 1000], network.b.at(2)).unwrap();
        network.run(MILLISECOND);
    }
    let got: Vec<_> = core::iter::from_fn(|| receive(&receiver).ok()).map(|(data, _)| data[0]).collect();
    assert_eq!(got, [0, 1, 2, 3, 4]);
}

#[test]
fn whoever_waits_for_a_datagram_is_told_of_it() {
    let mut network = Network::calm();
    let (sender, receiver) = (bound(&network.a, 1), bound(&network.b, 2));
    let readable = Waiter::new(&receiver.queue, Ready::IN);
    send(&sender, b"x", network.b.at(2)).unwrap();
    network.run(SECOND);
    assert!(readable.was_woken());
}

#[test]
fn whoever_waits_is_told_of_an_error_and_of_a_shutdown() {
    for events in [Ready::IN, Ready::OUT, Ready::ERR] {
        let mut network = Network::calm();
        let socket = UdpSocket::new(&network.a.stack);
        socket.connect(Some(network.b.at(9)), 0).unwrap();
        let waiter = Waiter::for_nothing_else(&socket.queue, events);
        socket.send(&mut WriteBuf::kernel(b"x"), None, || 0).unwrap();
        network.run(SECOND);
        assert!(waiter.was_woken(), "{events:?}");
        socket.shutdown(Shutdown::Both).unwrap();
        assert!(waiter.was_woken(), "{events:?}");
    }
}

#[test]
fn whoever_waits_for_a_full_device_tries_again_soon() {
    let mut network = Network::calm();
    let (socket, to) = (bound(&network.a, 1), network.b.at(2));
    // The neighbour is known.
    send(&socket, b"x", to).unwrap();
    network.run(SECOND);
    *network.a.cable.room.lock().unwrap() = Some(0);
    while send(&socket, b"x", to).is_ok() {}
    let ping = RawSocket::new(&network.a.stack, protocol::ICMP).unwrap();
    assert_eq!(ping.send(&mut WriteBuf::kernel(&[0; 8]), Some(network.b.address)), Err(Errno::EAGAIN));
    let waiters = [Waiter::new(&socket.queue, Ready::OUT), Waiter::new(&ping.queue, Ready::OUT)];
    network.run(2 * MILLISECOND);
    assert!(waiters.iter().all(Waiter::was_woken));
    // Nor is it for ever that memory for the deadline was missing.
    socket.forgotten();
    ping.forgotten();
    assert!(waiters.iter().all(Waiter::was_woken));
}

#[test]
fn datagrams_to_oneself_take_the_loopback() {
    let host = Network::calm().a;
    let socket = bound(&host, 7);
    send(&socket, b"self", host.at(7)).unwrap();
    assert_eq!(receive(&socket), Ok((b"self".to_vec(), host.at(7))));
    assert_eq!(send(&socket, b"x", Endpoint::new(Ipv4Addr::new(8, 8, 8, 8), 7)), Err(Errno::ENETUNREACH));
}

#[test]
fn an_echo_request_is_answered_and_seen_by_raw_sockets() {
    let mut network = Network::calm();
    let ping = RawSocket::new(&network.a.stack, protocol::ICMP).unwrap();
    let readable = Waiter::new(&ping.queue, Ready::IN);
    for length in [8, 64, 4000] {
        let mut request = vec![7; length];
        request[..8].copy_from_slice(&[8, 0, 0, 0, 1, 2, 0, 1]);
        crate::net::icmp::fill_checksum(&mut request);
        ping.send(&mut WriteBuf::kernel(&request), Some(network.b.address)).unwrap();
        network.run(SECOND);
        assert!(readable.was_woken());
        let mut bytes = vec![0; 5000];
        let answer = ping.receive(&mut ReadBuf::kernel(&mut bytes), false).unwrap();
        assert_eq!((answer.0, answer.1), (network.b.address, 20 + length));
        assert_eq!((bytes[8], bytes[20]), (64, 0));
        assert_eq!(bytes[28..20 + length], request[8..]);
    }
    ping.close();
    assert!(network.a.stack.raw.sockets().is_empty());
}

/// A DHCP server of few words: it answers from 10.0.0.2, with leases of one second.
fn serve(request: &[u8], mute: bool) -> Option<Vec<u8>> {
    if request[12..14] == [8, 6] && request[38..42] == [172, 31, 0, 20] && request[28..32] != [0; 4] {
        let mut reply = request.to_vec();
        reply[..6].copy_from_slice(&request[6..12]);
        reply[21] = 2;
        reply[22..32].copy_from_slice(&[2, 0, 0, 0, 0, 99, 172, 31, 0, 20]);
        reply[32..42].copy_from_slice(&request[22..32]);
        return Some(reply);
    }
    let is_dhcp = request.len() > 290 && request[36..38] == [0, 67];
    let message = &request[42.min(request.len())..];
    if !is_dhcp || mute {
        return None;
    }
    let answer = if message[242] == 1 { 2 } else { 5 };
    let mut reply = vec![0; 300];
    reply[..3].copy_from_slice(&[2, 1, 6]);
    reply[4..8].copy_from_slice(&message[4..8]);
    reply[16..20].copy_from_slice(&[172, 31, 0, 10]);
    reply[28..34].copy_from_slice(&message[28..34]);
    reply[236..240].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    let options = [
        53, 1, answer, 54, 4, 172, 31, 0, 20, 51, 4, 0, 0, 0, 1, 1, 4, 255, 255, 255, 0, 3, 4, 172, 31, 0,
        20, 6, 4, 9, 9, 9, 9, 255,
    ];
    reply[240..240 + options.len()].copy_from_slice(&options);
    let mut frame = vec![0; 42 + reply.len()];
    frame[..6].copy_from_slice(&request[6..12]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 99]);
    frame[12] = 8;
    let template = crate::net::wire::Ipv4Template::new([172, 31, 0, 20].into(), [172, 31, 0, 10].into(), 17);
    template.emit(&mut frame[14..]);
    frame[34..40].copy_from_slice(&[0, 67, 0, 68, 1, 52]);
    frame[42..].copy_from_slice(&reply);
    Some(frame)
}

#[test]
fn dhcp_gets_an_address_keeps_it_and_loses_it() {
    let host = Network::calm().a;
    host.stack.set_addresses(&host.link, &[]);
    host.stack.start_dhcp(&host.link);
    let live = |time: u64, mute: bool| {
        let (end, mut requests) = (clock() + time, 0);
        while clock() < end {
            for frame in host.sent() {
                if let Some(reply) = serve(&frame, mute) {
                    requests += usize::from(frame[13] == 0);
                    host.receive(&reply);
                }
            }
            CLOCK.set(clock() + MILLISECOND);
            if host.stack.deadline() <= clock() {
                host.stack.expire();
            }
        }
        requests
    };
    live(5 * MILLISECOND, false);
    let address = Assigned { address: [172, 31, 0, 10].into(), prefix: 24 };
    assert_eq!(host.link.primary(), Some(address));
    assert_eq!(host.link.dhcp.lease().unwrap().resolvers, [Ipv4Addr::new(9, 9, 9, 9)]);
    let routes = host.stack.routes();
    assert_eq!(routes.iter().map(|route| route.prefix).collect::<Vec<_>>(), [24, 0]);
    // Renewed every half second.
    let renewals = live(20 * SECOND, false);
    assert!((38..=42).contains(&renewals), "{renewals}");
    assert_eq!(host.link.primary(), Some(address));
    live(2 * SECOND, true);
    assert_eq!(host.link.primary(), None);
    live(20 * SECOND, false);
    assert_eq!(host.link.primary(), Some(address));
}
