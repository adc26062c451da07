//! The listening side of TCP, and addresses: bind(2), listen(2), accept(2), SO_REUSEADDR, SO_REUSEPORT.

use libc::{
    IPPROTO_TCP, MSG_NOSIGNAL, POLLIN, POLLOUT, SO_ERROR, SO_REUSEADDR, SO_REUSEPORT, SOCK_CLOEXEC,
    SOCK_NONBLOCK, SOL_SOCKET, TCP_DEFER_ACCEPT, sockaddr_in,
};
use user_sys::{Child, Zeroed, must, sys};

use super::tcp::{nonblocking, settle_reset, wait_for};
use crate::fixture::{close, read_text, status, write};
use crate::net::{
    LENGTH, accept, address, bind, connect, listener, loopback, option, port, send, set_option, tcp, tcp_pair,
};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("listen":
    names_of_ends, accept_flags, accept_errors, accept_blocks, backlog, address_in_use, reuse_address,
    reuse_port, bind_errors, listen_rules, closed_listener, rebind_after_close, listener_poll,
    deferred_accept,
);

fn names_of_ends(t: Transcript) {
    let (listening, port) = listener(4);
    let client = tcp();
    must(connect(client, port));
    let (mut name, mut length) = (sockaddr_in::zeroed(), LENGTH as u32);
    let server = must(sys!(accept, listening, &mut name, &mut length));
    t.say(
        "accept tells the peer",
        (
            u16::from_be(name.sin_port) == self::port(client),
            name.sin_addr.s_addr == u32::from_ne_bytes([127, 0, 0, 1]),
            length,
        ),
    );
    t.say(
        "peer of the client",
        (ok(sys!(getpeername, client, &mut name, &mut length)), u16::from_be(name.sin_port) == port),
    );
    t.say(
        "name of the server's end",
        (ok(sys!(getsockname, server, &mut name, &mut length)), u16::from_be(name.sin_port) == port),
    );
    t.say("peer of the listener", ok(sys!(getpeername, listening, &mut name, &mut length)));
    t.say(
        "name of a fresh one",
        (ok(sys!(getsockname, tcp(), &mut name, &mut length)), name.sin_port, name.sin_family),
    );
    let mut short = [0xee_u8; 16];
    let mut room = 4_u32;
    t.say("little room", (ok(sys!(getsockname, server, &mut short, &mut room)), room, short[4]));
    t.say("negative room", ok(sys!(getsockname, server, &mut short, &mut -1_i32)));
    t.say("wrong pointer", ok(sys!(getsockname, server, 8, &mut 16_u32)));
    t.say("wrong length pointer", ok(sys!(getsockname, server, &mut short, 8)));
    t.say("not a socket", ok(sys!(getsockname, 0, &mut short, &mut room)));
    t.say("closed", ok(sys!(getsockname, 99, &mut short, &mut room)));
}

fn accept_flags(t: Transcript) {
    let (listening, port) = listener(4);
    let accepted = |flags: i32| {
        must(connect(tcp(), port));
        accept(listening, flags).map(|fd| {
            (must(sys!(fcntl, fd, libc::F_GETFD)), must(sys!(fcntl, fd, libc::F_GETFL)) & libc::O_NONBLOCK)
        })
    };
    t.say("none", accepted(0));
    t.say("close on exec", accepted(SOCK_CLOEXEC));
    t.say("non-blocking", accepted(SOCK_NONBLOCK));
    must(sys!(fcntl, listening, libc::F_SETFL, libc::O_NONBLOCK));
    t.say("the listener's is not inherited", accepted(0));
    t.say("unknown", accepted(1).map(drop));
}

fn accept_errors(t: Transcript) {
    let (listening, port) = listener(4);
    must(sys!(fcntl, listening, libc::F_SETFL, libc::O_NONBLOCK));
    t.say("nobody there", ok(accept(listening, 0)));
    t.say("not listening", ok(accept(tcp(), 0)));
    t.say("a connection", ok(accept(tcp_pair().0, 0)));
    t.say("a datagram socket", ok(accept(crate::net::udp(), 0)));
    t.say("not a socket", ok(accept(0, 0)));
    t.say("closed", ok(accept(99, 0)));
    must(connect(tcp(), port));
    t.say("wrong pointer", ok(sys!(accept4, listening, 8, &mut 16_u32, 0)));
}

fn accept_blocks(t: Transcript) {
    let (listening, port) = listener(4);
    let child = Child::spawn(|| {
        let server = must(accept(listening, 0));
        status(read_text(server, 10) == Ok("\"hi\"".to_owned()))
    });
    let client = tcp();
    must(connect(client, port));
    must(write(client, b"hi"));
    t.say("woken by a connection", child.wait());
    crate::fixture::repeat_alarm(10, 0);
    t.say("interrupted", ok(accept(listening, 0)));
    crate::fixture::stop_alarm();
}

fn backlog(t: Transcript) {
    let (listening, port) = listener(2);
    t.say("one more than the backlog", (0..3).map(|_| ok(connect(tcp(), port))).collect::<Vec<_>>());
    let late = nonblocking();
    t.say("the next has to wait", (ok(connect(late, port)), wait_for(late, POLLOUT, 100)));
    t.say("accepted", (0..3).map(|_| accept(listening, 0).is_ok()).collect::<Vec<_>>());
    t.say("then it gets in", (wait_for(late, POLLOUT, 15_000), option(late, SOL_SOCKET, SO_ERROR)));
}

fn address_in_use(t: Transcript) {
    let (_listening, port) = listener(4);
    t.say("listening", ok(bind(tcp(), port)));
    let bound = tcp();
    must(bind(bound, 0));
    t.say("bound", ok(bind(tcp(), self::port(bound))));
    t.say("any address", ok(sys!(bind, tcp(), &address([0, 0, 0, 0], port), LENGTH)));
    t.say("another loopback address", ok(sys!(bind, tcp(), &address([127, 0, 0, 2], port), LENGTH)));
    t.say("another protocol", ok(bind(crate::net::udp(), port)));
}

fn reuse_address(t: Transcript) {
    let reusing = || {
        let fd = tcp();
        must(set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1));
        fd
    };
    let first = reusing();
    must(bind(first, 0));
    let port = self::port(first);
    let second = reusing();
    t.say("both bound", ok(bind(second, port)));
    t.say("first listens", ok(sys!(listen, first, 4)));
    t.say("second listens", ok(sys!(listen, second, 4)));
    t.say("third while one listens", ok(bind(reusing(), port)));
}

fn reuse_port(t: Transcript) {
    let sharing = |port: u16| {
        let fd = nonblocking();
        must(set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1));
        (fd, ok(bind(fd, port)), ok(sys!(listen, fd, 16)))
    };
    let (first, bound, listening) = sharing(0);
    t.say("first", (bound, listening));
    let port = self::port(first);
    let (second, bound, listening) = sharing(port);
    t.say("second", (bound, listening));
    t.say("one that does not share", ok(bind(tcp(), port)));
    let clients: Vec<i32> = (0..20).map(|_| tcp()).collect();
    t.say("connections", clients.iter().filter(|&&fd| connect(fd, port).is_ok()).count());
    let accepted = [first, second].map(|fd| (0..20).filter(|_| accept(fd, 0).is_ok()).count());
    t.say("accepted by either", accepted[0] + accepted[1]);
}

fn bind_errors(t: Transcript) {
    let fd = tcp();
    must(bind(fd, 0));
    t.say("twice", ok(bind(fd, 0)));
    t.say("foreign address", ok(sys!(bind, tcp(), &address([192, 0, 2, 1], 0), LENGTH)));
    t.say("short address", ok(sys!(bind, tcp(), &loopback(0), 8)));
    t.say("wrong pointer", ok(sys!(bind, tcp(), 8, LENGTH)));
    let mut other = loopback(0);
    other.sin_family = libc::AF_UNIX as u16;
    t.say("another family", ok(sys!(bind, tcp(), &other, LENGTH)));
    t.say("not a socket", ok(bind(0, 0)));
    t.say("closed", ok(bind(99, 0)));
    t.say("connected", ok(bind(tcp_pair().0, 0)));
}

fn deferred_accept(t: Transcript) {
    let (listening, listening_port) = listener(4);
    let defer = |seconds| {
        let set = ok(set_option(listening, IPPROTO_TCP, TCP_DEFER_ACCEPT, seconds));
        (set, option(listening, IPPROTO_TCP, TCP_DEFER_ACCEPT))
    };
    t.say("not at first", option(listening, IPPROTO_TCP, TCP_DEFER_ACCEPT));
    t.say("negative", defer(-1));
    t.say("whole periods", (defer(2), defer(30)));
    let flags = must(sys!(fcntl, listening, libc::F_GETFL)) as i32;
    must(sys!(fcntl, listening, libc::F_SETFL, flags | libc::O_NONBLOCK));
    let client = tcp();
    t.say("connect", ok(connect(client, listening_port)));
    t.say("without data", ok(accept(listening, 0)));
    t.say("write", write(client, b"x"));
    t.say("with data", wait_for(listening, POLLIN, 5000));
    let server = must(accept(listening, 0));
    t.say("read", read_text(server, 5));
    t.say("of the accepted", option(server, IPPROTO_TCP, TCP_DEFER_ACCEPT));
}

fn listen_rules(t: Transcript) {
    let fd = tcp();
    t.say("unbound gets a port", (ok(sys!(listen, fd, 4)), port(fd) != 0));
    t.say("again", ok(sys!(listen, fd, 8)));
    t.say("negative backlog", ok(sys!(listen, tcp(), -1)));
    t.say("connected", ok(sys!(listen, tcp_pair().0, 1)));
    t.say("datagram socket", ok(sys!(listen, crate::net::udp(), 1)));
    t.say("not a socket", ok(sys!(listen, 0, 1)));
    t.say("read of a listener", read_text(fd, 1));
    t.say("write to a listener", send(fd, b"x", MSG_NOSIGNAL));
}

fn closed_listener(t: Transcript) {
    let (listening, port) = listener(4);
    let waiting = tcp();
    must(connect(waiting, port));
    must(close(listening));
    t.say("refuses the next", ok(connect(tcp(), port)));
    settle_reset(waiting);
    t.say("resets the one in its queue", read_text(waiting, 1));
}

fn rebind_after_close(t: Transcript) {
    let listening = tcp();
    must(set_option(listening, SOL_SOCKET, SO_REUSEADDR, 1));
    must(bind(listening, 0));
    must(sys!(listen, listening, 4));
    let port = port(listening);
    let client = tcp();
    must(connect(client, port));
    let server = must(accept(listening, 0));
    must(close(server));
    t.say("client sees the end", read_text(client, 1));
    must(close(client));
    must(close(listening));
    let again = tcp();
    must(set_option(again, SOL_SOCKET, SO_REUSEADDR, 1));
    t.say("the port can be had again", (ok(bind(again, port)), ok(sys!(listen, again, 4))));
    t.say("and serves", ok(connect(tcp(), port)));
}

fn listener_poll(t: Transcript) {
    let (listening, port) = listener(4);
    t.say("nobody", wait_for(listening, POLLIN, 0));
    let child = Child::spawn(|| status(wait_for(listening, POLLIN, -1) == "IN"));
    must(connect(tcp(), port));
    t.say("woken", child.wait());
    t.say("somebody", wait_for(listening, POLLIN, 5000));
    must(accept(listening, 0));
    t.say("accepted", wait_for(listening, POLLIN, 0));
}
