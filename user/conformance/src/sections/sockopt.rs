//! Socket options: getsockopt(2), setsockopt(2), socket(7), tcp(7), ip(7).

use libc::{
    AF_INET, AF_UNIX, IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP, SO_ACCEPTCONN, SO_BROADCAST, SO_DOMAIN, SO_ERROR,
    SO_KEEPALIVE, SO_LINGER, SO_OOBINLINE, SO_PROTOCOL, SO_RCVBUF, SO_REUSEADDR, SO_REUSEPORT, SO_SNDBUF,
    SO_TYPE, SOCK_DGRAM, SOCK_STREAM, SOL_SOCKET, TCP_CORK, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL,
    TCP_MAXSEG, TCP_NODELAY,
};
use user_sys::{must, sys};

use crate::net::{listener, option, set_option, socket, tcp, tcp_pair, udp};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("sockopt":
    kinds, switches, buffers, linger, keep_alive, tcp_options, ip_options, lengths, errors, wrong_level,
    accepted_inherits,
);

fn kinds(t: Transcript) {
    for (name, fd) in [("tcp", tcp()), ("udp", udp()), ("unix", socket(AF_UNIX, SOCK_STREAM))] {
        let asked = [SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ACCEPTCONN, SO_ERROR]
            .map(|kind| option(fd, SOL_SOCKET, kind));
        t.say(name, asked.to_vec());
    }
    t.say("a listener accepts", option(listener(1).0, SOL_SOCKET, SO_ACCEPTCONN));
    t.say("type cannot be set", ok(set_option(tcp(), SOL_SOCKET, SO_TYPE, 1)));
    t.say("error cannot be set", ok(set_option(tcp(), SOL_SOCKET, SO_ERROR, 1)));
}

fn switches(t: Transcript) {
    let fd = tcp();
    for (name, kind) in [
        ("reuse address", SO_REUSEADDR),
        ("reuse port", SO_REUSEPORT),
        ("keep alive", SO_KEEPALIVE),
        ("broadcast", SO_BROADCAST),
        ("urgent data inline", SO_OOBINLINE),
    ] {
        let before = option(fd, SOL_SOCKET, kind);
        let set = ok(set_option(fd, SOL_SOCKET, kind, 55));
        let after = option(fd, SOL_SOCKET, kind);
        let cleared = (ok(set_option(fd, SOL_SOCKET, kind, 0)), option(fd, SOL_SOCKET, kind));
        t.say(name, (before, set, after, cleared.0, cleared.1));
    }
}

fn buffers(t: Transcript) {
    let fd = udp();
    for (name, kind) in [("send", SO_SNDBUF), ("receive", SO_RCVBUF)] {
        t.say(&format!("{name}, at first"), option(fd, SOL_SOCKET, kind).map(|size| size >= 4096));
        must(set_option(fd, SOL_SOCKET, kind, 10_000));
        t.say(&format!("{name}, twice what was asked"), option(fd, SOL_SOCKET, kind));
        must(set_option(fd, SOL_SOCKET, kind, 1));
        t.say(&format!("{name}, not below a minimum"), option(fd, SOL_SOCKET, kind).map(|size| size > 1000));
        must(set_option(fd, SOL_SOCKET, kind, i32::MAX));
        t.say(
            &format!("{name}, not above a maximum"),
            option(fd, SOL_SOCKET, kind).map(|size| (10_000..1 << 30).contains(&size)),
        );
    }
}

fn linger(t: Transcript) {
    let fd = tcp();
    let mut value = [9_i32; 2];
    let mut length = 8_u32;
    t.say(
        "at first",
        (ok(sys!(getsockopt, fd, SOL_SOCKET, SO_LINGER, &mut value, &mut length)), value.to_vec(), length),
    );
    t.say("set", ok(sys!(setsockopt, fd, SOL_SOCKET, SO_LINGER, &[1_i32, 5], 8)));
    must(sys!(getsockopt, fd, SOL_SOCKET, SO_LINGER, &mut value, &mut length));
    t.say("read back", value.to_vec());
    t.say("short", ok(sys!(setsockopt, fd, SOL_SOCKET, SO_LINGER, &[1_i32, 5], 4)));
}

fn keep_alive(t: Transcript) {
    let fd = tcp();
    for (name, kind, value) in
        [("idle", TCP_KEEPIDLE, 60), ("interval", TCP_KEEPINTVL, 15), ("count", TCP_KEEPCNT, 3)]
    {
        t.say(
            name,
            (
                option(fd, IPPROTO_TCP, kind),
                ok(set_option(fd, IPPROTO_TCP, kind, value)),
                option(fd, IPPROTO_TCP, kind),
            ),
        );
        t.say(&format!("{name}, zero"), ok(set_option(fd, IPPROTO_TCP, kind, 0)));
        t.say(&format!("{name}, too much"), ok(set_option(fd, IPPROTO_TCP, kind, 1_000_000)));
    }
}

fn tcp_options(t: Transcript) {
    let fd = tcp_pair().0;
    for (name, kind) in [("no delay", TCP_NODELAY), ("cork", TCP_CORK)] {
        let before = option(fd, IPPROTO_TCP, kind);
        t.say(
            name,
            (
                before,
                ok(set_option(fd, IPPROTO_TCP, kind, 1)),
                option(fd, IPPROTO_TCP, kind),
                ok(set_option(fd, IPPROTO_TCP, kind, 0)),
            ),
        );
    }
    t.say("largest segment", option(fd, IPPROTO_TCP, TCP_MAXSEG).map(|size| size >= 500));
    t.say("no delay on a listener", ok(set_option(listener(1).0, IPPROTO_TCP, TCP_NODELAY, 1)));
    t.say(
        "fast open, defer, user timeout",
        [libc::TCP_DEFER_ACCEPT, libc::TCP_USER_TIMEOUT, libc::TCP_QUICKACK]
            .map(|kind| ok(set_option(fd, IPPROTO_TCP, kind, 1)))
            .to_vec(),
    );
    t.say("information", {
        let mut room = 104_u32;
        let mut info = [0_u8; 104];
        (ok(sys!(getsockopt, fd, IPPROTO_TCP, libc::TCP_INFO, &mut info, &mut room)), info[0], room)
    });
}

fn ip_options(t: Transcript) {
    let fd = udp();
    t.say(
        "time to live",
        (
            option(fd, IPPROTO_IP, libc::IP_TTL),
            ok(set_option(fd, IPPROTO_IP, libc::IP_TTL, 5)),
            option(fd, IPPROTO_IP, libc::IP_TTL),
        ),
    );
    t.say("time to live, too much", ok(set_option(fd, IPPROTO_IP, libc::IP_TTL, 256)));
    t.say(
        "type of service",
        (ok(set_option(fd, IPPROTO_IP, libc::IP_TOS, 0x10)), option(fd, IPPROTO_IP, libc::IP_TOS)),
    );
}

fn lengths(t: Transcript) {
    let fd = tcp();
    let (mut value, mut length) = ([0xee_u8; 8], 8_u32);
    t.say(
        "more room than needed",
        (ok(sys!(getsockopt, fd, SOL_SOCKET, SO_TYPE, &mut value, &mut length)), length, value[4]),
    );
    length = 2;
    value = [0xee; 8];
    t.say(
        "less room",
        (ok(sys!(getsockopt, fd, SOL_SOCKET, SO_TYPE, &mut value, &mut length)), length, value[0], value[2]),
    );
    length = 0;
    t.say("no room", (ok(sys!(getsockopt, fd, SOL_SOCKET, SO_TYPE, &mut value, &mut length)), length));
    t.say("negative room", ok(sys!(getsockopt, fd, SOL_SOCKET, SO_TYPE, &mut value, &mut -1_i32)));
    t.say("set with too little", ok(sys!(setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &1_i32, 3)));
    t.say("set with more", ok(sys!(setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &1_i64, 8)));
    t.say("set with a negative length", ok(sys!(setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &1_i32, -1)));
}

fn errors(t: Transcript) {
    let fd = tcp();
    t.say("unknown option", option(fd, SOL_SOCKET, 9999));
    t.say("unknown option, set", ok(set_option(fd, SOL_SOCKET, 9999, 1)));
    t.say("unknown TCP option", (option(fd, IPPROTO_TCP, 9999), ok(set_option(fd, IPPROTO_TCP, 9999, 1))));
    t.say("unknown IP option", (option(fd, IPPROTO_IP, 9999), ok(set_option(fd, IPPROTO_IP, 9999, 1))));
    t.say("wrong value", ok(sys!(setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, 8, 4)));
    t.say("wrong place", ok(sys!(getsockopt, fd, SOL_SOCKET, SO_TYPE, 8, &mut 4_u32)));
    t.say("wrong length", ok(sys!(getsockopt, fd, SOL_SOCKET, SO_TYPE, &mut 0_i32, 8)));
    t.say("not a socket", (option(0, SOL_SOCKET, SO_TYPE), ok(set_option(0, SOL_SOCKET, SO_REUSEADDR, 1))));
    t.say("closed", option(99, SOL_SOCKET, SO_TYPE));
}

fn wrong_level(t: Transcript) {
    let unix = socket(AF_UNIX, SOCK_STREAM);
    t.say(
        "TCP option of a unix socket",
        (option(unix, IPPROTO_TCP, TCP_NODELAY), ok(set_option(unix, IPPROTO_TCP, TCP_NODELAY, 1))),
    );
    let datagram = socket(AF_INET, SOCK_DGRAM);
    t.say(
        "TCP option of a UDP socket",
        (option(datagram, IPPROTO_TCP, TCP_NODELAY), ok(set_option(datagram, IPPROTO_TCP, TCP_NODELAY, 1))),
    );
    t.say(
        "UDP option of a TCP socket",
        (option(tcp(), IPPROTO_UDP, 1), ok(set_option(tcp(), IPPROTO_UDP, 1, 1))),
    );
    t.say("unknown level", (option(tcp(), 9999, 1), ok(set_option(tcp(), 9999, 1, 1))));
}

fn accepted_inherits(t: Transcript) {
    let (listening, port) = listener(4);
    must(set_option(listening, SOL_SOCKET, SO_KEEPALIVE, 1));
    must(set_option(listening, IPPROTO_TCP, TCP_NODELAY, 1));
    must(crate::net::connect(tcp(), port));
    let server = must(crate::net::accept(listening, 0));
    t.say("keep alive", option(server, SOL_SOCKET, SO_KEEPALIVE));
    t.say("no delay", option(server, IPPROTO_TCP, TCP_NODELAY));
}
