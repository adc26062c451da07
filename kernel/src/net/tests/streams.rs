//! TCP between two stacks, and over the loopback.

use super::*;
use crate::net::options::DeferAccept;
use crate::net::tcp::Shutdown;
use crate::sched::Events;
use crate::sched::fixture::Waiter;
use proptest::prelude::*;
use smoltcp::socket::tcp::State;

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

/// Sends `up` from the client and `down` from the server at the same time; both halves are closed after it. Returns
/// what arrived.
fn exchange(network: &mut Network, up: &[u8], down: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (client, server, listener) = network.connection(80);
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (mut sent_up, mut sent_down, mut ends) = (0, 0, [false; 4]);
    let finished = network.run_until(4000 * SECOND, || {
        for (socket, data, sent, got, end) in
            [(&client, up, &mut sent_up, &mut got_down, 0), (&server, down, &mut sent_down, &mut got_up, 2)]
        {
            while *sent < data.len() {
                match write(socket, &data[*sent..]) {
                    Ok(count) => *sent += count,
                    Err(error) => {
                        assert_eq!(error, Errno::EAGAIN);
                        break;
                    }
                }
            }
            if *sent == data.len() && !ends[end] {
                socket.shutdown(Shutdown::Write).unwrap();
                ends[end] = true;
            }
            loop {
                match read(socket) {
                    Ok(bytes) if bytes.is_empty() => {
                        ends[end + 1] = true;
                        break;
                    }
                    Ok(bytes) => got.extend(bytes),
                    Err(error) => {
                        assert_eq!(error, Errno::EAGAIN);
                        break;
                    }
                }
            }
        }
        ends == [true; 4]
    });
    assert!(finished, "sent {sent_up} and {sent_down}, got {} and {}", got_up.len(), got_down.len());
    client.close();
    server.close();
    listener.close();
    (got_up, got_down)
}

pub(super) fn assert_nothing_left(host: &Host) {
    let flows = host.stack.tcp.flows();
    let live = flows.iter().filter(|(_, flow)| matches!(flow, crate::net::tcp::Flow::Socket(_))).count();
    assert_eq!((live, host.stack.memory.used(), host.stack.tcp.listeners().len()), (0, 0, 0));
}

#[test]
fn data_arrives_both_ways_and_nothing_is_left() {
    let mut network = Network::calm();
    let (up, down) = (pattern(300_000, 1), pattern(500_000, 2));
    let (got_up, got_down) = exchange(&mut network, &up, &down);
    assert!(got_up == up && got_down == down);
    network.run(SECOND);
    let retransmitted = crate::net::counters::Counter::TcpRetransSegs;
    assert_eq!(network.a.stack.counters.get(retransmitted), 0);
    network.run(100 * SECOND);
    assert_nothing_left(&network.a);
    assert_nothing_left(&network.b);
    assert!(network.a.stack.tcp.flows().is_empty() && network.b.stack.tcp.flows().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn data_survives_any_weather(
        seed in any::<u64>(),
        loss in 0u64..80, repeat in 0u64..100, delay in 0u64..200, damage in 0u64..40,
    ) {
        let mut network = Network::new(seed, Weather { loss, repeat, delay, damage });
        let (up, down) = (pattern(120_000, 1), pattern(80_000, 2));
        let (got_up, got_down) = exchange(&mut network, &up, &down);
        prop_assert!(got_up == up && got_down == down);
        network.weather = Weather::default();
        network.run(1000 * SECOND);
        assert_nothing_left(&network.a);
        assert_nothing_left(&network.b);
    }
}

#[test]
fn poll_reports_each_stage_as_linux_does() {
    let mut network = Network::calm();
    let fresh = TcpSocket::new(&network.a.stack);
    assert_eq!(fresh.poll(), Events::OUT | Events::WRNORM | Events::HUP);
    assert_eq!(fresh.connect(network.b.at(80)), Err(Errno::EINPROGRESS));
    assert_eq!(fresh.poll(), Events::empty());
    assert_eq!(fresh.connect(network.b.at(80)), Err(Errno::EALREADY));
    network.run(SECOND);
    // Nobody listened.
    let all = Events::IN | Events::RDNORM | Events::OUT | Events::WRNORM | Events::HUP | Events::RDHUP;
    assert_eq!(fresh.poll(), all | Events::ERR);
    assert_eq!(fresh.take_error(), Some(Errno::ECONNREFUSED));
    assert_eq!(fresh.poll(), all);
    assert_eq!((read(&fresh), write(&fresh, b"x")), (Ok(vec![]), Err(Errno::EPIPE)));

    let (client, server, listener) = network.connection(81);
    assert_eq!((client.sent_segments(), server.sent_segments()), ((2, 0), (1, 0)));
    assert_eq!(listener.poll(), Events::empty());
    assert_eq!(client.poll(), Events::OUT | Events::WRNORM);
    assert_eq!(
        (client.connect(network.b.at(81)), client.connect(network.b.at(81))),
        (Ok(()), Err(Errno::EISCONN))
    );
    write(&client, b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    network.run(SECOND);
    let half = Events::IN | Events::RDNORM | Events::RDHUP | Events::OUT | Events::WRNORM;
    assert_eq!(server.poll(), half);
    assert_eq!(read(&server).unwrap(), b"hello");
    assert_eq!((read(&server), server.poll()), (Ok(vec![]), half));
    // The other half still works.
    write(&server, b"bye").unwrap();
    network.run(SECOND);
    assert_eq!(read(&client).unwrap(), b"bye");
    server.shutdown(Shutdown::Write).unwrap();
    network.run(SECOND);
    assert_eq!(client.poll(), half | Events::HUP);
    assert_eq!(write(&client, b"x"), Err(Errno::EPIPE));
}

#[test]
fn a_wake_comes_with_each_change() {
    let mut network = Network::calm();
    let (client, server, listener) = network.connection(80);
    let readable = Waiter::new(&server.queue, Events::IN);
    write(&client, b"x").unwrap();
    network.run(SECOND);
    assert!(readable.was_woken());
    let acceptable = Waiter::new(&listener.queue, Events::IN);
    let second = TcpSocket::new(&network.a.stack);
    let _ = second.connect(network.b.at(80));
    network.run(SECOND);
    assert!(acceptable.was_woken());
    let gone = Waiter::new(&client.queue, Events::HUP);
    server.set_options(|options| options.linger = Some(0));
    server.close();
    network.run(SECOND);
    assert!(gone.was_woken());
}

#[test]
fn who_waits_for_a_connection_is_told_that_it_stands_or_fails() {
    let mut network = Network::calm();
    let _listener = network.b.listen(80, 8);
    for (port, error) in [(80, None), (81, Some(Errno::ECONNREFUSED))] {
        let client = TcpSocket::new(&network.a.stack);
        let connected = Waiter::new(&client.queue, Events::OUT);
        assert_eq!(client.connect(network.b.at(port)), Err(Errno::EINPROGRESS));
        network.run(SECOND);
        assert!(connected.was_woken(), "port {port}");
        assert_eq!(client.connect(network.b.at(port)).err(), error);
    }
    // Nobody has this address.
    let client = TcpSocket::new(&network.a.stack);
    let failed = Waiter::new(&client.queue, Events::OUT);
    assert_eq!(client.connect(Endpoint::new(Ipv4Addr::new(10, 0, 0, 77), 80)), Err(Errno::EINPROGRESS));
    assert!(network.run_until(10 * SECOND, || client.poll().contains(Events::ERR)));
    assert!(failed.was_woken());
}

#[test]
fn ones_own_shutdown_wakes_who_waits_for_the_same_socket() {
    let mut network = Network::calm();
    let (client, _server, listener) = network.connection(80);
    let waiting = [Waiter::new(&client.queue, Events::IN), Waiter::new(&listener.queue, Events::IN)];
    client.shutdown(Shutdown::Both).unwrap();
    listener.shutdown(Shutdown::Read).unwrap();
    assert!(waiting.iter().all(Waiter::was_woken));
}

#[test]
fn a_full_socket_becomes_writable_again_when_the_peer_reads() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    let data = pattern(1 << 20, 3);
    let mut sent = 0;
    while let Ok(count) = write(&client, &data[sent..]) {
        sent += count;
        network.run(SECOND);
    }
    assert_eq!(write(&client, &data[sent..]), Err(Errno::EAGAIN));
    assert!(!client.poll().contains(Events::OUT));
    // The peer's window is closed: probes keep the connection alive for long.
    network.run(600 * SECOND);
    assert_eq!(write(&client, &data[sent..]), Err(Errno::EAGAIN));
    let writable = Waiter::new(&client.queue, Events::OUT);
    let mut got = read(&server).unwrap();
    network.run(SECOND);
    assert!(writable.was_woken() && client.poll().contains(Events::OUT));
    while got.len() < sent {
        got.extend(read(&server).unwrap());
        network.run(SECOND);
    }
    assert!(got == data[..sent]);
}

#[test]
fn closing_with_unread_data_resets() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    write(&client, b"never read").unwrap();
    network.run(SECOND);
    server.close();
    network.run(SECOND);
    assert_eq!(read(&client), Err(Errno::ECONNRESET));
    assert_eq!((read(&client), write(&client, b"x")), (Ok(vec![]), Err(Errno::EPIPE)));
}

#[test]
fn data_for_a_closed_socket_is_answered_with_a_reset() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    server.close();
    network.run(SECOND);
    assert_eq!(read(&client), Ok(vec![]));
    write(&client, b"too late").unwrap();
    network.run(SECOND);
    assert_eq!(write(&client, b"x"), Err(Errno::EPIPE));
    client.close();
    network.run(100 * SECOND);
    assert_eq!(network.b.stack.tcp.flows().len(), 0);
}

#[test]
fn lingering_for_no_time_resets() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    client.set_options(|options| options.linger = Some(0));
    client.close();
    network.run(SECOND);
    assert_eq!(read(&server), Err(Errno::ECONNRESET));
    assert_eq!(network.a.stack.tcp.flows().len(), 0);
}

#[test]
fn data_before_a_reset_can_still_be_read() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    write(&client, b"last words").unwrap();
    network.run(SECOND);
    client.set_options(|options| options.linger = Some(0));
    client.close();
    network.run(SECOND);
    assert_eq!(read(&server).unwrap(), b"last words");
    assert_eq!(read(&server), Err(Errno::ECONNRESET));
}

#[test]
fn the_backlog_bounds_what_waits() {
    let mut network = Network::calm();
    let listener = network.b.listen(80, 2);
    let clients: Vec<_> = (0..6).map(|_| TcpSocket::new(&network.a.stack)).collect();
    clients.iter().for_each(|client| assert_eq!(client.connect(network.b.at(80)), Err(Errno::EINPROGRESS)));
    network.run(SECOND / 2);
    let established = |clients: &[Arc<TcpSocket>]| {
        clients.iter().filter(|client| client.view().state == State::Established).count()
    };
    assert_eq!(established(&clients), 3);
    let mut accepted = Vec::new();
    while accepted.len() < 6 {
        match listener.accept() {
            Ok(socket) => accepted.push(socket),
            Err(error) => {
                assert_eq!(error, Errno::EAGAIN);
                // Those turned away try again by themselves.
                network.run(SECOND);
            }
        }
    }
    assert_eq!(established(&clients), 6);
    drop(accepted);
}

#[test]
fn closing_a_listener_resets_those_not_accepted() {
    let mut network = Network::calm();
    let listener = network.b.listen(80, 8);
    let client = TcpSocket::new(&network.a.stack);
    let _ = client.connect(network.b.at(80));
    network.run(SECOND);
    listener.close();
    drop(listener);
    network.run(SECOND);
    assert_eq!(read(&client), Err(Errno::ECONNRESET));
    assert_eq!(network.b.stack.memory.used(), 0);
    let again = network.b.listen(80, 8);
    assert!(again.accept().is_err());
}

#[test]
fn a_silent_peer_times_out() {
    let mut network = Network::calm();
    let nobody = TcpSocket::new(&network.a.stack);
    network.weather.loss = 1000;
    let _ = nobody.connect(network.b.at(80));
    // The neighbour does not even answer ARP.
    network.run(10 * SECOND);
    assert_eq!(nobody.take_error(), Some(Errno::EHOSTUNREACH));
    // It asked for the address three times, and has nothing more to say.
    assert_eq!((network.log.len(), network.a.stack.memory.used()), (3, 0));
    network.weather.loss = 0;
    let (client, _server, _listener) = network.connection(80);
    let started = clock();
    network.weather.loss = 1000;
    let silent = TcpSocket::new(&network.a.stack);
    silent.set_options(|options| options.syn_count = 2);
    let _ = silent.connect(network.b.at(80));
    assert!(network.run_until(100 * SECOND, || silent.take_error() == Some(Errno::ETIMEDOUT)));
    assert!((6 * SECOND..9 * SECOND).contains(&(clock() - started)), "{}", clock() - started);
    client.set_options(|options| options.user_timeout = 30 * SECOND);
    write(&client, b"x").unwrap();
    assert!(network.run_until(200 * SECOND, || client.take_error() == Some(Errno::ETIMEDOUT)));
}

#[test]
fn keep_alive_finds_a_dead_peer_and_keeps_a_living_one() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    client.set_options(|options| {
        (options.keep_alive, options.keep_idle) = (true, 60 * SECOND);
        (options.keep_interval, options.keep_count) = (10 * SECOND, 3);
    });
    network.run(SECOND);
    network.log.clear();
    network.run(50 * SECOND);
    assert!(network.log.is_empty());
    network.run(500 * SECOND);
    assert_eq!((client.view().state, server.view().state), (State::Established, State::Established));
    let probes = network.log.len();
    assert!((8..40).contains(&probes), "{probes} frames");
    let start = clock();
    network.weather.loss = 1000;
    assert!(network.run_until(500 * SECOND, || client.take_error() == Some(Errno::ETIMEDOUT)));
    // Three probes, ten seconds apart, after at most a minute of silence.
    assert!((30 * SECOND..=92 * SECOND).contains(&(clock() - start)), "{}", clock() - start);
}

#[test]
fn a_cork_holds_back_what_does_not_fill_a_segment() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    client.set_options(|options| options.cork = true);
    (0..10).for_each(|n| assert_eq!(write(&client, &[n; 100]), Ok(100)));
    network.run(100 * MILLISECOND);
    assert_eq!(read(&server), Err(Errno::EAGAIN));
    client.set_options(|options| options.cork = false);
    network.run(10 * MILLISECOND);
    assert_eq!(read(&server).unwrap().len(), 1000);
    client.set_options(|options| options.cork = true);
    assert_eq!(write(&client, &[7; 4000]), Ok(4000));
    network.run(50 * MILLISECOND);
    assert_eq!(read(&server).unwrap().len(), 2920);
    network.run(SECOND);
    assert_eq!(read(&server).unwrap().len(), 1080);
}

#[test]
fn many_short_connections_leave_nothing_behind() {
    let mut network = Network::calm();
    let listener = network.b.listen(80, 128);
    for round in 0..3000 {
        let client = TcpSocket::new(&network.a.stack);
        assert_eq!(client.connect(network.b.at(80)), Err(Errno::EINPROGRESS), "round {round}");
        let waiting = listener.clone();
        // Not at once where the ports are those of a connection that has only just ended.
        assert!(network.run_until(5 * SECOND, || !waiting.poll().is_empty()));
        let server = listener.accept().unwrap();
        write(&client, b"?").unwrap();
        network.run(MILLISECOND);
        assert_eq!(read(&server).unwrap(), b"?");
        // Either side may be the first to close.
        let (first, second) = if round % 2 == 0 { (client, server) } else { (server, client) };
        first.close();
        network.run(MILLISECOND);
        second.close();
        network.run(MILLISECOND);
    }
    listener.close();
    assert_nothing_left(&network.a);
    assert_nothing_left(&network.b);
    network.run(100 * SECOND);
    assert!(network.a.stack.tcp.flows().is_empty());
}

#[test]
fn the_loopback_connects_at_once() {
    let host = Network::calm().a;
    let listener = host.listen(80, 8);
    let client = TcpSocket::new(&host.stack);
    // The first call only begins, as on Linux, though all is done when it returns.
    let to = Endpoint::new(Ipv4Addr::LOCALHOST, 80);
    assert_eq!(client.connect(to), Err(Errno::EINPROGRESS));
    assert_eq!(client.poll(), Events::OUT | Events::WRNORM);
    assert_eq!((client.connect(to), client.connect(to)), (Ok(()), Err(Errno::EISCONN)));
    let server = listener.accept().unwrap();
    let data = pattern(40_000, 9);
    assert_eq!(write(&client, &data), Ok(40_000));
    let got = read(&server).unwrap();
    assert_eq!(got.len(), data.len());
    assert!(got == data);
    assert_eq!(server.remote().unwrap(), client.local());
    assert!(host.sent().is_empty());
    // One's own address on a link is reached the same way.
    let other = TcpSocket::new(&host.stack);
    assert_eq!(other.connect(host.at(80)), Err(Errno::EINPROGRESS));
    assert_eq!(other.connect(host.at(80)), Ok(()));
    let refused = TcpSocket::new(&host.stack);
    assert_eq!(refused.connect(host.at(81)), Err(Errno::EINPROGRESS));
    assert!(refused.poll().contains(Events::IN | Events::OUT | Events::ERR | Events::HUP));
    assert_eq!(refused.connect(host.at(81)), Err(Errno::ECONNREFUSED));
}

/// A listener of `b` that defers for `seconds`, and a connection of `a` to it.
fn deferred(network: &mut Network, seconds: i32) -> (Arc<TcpSocket>, Arc<TcpSocket>) {
    let listener = network.b.listen(80, 8);
    listener.set_options(|options| options.defer_accept = DeferAccept::from_seconds(seconds));
    let client = TcpSocket::new(&network.a.stack);
    assert_eq!(client.connect(network.b.at(80)), Err(Errno::EINPROGRESS));
    network.run(SECOND / 2);
    assert_eq!(client.poll(), Events::OUT | Events::WRNORM);
    assert_eq!((listener.poll(), listener.accept().err()), (Events::empty(), Some(Errno::EAGAIN)));
    (listener, client)
}

#[test]
fn accepting_can_wait_for_data_or_its_end() {
    let mut network = Network::calm();
    let (listener, client) = deferred(&mut network, 30);
    write(&client, b"hello").unwrap();
    network.run(SECOND);
    let server = listener.accept().unwrap();
    assert_eq!(read(&server), Ok(b"hello".to_vec()));
    assert_eq!(server.options().defer_accept, DeferAccept::default());
    listener.close();
    let mut network = Network::calm();
    let (listener, client) = deferred(&mut network, 30);
    client.shutdown(Shutdown::Write).unwrap();
    network.run(SECOND);
    assert_eq!(read(&listener.accept().unwrap()), Ok(vec![]));
}

#[test]
fn accepting_waits_for_data_no_longer_than_was_asked() {
    let mut network = Network::calm();
    let (listener, _client) = deferred(&mut network, 3);
    network.run(2 * SECOND);
    assert_eq!(listener.accept().err(), Some(Errno::EAGAIN));
    network.run(SECOND);
    assert!(listener.accept().is_ok());
}

#[test]
fn a_deferred_connection_that_ends_leaves_nothing() {
    let mut network = Network::calm();
    let (listener, client) = deferred(&mut network, 30);
    client.set_options(|options| options.linger = Some(0));
    client.close();
    network.run(60 * SECOND);
    assert_eq!(listener.accept().err(), Some(Errno::EAGAIN));
    listener.close();
    network.run(100 * SECOND);
    assert_nothing_left(&network.a);
    assert_nothing_left(&network.b);
}

#[test]
fn a_full_device_only_delays() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    *network.a.cable.room.lock().unwrap() = Some(3);
    let data = pattern(50_000, 5);
    assert_eq!(write(&client, &data), Ok(50_000));
    network.run(20 * MILLISECOND);
    *network.a.cable.room.lock().unwrap() = None;
    let mut got = Vec::new();
    assert!(network.run_until(SECOND / 2, || {
        got.extend(read(&server).unwrap_or_default());
        got.len() == data.len()
    }));
    assert!(got == data);
}

#[test]
fn peeked_bytes_stay_and_discarded_bytes_go() {
    let mut network = Network::calm();
    let (client, server, _listener) = network.connection(80);
    write(&client, b"abcdef").unwrap();
    network.run(SECOND);
    let mut bytes = [0; 4];
    assert_eq!(server.read(&mut ReadBuf::kernel(&mut bytes), true, false), Ok(4));
    assert_eq!(&bytes, b"abcd");
    assert_eq!(server.read(&mut ReadBuf::kernel(&mut bytes[..2]), false, true), Ok(2));
    assert_eq!(read(&server).unwrap(), b"cdef");
}

#[test]
fn a_listener_shared_by_port_spreads_connections() {
    let mut network = Network::calm();
    let listeners: Vec<_> = (0..2)
        .map(|_| {
            let socket = TcpSocket::new(&network.b.stack);
            socket.set_options(|options| options.reuse_port = true);
            socket.bind(Endpoint::new(Ipv4Addr::UNSPECIFIED, 80), 0).unwrap();
            socket.listen(64, 0).unwrap();
            socket
        })
        .collect();
    let clients: Vec<_> = (0..40).map(|_| TcpSocket::new(&network.a.stack)).collect();
    for client in &clients {
        assert_eq!(client.connect(network.b.at(80)), Err(Errno::EINPROGRESS));
    }
    // Some were lost waiting for the neighbour's address, and are sent again.
    network.run(3 * SECOND);
    let counts: Vec<_> = listeners.iter().map(|listener| listener.view().received).collect();
    assert_eq!(counts.iter().sum::<usize>(), 40);
    assert!(counts.iter().all(|&count| count > 5), "{counts:?}");
}

#[test]
fn disconnecting_makes_a_socket_new() {
    let mut network = Network::calm();
    let (client, server, listener) = network.connection(80);
    client.disconnect();
    network.run(SECOND);
    assert_eq!(read(&server), Err(Errno::ECONNRESET));
    assert_eq!(client.connect(network.b.at(80)), Err(Errno::EINPROGRESS));
    network.run(SECOND);
    assert!(listener.accept().is_ok());
}

/// Both ends lose segments and send again at the same time; each must still hear the other's acknowledgments.
#[test]
fn two_ends_that_send_again_do_not_talk_past_each_other() {
    let data = pattern(120_000, 1);
    for seed in 1..60 {
        let weather = Weather { loss: 25, delay: 47, ..Weather::default() };
        let mut network = Network::new(seed * 7919, weather);
        let (got_up, got_down) = exchange(&mut network, &data, &data);
        assert!(got_up == data && got_down == data, "seed {seed}");
        assert!(clock() < 300 * SECOND, "seed {seed} took {} s", clock() / SECOND);
        CLOCK.set(SECOND);
    }
}

/// A FIN that came too early was ignored, and the acknowledgments of what came before it are duplicates.
#[test]
fn a_lost_fin_is_sent_again_though_acknowledgments_repeat() {
    let weather = Weather { loss: 17, repeat: 45, delay: 12, damage: 28 };
    let mut network = Network::new(10_349_526_073_941_325_112, weather);
    let (up, down) = (pattern(120_000, 1), pattern(80_000, 2));
    let (got_up, got_down) = exchange(&mut network, &up, &down);
    assert!(got_up == up && got_down == down);
}
