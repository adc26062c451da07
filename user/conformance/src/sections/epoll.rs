//! Waiting for many descriptors: epoll(7).

use libc::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN,
    EPOLLONESHOT, EPOLLOUT, EPOLLPRI, EPOLLRDHUP, O_NONBLOCK, O_RDONLY, SIGALRM, SIGUSR1, epoll_event,
};
use user_sys::{Child, Errno, Handler, Res, Zeroed, must, sys, timespec};

use crate::fixture::{close, file, open, pipe, repeat_alarm, status, took_at_least, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("epoll":
    create, control_errors, level, edge, edge_write_side, oneshot, modify, removal, close_removes,
    dup_keeps, data_and_order, max_events, round_robin, timeouts, wakes, hangup, socket_hangup, nested,
    nested_edges, nested_loops, files, exclusive, interrupted, mask, poll_of_epoll, wait_errors, shared_with_child,
    epoll_pwait2,
);

fn epoll() -> i32 {
    must(sys!(epoll_create1, 0))
}

fn control(epoll: i32, operation: i32, fd: i32, events: i32, data: u64) -> Res {
    let event = epoll_event { events: events as u32, u64: data };
    sys!(epoll_ctl, epoll, operation, fd, &event)
}

/// Adds with the descriptor's number as data.
#[track_caller]
fn add(epoll: i32, fd: i32, events: i32) {
    must(control(epoll, EPOLL_CTL_ADD, fd, events, fd as u64));
}

fn names(events: u32) -> String {
    let table = [
        (EPOLLIN, "IN"),
        (EPOLLPRI, "PRI"),
        (EPOLLOUT, "OUT"),
        (EPOLLERR, "ERR"),
        (EPOLLHUP, "HUP"),
        (EPOLLRDHUP, "RDHUP"),
    ];
    let set: Vec<&str> =
        table.iter().filter(|(bit, _)| events & *bit as u32 != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "-".to_owned() } else { set.join("+") }
}

/// epoll_wait(2) for up to `max` events, each as `data:EVENTS`, in the order of `data`.
fn wait_max(epoll: i32, max: usize, timeout: i32) -> Result<Vec<String>, Errno> {
    let mut events = [epoll_event::zeroed(); 32];
    let count = sys!(epoll_wait, epoll, &mut events, max, timeout)?;
    let mut ready: Vec<(u64, u32)> = events[..count].iter().map(|event| (event.u64, event.events)).collect();
    ready.sort_unstable();
    Ok(ready.into_iter().map(|(data, events)| format!("{data}:{}", names(events))).collect())
}

/// What is ready now.
fn ready(epoll: i32) -> Result<Vec<String>, Errno> {
    wait_max(epoll, 32, 0)
}

fn create(t: Transcript) {
    t.say("create1", ok(sys!(epoll_create1, 0)));
    t.say("unknown flag", ok(sys!(epoll_create1, 1)));
    t.say("old call", ok(sys!(epoll_create, 1)));
    t.say("old call, size 0", ok(sys!(epoll_create, 0)));
    t.say("read", ok(sys!(read, epoll(), &mut [0_u8; 8], 8)));
    t.say("write", write(epoll(), b"x"));
}

fn control_errors(t: Transcript) {
    let (set, (reader, _writer)) = (epoll(), pipe(0));
    t.say("add", ok(control(set, EPOLL_CTL_ADD, reader, EPOLLIN, 0)));
    t.say("add again", ok(control(set, EPOLL_CTL_ADD, reader, EPOLLIN, 0)));
    t.say("modify missing", ok(control(set, EPOLL_CTL_MOD, 0, EPOLLIN, 0)));
    t.say("delete", ok(control(set, EPOLL_CTL_DEL, reader, 0, 0)));
    t.say("delete again", ok(control(set, EPOLL_CTL_DEL, reader, 0, 0)));
    t.say("closed descriptor", ok(control(set, EPOLL_CTL_ADD, 99, EPOLLIN, 0)));
    t.say("closed set", ok(control(99, EPOLL_CTL_ADD, reader, EPOLLIN, 0)));
    t.say("not a set", ok(control(reader, EPOLL_CTL_ADD, set, EPOLLIN, 0)));
    t.say("itself", ok(control(set, EPOLL_CTL_ADD, set, EPOLLIN, 0)));
    t.say("unknown operation", ok(control(set, 9, reader, EPOLLIN, 0)));
    t.say("wrong event pointer", ok(sys!(epoll_ctl, set, EPOLL_CTL_ADD, reader, 1)));
    t.say("delete needs no event", {
        add(set, reader, EPOLLIN);
        ok(sys!(epoll_ctl, set, EPOLL_CTL_DEL, reader, 0))
    });
}

fn level(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(control(set, EPOLL_CTL_ADD, reader, EPOLLIN, 1));
    must(control(set, EPOLL_CTL_ADD, writer, EPOLLOUT, 2));
    t.say("only the writer", ready(set));
    must(write(writer, b"xy"));
    t.say("both", ready(set));
    t.say("as long as there is something", ready(set));
    must(sys!(read, reader, &mut [0_u8], 1));
    t.say("one byte left", ready(set));
    must(sys!(read, reader, &mut [0_u8], 1));
    t.say("drained", ready(set));
}

fn edge(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(O_NONBLOCK));
    must(control(set, EPOLL_CTL_ADD, reader, EPOLLIN | EPOLLET, 1));
    t.say("empty", ready(set));
    must(write(writer, b"one"));
    t.say("written", ready(set));
    t.say("told once", ready(set));
    must(write(writer, b"two"));
    t.say("each write tells", ready(set));
    must(sys!(read, reader, &mut [0_u8], 1));
    t.say("a partial read does not", ready(set));
    must(control(set, EPOLL_CTL_MOD, reader, EPOLLIN | EPOLLET, 1));
    t.say("modify arms again", ready(set));
    must(close(writer));
    t.say("hang-up tells", ready(set));
    t.say("once", ready(set));
}

fn edge_write_side(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(O_NONBLOCK));
    must(control(set, EPOLL_CTL_ADD, writer, EPOLLOUT | EPOLLET, 2));
    t.say("at first", ready(set));
    t.say("once", ready(set));
    must(write(writer, b"x"));
    must(sys!(read, reader, &mut [0_u8; 8], 8));
    t.say("read, but it was not full", ready(set));
    while write(writer, &[0; 4096]).is_ok() {}
    t.say("full", ready(set));
    while sys!(read, reader, &mut [0_u8; 4096], 4096).is_ok() {}
    t.say("drained", ready(set));
}

fn oneshot(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(control(set, EPOLL_CTL_ADD, reader, EPOLLIN | EPOLLONESHOT, 1));
    must(write(writer, b"x"));
    t.say("once", ready(set));
    t.say("then disarmed", ready(set));
    must(write(writer, b"x"));
    t.say("another write changes nothing", ready(set));
    must(close(writer));
    t.say("nor does a hang-up", ready(set));
    must(control(set, EPOLL_CTL_MOD, reader, EPOLLIN | EPOLLONESHOT, 1));
    t.say("armed again", ready(set));
}

fn modify(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(write(writer, b"x"));
    must(control(set, EPOLL_CTL_ADD, reader, 0, 1));
    t.say("no events", ready(set));
    must(control(set, EPOLL_CTL_MOD, reader, EPOLLIN, 7));
    t.say("events and data changed", ready(set));
    must(control(set, EPOLL_CTL_MOD, reader, 0, 7));
    must(close(writer));
    t.say("hang-up is told unasked", ready(set));
}

fn removal(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(write(writer, b"x"));
    add(set, reader, EPOLLIN);
    must(control(set, EPOLL_CTL_DEL, reader, 0, 0));
    t.say("gone", ready(set));
    add(set, reader, EPOLLIN);
    t.say("added again", ready(set).map(|events| events.len()));
}

fn close_removes(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(write(writer, b"x"));
    add(set, reader, EPOLLIN);
    must(close(reader));
    t.say("gone", ready(set));
    let (again, _writer) = pipe(0);
    t.say("same number, another file", (again == reader, ok(control(set, EPOLL_CTL_ADD, again, EPOLLIN, 1))));
}

fn dup_keeps(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(write(writer, b"x"));
    must(control(set, EPOLL_CTL_ADD, reader, EPOLLIN, 5));
    let copy = must(sys!(dup, reader));
    must(close(reader));
    t.say("still told through the copy", ready(set));
    t.say("but cannot be removed", ok(control(set, EPOLL_CTL_DEL, reader, 0, 0)));
    t.say("the copy is another entry", ok(control(set, EPOLL_CTL_ADD, copy, EPOLLIN, 6)));
    t.say("both", ready(set));
    must(close(copy));
    t.say("gone with the last", ready(set));
}

fn data_and_order(t: Transcript) {
    let set = epoll();
    let pipes: Vec<(i32, i32)> = (0..5).map(|_| pipe(0)).collect();
    for (index, ends) in pipes.iter().enumerate() {
        must(control(set, EPOLL_CTL_ADD, ends.0, EPOLLIN, u64::MAX - index as u64));
    }
    for index in [3, 0, 4] {
        must(write(pipes[index].1, b"x"));
    }
    let mut events = [epoll_event::zeroed(); 8];
    let count = must(sys!(epoll_wait, set, &mut events, 8, 0)) as usize;
    let order: Vec<u64> = events[..count].iter().map(|event| u64::MAX - { event.u64 }).collect();
    t.say("all 64 bits, in the order of arrival", order);
}

fn max_events(t: Transcript) {
    let set = epoll();
    let pipes: Vec<(i32, i32)> = (0..5).map(|_| pipe(0)).collect();
    for ends in &pipes {
        add(set, ends.0, EPOLLIN);
        must(write(ends.1, b"x"));
    }
    t.say("two of five", wait_max(set, 2, 0).map(|events| events.len()));
    t.say("ten", wait_max(set, 10, 0).map(|events| events.len()));
}

fn round_robin(t: Transcript) {
    let set = epoll();
    let pipes: Vec<(i32, i32)> = (0..4).map(|_| pipe(0)).collect();
    for (index, ends) in pipes.iter().enumerate() {
        must(control(set, EPOLL_CTL_ADD, ends.0, EPOLLIN, index as u64));
        must(write(ends.1, b"x"));
    }
    let mut seen: Vec<String> = (0..4).filter_map(|_| wait_max(set, 1, 0).ok()).flatten().collect();
    seen.sort_unstable();
    t.say("none starves", seen);
}

fn timeouts(t: Transcript) {
    let set = epoll();
    t.say("empty set", ready(set));
    t.say("30 ms", took_at_least(30, || wait_max(set, 1, 30)));
    let (reader, _writer) = pipe(0);
    add(set, reader, EPOLLIN);
    t.say("30 ms with a silent member", took_at_least(30, || wait_max(set, 1, 30)));
}

fn wakes(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(control(set, EPOLL_CTL_ADD, reader, EPOLLIN, 1));
    let child = Child::spawn(|| status(wait_max(set, 8, -1) == Ok(vec!["1:IN".to_owned()])));
    must(write(writer, b"x"));
    t.say("by a write", child.wait());
    let (late_reader, late_writer) = pipe(0);
    must(sys!(read, reader, &mut [0_u8], 1));
    let child = Child::spawn(|| status(wait_max(set, 8, -1) == Ok(vec!["2:IN".to_owned()])));
    must(write(late_writer, b"x"));
    must(control(set, EPOLL_CTL_ADD, late_reader, EPOLLIN, 2));
    t.say("by adding what is ready", child.wait());
}

fn hangup(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(control(set, EPOLL_CTL_ADD, reader, EPOLLIN, 1));
    must(close(writer));
    t.say("reader", ready(set));
    let (reader, writer) = pipe(0);
    must(control(set, EPOLL_CTL_ADD, writer, EPOLLOUT, 2));
    must(close(reader));
    t.say("writer", ready(set));
}

fn socket_hangup(t: Transcript) {
    let set = epoll();
    let mut pair = [0_i32; 2];
    must(sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, &mut pair));
    must(control(set, EPOLL_CTL_ADD, pair[0], EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1));
    t.say("fresh", ready(set));
    must(write(pair[1], b"x"));
    must(sys!(shutdown, pair[1], libc::SHUT_WR));
    t.say("peer stopped writing", ready(set));
    must(sys!(shutdown, pair[0], libc::SHUT_WR));
    t.say("both stopped", ready(set));
    must(control(set, EPOLL_CTL_MOD, pair[0], EPOLLIN, 1));
    t.say("only what was asked", ready(set));
    must(close(pair[1]));
    t.say("peer closed", ready(set));
}

fn nested(t: Transcript) {
    let (outer, inner, (reader, writer)) = (epoll(), epoll(), pipe(0));
    must(control(inner, EPOLL_CTL_ADD, reader, EPOLLIN, 1));
    must(control(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2));
    t.say("quiet", ready(outer));
    must(write(writer, b"x"));
    t.say("through the inner", (ready(outer), ready(inner)));
    t.say("level", ready(outer));
    must(sys!(read, reader, &mut [0_u8], 1));
    t.say("drained", ready(outer));
    let child = Child::spawn(|| status(wait_max(outer, 8, -1) == Ok(vec!["2:IN".to_owned()])));
    must(write(writer, b"x"));
    t.say("wakes", child.wait());
}

fn nested_edges(t: Transcript) {
    let (outer, inner, (reader, writer)) = (epoll(), epoll(), pipe(0));
    must(control(inner, EPOLL_CTL_ADD, reader, EPOLLIN, 1));
    must(control(outer, EPOLL_CTL_ADD, inner, EPOLLIN | EPOLLET, 2));
    must(write(writer, b"x"));
    t.say("once", (ready(outer), ready(outer)));
    must(write(writer, b"x"));
    t.say("another event while it is ready", (ready(outer), ready(outer)));
}

fn nested_loops(t: Transcript) {
    let (a, b, c) = (epoll(), epoll(), epoll());
    add(a, b, EPOLLIN);
    add(b, c, EPOLLIN);
    t.say("circle", ok(control(c, EPOLL_CTL_ADD, a, EPOLLIN, 0)));
    t.say("pair", ok(control(b, EPOLL_CTL_ADD, a, EPOLLIN, 0)));
    let link = |two: &[i32]| ok(control(two[0], EPOLL_CTL_ADD, two[1], EPOLLIN, 0));
    let chain: Vec<i32> = (0..5).map(|_| epoll()).collect();
    t.say("four in a row", chain.windows(2).map(link).collect::<Vec<_>>());
    // That there is a limit is true of all Linux kernels; since 6.17, and where its fix was taken over, it is four from
    // whichever end, before it was more, and only from the inside out.
    let chain: Vec<i32> = (0..9).map(|_| epoll()).collect();
    let refused = chain.windows(2).rev().any(|two| link(two) == Err(Errno::ELOOP));
    t.say("eight from the inside out are too many", refused);
}

fn files(t: Transcript) {
    let set = epoll();
    let try_add = |fd: i32| ok(control(set, EPOLL_CTL_ADD, fd, EPOLLIN, 0));
    t.say("file", try_add(file(c"file")));
    t.say("directory", try_add(must(open(c".", O_RDONLY))));
    t.say("null device", try_add(must(open(c"/dev/null", O_RDONLY))));
    t.say("path descriptor", try_add(must(open(c".", libc::O_PATH))));
    t.say("eventfd", try_add(must(sys!(eventfd2, 0, 0))));
}

fn exclusive(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    t.say("add", ok(control(set, EPOLL_CTL_ADD, reader, EPOLLIN | EPOLLEXCLUSIVE, 1)));
    must(write(writer, b"x"));
    t.say("told", ready(set));
    t.say("modify", ok(control(set, EPOLL_CTL_MOD, reader, EPOLLIN | EPOLLEXCLUSIVE, 1)));
    t.say("modify without", ok(control(set, EPOLL_CTL_MOD, reader, EPOLLIN, 1)));
    t.say(
        "with oneshot",
        ok(control(set, EPOLL_CTL_ADD, writer, EPOLLOUT | EPOLLEXCLUSIVE | EPOLLONESHOT, 1)),
    );
    t.say("of a set", ok(control(set, EPOLL_CTL_ADD, epoll(), EPOLLIN | EPOLLEXCLUSIVE, 1)));
}

fn interrupted(t: Transcript) {
    let set = epoll();
    repeat_alarm(10, 0);
    t.say("epoll_wait", wait_max(set, 1, -1));
    t.say("handler ran", Handler::count(SIGALRM) > 0);
    repeat_alarm(10, libc::SA_RESTART);
    t.say("is not restarted", wait_max(set, 1, -1));
}

fn mask(t: Transcript) {
    let set = epoll();
    must(Handler::install(SIGUSR1, 0, &[]));
    must(user_sys::signal::mask(libc::SIG_BLOCK, &[SIGUSR1]).map(|_| 0));
    must(sys!(kill, must(sys!(getpid)), SIGUSR1));
    let mut events = [epoll_event::zeroed(); 4];
    t.say("let in while waiting", sys!(epoll_pwait, set, &mut events, 4, -1, &0_u64, 8));
    t.say("handler ran", Handler::count(SIGUSR1));
    t.say("no mask", sys!(epoll_pwait, set, &mut events, 4, 0, 0, 0));
    t.say("wrong mask size", sys!(epoll_pwait, set, &mut events, 4, 0, &0_u64, 4));
}

fn poll_of_epoll(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    add(set, reader, EPOLLIN);
    let mut entry = libc::pollfd { fd: set, events: libc::POLLIN, revents: 0 };
    t.say("quiet", sys!(poll, &mut entry, 1, 0));
    must(write(writer, b"x"));
    t.say("ready", (sys!(poll, &mut entry, 1, -1), super::poll::names(entry.revents)));
}

fn wait_errors(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    let mut events = [epoll_event::zeroed(); 4];
    t.say("no room", sys!(epoll_wait, set, &mut events, 0, 0));
    t.say("negative room", sys!(epoll_wait, set, &mut events, -1, 0));
    t.say("closed", sys!(epoll_wait, 99, &mut events, 4, 0));
    t.say("not a set", sys!(epoll_wait, reader, &mut events, 4, 0));
    t.say("wrong array, nothing ready", sys!(epoll_wait, set, 8, 4, 0));
    add(set, reader, EPOLLIN);
    must(write(writer, b"x"));
    t.say("wrong array", sys!(epoll_wait, set, 8, 4, 0));
    t.say("the event is not lost", ready(set).map(|events| events.len()));
}

fn shared_with_child(t: Transcript) {
    let (set, (reader, writer)) = (epoll(), pipe(0));
    must(write(writer, b"x"));
    let child = user_sys::child::in_child(|| status(control(set, EPOLL_CTL_ADD, reader, EPOLLIN, 3).is_ok()));
    t.say("child adds", child);
    t.say("parent sees", ready(set));
}

fn epoll_pwait2(t: Transcript) {
    let set = epoll();
    let mut events = [epoll_event::zeroed(); 4];
    t.say(
        "20 ms",
        took_at_least(20, || sys!(epoll_pwait2, set, &mut events, 4, &timespec(0, 20_000_000), 0, 8)),
    );
    t.say("no wait", sys!(epoll_pwait2, set, &mut events, 4, &timespec(0, 0), 0, 8));
    t.say("time out of range", sys!(epoll_pwait2, set, &mut events, 4, &timespec(0, -1), 0, 8));
}
