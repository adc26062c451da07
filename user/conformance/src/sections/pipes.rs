//! Pipes and fifos: pipe2(2), fifo(7), pipe(7).

use libc::{
    F_GETFL, F_GETPIPE_SZ, F_SETPIPE_SZ, O_CLOEXEC, O_DIRECT, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY,
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, SIGPIPE,
};
use user_sys::child::in_child;
use user_sys::{Child, Handler, must, sys};

use crate::fixture::{close, open, pipe, read_text, status, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("pipes":
    basics, end_of_file, no_reader, sigpipe_handler, nonblocking, full, partial_write, atomic, capacity,
    capacity_change, poll_states, poll_room, wrong_end, blocked_reader, blocked_writer, large_transfer,
    many_writers, fifo, fifo_blocks, packets, flags,
);

fn ignore_sigpipe() {
    must(Handler::install_function(SIGPIPE, libc::SIG_IGN, 0, &[]));
}

fn basics(t: Transcript) {
    let (reader, writer) = pipe(0);
    t.say("write", (write(writer, b"hello "), write(writer, b"world")));
    t.say("read part", read_text(reader, 8));
    t.say("read rest", read_text(reader, 100));
    t.say("write nothing", write(writer, b""));
    t.say("read nothing", read_text(reader, 0));
    t.say("write from wrong pointer", sys!(write, writer, 1, 5));
    must(write(writer, b"abc"));
    t.say("read to wrong pointer", sys!(read, reader, 1, 5));
    t.say("bytes are still there", read_text(reader, 5));
}

fn end_of_file(t: Transcript) {
    let (reader, writer) = pipe(0);
    must(write(writer, b"last"));
    must(close(writer));
    t.say("what was written", read_text(reader, 10));
    t.say("then the end", read_text(reader, 10));
    t.say("and again", read_text(reader, 10));
}

fn no_reader(t: Transcript) {
    let (reader, writer) = pipe(0);
    must(close(reader));
    t.say("default action", in_child(|| must(write(writer, b"x"))));
    ignore_sigpipe();
    t.say("signal ignored", write(writer, b"x"));
    t.say("nothing to write", write(writer, b""));
    t.say("child with the reader", {
        let (reader, writer) = pipe(0);
        let child = Child::spawn(|| status(read_text(reader, 1).is_ok()));
        must(close(reader));
        (write(writer, b"x"), child.wait(), write(writer, b"x"))
    });
}

fn sigpipe_handler(t: Transcript) {
    let (reader, writer) = pipe(0);
    must(close(reader));
    must(Handler::install(SIGPIPE, 0, &[]));
    t.say("write", write(writer, b"x"));
    t.say("handler ran", Handler::count(SIGPIPE));
    t.say("code is SI_USER", Handler::code());
    t.say("sender is us", Handler::pid() == must(sys!(getpid)));
}

fn nonblocking(t: Transcript) {
    let (reader, writer) = pipe(O_NONBLOCK);
    t.say("empty", read_text(reader, 1));
    must(write(writer, b"xy"));
    t.say("with bytes", read_text(reader, 10));
    t.say("empty again", read_text(reader, 1));
    must(close(writer));
    t.say("end", read_text(reader, 1));
}

/// Fills the pipe with pages until it refuses; tells how many bytes went in, and the refusal.
fn fill(writer: i32) -> (usize, String) {
    let page = [b'x'; 4096];
    let mut total = 0;
    loop {
        match write(writer, &page) {
            Ok(count) => total += count,
            Err(errno) => return (total, user_sys::errno_name(errno)),
        }
    }
}

fn full(t: Transcript) {
    let (reader, writer) = pipe(O_NONBLOCK);
    t.say("filled", fill(writer));
    t.say("one byte more", write(writer, b"x"));
    t.say("one byte read", read_text(reader, 1));
    t.say("room only with a free page", write(writer, &[b'y'; 4096]));
    must(sys!(read, reader, &mut [0_u8; 4096], 4095));
    t.say("a page is free", write(writer, &[b'y'; 4096]));
}

fn partial_write(t: Transcript) {
    let (reader, writer) = pipe(O_NONBLOCK);
    t.say("more than it holds", write(writer, &vec![b'x'; 100_000]));
    must(sys!(read, reader, &mut [0_u8; 8192], 8192));
    t.say("more than is free", write(writer, &vec![b'x'; 10_000]));
    t.say("up to PIPE_BUF all or nothing", write(writer, &[b'x'; 4096]));
}

fn atomic(t: Transcript) {
    let (reader, writer) = pipe(0);
    let children: Vec<Child> = (0..4)
        .map(|index| {
            Child::spawn(move || {
                let line = [b'a' + index; 512];
                status((0..50).all(|_| write(writer, &line) == Ok(512)))
            })
        })
        .collect();
    must(close(writer));
    let (mut records, mut mixed) = (0, 0);
    let mut record = [0_u8; 512];
    while read_full(reader, &mut record) {
        records += 1;
        mixed += usize::from(record.iter().any(|&byte| byte != record[0]));
    }
    t.say("records and mixed ones", (records, mixed));
    t.say("writers", children.into_iter().map(Child::wait).collect::<Vec<_>>());
}

/// Reads exactly one record; false at the end.
fn read_full(fd: i32, record: &mut [u8]) -> bool {
    let mut filled = 0;
    while filled < record.len() {
        match sys!(read, fd, &mut record[filled..], record.len() - filled) {
            Ok(count) if count > 0 => filled += count,
            _ => return false,
        }
    }
    true
}

fn capacity(t: Transcript) {
    let (reader, writer) = pipe(0);
    t.say("get", sys!(fcntl, reader, F_GETPIPE_SZ));
    t.say("both ends", sys!(fcntl, writer, F_GETPIPE_SZ));
    t.say("of a file", sys!(fcntl, crate::fixture::file(c"file"), F_GETPIPE_SZ));
    t.say("of a closed one", sys!(fcntl, 99, F_GETPIPE_SZ));
}

fn capacity_change(t: Transcript) {
    let (reader, writer) = pipe(O_NONBLOCK);
    t.say("one page", sys!(fcntl, writer, F_SETPIPE_SZ, 1));
    t.say("filled", fill(writer));
    t.say("rounded up", sys!(fcntl, reader, F_SETPIPE_SZ, 10_000));
    t.say("filled then", fill(writer));
    t.say("too small for its bytes", sys!(fcntl, reader, F_SETPIPE_SZ, 4096));
    t.say("negative", sys!(fcntl, reader, F_SETPIPE_SZ, -1));
}

/// The events that poll reports now for `events` of `fd`.
fn polled(fd: i32, events: i16) -> String {
    let mut entry = libc::pollfd { fd, events, revents: 0 };
    must(sys!(poll, &mut entry, 1, 0));
    let names = [(POLLIN, "IN"), (POLLOUT, "OUT"), (POLLERR, "ERR"), (POLLHUP, "HUP"), (POLLNVAL, "NVAL")];
    let set: Vec<&str> =
        names.iter().filter(|(bit, _)| entry.revents & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "-".to_owned() } else { set.join("+") }
}

fn poll_states(t: Transcript) {
    let both = POLLIN | POLLOUT;
    let (reader, writer) = pipe(O_NONBLOCK);
    t.say("empty", (polled(reader, both), polled(writer, both)));
    must(write(writer, b"x"));
    t.say("with a byte", (polled(reader, both), polled(writer, both)));
    fill(writer);
    t.say("full", (polled(reader, both), polled(writer, both)));
    must(close(writer));
    t.say("writer gone, bytes left", polled(reader, both));
    while read_text(reader, 65536).is_ok_and(|text| text != "\"\"") {}
    t.say("writer gone, empty", polled(reader, both));
    let (reader, writer) = pipe(O_NONBLOCK);
    must(close(reader));
    t.say("reader gone", polled(writer, both));
    t.say("closed", polled(99, both));
    t.say("negative is skipped", polled(-1, both));
}

fn poll_room(t: Transcript) {
    let (reader, writer) = pipe(O_NONBLOCK);
    fill(writer);
    must(sys!(read, reader, &mut [0_u8; 4095], 4095));
    t.say("after 4095 bytes", polled(writer, POLLOUT));
    must(sys!(read, reader, &mut [0_u8; 1], 1));
    t.say("after a page", polled(writer, POLLOUT));
}

fn wrong_end(t: Transcript) {
    let (reader, writer) = pipe(0);
    t.say("write to the reader", write(reader, b"x"));
    t.say("read from the writer", read_text(writer, 1));
    t.say("access modes", (sys!(fcntl, reader, F_GETFL), sys!(fcntl, writer, F_GETFL)));
}

fn blocked_reader(t: Transcript) {
    let (reader, writer) = pipe(0);
    let (answer, report) = pipe(0);
    let child = Child::spawn(|| {
        must(close(writer));
        let first = read_text(reader, 10).unwrap_or_default();
        must(write(report, first.as_bytes()));
        let second = read_text(reader, 10).unwrap_or_default();
        status(first == "\"wake\"" && second == "\"\"")
    });
    must(write(writer, b"wake"));
    t.say("woken by a write", read_text(answer, 20));
    must(close(writer));
    t.say("woken by the close", child.wait());
}

fn blocked_writer(t: Transcript) {
    let (reader, writer) = pipe(O_NONBLOCK);
    fill(writer);
    must(sys!(fcntl, writer, libc::F_SETFL, 0));
    let child = Child::spawn(|| {
        must(close(reader));
        status(write(writer, &[b'z'; 4096]) == Ok(4096))
    });
    let mut drained = 0;
    while drained < 65536 + 4096 {
        drained += sys!(read, reader, &mut [0_u8; 8192], 8192).unwrap_or(0);
    }
    t.say("woken by reads", (child.wait(), drained));
    fill_blocking_then_drop(t);
}

/// A writer that waits for room gets SIGPIPE when the last reader goes.
fn fill_blocking_then_drop(t: Transcript) {
    let (reader, writer) = pipe(0);
    let (told, tell) = pipe(0);
    let child = Child::spawn(|| {
        must(close(reader));
        must(write(writer, &vec![b'z'; 65536]));
        must(write(tell, b"full"));
        must(write(writer, b"more"))
    });
    t.say("filled", read_text(told, 10));
    must(close(reader));
    t.say("reader goes", child.wait());
}

/// The byte that belongs at offset `at` of a long transfer.
fn pattern(at: usize) -> u8 {
    ((at * 31) >> 3) as u8
}

fn large_transfer(t: Transcript) {
    const TOTAL: usize = 1 << 20;
    let (reader, writer) = pipe(0);
    let child = Child::spawn(|| {
        must(close(reader));
        let bytes: Vec<u8> = (0..TOTAL).map(pattern).collect();
        status(write(writer, &bytes) == Ok(TOTAL))
    });
    must(close(writer));
    let (mut total, mut wrong) = (0_usize, 0);
    let mut buffer = vec![0_u8; 10_007];
    while let Ok(count) = sys!(read, reader, &mut buffer[..], 10_007) {
        if count == 0 {
            break;
        }
        wrong += (0..count).filter(|at| buffer[*at] != pattern(total + at)).count();
        total += count;
    }
    t.say("one write", (child.wait(), total, wrong));
}

fn many_writers(t: Transcript) {
    let (reader, writer) = pipe(0);
    let children: Vec<Child> =
        (0..8).map(|_| Child::spawn(|| status(write(writer, &[1; 5000]) == Ok(5000)))).collect();
    must(close(writer));
    let mut total = 0;
    while let Ok(count @ 1..) = sys!(read, reader, &mut [0_u8; 3000], 3000) {
        total += count;
    }
    t.say("total", total);
    t.say("all ended", children.into_iter().all(|child| child.wait() == user_sys::Ended::Exited(0)));
}

fn fifo(t: Transcript) {
    must(sys!(mknod, c"fifo", libc::S_IFIFO | 0o644, 0));
    t.say("writer without reader", ok(open(c"fifo", O_WRONLY | O_NONBLOCK)));
    let reader = must(open(c"fifo", O_RDONLY | O_NONBLOCK));
    t.say("read without writer", read_text(reader, 1));
    t.say("poll without writer", polled(reader, POLLIN));
    let writer = must(open(c"fifo", O_WRONLY | O_NONBLOCK));
    t.say("read while empty", read_text(reader, 1));
    must(write(writer, b"through"));
    t.say("read", read_text(reader, 10));
    must(close(writer));
    t.say("writer gone", (read_text(reader, 1), polled(reader, POLLIN)));
    must(close(reader));
    let both = must(open(c"fifo", O_RDWR));
    t.say("read-write does not block", (write(both, b"self"), read_text(both, 10)));
    t.say("lseek", crate::fixture::lseek(both, 0, 0));
}

fn fifo_blocks(t: Transcript) {
    must(sys!(mknod, c"fifo", libc::S_IFIFO | 0o644, 0));
    let child = Child::spawn(|| {
        let writer = must(open(c"fifo", O_WRONLY));
        status(write(writer, b"met") == Ok(3))
    });
    let reader = must(open(c"fifo", O_RDONLY));
    t.say("both opens meet", read_text(reader, 10));
    t.say("writer", child.wait());
    t.say("end", read_text(reader, 10));
}

fn packets(t: Transcript) {
    let (reader, writer) = pipe(O_DIRECT);
    must(write(writer, b"first"));
    must(write(writer, b"second"));
    t.say("one at a time", (read_text(reader, 100), read_text(reader, 3)));
    must(write(writer, b"third"));
    t.say("the rest of a packet is dropped", read_text(reader, 100));
}

fn flags(t: Transcript) {
    let mut ends = [0_i32; 2];
    t.say("unknown", ok(sys!(pipe2, &mut ends, 0x10)));
    t.say("wrong pointer", ok(sys!(pipe2, 0, 0)));
    t.say("old call", ok(sys!(pipe, &mut ends)));
    let (reader, writer) = pipe(O_NONBLOCK | O_CLOEXEC);
    let nonblocking = |fd: i32| sys!(fcntl, fd, F_GETFL).map(|flags| flags as i32 & O_NONBLOCK != 0);
    t.say("both ends non-blocking", (nonblocking(reader), nonblocking(writer)));
}
