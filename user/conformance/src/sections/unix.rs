//! Unix sockets: unix(7), socketpair(2), passing descriptors.

use std::ffi::CStr;

use libc::{
    AF_UNIX, MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_DONTWAIT, MSG_EOR, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC,
    O_RDONLY, SHUT_WR, SO_PEERCRED, SO_TYPE, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET,
    sockaddr_un,
};
use user_sys::child::in_child;
use user_sys::{Child, Errno, Res, Zeroed, must, sys};

use crate::fixture::{close, file_with, is_open, lseek, open, pipe, read_text, status, write};
use crate::net::{
    accept, control_message, descriptors, option, recv, recvmsg, rights, send, sendmsg, set_option, socket,
    unix_pair,
};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("unix":
    pairs, pair_errors, named, connect_errors, bind_errors, names_of_ends, abstract_names, autobind,
    datagrams, datagram_rules, packets, end_of_stream, broken, credentials, pass_one, pass_many,
    pass_and_close, pass_a_socket, pass_across_fork, pass_errors, little_room, close_on_exec,
    borders_of_rights, unclaimed, backlog, not_waiting, blocked_writer, file_stays, listen_and_accept,
    poll_full, poll_half_full, full_datagrams, in_flight, stream_peek,
);

/// A unix address with this path, and its length.
fn path(text: &str) -> (sockaddr_un, usize) {
    let mut address = sockaddr_un::zeroed();
    address.sun_family = AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(text.bytes()) {
        *to = from as i8;
    }
    (address, 2 + text.len() + usize::from(!text.starts_with('\0')))
}

fn bind(fd: i32, name: &str) -> Res {
    let (address, length) = path(name);
    sys!(bind, fd, &address, length)
}

fn connect(fd: i32, name: &str) -> Res {
    let (address, length) = path(name);
    sys!(connect, fd, &address, length)
}

fn stream() -> i32 {
    socket(AF_UNIX, SOCK_STREAM)
}

fn datagram() -> i32 {
    socket(AF_UNIX, SOCK_DGRAM)
}

/// A listening socket at this name.
fn listener(name: &str) -> i32 {
    let fd = stream();
    must(bind(fd, name));
    must(sys!(listen, fd, 4));
    fd
}

fn pairs(t: Transcript) {
    for (name, kind) in [("stream", SOCK_STREAM), ("datagram", SOCK_DGRAM), ("packets", SOCK_SEQPACKET)] {
        let (a, b) = unix_pair(kind);
        t.say(name, (write(a, b"there"), read_text(b, 10), write(b, b"back"), read_text(a, 10)));
        t.say(&format!("{name}, type"), option(a, SOL_SOCKET, SO_TYPE));
    }
    let (a, b) = unix_pair(SOCK_STREAM);
    must(write(a, b"one"));
    must(write(a, b"two"));
    t.say("a stream has no borders", read_text(b, 10));
    let (a, b) = unix_pair(SOCK_DGRAM);
    must(write(a, b"one"));
    must(write(a, b"two"));
    t.say("datagrams have", (read_text(b, 10), read_text(b, 2), recv(b, 10, MSG_DONTWAIT)));
}

fn pair_errors(t: Transcript) {
    let mut ends = [0_i32; 2];
    t.say("unknown type", ok(sys!(socketpair, AF_UNIX, 99, 0, &mut ends)));
    t.say("unknown family", ok(sys!(socketpair, 99, SOCK_STREAM, 0, &mut ends)));
    t.say("protocol", ok(sys!(socketpair, AF_UNIX, SOCK_STREAM, 5, &mut ends)));
    t.say("wrong pointer", ok(sys!(socketpair, AF_UNIX, SOCK_STREAM, 0, 8)));
    t.say("flags", {
        must(sys!(socketpair, AF_UNIX, SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0, &mut ends));
        (sys!(fcntl, ends[1], libc::F_GETFD), read_text(ends[0], 1))
    });
}

fn named(t: Transcript) {
    let listening = listener("socket");
    let client = stream();
    t.say("connect", ok(connect(client, "socket")));
    let server = must(accept(listening, 0));
    t.say(
        "there and back",
        (write(client, b"ping"), read_text(server, 10), write(server, b"pong"), read_text(client, 10)),
    );
    let mut stat = libc::stat::zeroed();
    must(sys!(stat, c"socket", &mut stat));
    t.say("in the file system", format!("{:o}", stat.st_mode & libc::S_IFMT));
    t.say("cannot be opened", ok(open(c"socket", O_RDONLY)));
}

fn connect_errors(t: Transcript) {
    file_with(c"file", b"x");
    let bound = stream();
    must(bind(bound, "bound"));
    t.say("missing", ok(connect(stream(), "missing")));
    t.say("a file", ok(connect(stream(), "file")));
    t.say("below a file", ok(connect(stream(), "file/x")));
    t.say("bound, not listening", ok(connect(stream(), "bound")));
    let listening = listener("socket");
    t.say("another type", ok(connect(datagram(), "socket")));
    let client = stream();
    must(connect(client, "socket"));
    t.say("connected already", ok(connect(client, "socket")));
    must(close(listening));
    t.say("listener gone, name left", ok(connect(stream(), "socket")));
    let (address, _) = path("socket");
    t.say("no name", ok(sys!(connect, stream(), &address, 2)));
    t.say("too short", ok(sys!(connect, stream(), &address, 1)));
    t.say("too long", ok(sys!(connect, stream(), &address, 111)));
    t.say("another family", ok(sys!(connect, stream(), &crate::net::loopback(1), 16)));
}

fn bind_errors(t: Transcript) {
    let fd = stream();
    t.say("new name", ok(bind(fd, "name")));
    t.say("bound twice", ok(bind(fd, "other")));
    t.say("name in use", ok(bind(stream(), "name")));
    file_with(c"file", b"x");
    t.say("over a file", ok(bind(stream(), "file")));
    t.say("in a missing directory", ok(bind(stream(), "missing/name")));
    t.say("108 bytes", ok(bind(stream(), &"n".repeat(107))));
    let (address, _) = path(&"n".repeat(108));
    t.say("without terminator", ok(sys!(bind, stream(), &address, 110)));
    t.say("too long", ok(sys!(bind, stream(), &address, 111)));
    t.say("unlinked, then free", (ok(sys!(unlink, c"name")), ok(bind(stream(), "name"))));
}

fn name_of(fd: i32) -> Result<(u32, String), Errno> {
    let (mut name, mut length) = (sockaddr_un::zeroed(), 110_u32);
    sys!(getsockname, fd, &mut name, &mut length)?;
    let bytes: Vec<u8> = name.sun_path.iter().map(|&byte| byte as u8).collect();
    Ok((length, bytes[..(length as usize).saturating_sub(2)].escape_ascii().to_string()))
}

fn names_of_ends(t: Transcript) {
    let listening = listener("socket");
    let client = stream();
    must(connect(client, "socket"));
    let (mut name, mut length) = (sockaddr_un::zeroed(), 110_u32);
    let server = must(sys!(accept, listening, &mut name, &mut length));
    t.say("accept tells no name", length);
    t.say("server's end", name_of(server));
    t.say("client's end", name_of(client));
    t.say("client's peer", (ok(sys!(getpeername, client, &mut name, &mut length)), length));
    t.say("listener's peer", ok(sys!(getpeername, listening, &mut name, &mut length)));
    let pair = unix_pair(SOCK_STREAM);
    t.say("a pair's", name_of(pair.0));
}

fn abstract_names(t: Transcript) {
    let name = format!("\0conformance.{}", must(sys!(getpid)));
    let listening = stream();
    t.say("bind", ok(bind(listening, &name)));
    must(sys!(listen, listening, 4));
    t.say("in use", ok(bind(stream(), &name)));
    t.say("connect", ok(connect(stream(), &name)));
    t.say("no file", ok(open(c"conformance", O_RDONLY)));
    must(close(listening));
    t.say("gone with the socket", ok(connect(stream(), &name)));
    t.say("free again", ok(bind(stream(), &name)));
}

fn autobind(t: Transcript) {
    let fd = datagram();
    let (address, _) = path("");
    t.say("bind to nothing", ok(sys!(bind, fd, &address, 2)));
    t.say(
        "an abstract name of five digits",
        name_of(fd).map(|(length, text)| (length, text.starts_with("\\x00"))),
    );
}

fn datagrams(t: Transcript) {
    let (receiver, sender) = (datagram(), datagram());
    must(bind(receiver, "receiver"));
    let (address, length) = path("receiver");
    t.say("to a name", sys!(sendto, sender, b"hello", 5, 0, &address, length));
    let (mut from, mut room) = (sockaddr_un::zeroed(), 110_u32);
    t.say("received", (sys!(recvfrom, receiver, &mut [0_u8; 10], 10, 0, &mut from, &mut room), room));
    must(bind(sender, "sender"));
    must(connect(sender, "receiver"));
    t.say("connected", write(sender, b"again"));
    room = 110;
    t.say(
        "with a sender's name",
        (sys!(recvfrom, receiver, &mut [0_u8; 10], 10, 0, &mut from, &mut room), room),
    );
    t.say("cut", {
        must(write(sender, b"0123456789"));
        recvmsg(receiver, 4, 0, 0).map(|message| (message.bytes, message.flags == MSG_TRUNC))
    });
    t.say("empty", (write(sender, b""), recv(receiver, 10, MSG_DONTWAIT)));
}

fn datagram_rules(t: Transcript) {
    let (receiver, sender) = (datagram(), datagram());
    t.say("no destination", send(sender, b"x", 0));
    let (address, length) = path("missing");
    t.say("missing", sys!(sendto, sender, b"x", 1, 0, &address, length));
    must(bind(receiver, "receiver"));
    must(connect(sender, "receiver"));
    must(close(receiver));
    t.say("receiver gone", send(sender, b"x", MSG_NOSIGNAL));
    let (a, _b) = unix_pair(SOCK_DGRAM);
    t.say("too large", send(a, &vec![0; 1 << 20], MSG_DONTWAIT));
    t.say("listen", ok(sys!(listen, a, 1)));
}

fn packets(t: Transcript) {
    let (a, b) = unix_pair(SOCK_SEQPACKET);
    must(write(a, b"one"));
    must(write(a, b"two two"));
    t.say("keep their borders", (read_text(b, 10), read_text(b, 3)));
    let message = {
        must(write(a, b"three"));
        recvmsg(b, 10, 0, 0)
    };
    t.say("end of record", message.map(|message| (message.bytes, message.flags & MSG_EOR)));
    must(close(a));
    t.say("the end", read_text(b, 10));
}

fn end_of_stream(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    must(write(a, b"last"));
    must(sys!(shutdown, a, SHUT_WR));
    t.say("what was sent, then the end", (read_text(b, 10), read_text(b, 10)));
    t.say("the other way works", (write(b, b"x"), read_text(a, 1)));
    t.say("write after shutdown", send(a, b"x", MSG_NOSIGNAL));
    must(close(b));
    t.say("peer closed", read_text(a, 1));
}

fn broken(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    must(close(b));
    t.say("write", send(a, b"x", MSG_NOSIGNAL));
    t.say("with the signal", in_child(|| must(write(a, b"x"))));
    let (a, b) = unix_pair(SOCK_STREAM);
    must(write(a, b"unread"));
    must(close(b));
    t.say("closed with unread bytes", (read_text(a, 1), read_text(a, 1)));
    t.say("unconnected write", send(stream(), b"x", MSG_NOSIGNAL));
    t.say("unconnected read", read_text(stream(), 1));
}

fn credentials(t: Transcript) {
    let (a, _b) = unix_pair(SOCK_STREAM);
    let (mut peer, mut length) = ([0_i32; 3], 12_u32);
    t.say("of a pair", (ok(sys!(getsockopt, a, SOL_SOCKET, SO_PEERCRED, &mut peer, &mut length)), length));
    t.say(
        "are ours",
        (
            sys!(getpid) == Ok(peer[0] as usize),
            sys!(geteuid) == Ok(peer[1] as usize),
            sys!(getegid) == Ok(peer[2] as usize),
        ),
    );
    let listening = listener("socket");
    let child = Child::spawn(|| {
        let client = stream();
        must(connect(client, "socket"));
        status(read_text(client, 1).is_ok())
    });
    let server = must(accept(listening, 0));
    must(sys!(getsockopt, server, SOL_SOCKET, SO_PEERCRED, &mut peer, &mut length));
    t.say("of who connected", peer[0] == child.pid());
    must(close(server));
    t.say("child", child.wait());
    let (a, b) = unix_pair(SOCK_STREAM);
    must(set_option(b, SOL_SOCKET, libc::SO_PASSCRED, 1));
    must(write(a, b"x"));
    let message = recvmsg(b, 1, 64, 0).unwrap_or_default();
    t.say(
        "with a message",
        (
            message.control.len(),
            message.control.get(16..20).is_some_and(|pid| {
                Ok(u32::from_ne_bytes([pid[0], pid[1], pid[2], pid[3]]) as usize) == sys!(getpid)
            }),
        ),
    );
}

fn pass_one(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    let file = file_with(c"file", b"0123456789");
    must(lseek(file, 3, libc::SEEK_SET));
    t.say("send", sendmsg(a, b"x", &rights(&[file]), 0));
    let message = recvmsg(b, 10, 64, 0).unwrap_or_default();
    let passed = descriptors(&message.control);
    t.say("receive", (message.bytes, message.flags, message.control.len(), passed.len()));
    let fd = passed.first().copied().unwrap_or(-1);
    t.say(
        "another number, the same open file",
        (fd != file, read_text(fd, 2), lseek(file, 0, libc::SEEK_CUR)),
    );
    t.say("not closed on exec", sys!(fcntl, fd, libc::F_GETFD));
}

fn pass_many(t: Transcript) {
    let (a, b) = unix_pair(SOCK_DGRAM);
    let (reader, writer) = pipe(0);
    t.say("send", sendmsg(a, b"x", &rights(&[reader, writer, reader]), 0));
    let message = recvmsg(b, 10, 64, 0).unwrap_or_default();
    let passed = descriptors(&message.control);
    t.say("receive", (passed.len(), message.control.len()));
    t.say("they are the pipe", (write(passed[1], b"through"), read_text(passed[2], 10)));
    t.say("254 is too many", sendmsg(a, b"x", &rights(&[reader; 254]), 0));
    t.say("253 is not", sendmsg(a, b"x", &rights(&[reader; 253]), 0));
}

fn pass_and_close(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    let (reader, writer) = pipe(0);
    must(sendmsg(a, b"x", &rights(&[writer]), 0));
    must(close(writer));
    must(sys!(fcntl, reader, libc::F_SETFL, libc::O_NONBLOCK));
    t.say("it lives in the message", read_text(reader, 1));
    let fd = descriptors(&recvmsg(b, 1, 64, 0).unwrap_or_default().control)[0];
    t.say("and comes out", (write(fd, b"alive"), read_text(reader, 10)));
    must(close(fd));
    t.say("last close", read_text(reader, 1));
}

fn pass_a_socket(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    let (c, d) = unix_pair(SOCK_STREAM);
    t.say("a socket", sendmsg(a, b"x", &rights(&[c]), 0));
    let fd = descriptors(&recvmsg(b, 1, 64, 0).unwrap_or_default().control)[0];
    t.say("works", (write(fd, b"hi"), read_text(d, 10)));
    t.say("itself", sendmsg(a, b"x", &rights(&[a]), 0));
    let own = descriptors(&recvmsg(b, 1, 64, 0).unwrap_or_default().control)[0];
    t.say("works too", (write(own, b"self"), read_text(b, 10)));
}

fn pass_across_fork(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    let child = Child::spawn(|| {
        let file = file_with(c"made-by-child", b"from the child");
        must(lseek(file, 0, libc::SEEK_SET));
        status(sendmsg(a, b"x", &rights(&[file]), 0) == Ok(1))
    });
    let fd = descriptors(&recvmsg(b, 1, 64, 0).unwrap_or_default().control)[0];
    t.say("child", child.wait());
    t.say("its file", read_text(fd, 100));
}

fn pass_errors(t: Transcript) {
    let (a, _b) = unix_pair(SOCK_STREAM);
    t.say("closed", sendmsg(a, b"x", &rights(&[99]), 0));
    t.say("negative", sendmsg(a, b"x", &rights(&[-1]), 0));
    let mut short = rights(&[0]);
    short[0] = 5;
    t.say("header too short", sendmsg(a, b"x", &short, 0));
    let mut long = rights(&[0]);
    long[0] = 200;
    t.say("header too long", sendmsg(a, b"x", &long, 0));
    t.say("unknown kind", sendmsg(a, b"x", &control_message(SOL_SOCKET, 77, &[0; 4]), 0));
    t.say("another level", sendmsg(a, b"x", &control_message(77, libc::SCM_RIGHTS, &[0; 4]), 0));
    t.say("over TCP", sendmsg(crate::net::tcp_pair().0, b"x", &rights(&[0]), 0));
}

fn little_room(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    must(sendmsg(a, b"x", &rights(&[0, 0, 0]), 0));
    let before = free_number();
    let message = recvmsg(b, 1, 24, 0).unwrap_or_default();
    t.say("some fit", (descriptors(&message.control).len(), message.flags & MSG_CTRUNC != 0));
    t.say("the others are closed", free_number() - before <= 2);
    must(sendmsg(a, b"x", &rights(&[0]), 0));
    let message = recvmsg(b, 1, 0, 0).unwrap_or_default();
    t.say("none fits", (message.bytes, message.flags & MSG_CTRUNC != 0));
    must(sendmsg(a, b"x", &rights(&[0]), 0));
    t.say("read drops them", (read_text(b, 1), free_number() == before + 2 || free_number() == before + 1));
}

/// The number that the next descriptor would get.
fn free_number() -> i32 {
    let fd = must(sys!(dup, 0));
    must(close(fd));
    fd
}

fn close_on_exec(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    must(sendmsg(a, b"x", &rights(&[0]), 0));
    let fd = descriptors(&recvmsg(b, 1, 64, MSG_CMSG_CLOEXEC).unwrap_or_default().control)[0];
    t.say("asked for", sys!(fcntl, fd, libc::F_GETFD));
}

fn borders_of_rights(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    must(write(a, b"plain"));
    must(sendmsg(a, b"rich", &rights(&[0]), 0));
    must(write(a, b"after"));
    let first = recvmsg(b, 100, 64, 0).unwrap_or_default();
    t.say("first read", (first.bytes, descriptors(&first.control).len()));
    let second = recvmsg(b, 100, 64, 0).unwrap_or_default();
    t.say("second", (second.bytes, descriptors(&second.control).len()));
    t.say("third", recv(b, 100, MSG_DONTWAIT));
}

fn unclaimed(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    let (reader, writer) = pipe(libc::O_NONBLOCK);
    must(sendmsg(a, b"x", &rights(&[writer]), 0));
    must(close(writer));
    must(close(b));
    must(close(a));
    t.say("closed with the sockets", read_text(reader, 1));
    let (a, b) = unix_pair(SOCK_STREAM);
    must(sendmsg(a, b"x", &rights(&[b]), 0));
    must(close(b));
    t.say("a circle can be closed", ok(close(a)));
}

fn backlog(t: Transcript) {
    let listening = stream();
    must(bind(listening, "socket"));
    must(sys!(listen, listening, 1));
    t.say("two wait", (ok(connect(stream(), "socket")), ok(connect(stream(), "socket"))));
    let late = socket(AF_UNIX, SOCK_STREAM | libc::SOCK_NONBLOCK);
    t.say("a third that does not wait", ok(connect(late, "socket")));
    must(accept(listening, 0));
    t.say("then it can", ok(connect(late, "socket")));
}

fn not_waiting(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM | libc::SOCK_NONBLOCK);
    t.say("read", read_text(a, 1));
    let block = [0_u8; 4096];
    let mut sent = 0;
    let refused = loop {
        match write(b, &block) {
            Ok(count) => sent += count,
            Err(errno) => break user_sys::errno_name(errno),
        }
    };
    t.say("write", (sent > 10_000, refused));
    let listening = socket(AF_UNIX, SOCK_STREAM | libc::SOCK_NONBLOCK);
    must(bind(listening, "socket"));
    must(sys!(listen, listening, 1));
    t.say("accept", ok(accept(listening, 0)));
}

fn blocked_writer(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    let child = Child::spawn(|| {
        must(close(b));
        status(write(a, &vec![3; 2 << 20]) == Ok(2 << 20))
    });
    must(close(a));
    let mut total = 0;
    let mut buffer = vec![0_u8; 10_000];
    while let Ok(count @ 1..) = sys!(read, b, &mut buffer[..], 10_000) {
        total += count;
    }
    t.say("two MiB in one write", (child.wait(), total));
}

fn exists(path: &CStr) -> bool {
    sys!(access, path, 0).is_ok()
}

fn file_stays(t: Transcript) {
    let fd = listener("socket");
    must(sys!(rename, c"socket", c"moved"));
    t.say("by its new name", ok(connect(stream(), "moved")));
    t.say("by its old name", ok(connect(stream(), "socket")));
    must(close(fd));
    t.say("closing leaves the name", exists(c"moved"));
    t.say("unlink", ok(sys!(unlink, c"moved")));
}

fn listen_and_accept(t: Transcript) {
    t.say("listen without a name", ok(sys!(listen, stream(), 1)));
    t.say("accept without listening", ok(accept(stream(), 0)));
    let listening = listener("socket");
    let child = Child::spawn(|| status(accept(listening, 0).is_ok()));
    must(connect(stream(), "socket"));
    t.say("woken", child.wait());
    let client = stream();
    must(connect(client, "socket"));
    t.say(
        "written before it is accepted",
        (write(client, b"early"), read_text(must(accept(listening, 0)), 10)),
    );
    t.say("still open", is_open(client));
}

fn poll_full(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM | libc::SOCK_NONBLOCK);
    let state = |fd: i32| {
        let mut entry = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
        must(sys!(poll, &mut entry, 1, 0));
        super::poll::names(entry.revents)
    };
    while write(a, &[0; 4096]).is_ok() {}
    t.say("full", (state(a), state(b)));
    while read_text(b, 65536).is_ok() {}
    t.say("drained", (state(a), state(b)));
}

/// A reader that takes a little at a time: who waits to write is woken when poll(2) would say so.
fn poll_half_full(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    let writer = Child::spawn(|| {
        must(close(b));
        must(sys!(fcntl, a, libc::F_SETFL, libc::O_NONBLOCK));
        let mut left = 1 << 20;
        while left > 0 {
            match write(a, &[0; 8192]) {
                Ok(count) => left -= count.min(left),
                Err(_) => {
                    let mut entry = libc::pollfd { fd: a, events: libc::POLLOUT, revents: 0 };
                    must(sys!(poll, &mut entry, 1, -1));
                }
            }
        }
        0
    });
    must(close(a));
    let mut total = 0;
    while let Ok(count @ 1..) = sys!(read, b, &mut [0_u8; 8192], 8192) {
        total += count;
    }
    t.say("one MiB", (writer.wait(), total));
}

/// What does not fit is refused, also by write(2).
fn full_datagrams(t: Transcript) {
    for (name, kind) in [("datagram", SOCK_DGRAM), ("packets", SOCK_SEQPACKET)] {
        let (a, b) = unix_pair(kind | libc::SOCK_NONBLOCK);
        let mut sent = 0;
        let refused = loop {
            match write(a, b"0123456789") {
                Ok(_) if sent < 100_000 => sent += 1,
                result => break result,
            }
        };
        let received = (0..100_000).take_while(|_| read_text(b, 10).is_ok()).count();
        t.say(name, (refused, received == sent));
    }
}

/// A user may have about as many descriptors under way as it may have open; a privileged one more.
fn in_flight(t: Transcript) {
    let until_refused = |uid: u32| {
        in_child(|| {
            let limit = libc::rlimit { rlim_cur: 20, rlim_max: 20 };
            must(sys!(prlimit64, 0, libc::RLIMIT_NOFILE, &limit, 0));
            must(sys!(setresuid, uid, uid, uid));
            let (a, _b) = unix_pair(SOCK_STREAM);
            let mut sent = 0;
            while sent < 40 && sendmsg(a, b"x", &rights(&[a]), MSG_DONTWAIT).is_ok() {
                sent += 1;
            }
            sent
        })
    };
    t.say("root", until_refused(0));
    t.say("an ordinary user", until_refused(54_321));
}

fn stream_peek(t: Transcript) {
    let (a, b) = unix_pair(SOCK_STREAM);
    must(write(a, b"0123456789"));
    t.say("peek", (recv(b, 4, MSG_PEEK), recv(b, 4, MSG_PEEK), read_text(b, 10)));
    t.say("FIONREAD", {
        must(write(a, b"12345"));
        let mut count = -1_i32;
        (ok(sys!(ioctl, b, libc::FIONREAD, &mut count)), count)
    });
}
