//! Descriptors: dup(2), fcntl(2), close(2), close_range(2), ioctl(2), the limit on them.

use libc::{
    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_SETFD, F_SETFL, FD_CLOEXEC, FIONBIO, FIONREAD, O_CLOEXEC,
    O_NONBLOCK, O_RDONLY, RLIMIT_NOFILE,
};
use user_sys::child::in_child;
use user_sys::{Child, Zeroed, must, sys};

use crate::fixture::{close, file, file_with, is_open, lseek, open, pipe, read_text, status, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("fd":
    lowest, dup, dup2, dup3, duplicate_by_fcntl, cloexec, close_errors, close_many, close_range_flags,
    limit, limit_change, limit_pipe, ioctls, terminals, nonblock_is_shared, inherited, unshared_table,
    kcmp_like,
);

fn lowest(t: Transcript) {
    let first = file(c"file");
    t.say("first", first);
    let second = must(open(c"file", O_RDONLY));
    t.say("second", second);
    must(close(first));
    t.say("takes the gap", open(c"file", O_RDONLY));
    must(close(0));
    t.say("takes 0", sys!(dup, second));
    t.say("pipe takes the next two", {
        let ends = pipe(0);
        (ends.0, ends.1)
    });
}

fn dup(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let copy = must(sys!(dup, fd));
    must(lseek(fd, 4, libc::SEEK_SET));
    t.say("shares the offset", read_text(copy, 2));
    t.say("has its own close-on-exec", {
        must(sys!(fcntl, fd, F_SETFD, FD_CLOEXEC));
        (sys!(fcntl, fd, F_GETFD), sys!(fcntl, copy, F_GETFD))
    });
    must(close(fd));
    t.say("lives on", read_text(copy, 2));
    t.say("closed", sys!(dup, 99));
    t.say("negative", sys!(dup, -1));
}

fn dup2(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let (reader, writer) = pipe(0);
    t.say("onto a free one", sys!(dup2, fd, 50));
    t.say("onto itself", sys!(dup2, fd, fd));
    t.say("closed onto itself", sys!(dup2, 99, 99));
    t.say("closed onto open", sys!(dup2, 99, 50));
    t.say("target stays open then", is_open(50));
    t.say("negative target", sys!(dup2, fd, -1));
    t.say("target beyond the limit", sys!(dup2, fd, i32::MAX));
    must(sys!(dup2, fd, writer));
    t.say("closes the target", read_text(reader, 1));
    must(sys!(fcntl, fd, F_SETFD, FD_CLOEXEC));
    must(sys!(dup2, fd, 51));
    t.say("without close-on-exec", sys!(fcntl, 51, F_GETFD));
}

fn dup3(t: Transcript) {
    let fd = file(c"file");
    t.say("cloexec", (sys!(dup3, fd, 50, O_CLOEXEC), sys!(fcntl, 50, F_GETFD)));
    t.say("onto itself", sys!(dup3, fd, fd, 0));
    t.say("unknown flag", sys!(dup3, fd, 50, O_NONBLOCK));
    t.say("closed", sys!(dup3, 99, 50, 0));
    t.say("negative target", sys!(dup3, fd, -5, 0));
}

fn duplicate_by_fcntl(t: Transcript) {
    let fd = file(c"file");
    t.say("at least 20", sys!(fcntl, fd, F_DUPFD, 20));
    t.say("again", sys!(fcntl, fd, F_DUPFD, 20));
    t.say("cloexec", (sys!(fcntl, fd, F_DUPFD_CLOEXEC, 20), sys!(fcntl, 22, F_GETFD)));
    t.say("negative", sys!(fcntl, fd, F_DUPFD, -1));
    t.say("beyond the limit", sys!(fcntl, fd, F_DUPFD, i32::MAX));
    t.say("closed", sys!(fcntl, 99, F_DUPFD, 0));
    t.say("unknown command", sys!(fcntl, fd, 12345));
}

fn cloexec(t: Transcript) {
    let flag = |fd: user_sys::Res| sys!(fcntl, must(fd), F_GETFD);
    t.say("open", flag(open(c".", O_RDONLY | O_CLOEXEC)));
    t.say("pipe2", flag(Ok(pipe(O_CLOEXEC).0 as usize)));
    t.say("socket", flag(sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)));
    t.say("eventfd", flag(sys!(eventfd2, 0, libc::EFD_CLOEXEC)));
    t.say("epoll", flag(sys!(epoll_create1, libc::EPOLL_CLOEXEC)));
    t.say("timerfd", flag(sys!(timerfd_create, libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC)));
    let fd = file(c"file");
    t.say("set", (sys!(fcntl, fd, F_SETFD, 1), sys!(fcntl, fd, F_GETFD)));
    t.say("other bits are dropped", (sys!(fcntl, fd, F_SETFD, -1), sys!(fcntl, fd, F_GETFD)));
    t.say("clear", (sys!(fcntl, fd, F_SETFD, 0xfe), sys!(fcntl, fd, F_GETFD)));
    t.say("by ioctl", (ok(sys!(ioctl, fd, libc::FIOCLEX)), sys!(fcntl, fd, F_GETFD)));
    t.say("by ioctl, off", (ok(sys!(ioctl, fd, libc::FIONCLEX)), sys!(fcntl, fd, F_GETFD)));
    t.say("of a closed one", sys!(fcntl, 99, F_GETFD));
}

fn close_errors(t: Transcript) {
    let fd = file(c"file");
    t.say("first", ok(close(fd)));
    t.say("second", ok(close(fd)));
    t.say("negative", ok(close(-1)));
    t.say("huge", ok(close(i32::MAX)));
}

fn close_many(t: Transcript) {
    let fd = file(c"file");
    for target in 40..50 {
        must(sys!(dup2, fd, target));
    }
    t.say("range", ok(sys!(close_range, 43, 46, 0)));
    t.say("open ones", (40..50).filter(|&fd| is_open(fd)).collect::<Vec<_>>());
    t.say("nothing there", ok(sys!(close_range, 43, 46, 0)));
    t.say("reversed", ok(sys!(close_range, 46, 43, 0)));
    t.say("to the end", ok(sys!(close_range, 41, u32::MAX, 0)));
    t.say("open ones then", (40..50).filter(|&fd| is_open(fd)).collect::<Vec<_>>());
}

fn close_range_flags(t: Transcript) {
    let fd = file(c"file");
    for target in 40..43 {
        must(sys!(dup2, fd, target));
    }
    t.say("cloexec", ok(sys!(close_range, 40, 41, libc::CLOSE_RANGE_CLOEXEC)));
    t.say("flags", (40..43).map(|fd| sys!(fcntl, fd, F_GETFD)).collect::<Vec<_>>());
    t.say("unknown flag", ok(sys!(close_range, 40, 41, 64)));
}

fn set_limit(soft: u64, hard: u64) -> user_sys::Res {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    sys!(prlimit64, 0, RLIMIT_NOFILE, &limit, 0)
}

fn limit(t: Transcript) {
    must(set_limit(30, 40));
    let mut opened = 0;
    let refused = loop {
        match open(c".", O_RDONLY) {
            Ok(_) => opened += 1,
            Err(errno) => break user_sys::errno_name(errno),
        }
    };
    t.say("opened", opened);
    t.say("refused", refused);
    t.say("dup", sys!(dup, 0));
    t.say("dup2 to the last", sys!(dup2, 0, 29));
    t.say("dup2 past the last", sys!(dup2, 0, 30));
    t.say("F_DUPFD at the limit", sys!(fcntl, 0, F_DUPFD, 30));
    t.say("socket", ok(sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)));
    t.say("eventfd", ok(sys!(eventfd2, 0, 0)));
    t.say("epoll", ok(sys!(epoll_create1, 0)));
    must(set_limit(31, 40));
    t.say("one more", open(c".", O_RDONLY));
}

fn limit_change(t: Transcript) {
    must(set_limit(30, 40));
    let mut now = libc::rlimit::zeroed();
    t.say("read back", (ok(sys!(getrlimit, RLIMIT_NOFILE, &mut now)), now.rlim_cur, now.rlim_max));
    t.say("soft above hard", ok(set_limit(50, 40)));
    must(sys!(dup2, 0, 29));
    must(set_limit(5, 40));
    t.say("above a lowered limit stays open", is_open(29));
    t.say("unknown resource", ok(sys!(getrlimit, 99, &mut now)));
    t.say("wrong pointer", ok(sys!(getrlimit, RLIMIT_NOFILE, 1)));
    t.say(
        "child inherits",
        in_child(|| {
            must(sys!(getrlimit, RLIMIT_NOFILE, &mut now));
            now.rlim_cur as i32
        }),
    );
}

fn limit_pipe(t: Transcript) {
    must(set_limit(10, 40));
    while sys!(dup, 0).is_ok() {}
    must(close(9));
    let mut ends = [-7_i32; 2];
    t.say("pipe with room for one", ok(sys!(pipe2, &mut ends, 0)));
    t.say("leaves none open", is_open(9));
    t.say("array untouched", ends.to_vec());
    must(close(8));
    t.say("pipe with room for two", (ok(sys!(pipe2, &mut ends, 0)), ends.to_vec()));
    t.say("wrong array", {
        must(close(8));
        must(close(9));
        (ok(sys!(pipe2, 1, 0)), is_open(8))
    });
}

fn ioctls(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let (reader, writer) = pipe(0);
    must(write(writer, b"12345"));
    let readable = |fd: i32| {
        let mut count = -1_i32;
        sys!(ioctl, fd, FIONREAD, &mut count).map(|_| count)
    };
    t.say("readable in a pipe", readable(reader));
    t.say("readable at a file's end", readable(fd));
    must(lseek(fd, 3, libc::SEEK_SET));
    t.say("readable in a file", readable(fd));
    t.say(
        "nonblock on",
        (
            ok(sys!(ioctl, reader, FIONBIO, &1)),
            sys!(fcntl, reader, F_GETFL).map(|f| f as i32 & O_NONBLOCK != 0),
        ),
    );
    t.say(
        "nonblock off",
        (
            ok(sys!(ioctl, reader, FIONBIO, &0)),
            sys!(fcntl, reader, F_GETFL).map(|f| f as i32 & O_NONBLOCK != 0),
        ),
    );
    t.say("wrong pointer", ok(sys!(ioctl, reader, FIONREAD, 1)));
    t.say("unknown request", ok(sys!(ioctl, fd, 0x1234)));
    t.say("unknown request to a pipe", ok(sys!(ioctl, reader, 0x1234)));
    t.say("closed", ok(sys!(ioctl, 99, FIONREAD, 1)));
}

fn terminals(t: Transcript) {
    let fd = file(c"file");
    let (reader, _writer) = pipe(0);
    let mut attributes = libc::termios::zeroed();
    let mut window = libc::winsize::zeroed();
    t.say("file", ok(sys!(ioctl, fd, libc::TCGETS, &mut attributes)));
    t.say("pipe", ok(sys!(ioctl, reader, libc::TCGETS, &mut attributes)));
    t.say("null device", ok(sys!(ioctl, must(open(c"/dev/null", O_RDONLY)), libc::TCGETS, &mut attributes)));
    t.say("window of a file", ok(sys!(ioctl, fd, libc::TIOCGWINSZ, &mut window)));
    t.say("group of a pipe", ok(sys!(ioctl, reader, libc::TIOCGPGRP, &mut 0)));
    t.say(
        "socket",
        ok(sys!(
            ioctl,
            must(sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)),
            libc::TCGETS,
            &mut attributes
        )),
    );
}

fn nonblock_is_shared(t: Transcript) {
    let (reader, _writer) = pipe(0);
    let copy = must(sys!(dup, reader));
    must(sys!(fcntl, copy, F_SETFL, O_NONBLOCK));
    t.say("through a dup", read_text(reader, 1));
    must(sys!(fcntl, reader, F_SETFL, 0));
    t.say("set by a child", in_child(|| must(sys!(fcntl, reader, F_SETFL, O_NONBLOCK))));
    t.say("holds here", read_text(copy, 1));
}

fn inherited(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let (reader, writer) = pipe(O_CLOEXEC);
    t.say("child writes", in_child(|| status(write(writer, b"hi").is_ok())));
    t.say("parent reads", read_text(reader, 10));
    t.say("child closes its own", in_child(|| status(close(fd).is_ok())));
    t.say("parent's is open", is_open(fd));
    t.say("child's new one is its own", (in_child(|| must(sys!(dup2, fd, 60))), is_open(60)));
}

fn unshared_table(t: Transcript) {
    let (reader, writer) = pipe(0);
    let child = Child::spawn(|| {
        must(close(writer));
        status(read_text(reader, 1) == Ok("\"\"".to_owned()))
    });
    must(close(writer));
    t.say("end seen once every copy is closed", child.wait());
}

fn kcmp_like(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let again = must(open(c"file", O_RDONLY));
    must(lseek(again, 5, libc::SEEK_SET));
    t.say("two opens, two offsets", (lseek(fd, 0, libc::SEEK_CUR), lseek(again, 0, libc::SEEK_CUR)));
    t.say("through /proc/self/fd", {
        let third = must(open(&crate::fixture::c(&format!("/proc/self/fd/{again}")), O_RDONLY));
        lseek(third, 0, libc::SEEK_CUR)
    });
}
