//! TCP over loopback: tcp(7), connect(2), accept(2), shutdown(2).

use libc::{
    AF_INET, AF_UNSPEC, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, POLLIN, POLLOUT,
    POLLRDHUP, SHUT_RD, SHUT_RDWR, SHUT_WR, SO_ERROR, SO_LINGER, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET,
    sockaddr_in,
};
use user_sys::child::in_child;
use user_sys::{Child, Errno, Handler, Zeroed, must, sys};

use super::poll::names;
use crate::fixture::{close, is_open, read_text, status, took_at_least, write};
use crate::net::{
    LENGTH, accept, bind, closed_port, connect, impatient, listener, loopback, option, port, recv, send,
    socket, tcp, tcp_pair,
};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("tcp":
    refused, connection, connect_nonblocking, connect_nonblocking_refused, connect_errors, end_of_stream,
    half_close, shutdown_read, shutdown_errors, broken_pipe, reset_by_unread_data, reset_by_linger, peek,
    wait_all, truncating_receive, not_waiting, poll_states, epoll_states, readable_bytes, vectors,
    large_transfer, sender_blocks, receive_timeout, many_connections, survives_fork, urgent_flags,
    disconnect, sendfile,
);

fn poll_now(fd: i32) -> String {
    wait_for(fd, POLLIN | POLLOUT | POLLRDHUP, 0)
}

/// What poll reports for these events, waiting up to so long.
pub fn wait_for(fd: i32, events: i16, timeout: i32) -> String {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    must(sys!(poll, &mut entry, 1, timeout));
    names(entry.revents)
}

/// Waits until poll reports a hang-up or an error, or something to read: news of the peer take a moment.
fn settled(fd: i32) -> String {
    wait_for(fd, POLLIN | POLLRDHUP, 5000);
    poll_now(fd)
}

fn refused(t: Transcript) {
    let port = closed_port();
    let fd = tcp();
    t.say("nobody listens", ok(connect(fd, port)));
    t.say("again", ok(connect(fd, port)));
    let bound = tcp();
    must(bind(bound, 0));
    t.say("bound, not listening", ok(connect(tcp(), self::port(bound))));
}

fn connection(t: Transcript) {
    let (client, server) = tcp_pair();
    t.say("there", (write(client, b"hello"), read_text(server, 100)));
    t.say("and back", (write(server, b"world"), read_text(client, 3), read_text(client, 100)));
    must(write(client, b"one "));
    must(write(client, b"two"));
    t.say("a stream has no borders", recv(server, 7, MSG_WAITALL));
    t.say("zero bytes", (write(client, b""), read_text(server, 0)));
    t.say("read to a wrong pointer", {
        must(write(client, b"x"));
        wait_for(server, POLLIN, 5000);
        sys!(read, server, 8, 1)
    });
    t.say("write from a wrong pointer", sys!(write, client, 8, 1));
    t.say("lseek", sys!(lseek, client, 0, 0));
    t.say("pread", sys!(pread64, client, &mut [0_u8], 1, 0));
}

pub fn nonblocking() -> i32 {
    socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK)
}

fn connect_nonblocking(t: Transcript) {
    let (listening, port) = listener(4);
    let client = nonblocking();
    t.say("begins", ok(connect(client, port)));
    t.say("writable when done", wait_for(client, POLLOUT, 5000));
    t.say("error", option(client, SOL_SOCKET, SO_ERROR));
    t.say("asked again", ok(connect(client, port)));
    t.say("once more", ok(connect(client, port)));
    t.say("nothing to read", read_text(client, 1));
    t.say("accepted", accept(listening, 0).map(|fd| fd > 0));
}

fn connect_nonblocking_refused(t: Transcript) {
    let client = nonblocking();
    t.say("begins", ok(connect(client, closed_port())));
    t.say("reported", wait_for(client, POLLIN | POLLOUT, 5000));
    t.say("error", option(client, SOL_SOCKET, SO_ERROR));
    t.say("told once", option(client, SOL_SOCKET, SO_ERROR));
}

fn connect_errors(t: Transcript) {
    let (_listening, port) = listener(4);
    t.say("short address", ok(sys!(connect, tcp(), &loopback(port), 8)));
    t.say("wrong pointer", ok(sys!(connect, tcp(), 8, LENGTH)));
    t.say("address longer than any", ok(sys!(connect, tcp(), &loopback(port), 500)));
    let mut other = loopback(port);
    other.sin_family = libc::AF_INET6 as u16;
    t.say("another family", ok(sys!(connect, tcp(), &other, LENGTH)));
    t.say("not a socket", ok(connect(0, port)));
    let (client, _server) = tcp_pair();
    t.say("connected already", ok(connect(client, port)));
    t.say("a listener", ok(connect(listener(1).0, port)));
}

fn end_of_stream(t: Transcript) {
    let (client, server) = tcp_pair();
    must(write(client, b"last"));
    must(close(client));
    t.say("what was sent", recv(server, 4, MSG_WAITALL));
    t.say("then the end", read_text(server, 10));
    t.say("again", read_text(server, 10));
    t.say("poll", poll_now(server));
}

fn half_close(t: Transcript) {
    let (client, server) = tcp_pair();
    must(write(client, b"question"));
    t.say("shutdown", ok(sys!(shutdown, client, SHUT_WR)));
    t.say("server reads", recv(server, 8, MSG_WAITALL));
    t.say("server sees the end", read_text(server, 10));
    t.say("server answers", write(server, b"answer"));
    t.say("client reads", recv(client, 6, MSG_WAITALL));
    t.say("client's writes", send(client, b"x", MSG_NOSIGNAL));
    t.say("twice", ok(sys!(shutdown, client, SHUT_WR)));
    must(close(server));
    t.say("client sees the end", read_text(client, 10));
}

fn shutdown_read(t: Transcript) {
    let (client, server) = tcp_pair();
    t.say("shutdown", ok(sys!(shutdown, server, SHUT_RD)));
    t.say("reads end", read_text(server, 10));
    t.say("poll", poll_now(server));
    t.say("the other way works", (write(server, b"x"), read_text(client, 1)));
}

fn shutdown_errors(t: Transcript) {
    t.say("not connected", ok(sys!(shutdown, tcp(), SHUT_WR)));
    let (client, _server) = tcp_pair();
    t.say("unknown way", ok(sys!(shutdown, client, 9)));
    t.say("both ways", ok(sys!(shutdown, client, SHUT_RDWR)));
    t.say("closed", ok(sys!(shutdown, 99, SHUT_WR)));
    t.say("not a socket", ok(sys!(shutdown, 0, SHUT_WR)));
}

fn broken_pipe(t: Transcript) {
    let (client, server) = tcp_pair();
    must(close(server));
    wait_for(client, POLLIN, 5000);
    t.say("first write", send(client, b"x", MSG_NOSIGNAL));
    settle_reset(client);
    t.say("second write", send(client, b"x", MSG_NOSIGNAL));
    t.say("with the signal", in_child(|| must(write(client, b"x"))));
    must(Handler::install_function(libc::SIGPIPE, libc::SIG_IGN, 0, &[]));
    t.say("ignored", write(client, b"x"));
    t.say("unconnected", send(tcp(), b"x", MSG_NOSIGNAL));
}

/// Waits for the hang-up that a reset brings.
pub fn settle_reset(fd: i32) {
    for _ in 0..500 {
        if wait_for(fd, 0, 10).contains("HUP") {
            break;
        }
    }
}

fn reset_by_unread_data(t: Transcript) {
    let (client, server) = tcp_pair();
    must(write(client, b"never read"));
    wait_for(server, POLLIN, 5000);
    must(close(server));
    settle_reset(client);
    t.say("poll", poll_now(client));
    t.say("read", read_text(client, 10));
    t.say("told once", read_text(client, 10));
    t.say("write", send(client, b"x", MSG_NOSIGNAL));
}

fn reset_by_linger(t: Transcript) {
    let (client, server) = tcp_pair();
    must(sys!(setsockopt, server, SOL_SOCKET, SO_LINGER, &[1_i32, 0], 8));
    must(close(server));
    settle_reset(client);
    t.say("error", option(client, SOL_SOCKET, SO_ERROR));
    t.say("read then", read_text(client, 10));
}

fn peek(t: Transcript) {
    let (client, server) = tcp_pair();
    must(write(client, b"0123456789"));
    t.say("whole", recv(server, 10, MSG_PEEK | MSG_WAITALL));
    t.say("part", recv(server, 4, MSG_PEEK));
    t.say("read", read_text(server, 3));
    t.say("the rest", recv(server, 100, MSG_PEEK));
}

fn wait_all(t: Transcript) {
    let (client, server) = tcp_pair();
    let child = Child::spawn(|| status(recv(server, 6, MSG_WAITALL) == Ok("\"abcdef\"".to_owned())));
    for part in [b"ab", b"cd", b"ef"] {
        must(write(client, part));
        must(sys!(nanosleep, &user_sys::millis(5), 0));
    }
    t.say("in three parts", child.wait());
    must(write(client, b"short"));
    must(sys!(shutdown, client, SHUT_WR));
    t.say("cut off by the end", recv(server, 100, MSG_WAITALL));
}

fn truncating_receive(t: Transcript) {
    let (client, server) = tcp_pair();
    must(write(client, b"0123456789"));
    recv(server, 10, MSG_PEEK | MSG_WAITALL).unwrap_or_default();
    t.say("drops without copying", sys!(recvfrom, server, 0, 4, MSG_TRUNC, 0, 0));
    t.say("the rest", read_text(server, 100));
}

fn not_waiting(t: Transcript) {
    let (client, server) = tcp_pair();
    t.say("one call", recv(server, 1, MSG_DONTWAIT));
    must(sys!(fcntl, server, libc::F_SETFL, libc::O_NONBLOCK));
    t.say("the socket", read_text(server, 1));
    let block = vec![0_u8; 1 << 20];
    let mut sent = 0;
    let refused = loop {
        match send(client, &block, MSG_DONTWAIT) {
            Ok(count) => sent += count,
            Err(errno) => break user_sys::errno_name(errno),
        }
    };
    t.say("until the buffers are full", (sent > 10_000, refused));
    t.say("poll", poll_now(client));
    t.say("room again once read", {
        while wait_for(client, POLLOUT, 0) == "-" {
            wait_for(server, POLLIN, 100);
            let _ = recv(server, 65536, 0);
        }
        poll_now(client)
    });
}

fn poll_states(t: Transcript) {
    let (client, server) = tcp_pair();
    t.say("connected", poll_now(client));
    must(write(server, b"x"));
    t.say("with a byte", settled(client));
    must(sys!(shutdown, server, SHUT_WR));
    must(sys!(read, client, &mut [0_u8], 1));
    t.say("peer stopped writing", settled(client));
    must(sys!(shutdown, client, SHUT_WR));
    must(sys!(nanosleep, &user_sys::millis(20), 0));
    t.say("both stopped", poll_now(client));
    t.say("fresh", poll_now(tcp()));
    let listening = listener(4).0;
    t.say("listening", poll_now(listening));
}

fn epoll_states(t: Transcript) {
    let (client, server) = tcp_pair();
    let epoll = must(sys!(epoll_create1, 0));
    let wanted = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
    must(sys!(epoll_ctl, epoll, libc::EPOLL_CTL_ADD, client, &libc::epoll_event { events: wanted, u64: 7 }));
    let next = |timeout: i32| {
        let mut event = libc::epoll_event::zeroed();
        let count = sys!(epoll_wait, epoll, &mut event, 1, timeout)?;
        Ok::<_, Errno>(if count == 0 { "none".to_owned() } else { names(event.events as i16) })
    };
    t.say("at first", (next(0), next(0)));
    must(write(server, b"x"));
    t.say("a byte", (next(5000), next(0)));
    must(write(server, b"y"));
    t.say("another", (next(5000), next(0)));
    must(sys!(shutdown, server, SHUT_WR));
    t.say("peer stopped writing", (next(5000), next(0)));
}

fn readable_bytes(t: Transcript) {
    let (client, server) = tcp_pair();
    let count = |fd: i32| {
        let mut count = -1_i32;
        sys!(ioctl, fd, libc::FIONREAD, &mut count).map(|_| count)
    };
    t.say("none", count(server));
    must(write(client, b"12345"));
    recv(server, 5, MSG_PEEK | MSG_WAITALL).unwrap_or_default();
    t.say("five", count(server));
    t.say("of a listener", count(listener(1).0));
}

fn vectors(t: Transcript) {
    let (client, server) = tcp_pair();
    let parts = [b"one " as &[u8], b"two ", b"three"]
        .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    t.say("writev", sys!(writev, client, &parts, 3));
    let message = crate::net::recvmsg(server, 13, 0, MSG_WAITALL);
    t.say("recvmsg", message.map(|message| (message.bytes, message.flags)));
    t.say("sendmsg", crate::net::sendmsg(server, b"back", &[], 0));
    t.say("read", recv(client, 4, MSG_WAITALL));
    t.say("to an address, though connected", sys!(sendto, client, b"x", 1, 0, &loopback(1), LENGTH));
}

/// The byte at this offset of a long transfer.
fn pattern(at: usize) -> u8 {
    (at ^ at >> 7) as u8
}

fn large_transfer(t: Transcript) {
    const TOTAL: usize = 3 << 20;
    let (client, server) = tcp_pair();
    let child = Child::spawn(|| {
        let bytes: Vec<u8> = (0..TOTAL).map(pattern).collect();
        let sent = bytes.chunks(100_003).all(|chunk| write(client, chunk) == Ok(chunk.len()));
        status(sent)
    });
    must(close(client));
    let (mut total, mut wrong) = (0, 0);
    let mut buffer = vec![0_u8; 50_021];
    while let Ok(count @ 1..) = sys!(read, server, &mut buffer[..], buffer.len()) {
        wrong += (0..count).filter(|at| buffer[*at] != pattern(total + at)).count();
        total += count;
    }
    t.say("three MiB", (child.wait(), total, wrong));
}

fn sender_blocks(t: Transcript) {
    let (client, server) = tcp_pair();
    let child = Child::spawn(|| status(write(client, &vec![1; 8 << 20]) == Ok(8 << 20)));
    must(close(client));
    let mut total = 0;
    let mut buffer = vec![0_u8; 65536];
    while let Ok(count @ 1..) = sys!(read, server, &mut buffer[..], 65536) {
        total += count;
    }
    t.say("eight MiB in one write", (child.wait(), total));
}

fn receive_timeout(t: Transcript) {
    let (_client, server) = tcp_pair();
    impatient(server, 30);
    t.say("read", took_at_least(30, || read_text(server, 1)));
    let (listening, _) = listener(1);
    impatient(listening, 30);
    t.say("accept", took_at_least(30, || ok(accept(listening, 0))));
    let mut value = [9_i64; 2];
    let mut length = 16_u32;
    let known = ok(sys!(getsockopt, server, SOL_SOCKET, libc::SO_RCVTIMEO, &mut value, &mut length));
    // Rounded up to the host's ticks.
    t.say("read back", (known, value[0], (30_000..50_000).contains(&value[1]), length));
    t.say(
        "out of range",
        ok(sys!(setsockopt, server, SOL_SOCKET, libc::SO_RCVTIMEO, &[0_i64, 1_000_000], 16)),
    );
}

fn many_connections(t: Transcript) {
    let (listening, port) = listener(64);
    let mut answered = 0;
    for round in 0..200_u8 {
        let client = tcp();
        must(connect(client, port));
        let server = must(accept(listening, 0));
        must(write(client, &[round]));
        let mut byte = [0_u8];
        answered += usize::from(sys!(read, server, &mut byte, 1) == Ok(1) && byte[0] == round);
        must(close(client));
        must(close(server));
    }
    t.say("one after the other", answered);
    let clients: Vec<i32> = (0..50).map(|_| tcp()).collect();
    t.say("at once", clients.iter().filter(|&&fd| connect(fd, port).is_ok()).count());
    t.say("accepted", (0..50).filter(|_| accept(listening, 0).is_ok()).count());
}

fn survives_fork(t: Transcript) {
    let (client, server) = tcp_pair();
    let child = Child::spawn(|| status(write(client, b"child").is_ok()));
    t.say("child", child.wait());
    t.say("its close is not the end", write(client, b"+parent"));
    t.say("both", recv(server, 12, MSG_WAITALL));
    must(close(client));
    t.say("now it is", read_text(server, 1));
}

fn urgent_flags(t: Transcript) {
    let (client, server) = tcp_pair();
    t.say("MSG_MORE", send(client, b"ab", libc::MSG_MORE));
    t.say("rest", send(client, b"cd", 0));
    t.say("arrives", recv(server, 4, MSG_WAITALL));
    t.say("MSG_EOR", send(client, b"e", libc::MSG_EOR));
    t.say("arrives then", recv(server, 1, 0));
}

fn disconnect(t: Transcript) {
    let (client, server) = tcp_pair();
    let mut nowhere = sockaddr_in::zeroed();
    nowhere.sin_family = AF_UNSPEC as u16;
    t.say("connect to nowhere", ok(sys!(connect, client, &nowhere, LENGTH)));
    t.say("no peer", ok(sys!(getpeername, client, &mut nowhere, &mut 16_u32)));
    settle_reset(server);
    t.say("the other end is reset", read_text(server, 1));
    t.say("still open", is_open(client));
    let (_listening, port) = listener(4);
    t.say("connects anew", ok(connect(client, port)));
}

fn sendfile(t: Transcript) {
    let (client, server) = tcp_pair();
    let file = crate::fixture::file_with(c"file", b"0123456789");
    let mut offset = 2_i64;
    t.say("part of a file", sys!(sendfile, client, file, &mut offset, 5));
    t.say("offset", offset);
    t.say("arrives", recv(server, 5, MSG_WAITALL));
}
