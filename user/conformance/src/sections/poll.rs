//! Waiting for several descriptors: poll(2), ppoll(2), select(2), pselect6(2).

use libc::{
    O_NONBLOCK, O_RDONLY, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDHUP, SIGALRM, SIGUSR1,
    pollfd,
};
use user_sys::{Child, Errno, Handler, Zeroed, millis, must, sys, timespec};

use crate::fixture::{close, file, open, pipe, repeat_alarm, status, took_at_least, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("poll":
    counts, files, nothing, timeouts, wakes, interrupted, errors, many, ppoll_mask, ppoll_time_left,
    socket_states, select_sets, select_errors, select_timeouts, pselect_mask, duplicate_entries,
    wakes_on_hangup,
);

/// Names of the bits in `revents`.
pub fn names(revents: i16) -> String {
    let table = [
        (POLLIN, "IN"),
        (POLLPRI, "PRI"),
        (POLLOUT, "OUT"),
        (POLLERR, "ERR"),
        (POLLHUP, "HUP"),
        (POLLNVAL, "NVAL"),
        (POLLRDHUP, "RDHUP"),
    ];
    let set: Vec<&str> = table.iter().filter(|(bit, _)| revents & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "-".to_owned() } else { set.join("+") }
}

fn entry(fd: i32, events: i16) -> pollfd {
    pollfd { fd, events, revents: 0x55 }
}

/// poll(2) over the entries: the count and what each reports.
fn poll(entries: &mut [pollfd], timeout: i32) -> Result<(usize, Vec<String>), Errno> {
    let count = entries.len();
    let ready = sys!(poll, &mut *entries, count, timeout)?;
    Ok((ready, entries.iter().map(|entry| names(entry.revents)).collect()))
}

fn counts(t: Transcript) {
    let (reader, writer) = pipe(0);
    let (other, _other_writer) = pipe(0);
    let mut entries = [
        entry(reader, POLLIN),
        entry(writer, POLLOUT),
        entry(other, POLLIN),
        entry(-1, POLLIN),
        entry(99, POLLIN),
    ];
    t.say("one ready", poll(&mut entries, 0));
    must(write(writer, b"x"));
    t.say("two ready", poll(&mut entries, 0));
    t.say("not asked, not told", poll(&mut [entry(reader, POLLOUT)], 0));
    t.say("no events asked", poll(&mut [entry(reader, 0)], 0));
    must(close(writer));
    t.say("hang-up is told unasked", poll(&mut [entry(other, 0), entry(reader, 0)], 0));
}

fn files(t: Transcript) {
    let all = POLLIN | POLLOUT | POLLPRI;
    t.say("file", poll(&mut [entry(file(c"file"), all)], 0));
    t.say("directory", poll(&mut [entry(must(open(c".", O_RDONLY)), all)], 0));
    t.say("null device", poll(&mut [entry(must(open(c"/dev/null", O_RDONLY)), all)], 0));
    t.say("zero device", poll(&mut [entry(must(open(c"/dev/zero", O_RDONLY)), all)], 0));
    t.say("path descriptor", poll(&mut [entry(must(open(c".", libc::O_PATH)), all)], 0));
    t.say(
        "normal bits",
        poll(&mut [entry(file(c"file"), libc::POLLRDNORM | libc::POLLWRNORM)], 0).map(|ready| ready.0),
    );
}

fn nothing(t: Transcript) {
    t.say("no entries", poll(&mut [], 0));
    t.say("no entries, with time", took_at_least(20, || ok(sys!(poll, 0, 0, 20))));
    t.say("only skipped ones", took_at_least(20, || poll(&mut [entry(-1, POLLIN)], 20)));
}

fn timeouts(t: Transcript) {
    let (reader, _writer) = pipe(0);
    t.say("zero", poll(&mut [entry(reader, POLLIN)], 0));
    t.say("30 ms", took_at_least(30, || poll(&mut [entry(reader, POLLIN)], 30)));
    t.say(
        "ppoll 30 ms",
        took_at_least(30, || ok(sys!(ppoll, &mut entry(reader, POLLIN), 1, &mut millis(30), 0, 8))),
    );
}

fn wakes(t: Transcript) {
    let (reader, writer) = pipe(0);
    let (ready_reader, ready_writer) = pipe(0);
    let child = Child::spawn(|| {
        must(write(ready_writer, b"r"));
        let woken = poll(&mut [entry(reader, POLLIN)], -1);
        status(woken == Ok((1, vec!["IN".to_owned()])))
    });
    must(sys!(read, ready_reader, &mut [0_u8], 1));
    must(write(writer, b"x"));
    t.say("without limit", child.wait());
    let child = Child::spawn(|| {
        status(
            poll(&mut [entry(reader, POLLIN), entry(ready_reader, POLLIN)], 10_000).is_ok_and(|r| r.0 >= 1),
        )
    });
    must(write(ready_writer, b"x"));
    t.say("with a limit", child.wait());
}

fn interrupted(t: Transcript) {
    let (reader, _writer) = pipe(0);
    repeat_alarm(10, 0);
    t.say("poll", poll(&mut [entry(reader, POLLIN)], -1));
    t.say("handler ran", Handler::count(SIGALRM) > 0);
    repeat_alarm(10, libc::SA_RESTART);
    t.say("is not restarted", poll(&mut [entry(reader, POLLIN)], -1));
    let mut set = libc::fd_set::zeroed();
    t.say("select", ok(sys!(select, 0, &mut set, 0, 0, 0)));
    t.say("ppoll", ok(sys!(ppoll, &mut entry(reader, POLLIN), 1, 0, 0, 8)));
}

fn errors(t: Transcript) {
    t.say("wrong array", ok(sys!(poll, 1, 1, 0)));
    t.say("too many entries", {
        let limit = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
        must(sys!(prlimit64, 0, libc::RLIMIT_NOFILE, &limit, 0));
        let mut entries = vec![entry(-1, 0); 65];
        (poll(&mut entries, 0).map(|r| r.0), poll(&mut entries[..64], 0).map(|r| r.0))
    });
    t.say("ppoll negative time", ok(sys!(ppoll, 0, 0, &mut timespec(-1, 0), 0, 8)));
    t.say("ppoll nanoseconds out of range", ok(sys!(ppoll, 0, 0, &mut timespec(0, 1_000_000_000), 0, 8)));
    t.say("ppoll wrong mask size", ok(sys!(ppoll, 0, 0, &mut timespec(0, 0), &0_u64, 4)));
    t.say("ppoll wrong mask", ok(sys!(ppoll, 0, 0, &mut timespec(0, 0), 1, 8)));
    t.say("ppoll wrong time", ok(sys!(ppoll, 0, 0, 1, 0, 8)));
}

fn many(t: Transcript) {
    let pipes: Vec<(i32, i32)> = (0..100).map(|_| pipe(O_NONBLOCK)).collect();
    for index in [3, 50, 99] {
        must(write(pipes[index].1, b"x"));
    }
    let mut entries: Vec<pollfd> = pipes.iter().map(|ends| entry(ends.0, POLLIN)).collect();
    let ready = poll(&mut entries, -1);
    let which: Vec<usize> = (0..100).filter(|&index| entries[index].revents != 0).collect();
    t.say("of a hundred", (ready.map(|r| r.0), which));
}

fn ppoll_mask(t: Transcript) {
    let (reader, _writer) = pipe(0);
    must(Handler::install(SIGUSR1, 0, &[]));
    must(user_sys::signal::mask(libc::SIG_BLOCK, &[SIGUSR1]).map(|_| 0));
    must(sys!(kill, must(sys!(getpid)), SIGUSR1));
    t.say("blocked", Handler::count(SIGUSR1));
    t.say("let in while waiting", ok(sys!(ppoll, &mut entry(reader, POLLIN), 1, 0, &0_u64, 8)));
    t.say("handler ran", Handler::count(SIGUSR1));
    t.say(
        "mask is back",
        user_sys::signal::mask(libc::SIG_BLOCK, &[]) == Ok(user_sys::signal::set(&[SIGUSR1])),
    );
}

fn ppoll_time_left(t: Transcript) {
    let (reader, writer) = pipe(0);
    let mut left = timespec(0, 20_000_000);
    t.say("ran out", ok(sys!(ppoll, &mut entry(reader, POLLIN), 1, &mut left, 0, 8)));
    t.say("nothing left", (left.tv_sec, left.tv_nsec));
    must(write(writer, b"x"));
    let mut left = timespec(100, 0);
    t.say("ready at once", ok(sys!(ppoll, &mut entry(reader, POLLIN), 1, &mut left, 0, 8)));
    t.say("most is left", left.tv_sec >= 50);
}

fn socket_states(t: Transcript) {
    let all = POLLIN | POLLOUT | POLLRDHUP;
    let mut pair = [0_i32; 2];
    must(sys!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, &mut pair));
    t.say("fresh", poll(&mut [entry(pair[0], all)], 0));
    must(write(pair[1], b"x"));
    t.say("with a byte", poll(&mut [entry(pair[0], all)], 0));
    must(sys!(shutdown, pair[1], libc::SHUT_WR));
    t.say("peer stopped writing", poll(&mut [entry(pair[0], all)], 0));
    must(close(pair[1]));
    t.say("peer closed", poll(&mut [entry(pair[0], all)], 0));
    let lone = must(sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0));
    t.say("unconnected", poll(&mut [entry(lone, all)], 0));
}

/// A descriptor set with these members.
fn set_of(fds: &[i32]) -> [u64; 16] {
    let mut set = [0; 16];
    for &fd in fds {
        set[fd as usize / 64] |= 1 << (fd % 64);
    }
    set
}

fn members(set: &[u64; 16]) -> Vec<i32> {
    (0..1024).filter(|fd| set[*fd as usize / 64] >> (fd % 64) & 1 == 1).collect()
}

fn select_sets(t: Transcript) {
    let (reader, writer) = pipe(0);
    let mut no_time = [0_i64, 0];
    let (mut read, mut write_set) = (set_of(&[reader, writer]), set_of(&[reader, writer]));
    t.say("empty pipe", sys!(select, writer + 1, &mut read, &mut write_set, 0, &mut no_time));
    t.say("sets", (members(&read), members(&write_set)));
    must(write(writer, b"x"));
    let (mut read, mut write_set) = (set_of(&[reader]), set_of(&[writer]));
    let mut except = set_of(&[reader, writer]);
    t.say("one byte", sys!(select, writer + 1, &mut read, &mut write_set, &mut except, &mut no_time));
    t.say("sets then", (members(&read), members(&write_set), members(&except)));
    let mut read = set_of(&[reader]);
    t.say("beyond nfds", (sys!(select, reader, &mut read, 0, 0, &mut no_time), members(&read)));
    must(close(writer));
    must(sys!(read, reader, &mut [0_u8], 1));
    let mut read = set_of(&[reader]);
    t.say(
        "end of file is readable",
        (sys!(select, reader + 1, &mut read, 0, 0, &mut no_time), members(&read)),
    );
}

fn select_errors(t: Transcript) {
    let mut set = set_of(&[60]);
    t.say("closed member", sys!(select, 61, &mut set, 0, 0, &mut [0_i64, 0]));
    t.say("set unchanged", members(&set));
    t.say("negative nfds", sys!(select, -1, 0, 0, 0, &mut [0_i64, 0]));
    t.say("wrong set", sys!(select, 10, 1, 0, 0, &mut [0_i64, 0]));
    t.say("wrong time", sys!(select, 0, 0, 0, 0, 1));
    t.say("negative time", sys!(select, 0, 0, 0, 0, &mut [-1_i64, 0]));
    t.say("microseconds beyond a second", sys!(select, 0, 0, 0, 0, &mut [0_i64, 1_000_001]));
}

fn select_timeouts(t: Transcript) {
    let mut time = [0_i64, 20_000];
    t.say("20 ms", took_at_least(20, || sys!(select, 0, 0, 0, 0, &mut time)));
    t.say("nothing left", time.to_vec());
    let (reader, writer) = pipe(0);
    must(write(writer, b"x"));
    let mut time = [100_i64, 0];
    t.say("ready at once", sys!(select, reader + 1, &mut set_of(&[reader]), 0, 0, &mut time));
    t.say("most is left", time[0] >= 50);
    t.say("for ever, ready", sys!(select, reader + 1, &mut set_of(&[reader]), 0, 0, 0));
}

fn pselect_mask(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    must(user_sys::signal::mask(libc::SIG_BLOCK, &[SIGUSR1]).map(|_| 0));
    must(sys!(kill, must(sys!(getpid)), SIGUSR1));
    let empty = 0_u64;
    let argument = [&raw const empty as usize, 8];
    t.say("let in while waiting", sys!(pselect6, 0, 0, 0, 0, 0, &argument));
    t.say("handler ran", Handler::count(SIGUSR1));
    t.say("without a mask", sys!(pselect6, 0, 0, 0, 0, &mut timespec(0, 0), 0));
    t.say("wrong mask size", sys!(pselect6, 0, 0, 0, 0, &mut timespec(0, 0), &[argument[0], 5]));
}

fn duplicate_entries(t: Transcript) {
    let (reader, writer) = pipe(0);
    must(write(writer, b"x"));
    t.say(
        "each is counted",
        poll(&mut [entry(reader, POLLIN), entry(reader, POLLIN), entry(reader, POLLOUT)], -1),
    );
}

fn wakes_on_hangup(t: Transcript) {
    let (reader, writer) = pipe(0);
    let child = Child::spawn(|| {
        must(close(writer));
        status(poll(&mut [entry(reader, POLLIN)], -1) == Ok((1, vec!["HUP".to_owned()])))
    });
    must(close(writer));
    t.say("last writer closes", child.wait());
    let (reader, writer) = pipe(0);
    let killed = Child::spawn(|| must(sys!(pause)));
    must(close(writer));
    must(killed.kill(libc::SIGKILL));
    t.say("last writer is killed", poll(&mut [entry(reader, POLLIN)], 10_000));
}
