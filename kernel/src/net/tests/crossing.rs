//! TCP connections whose both ends connect: simultaneous open (RFC 9293, 3.5).

use super::streams::assert_nothing_left;
use super::*;
use crate::net::tcp::Shutdown;
use crate::sched::Events;
use smoltcp::socket::tcp::State;

/// A socket of each host, which connect to each other at the same time.
fn crossing(network: &Network) -> (Arc<TcpSocket>, Arc<TcpSocket>) {
    let (a, b) = (TcpSocket::new(&network.a.stack), TcpSocket::new(&network.b.stack));
    let (at_a, at_b) = (network.a.at(5000), network.b.at(6000));
    a.bind(at_a, 0).unwrap();
    b.bind(at_b, 0).unwrap();
    assert_eq!(a.connect(at_b), Err(Errno::EINPROGRESS));
    assert_eq!(b.connect(at_a), Err(Errno::EINPROGRESS));
    (a, b)
}

#[test]
fn two_that_connect_to_each_other_are_connected() {
    let mut network = Network::new(1, Weather::default());
    let (a, b) = crossing(&network);
    assert!(network.run_until(10 * SECOND, || [&a, &b].iter().all(|end| end.poll().contains(Events::OUT))));
    assert_eq!(write(&a, b"from a"), Ok(6));
    assert_eq!(write(&b, b"from b"), Ok(6));
    network.run(SECOND);
    assert_eq!((read(&a), read(&b)), (Ok(b"from b".to_vec()), Ok(b"from a".to_vec())));
}

/// A socket that connects to its own address is connected with itself.
#[test]
fn one_that_connects_to_itself_is_connected() {
    let mut network = Network::new(1, Weather::default());
    let socket = TcpSocket::new(&network.a.stack);
    let address = Endpoint::new(Ipv4Addr::LOCALHOST, 5000);
    socket.bind(address, 0).unwrap();
    assert_eq!(socket.connect(address), Err(Errno::EINPROGRESS));
    assert!(network.run_until(SECOND, || socket.poll().contains(Events::OUT)));
    assert_eq!(write(&socket, b"self"), Ok(4));
    network.run(SECOND);
    assert_eq!(read(&socket), Ok(b"self".to_vec()));
    // The end is its own peer's, too.
    socket.shutdown(Shutdown::Write).unwrap();
    network.run(SECOND);
    assert_eq!(read(&socket), Ok(Vec::new()));
    socket.close();
    network.run(200 * SECOND);
    assert_nothing_left(&network.a);
}

/// A peer answers a connection request with one of its own, and then with a reset.
#[test]
fn a_reset_ends_a_simultaneous_open() {
    let mut network = Network::new(1, Weather::default());
    let (a, b) = crossing(&network);
    // The first segments have crossed; then `b` is gone, and its host resets what `a` answers.
    assert!(network.run_until(SECOND, || a.view().state == State::SynReceived));
    b.disconnect();
    network.run(100 * SECOND);
    assert_eq!(a.view().state, State::Closed);
    assert!(a.poll().contains(Events::ERR | Events::HUP));
    a.close();
    drop(a);
    assert_nothing_left(&network.a);
}
