//! Segments that come in, and the answers that no connection gives: resets, and the last words of TIME_WAIT.

use alloc::sync::Arc;

use hw::pool::Frame;

use super::table::{Flow, FlowKey, TimeWait};
use super::{Cause, Role};
use crate::errno::Errno;
use crate::net::counters::Counter;
use crate::net::icmp::QuotedFlow;
use crate::net::link::Link;
use crate::net::stack::Stack;
use crate::net::wire::{
    Endpoint, Ipv4, Ipv4Template, TCP_HEADER, Tcp, checksum_add, protocol, pseudo_header_sum,
};

/// A segment without data.
struct Bare {
    sequence: u32,
    acknowledgment: u32,
    flags: u8,
}

fn key(ip: &Ipv4, tcp: &Tcp) -> FlowKey {
    FlowKey {
        local: Endpoint::new(ip.destination, tcp.destination_port),
        remote: Endpoint::new(ip.source, tcp.source_port),
    }
}

impl Stack {
    /// Takes in a segment of a connection that is there: its addresses need no further look. False when there is none.
    pub fn receive_established(self: &Arc<Self>, link: &Arc<Link>, frame: &Frame, ip: &Ipv4) -> bool {
        let Ok(tcp) = Tcp::parse(&frame[ip.payload()]) else { return false };
        let Some(Flow::Socket(socket)) = self.tcp.find(&key(ip, &tcp)) else { return false };
        self.raw.deliver(link, frame, ip);
        self.counters.count(Counter::IpInDelivers);
        self.counters.count(Counter::TcpInSegs);
        if !self.checksum_is_right(frame, ip, Counter::TcpInCsumErrors) {
            self.counters.count(Counter::TcpInErrs);
            return true;
        }
        let mut inner = socket.inner.lock();
        // What belongs on the loopback does not come from outside.
        if !inner.is_over_loopback(link.is_loopback()) {
            return true;
        }
        if matches!(&inner.role, Role::Connection(connection) if connection.adds_nothing(&tcp)) {
            return true;
        }
        let cause = Cause::Segment { reset: tcp.has(Tcp::RST) };
        let events = socket.step(&mut inner, Some(&frame[ip.packet()]), cause);
        drop(inner);
        if !events.is_empty() {
            socket.queue.wake(events);
        }
        true
    }

    /// Takes in a segment whose checksum is right, and which is of no connection that is there.
    pub fn receive_tcp(self: &Arc<Self>, link: &Arc<Link>, frame: &Frame, ip: &Ipv4) {
        self.counters.count(Counter::TcpInSegs);
        let Ok(tcp) = Tcp::parse(&frame[ip.payload()]) else {
            return self.counters.count(Counter::TcpInErrs);
        };
        let key = key(ip, &tcp);
        if key.local.port == 0 || key.remote.port == 0 || key.remote.address.is_unspecified() {
            return self.counters.count(Counter::TcpInErrs);
        }
        let packet = &frame[ip.packet()];
        match self.tcp.find(&key) {
            Some(Flow::TimeWait(record)) => self.receive_in_time_wait(link, &key, record, &tcp, packet),
            _ => self.receive_unknown(link, &key, &tcp, packet),
        }
    }

    /// A segment of no connection: it may open one.
    fn receive_unknown(self: &Arc<Self>, link: &Arc<Link>, key: &FlowKey, tcp: &Tcp, packet: &[u8]) {
        if tcp.has(Tcp::RST) {
            return;
        }
        let listener = self.tcp.find_listener(key, link.index);
        match listener {
            Some(listener) if tcp.flags & (Tcp::SYN | Tcp::ACK | Tcp::FIN) == Tcp::SYN => {
                listener.open(link, *key, packet);
            }
            // A listener ignores what is neither an opening nor an acknowledgment (RFC 9293, 3.10.7.2).
            Some(_) if !tcp.has(Tcp::ACK) => {}
            _ => self.send_reset(key, tcp),
        }
    }

    /// A segment of a connection that has ended: its last segment again, or a new connection (RFC 9293, 3.6.1, MAY-2).
    fn receive_in_time_wait(
        self: &Arc<Self>,
        link: &Arc<Link>,
        key: &FlowKey,
        record: TimeWait,
        tcp: &Tcp,
        packet: &[u8],
    ) {
        // By its number or its age: initial sequence numbers need not grow (RFC 6528 says they should).
        let is_later = (tcp.sequence.wrapping_sub(record.next) as i32) > 0
            || self.now() >= record.since + super::table::REUSE_AFTER;
        if tcp.has(Tcp::RST) {
            // RFC 1337: a stray reset must not end TIME_WAIT early.
            return;
        }
        if tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN && is_later {
            self.tcp.end_time_wait(key, record.since);
            return self.receive_unknown(link, key, tcp, packet);
        }
        if tcp.has(Tcp::ACK) && tcp.sequence_length() > 0 {
            let answer = Bare { sequence: tcp.acknowledgment, acknowledgment: record.next, flags: Tcp::ACK };
            self.send_bare(key, &answer);
        }
    }

    /// Tells the sender of a segment that there is no such connection (RFC 9293, 3.10.7.1).
    fn send_reset(self: &Arc<Self>, key: &FlowKey, tcp: &Tcp) {
        let answer = if tcp.has(Tcp::ACK) {
            Bare { sequence: tcp.acknowledgment, acknowledgment: 0, flags: Tcp::RST }
        } else {
            let acknowledgment = tcp.sequence.wrapping_add(tcp.sequence_length());
            Bare { sequence: 0, acknowledgment, flags: Tcp::RST | Tcp::ACK }
        };
        self.counters.count(Counter::TcpOutRsts);
        self.send_bare(key, &answer);
    }

    fn send_bare(self: &Arc<Self>, key: &FlowKey, segment: &Bare) {
        let Ok(mut path) = self.path(key.remote.address, Some(key.local.address), None) else { return };
        let template = Ipv4Template::new(key.local.address, key.remote.address, protocol::TCP);
        let sum = pseudo_header_sum(template.source, template.destination, protocol::TCP, TCP_HEADER);
        let sent = self.send_ip(&mut path, &template, TCP_HEADER, None, &mut |tcp| {
            tcp.fill(0);
            tcp[..2].copy_from_slice(&key.local.port.to_be_bytes());
            tcp[2..4].copy_from_slice(&key.remote.port.to_be_bytes());
            tcp[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
            tcp[8..12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
            tcp[12] = (TCP_HEADER as u8 / 4) << 4;
            tcp[13] = segment.flags;
            let sum = !checksum_add(sum, tcp);
            tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        });
        if sent.is_ok() {
            self.counters.count(Counter::TcpOutSegs);
        }
    }

    /// A segment of ours was not delivered, says a router or the neighbour's silence. Only an attempt to connect
    /// ends by that; what is established sends again (RFC 5461).
    pub fn tcp_undeliverable(self: &Arc<Self>, flow: &QuotedFlow, error: Errno) {
        let key = FlowKey { local: flow.local, remote: flow.remote };
        let Some(Flow::Socket(socket)) = self.tcp.find(&key) else { return };
        let mut inner = socket.inner.lock();
        let Role::Connection(connection) = &mut inner.role else { return };
        if connection.tcp().state() != smoltcp::socket::tcp::State::SynSent {
            return;
        }
        connection.discard();
        inner.error = Some(error);
        let events = socket.step_closed(&mut inner);
        drop(inner);
        socket.queue.wake(events);
    }
}
