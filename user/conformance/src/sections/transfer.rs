//! Moving and keeping data without a buffer: sendfile(2), copy_file_range(2), splice(2), fallocate(2),
//! fsync(2), locks.

use libc::{
    FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN,
    O_APPEND, O_RDONLY, O_WRONLY, SEEK_CUR, SEEK_SET,
};
use user_sys::child::in_child;
use user_sys::{Zeroed, must, sys};

use crate::fixture::{close, content, file, file_with, lseek, open, pipe, read_text, size, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("transfer":
    sendfile_files, sendfile_pipe, sendfile_errors, copy_range, copy_range_errors, splice_pipes, allocate,
    punch, allocate_errors, sync, advise, flock_open_files, record_locks, record_locks_go_with_close,
);

fn sendfile_files(t: Transcript) {
    let from = file_with(c"from", b"0123456789");
    let to = file(c"to");
    must(lseek(from, 2, SEEK_SET));
    t.say("at the file's offset", sys!(sendfile, to, from, 0, 3));
    t.say("moved", lseek(from, 0, SEEK_CUR));
    let mut offset = 7_i64;
    t.say("at an offset", sys!(sendfile, to, from, &mut offset, 100));
    t.say("offset advanced", offset);
    t.say("file's own stays", lseek(from, 0, SEEK_CUR));
    t.say("at the end", sys!(sendfile, to, from, &mut offset, 100));
    t.say("nothing", sys!(sendfile, to, from, 0, 0));
    t.say("content", content(c"to"));
}

fn sendfile_pipe(t: Transcript) {
    let from = file_with(c"from", b"0123456789");
    let (reader, writer) = pipe(0);
    let mut offset = 0_i64;
    t.say("into a pipe", sys!(sendfile, writer, from, &mut offset, 5));
    t.say("content", read_text(reader, 10));
    must(close(reader));
    must(user_sys::Handler::install_function(libc::SIGPIPE, libc::SIG_IGN, 0, &[]));
    t.say("into a pipe without readers", sys!(sendfile, writer, from, &mut offset, 5));
    t.say("offset", offset);
}

fn sendfile_errors(t: Transcript) {
    let from = file_with(c"from", b"0123456789");
    let to = file(c"to");
    t.say("closed source", sys!(sendfile, to, 99, 0, 1));
    t.say("closed target", sys!(sendfile, 99, from, 0, 1));
    t.say("target not writable", sys!(sendfile, must(open(c"to", O_RDONLY)), from, 0, 1));
    t.say("source not readable", sys!(sendfile, to, must(open(c"from", O_WRONLY)), 0, 1));
    let mut negative = -1_i64;
    t.say("negative offset", sys!(sendfile, to, from, &mut negative, 1));
    t.say("wrong offset pointer", sys!(sendfile, to, from, 1, 1));
    t.say("appending target", sys!(sendfile, must(open(c"to", O_WRONLY | O_APPEND)), from, 0, 1));
}

fn copy_range(t: Transcript) {
    let from = file_with(c"from", b"0123456789");
    let to = file_with(c"to", b"abcdefghij");
    let (mut source, mut target) = (2_i64, 4_i64);
    t.say("with offsets", sys!(copy_file_range, from, &mut source, to, &mut target, 3, 0));
    t.say("advanced", (source, target));
    t.say("content", content(c"to"));
    must(lseek(from, 8, SEEK_SET));
    t.say("without offsets", sys!(copy_file_range, from, 0, to, 0, 100, 0));
    t.say("size", size(to));
    t.say("at the end", sys!(copy_file_range, from, 0, to, 0, 100, 0));
    let (mut source, mut target) = (0_i64, 5_i64);
    t.say("within one file", sys!(copy_file_range, to, &mut source, to, &mut target, 5, 0));
    t.say("content then", content(c"to"));
}

fn copy_range_errors(t: Transcript) {
    let from = file_with(c"from", b"0123456789");
    let to = file(c"to");
    let (mut source, mut target) = (0_i64, 3_i64);
    t.say("overlap", sys!(copy_file_range, from, &mut source, from, &mut target, 5, 0));
    t.say("flags", sys!(copy_file_range, from, 0, to, 0, 1, 1));
    t.say("closed", sys!(copy_file_range, 99, 0, to, 0, 1, 0));
    t.say(
        "appending target",
        sys!(copy_file_range, from, 0, must(open(c"to", O_WRONLY | O_APPEND)), 0, 1, 0),
    );
    t.say("source not readable", sys!(copy_file_range, must(open(c"from", O_WRONLY)), 0, to, 0, 1, 0));
    t.say("target not writable", sys!(copy_file_range, from, 0, must(open(c"to", O_RDONLY)), 0, 1, 0));
    let (reader, _writer) = pipe(0);
    t.say("pipe", sys!(copy_file_range, reader, 0, to, 0, 1, 0));
    t.say("directory", sys!(copy_file_range, must(open(c".", O_RDONLY)), 0, to, 0, 1, 0));
}

fn splice_pipes(t: Transcript) {
    let from = file_with(c"from", b"0123456789");
    let (reader, writer) = pipe(0);
    let mut offset = 3_i64;
    t.say("file to pipe", sys!(splice, from, &mut offset, writer, 0, 4, 0));
    t.say("offset", offset);
    let (reader2, writer2) = pipe(0);
    t.say("tee", sys!(tee, reader, writer2, 100, 0));
    t.say("copy", read_text(reader2, 10));
    let to = file(c"to");
    t.say("pipe to file", sys!(splice, reader, 0, to, 0, 100, 0));
    t.say("content", content(c"to"));
    t.say("no pipe", sys!(splice, from, 0, to, 0, 1, 0));
    t.say("pipe with offset", sys!(splice, reader, &mut offset, to, 0, 1, 0));
    t.say("empty, not waiting", sys!(splice, reader, 0, to, 0, 1, libc::SPLICE_F_NONBLOCK));
}

fn allocate(t: Transcript) {
    let fd = file_with(c"file", b"data");
    t.say("grows", ok(sys!(fallocate, fd, 0, 0, 8192)));
    t.say("size", size(fd));
    t.say("keeps the data", {
        must(lseek(fd, 0, SEEK_SET));
        read_text(fd, 6)
    });
    t.say("inside changes nothing", (ok(sys!(fallocate, fd, 0, 0, 10)), size(fd)));
    t.say("keep size", (ok(sys!(fallocate, fd, FALLOC_FL_KEEP_SIZE, 0, 100_000)), size(fd)));
}

fn punch(t: Transcript) {
    let fd = file_with(c"file", &[b'x'; 16384]);
    let punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    t.say("punch", ok(sys!(fallocate, fd, punch, 4000, 5000)));
    let mut data = [0_u8; 16384];
    must(sys!(pread64, fd, &mut data, 16384, 0));
    let zeros: Vec<usize> = (0..16384).filter(|&at| data[at] == 0).collect();
    t.say("zeros", (zeros.first().copied(), zeros.last().copied(), zeros.len()));
    t.say("size", size(fd));
    t.say("must keep the size", ok(sys!(fallocate, fd, FALLOC_FL_PUNCH_HOLE, 0, 100)));
    t.say("beyond the end", (ok(sys!(fallocate, fd, punch, 100_000, 100)), size(fd)));
    t.say(
        "unknown mode with zeroing",
        ok(sys!(fallocate, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE, 0, 100)),
    );
}

fn allocate_errors(t: Transcript) {
    let fd = file(c"file");
    t.say("no length", ok(sys!(fallocate, fd, 0, 0, 0)));
    t.say("negative offset", ok(sys!(fallocate, fd, 0, -1, 10)));
    t.say("negative length", ok(sys!(fallocate, fd, 0, 0, -1)));
    t.say("overflow", ok(sys!(fallocate, fd, 0, i64::MAX, 10)));
    t.say("unknown mode", ok(sys!(fallocate, fd, 0x4000_0000, 0, 10)));
    t.say("not writable", ok(sys!(fallocate, must(open(c"file", O_RDONLY)), 0, 0, 10)));
    let (_reader, writer) = pipe(0);
    t.say("pipe", ok(sys!(fallocate, writer, 0, 0, 10)));
    t.say("closed", ok(sys!(fallocate, 99, 0, 0, 10)));
}

fn sync(t: Transcript) {
    let fd = file_with(c"file", b"data");
    let (reader, _writer) = pipe(0);
    let dir = must(open(c".", O_RDONLY));
    t.say("fsync", ok(sys!(fsync, fd)));
    t.say("fdatasync", ok(sys!(fdatasync, fd)));
    t.say("directory", ok(sys!(fsync, dir)));
    t.say("read-only", ok(sys!(fsync, must(open(c"file", O_RDONLY)))));
    t.say("pipe", ok(sys!(fsync, reader)));
    t.say("closed", ok(sys!(fdatasync, 99)));
}

fn advise(t: Transcript) {
    let fd = file_with(c"file", b"data");
    let (reader, _writer) = pipe(0);
    for (name, advice) in [
        ("normal", 0),
        ("random", 1),
        ("sequential", 2),
        ("will need", 3),
        ("do not need", 4),
        ("no reuse", 5),
    ] {
        t.say(name, ok(sys!(fadvise64, fd, 0, 0, advice)));
    }
    t.say("unknown", ok(sys!(fadvise64, fd, 0, 0, 77)));
    t.say("pipe", ok(sys!(fadvise64, reader, 0, 0, 0)));
    t.say("closed", ok(sys!(fadvise64, 99, 0, 0, 0)));
    t.say("content stays", content(c"file"));
    t.say("readahead", ok(sys!(readahead, fd, 0, 4096)));
}

fn flock_open_files(t: Transcript) {
    let first = file(c"file");
    let second = must(open(c"file", O_RDONLY));
    t.say("exclusive", ok(sys!(flock, first, LOCK_EX)));
    t.say("second exclusive", ok(sys!(flock, second, LOCK_EX | LOCK_NB)));
    t.say("second shared", ok(sys!(flock, second, LOCK_SH | LOCK_NB)));
    t.say("dup is the same", ok(sys!(flock, must(sys!(dup, first)), LOCK_EX | LOCK_NB)));
    t.say("child shares it", in_child(|| must(sys!(flock, first, LOCK_EX | LOCK_NB))));
    t.say("downgrade", ok(sys!(flock, first, LOCK_SH)));
    t.say("then shared", ok(sys!(flock, second, LOCK_SH | LOCK_NB)));
    t.say("unlock", ok(sys!(flock, first, LOCK_UN)));
    t.say("then exclusive", ok(sys!(flock, second, LOCK_EX | LOCK_NB)));
    t.say("unknown operation", ok(sys!(flock, first, 77)));
    t.say("closed", ok(sys!(flock, 99, LOCK_EX)));
}

fn lock(kind: i32, start: i64, len: i64) -> libc::flock {
    let mut lock = libc::flock::zeroed();
    lock.l_type = kind as i16;
    lock.l_whence = SEEK_SET as i16;
    lock.l_start = start;
    lock.l_len = len;
    lock
}

/// F_SETLK from a child: its exit status is 0 or the errno.
fn from_child(fd: i32, lock: &libc::flock) -> user_sys::Ended {
    in_child(|| sys!(fcntl, fd, libc::F_SETLK, lock).map_or_else(|errno| errno.into_raw(), |_| 0))
}

fn record_locks(t: Transcript) {
    let fd = file_with(c"file", &[0; 100]);
    t.say("write lock", ok(sys!(fcntl, fd, libc::F_SETLK, &lock(libc::F_WRLCK, 10, 10))));
    t.say("again by the owner", ok(sys!(fcntl, fd, libc::F_SETLK, &lock(libc::F_WRLCK, 10, 10))));
    t.say("other process, same range", from_child(fd, &lock(libc::F_RDLCK, 15, 1)));
    t.say("other process, next to it", from_child(fd, &lock(libc::F_WRLCK, 20, 5)));
    t.say("asked by the owner", {
        let mut asked = lock(libc::F_WRLCK, 0, 0);
        (ok(sys!(fcntl, fd, libc::F_GETLK, &mut asked)), asked.l_type == libc::F_UNLCK as i16)
    });
    let parent = std::process::id() as i32;
    t.say(
        "asked by another",
        in_child(|| {
            let mut asked = lock(libc::F_WRLCK, 0, 0);
            must(sys!(fcntl, fd, libc::F_GETLK, &mut asked));
            let right = asked.l_type == libc::F_WRLCK as i16 && asked.l_pid == parent;
            if right { (asked.l_start * 2 + asked.l_len) as i32 } else { 1 }
        }),
    );
    t.say("split", ok(sys!(fcntl, fd, libc::F_SETLK, &lock(libc::F_UNLCK, 14, 2))));
    t.say("hole is free", from_child(fd, &lock(libc::F_WRLCK, 14, 2)));
    t.say("rest is not", from_child(fd, &lock(libc::F_WRLCK, 16, 1)));
    t.say(
        "read lock on write-only",
        ok(sys!(fcntl, must(open(c"file", O_WRONLY)), libc::F_SETLK, &lock(libc::F_RDLCK, 50, 1))),
    );
    t.say(
        "write lock on read-only",
        ok(sys!(fcntl, must(open(c"file", O_RDONLY)), libc::F_SETLK, &lock(libc::F_WRLCK, 50, 1))),
    );
    t.say("unknown type", ok(sys!(fcntl, fd, libc::F_SETLK, &lock(77, 0, 0))));
    t.say("wrong pointer", ok(sys!(fcntl, fd, libc::F_SETLK, 1)));
}

fn record_locks_go_with_close(t: Transcript) {
    let fd = file_with(c"file", &[0; 100]);
    let other = must(open(c"file", O_RDONLY));
    must(sys!(fcntl, fd, libc::F_SETLK, &lock(libc::F_WRLCK, 0, 0)));
    t.say("held", from_child(fd, &lock(libc::F_WRLCK, 0, 0)));
    must(close(other));
    t.say("any close frees", from_child(fd, &lock(libc::F_WRLCK, 0, 0)));
    must(write(fd, b"x"));
    let holder = in_child(|| must(sys!(fcntl, fd, libc::F_SETLK, &lock(libc::F_WRLCK, 0, 0))));
    t.say("holder", holder);
    t.say("free after its end", from_child(fd, &lock(libc::F_WRLCK, 0, 0)));
}
