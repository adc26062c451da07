//! Files in memory: mmap(2) of files, private and shared, msync(2), and memory that processes share.

use libc::{
    MADV_DONTNEED, MAP_ANONYMOUS, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, MS_ASYNC, MS_INVALIDATE, MS_SYNC,
    O_RDONLY, O_RDWR, O_WRONLY, PROT_READ, PROT_WRITE,
};
use user_sys::child::in_child;
use user_sys::map::{mmap, peek, poke};
use user_sys::{Ended, Errno, PAGE, must, sys};

use super::memory::{PRIVATE, READ_WRITE, fresh, must_map, read_at, write_at};
use crate::fixture::{close, content, file, file_with, open, pipe, size, status, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("mappings":
    private_file, shared_file, shared_with_child, shared_anonymous, file_permissions, beyond_the_file,
    file_errors, file_outlives_close, grow_under_mapping, dont_need_file, sync, populate, zero_device,
    truncated, truncated_private, truncated_elsewhere, punched,
);

fn private_file(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let at = must_map(mmap(0, PAGE, READ_WRITE, MAP_PRIVATE, fd, 0));
    t.say("content", (peek(at), peek(at + 9), peek(at + 10)));
    poke(at, b'X');
    t.say("written", (peek(at), content(c"file")));
    must(sys!(pwrite64, fd, b"AB", 2, 0));
    t.say("copied page stays", peek(at + 1));
    t.say(
        "child has its own",
        (
            in_child(|| {
                poke(at, b'Y');
                i32::from(peek(at))
            }),
            peek(at),
        ),
    );
}

fn shared_file(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let at = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    poke(at, b'X');
    t.say("write through the mapping", content(c"file"));
    must(sys!(pwrite64, fd, b"AB", 2, 4));
    t.say("write through the file", (peek(at + 4), peek(at + 5)));
    poke(at + 50, b'Z');
    t.say("beyond the end is not the file's", size(fd));
    let again = must_map(mmap(0, PAGE, PROT_READ, MAP_SHARED, fd, 0));
    poke(at + 1, b'Q');
    t.say("second mapping", peek(again + 1));
    must(sys!(munmap, at, PAGE));
    t.say("after unmapping", content(c"file"));
}

fn shared_with_child(t: Transcript) {
    let fd = file_with(c"file", &[b'.'; 2 * PAGE]);
    let at = must_map(mmap(0, 2 * PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    let child = in_child(|| {
        poke(at + PAGE, b'c');
        i32::from(peek(at))
    });
    t.say("child reads", child);
    t.say("parent sees the child's write", peek(at + PAGE));
    let other = in_child(|| {
        let own = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED, must(open(c"file", O_RDWR)), PAGE));
        poke(own, b'd');
        0
    });
    t.say("another process's mapping", (other, peek(at + PAGE)));
}

fn shared_anonymous(t: Transcript) {
    let at = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    let child = in_child(|| {
        poke(at + 9, 42);
        0
    });
    t.say("child", child);
    t.say("parent sees", peek(at + 9));
    t.say(
        "grandchild too",
        in_child(|| {
            let inner = in_child(|| {
                poke(at + 10, 43);
                0
            });
            status(inner == Ended::Exited(0) && peek(at + 10) == 43)
        }),
    );
}

fn file_permissions(t: Transcript) {
    must(close(file_with(c"file", b"data")));
    let try_map = |flags: i32, protection: i32, kind: i32| {
        let fd = must(open(c"file", flags));
        ok(mmap(0, PAGE, protection, kind, fd, 0))
    };
    t.say("read-only, shared, read", try_map(O_RDONLY, PROT_READ, MAP_SHARED));
    t.say("read-only, shared, write", try_map(O_RDONLY, READ_WRITE, MAP_SHARED));
    t.say("read-only, private, write", try_map(O_RDONLY, READ_WRITE, MAP_PRIVATE));
    t.say("write-only, shared", try_map(O_WRONLY, PROT_WRITE, MAP_SHARED));
    t.say("write-only, private", try_map(O_WRONLY, PROT_READ, MAP_PRIVATE));
    let at = must_map(mmap(0, PAGE, PROT_READ, MAP_SHARED, must(open(c"file", O_RDONLY)), 0));
    t.say("made writable later", ok(sys!(mprotect, at, PAGE, READ_WRITE)));
    let at = must_map(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, must(open(c"file", O_RDONLY)), 0));
    t.say("private made writable later", ok(sys!(mprotect, at, PAGE, READ_WRITE)));
}

fn beyond_the_file(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let at = must_map(mmap(0, 3 * PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    t.say("rest of the last page is zero", (peek(at + 10), peek(at + PAGE - 1)));
    t.say("next page", (read_at(at + PAGE), write_at(at + PAGE)));
    must(sys!(ftruncate, fd, 2 * PAGE));
    t.say("after the file has grown", (read_at(at + PAGE), read_at(at + 2 * PAGE)));
    poke(at + PAGE, 7);
    must(sys!(ftruncate, fd, 5));
    t.say("after the file has shrunk", (read_at(at + PAGE), peek(at + 4), peek(at + 5)));
    let empty = must_map(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, file(c"empty"), 0));
    t.say("empty file", read_at(empty));
    t.say("system call from there", ok(sys!(write, pipe(0).1, empty, 1)));
}

fn file_errors(t: Transcript) {
    let fd = file_with(c"file", b"data");
    must(sys!(mkdir, c"dir", 0o755));
    let private = |fd: i32, offset: usize| ok(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, offset));
    t.say("closed", private(99, 0));
    t.say("negative", private(-1, 0));
    t.say("directory", private(must(open(c"dir", O_RDONLY)), 0));
    t.say("pipe", private(pipe(0).0, 0));
    t.say("eventfd", private(must(sys!(eventfd2, 0, 0)), 0));
    t.say("offset not a page", private(fd, 1));
    t.say("offset beyond the end", private(fd, 1 << 20));
    t.say("offset overflows", private(fd, usize::MAX - PAGE + 1));
    t.say(
        "shared with an unknown flag, checked",
        ok(mmap(0, PAGE, PROT_READ, libc::MAP_SHARED_VALIDATE | 0x0200_0000, fd, 0)),
    );
    t.say("shared, checked", ok(mmap(0, PAGE, PROT_READ, libc::MAP_SHARED_VALIDATE, fd, 0)));
}

fn file_outlives_close(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let at = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    must(close(fd));
    t.say("closed", peek(at + 3));
    poke(at + 3, b'!');
    t.say("still written through", content(c"file"));
    must(sys!(unlink, c"file"));
    t.say("unlinked", peek(at + 3));
}

fn grow_under_mapping(t: Transcript) {
    let fd = file(c"file");
    let at = must_map(mmap(0, 4 * PAGE, PROT_READ, MAP_SHARED, fd, 0));
    must(write(fd, &[b'x'; 3 * PAGE + 5]));
    t.say("sees what write appended", (peek(at), peek(at + 3 * PAGE + 4), peek(at + 3 * PAGE + 5)));
    let second = must_map(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 2 * PAGE));
    must(sys!(pwrite64, fd, b"y", 1, 2 * PAGE));
    t.say("with an offset", (peek(second), peek(at + 2 * PAGE)));
}

fn dont_need_file(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let private = must_map(mmap(0, PAGE, READ_WRITE, MAP_PRIVATE, fd, 0));
    poke(private, b'X');
    must(sys!(madvise, private, PAGE, MADV_DONTNEED));
    t.say("private: the file's content again", peek(private));
    let shared = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    poke(shared, b'Y');
    must(sys!(madvise, shared, PAGE, MADV_DONTNEED));
    t.say("shared: nothing is lost", (peek(shared), content(c"file")));
}

fn sync(t: Transcript) {
    let fd = file_with(c"file", &[0; 2 * PAGE]);
    let at = must_map(mmap(0, 2 * PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    poke(at, 1);
    t.say("wait", ok(sys!(msync, at, PAGE, MS_SYNC)));
    t.say("do not wait", ok(sys!(msync, at, 2 * PAGE, MS_ASYNC)));
    t.say("invalidate", ok(sys!(msync, at, PAGE, MS_INVALIDATE)));
    t.say("both", ok(sys!(msync, at, PAGE, MS_SYNC | MS_ASYNC)));
    t.say("unknown flag", ok(sys!(msync, at, PAGE, 64)));
    t.say("not aligned", ok(sys!(msync, at + 1, PAGE, MS_SYNC)));
    t.say("anonymous", ok(sys!(msync, fresh(1), PAGE, MS_SYNC)));
    must(sys!(munmap, at + PAGE, PAGE));
    t.say("hole", ok(sys!(msync, at, 2 * PAGE, MS_SYNC)));
    t.say("no length", ok(sys!(msync, at, 0, MS_SYNC)));
}

fn populate(t: Transcript) {
    let at = must_map(mmap(0, 8 * PAGE, READ_WRITE, PRIVATE | MAP_POPULATE, -1, 0));
    let mut present = [0_u8; 8];
    must(sys!(mincore, at, 8 * PAGE, &mut present));
    t.say("all present", present.iter().all(|byte| byte & 1 == 1));
    let fd = file_with(c"file", b"data");
    let at = must_map(mmap(0, PAGE, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0));
    t.say("file", peek(at));
}

fn zero_device(t: Transcript) {
    let fd = must(open(c"/dev/zero", O_RDWR));
    let private = must_map(mmap(0, PAGE, READ_WRITE, MAP_PRIVATE, fd, 0));
    poke(private, 4);
    t.say("private", (peek(private), peek(private + 1)));
    let shared = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    t.say(
        "shared with a child",
        (
            in_child(|| {
                poke(shared, 6);
                0
            }),
            peek(shared),
        ),
    );
}

/// A file of three pages of `1`, `2` and `3`.
fn three_pages() -> i32 {
    let fd = file(c"file");
    for page in 1..=3_u8 {
        must(write(fd, &[page; PAGE]));
    }
    fd
}

/// What touching `address` in this process would do, told by a system call that reads there: the byte, or the errno.
fn look(address: usize) -> Result<u8, Errno> {
    let (reader, writer) = pipe(0);
    let result = sys!(write, writer, address, 1).map(|_| peek(address));
    must(close(reader));
    must(close(writer));
    result
}

fn truncated(t: Transcript) {
    let fd = three_pages();
    let at = must_map(mmap(0, 3 * PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    let pages = || [0, 1, 2].map(|page| look(at + page * PAGE)).to_vec();
    t.say("all there", pages());
    must(sys!(ftruncate, fd, PAGE + 100));
    t.say("ftruncate", (pages(), peek(at + PAGE + 99), peek(at + PAGE + 100)));
    must(sys!(ftruncate, fd, 3 * PAGE));
    t.say("grown again", pages());
    must(sys!(truncate, c"file", PAGE));
    t.say("truncate", pages());
    must(close(must(open(c"file", O_RDWR | libc::O_TRUNC))));
    t.say("O_TRUNC", pages());
    for (name, write) in [("load", false), ("store", true)] {
        let child = in_child(|| {
            let fd = three_pages();
            let at = must_map(mmap(0, PAGE, READ_WRITE, MAP_SHARED, fd, PAGE));
            poke(at, 1);
            must(sys!(ftruncate, fd, PAGE));
            if write {
                poke(at, 2);
                return 0;
            }
            i32::from(peek(at))
        });
        t.say(name, child);
    }
}

fn truncated_private(t: Transcript) {
    let fd = three_pages();
    let at = must_map(mmap(0, 3 * PAGE, READ_WRITE, MAP_PRIVATE, fd, 0));
    let pages = || [0, 1, 2].map(|page| look(at + page * PAGE)).to_vec();
    poke(at, 10);
    poke(at + 2 * PAGE, 30);
    t.say("copies", pages());
    must(sys!(ftruncate, fd, PAGE));
    t.say("copies past the end are gone", pages());
    must(sys!(ftruncate, fd, 3 * PAGE));
    t.say("grown again", pages());
    poke(at + 2 * PAGE, 31);
    t.say("copied anew", (pages(), sys!(pread64, fd, &mut [0_u8; 1], 1, 2 * PAGE)));
}

fn truncated_elsewhere(t: Transcript) {
    let fd = three_pages();
    let at = must_map(mmap(0, 3 * PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    let other = must_map(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 2 * PAGE));
    t.say("before", (look(at + 2 * PAGE), look(other)));
    let child = in_child(|| {
        must(sys!(truncate, c"file", PAGE));
        0
    });
    t.say("a child truncates", (child, look(at), look(at + PAGE), look(at + 2 * PAGE), look(other)));
    t.say("a new mapping", {
        let late = must_map(mmap(0, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0));
        (look(late), look(late + PAGE))
    });
}

fn punched(t: Transcript) {
    // Every file system may refuse holes, but for that of memfds.
    let fd = must(sys!(memfd_create, c"holes", 0));
    must(write(fd, &[5; 3 * PAGE]));
    let shared = must_map(mmap(0, 3 * PAGE, READ_WRITE, MAP_SHARED, fd, 0));
    let private = must_map(mmap(0, 3 * PAGE, READ_WRITE, MAP_PRIVATE, fd, 0));
    let pages = |at: usize| [0, 1, 2].map(|page| look(at + page * PAGE)).to_vec();
    poke(private, 6);
    t.say("before", (pages(shared), pages(private)));
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    t.say("punch", ok(sys!(fallocate, fd, mode, 0, 2 * PAGE + 1)));
    t.say("after", (pages(shared), pages(private)));
    t.say("rest of the last page", peek(shared + 2 * PAGE + 1));
    poke(shared + PAGE, 7);
    t.say("filled again", (look(shared + PAGE), look(private + PAGE)));
}
