//! UDP over loopback: udp(7), sendto(2), recvmsg(2).

use libc::{
    AF_UNSPEC, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, POLLIN, POLLOUT, SO_ERROR, SO_REUSEADDR, SO_REUSEPORT,
    SOL_SOCKET, mmsghdr, sockaddr_in,
};
use user_sys::{Child, Errno, Zeroed, must, sys};

use super::poll::names;
use crate::fixture::{close, read_text, status, took_at_least, write};
use crate::net::{
    LENGTH, bind, connect, impatient, loopback, option, port, recv, recvmsg, send, set_option, udp,
};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("udp":
    datagrams, source_address, borders, truncation, empty, connected, filter, refused, disconnect,
    destination, too_large, not_waiting, poll_states, wakes, names_of_ends, address_in_use, sharing,
    queue_drops, readable_bytes, many_at_once, errors, peek_keeps_source, shutdown,
    no_errors_queued,
);

/// A socket bound to a loopback port, which gives up reading after two seconds, and the port.
fn bound() -> (i32, u16) {
    let fd = udp();
    must(bind(fd, 0));
    impatient(fd, 2000);
    (fd, port(fd))
}

fn send_to(fd: i32, bytes: &[u8], port: u16) -> user_sys::Res {
    sys!(sendto, fd, bytes, bytes.len(), 0, &loopback(port), LENGTH)
}

/// The queue of errors is never waited for.
fn no_errors_queued(t: Transcript) {
    let (receiver, _) = bound();
    t.say("nothing queued", recv(receiver, 10, libc::MSG_ERRQUEUE));
}

fn datagrams(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    t.say("send", send_to(sender, b"hello", port));
    t.say("receive", recv(receiver, 100, 0));
    t.say("read and write work too", {
        must(connect(sender, port));
        (write(sender, b"again"), read_text(receiver, 100))
    });
}

fn source_address(t: Transcript) {
    let ((receiver, port), (sender, sender_port)) = (bound(), bound());
    must(send_to(sender, b"x", port));
    let (mut from, mut length) = (sockaddr_in::zeroed(), 16_u32);
    t.say("recvfrom", sys!(recvfrom, receiver, &mut [0_u8; 8], 8, 0, &mut from, &mut length));
    t.say(
        "from",
        (
            u16::from_be(from.sin_port) == sender_port,
            from.sin_addr.s_addr == u32::from_ne_bytes([127, 0, 0, 1]),
            length,
        ),
    );
    t.say("answer", (send_to(receiver, b"back", u16::from_be(from.sin_port)), recv(sender, 10, 0)));
    must(send_to(sender, b"x", port));
    let mut room = 4_u32;
    let mut short = [0xee_u8; 16];
    t.say(
        "little room for the address",
        (sys!(recvfrom, receiver, &mut [0_u8; 8], 8, 0, &mut short, &mut room), room, short[4]),
    );
}

fn borders(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    for text in [b"one" as &[u8], b"two two", b"3"] {
        must(send_to(sender, text, port));
    }
    t.say("one at a time", (recv(receiver, 100, 0), recv(receiver, 100, 0), recv(receiver, 100, 0)));
    t.say("none left", recv(receiver, 100, MSG_DONTWAIT));
}

fn truncation(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    for _ in 0..3 {
        must(send_to(sender, b"0123456789", port));
    }
    t.say("the rest is dropped", recv(receiver, 4, 0));
    t.say("its full length", sys!(recvfrom, receiver, &mut [0_u8; 4], 4, MSG_TRUNC, 0, 0));
    let message = recvmsg(receiver, 4, 0, 0);
    t.say("recvmsg says so", message.map(|message| (message.bytes, message.flags == MSG_TRUNC)));
    t.say("none left", recv(receiver, 100, MSG_DONTWAIT));
}

fn empty(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    t.say("send", send_to(sender, b"", port));
    must(send_to(sender, b"next", port));
    t.say("receive", recv(receiver, 100, 0));
    t.say("it was a datagram", recv(receiver, 100, 0));
    must(send_to(sender, b"dropped", port));
    t.say("no room at all", recv(receiver, 0, 0));
    t.say("drops it", recv(receiver, 100, MSG_DONTWAIT));
}

fn connected(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    t.say("connect", ok(connect(sender, port)));
    t.say("send", send(sender, b"hello", 0));
    t.say("receive", recv(receiver, 100, 0));
    let (other, other_port) = bound();
    t.say("to another address all the same", (send_to(sender, b"other", other_port), recv(other, 100, 0)));
    t.say("connect again", (ok(connect(sender, other_port)), send(sender, b"moved", 0), recv(other, 100, 0)));
    t.say("has a port of its own", self::port(sender) != 0);
}

fn filter(t: Transcript) {
    let ((receiver, port), (friend, friend_port), stranger) = (bound(), bound(), udp());
    must(connect(receiver, friend_port));
    must(send_to(stranger, b"stranger", port));
    must(send_to(friend, b"friend", port));
    t.say("only from the peer", recv(receiver, 100, 0));
    t.say("nothing else", recv(receiver, 100, MSG_DONTWAIT));
}

fn refused(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    must(close(receiver));
    impatient(sender, 2000);
    must(connect(sender, port));
    t.say("send", send(sender, b"x", 0));
    t.say("receive", recv(sender, 10, 0));
    t.say("told once", recv(sender, 10, MSG_DONTWAIT));
    t.say("send again", send(sender, b"x", 0));
    t.say("poll", polled(sender, POLLIN | POLLOUT, 2000));
    t.say("as an option", option(sender, SOL_SOCKET, SO_ERROR));
    t.say("unconnected ones are not told", {
        let other = udp();
        must(send_to(other, b"x", port));
        recv(other, 10, MSG_DONTWAIT)
    });
}

fn disconnect(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    must(connect(sender, port));
    let mut nowhere = sockaddr_in::zeroed();
    nowhere.sin_family = AF_UNSPEC as u16;
    t.say("connect to nowhere", ok(sys!(connect, sender, &nowhere, LENGTH)));
    t.say("send", send(sender, b"x", 0));
    t.say("no peer", ok(sys!(getpeername, sender, &mut nowhere, &mut 16_u32)));
    t.say("send with an address", (send_to(sender, b"y", port), recv(receiver, 10, 0)));
}

fn destination(t: Transcript) {
    let ((_receiver, port), sender) = (bound(), udp());
    t.say("none", send(sender, b"x", 0));
    t.say("port 0", send_to(sender, b"x", 0));
    t.say("short address", sys!(sendto, sender, b"x", 1, 0, &loopback(port), 8));
    t.say("wrong pointer", sys!(sendto, sender, b"x", 1, 0, 8, LENGTH));
    let mut other = loopback(port);
    other.sin_family = libc::AF_UNIX as u16;
    t.say("another family", sys!(sendto, sender, b"x", 1, 0, &other, LENGTH));
    t.say("wrong buffer", sys!(sendto, sender, 8, 1, 0, &loopback(port), LENGTH));
}

fn too_large(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    t.say("65508 bytes", send_to(sender, &[0; 65508], port));
    t.say("65507 bytes", send_to(sender, &[7; 65507], port));
    t.say("arrive", sys!(recvfrom, receiver, &mut [0_u8; 65536], 65536, 0, 0, 0));
}

fn polled(fd: i32, events: i16, timeout: i32) -> String {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    must(sys!(poll, &mut entry, 1, timeout));
    names(entry.revents)
}

fn not_waiting(t: Transcript) {
    let (receiver, _) = bound();
    t.say("one call", recv(receiver, 10, MSG_DONTWAIT));
    impatient(receiver, 30);
    t.say("timeout", took_at_least(30, || recv(receiver, 10, 0)));
    must(sys!(fcntl, receiver, libc::F_SETFL, libc::O_NONBLOCK));
    t.say("the socket", recv(receiver, 10, 0));
}

fn poll_states(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    t.say("empty", polled(receiver, POLLIN | POLLOUT, 0));
    must(send_to(sender, b"x", port));
    t.say("with a datagram", polled(receiver, POLLIN, 2000));
    recv(receiver, 1, 0).unwrap_or_default();
    t.say("empty again", polled(receiver, POLLIN | POLLOUT, 0));
    t.say("fresh", polled(udp(), POLLIN | POLLOUT, 0));
}

fn wakes(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    let child =
        Child::spawn(|| status(polled(receiver, POLLIN, -1) == "IN" && recv(receiver, 10, 0).is_ok()));
    must(send_to(sender, b"x", port));
    t.say("poll", child.wait());
    let child = Child::spawn(|| status(recv(receiver, 10, 0) == Ok("\"y\"".to_owned())));
    must(send_to(sender, b"y", port));
    t.say("recv", child.wait());
}

fn names_of_ends(t: Transcript) {
    let (fd, (_peer, port)) = (udp(), bound());
    let (mut name, mut length) = (sockaddr_in::zeroed(), 16_u32);
    t.say("fresh", (ok(sys!(getsockname, fd, &mut name, &mut length)), name.sin_port, name.sin_addr.s_addr));
    t.say("no peer", ok(sys!(getpeername, fd, &mut name, &mut length)));
    must(send_to(fd, b"x", port));
    must(sys!(getsockname, fd, &mut name, &mut length));
    t.say("sending binds to any address", (name.sin_port != 0, name.sin_addr.s_addr));
    must(connect(fd, port));
    must(sys!(getsockname, fd, &mut name, &mut length));
    t.say("connecting chooses one", name.sin_addr.s_addr == u32::from_ne_bytes([127, 0, 0, 1]));
    t.say("peer", (ok(sys!(getpeername, fd, &mut name, &mut length)), u16::from_be(name.sin_port) == port));
}

fn address_in_use(t: Transcript) {
    let (_first, port) = bound();
    t.say("taken", ok(bind(udp(), port)));
    let fd = udp();
    must(bind(fd, 0));
    t.say("twice", ok(bind(fd, 0)));
}

fn sharing(t: Transcript) {
    let shared = |name: i32, port: u16| {
        let fd = udp();
        must(set_option(fd, SOL_SOCKET, name, 1));
        (fd, ok(bind(fd, port)))
    };
    for (text, name) in [("reuse address", SO_REUSEADDR), ("reuse port", SO_REUSEPORT)] {
        let (first, bound) = shared(name, 0);
        let (_second, again) = shared(name, port(first));
        t.say(text, (bound, again, ok(bind(udp(), port(first)))));
    }
}

fn queue_drops(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    must(set_option(receiver, SOL_SOCKET, libc::SO_RCVBUF, 4096));
    let sent = (0..2000).filter(|_| send_to(sender, &[1; 1000], port).is_ok()).count();
    let mut received = 0;
    while recv(receiver, 1000, MSG_DONTWAIT).is_ok() {
        received += 1;
    }
    t.say("a sender is never refused", sent);
    t.say("some arrive, not all", (1..2000).contains(&received));
}

fn readable_bytes(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    let count = || {
        let mut count = -1_i32;
        sys!(ioctl, receiver, libc::FIONREAD, &mut count).map(|_| count)
    };
    t.say("none", count());
    must(send_to(sender, b"12345", port));
    must(send_to(sender, b"123", port));
    polled(receiver, POLLIN, 2000);
    t.say("of the next datagram only", count());
}

fn many_at_once(t: Transcript) {
    let ((receiver, port), sender) = (bound(), udp());
    must(connect(sender, port));
    let texts = [*b"one..", *b"two..", *b"three"];
    let mut parts = texts.map(|text| text).map(|text| (text, libc::iovec::zeroed()));
    let mut headers = [mmsghdr::zeroed(), mmsghdr::zeroed(), mmsghdr::zeroed()];
    for (index, (text, part)) in parts.iter_mut().enumerate() {
        *part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 5 };
        headers[index].msg_hdr.msg_iov = part;
        headers[index].msg_hdr.msg_iovlen = 1;
    }
    t.say("sendmmsg", sys!(sendmmsg, sender, &mut headers, 3, 0));
    t.say("lengths", headers.iter().map(|header| header.msg_len).collect::<Vec<_>>());
    polled(receiver, POLLIN, 2000);
    t.say("recvmmsg", sys!(recvmmsg, receiver, &mut headers, 2, 0, 0));
    t.say(
        "first two",
        parts.iter().take(2).map(|(text, _)| String::from_utf8_lossy(text).into_owned()).collect::<Vec<_>>(),
    );
    t.say("the third", recv(receiver, 100, 0));
}

fn errors(t: Transcript) {
    t.say("unknown family", ok(sys!(socket, 99, libc::SOCK_DGRAM, 0)));
    t.say("unknown type", ok(sys!(socket, libc::AF_INET, 99, 0)));
    t.say("protocol of another type", ok(sys!(socket, libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_TCP)));
    t.say("protocol named", ok(sys!(socket, libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP)));
    t.say("socketpair", ok(sys!(socketpair, libc::AF_INET, libc::SOCK_DGRAM, 0, &mut [0_i32; 2])));
    let (receiver, _) = bound();
    t.say("recv to a wrong pointer, nothing there", sys!(recvfrom, receiver, 8, 10, MSG_DONTWAIT, 0, 0));
    t.say("recv from a file", recv(0, 1, 0).map(drop));
    t.say("recv from a closed one", recv(99, 1, 0).map(drop));
    t.say("recvmsg, wrong header", sys!(recvmsg, receiver, 8, 0));
    t.say("sendmsg, wrong header", sys!(sendmsg, receiver, 8, 0));
}

fn peek_keeps_source(t: Transcript) {
    let ((receiver, port), (sender, sender_port)) = (bound(), bound());
    must(send_to(sender, b"peeked", port));
    let (mut from, mut length) = (sockaddr_in::zeroed(), 16_u32);
    t.say("peek", sys!(recvfrom, receiver, &mut [0_u8; 3], 3, MSG_PEEK, &mut from, &mut length));
    t.say("from", u16::from_be(from.sin_port) == sender_port);
    t.say("still there, whole", recv(receiver, 100, 0));
}

fn shutdown(t: Transcript) {
    let ((_receiver, port), sender) = (bound(), udp());
    t.say("not connected", ok(sys!(shutdown, sender, libc::SHUT_RD)));
    must(connect(sender, port));
    t.say("for reading", ok(sys!(shutdown, sender, libc::SHUT_RD)));
    t.say("reads end", recv(sender, 1, 0));
    t.say("for writing", ok(sys!(shutdown, sender, libc::SHUT_WR)));
    t.say("writes fail", send(sender, b"x", libc::MSG_NOSIGNAL).map_err(|errno: Errno| errno));
}
