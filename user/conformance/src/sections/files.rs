//! Opening, reading, writing and seeking: open(2), read(2), pread(2), readv(2), lseek(2), truncate(2).

use libc::{
    F_GETFD, F_GETFL, F_SETFL, O_ACCMODE, O_APPEND, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW,
    O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY, SEEK_CUR, SEEK_DATA, SEEK_END,
    SEEK_HOLE, SEEK_SET, iovec,
};
use user_sys::child::in_child;
use user_sys::{Map, Res, Zeroed, must, sys};

use crate::fixture::{c, close, content, file, file_with, lseek, open, pipe, read_text, size, status, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("files":
    open_missing, open_create, open_directory, open_symlink, open_names, open_path_only, open_old_call,
    open_truncate, access_mode, status_flags, read_write, offsets, shared_offset, append, positioned,
    vectors, vectors_positioned, seek, seek_holes, truncate, ftruncate_errors, file_size_limit, unlinked,
    tmpfile, memfd, creat_mode, set_ids_go,
);

fn open_missing(t: Transcript) {
    t.say("read", ok(open(c"missing", O_RDONLY)));
    t.say("in missing directory", ok(open(c"missing/file", O_RDWR | O_CREAT)));
    t.say("empty path", ok(open(c"", O_RDONLY | O_CREAT)));
    t.say("null path", ok(sys!(openat, libc::AT_FDCWD, 0, O_RDONLY, 0)));
    t.say("bad dirfd", ok(sys!(openat, 99, c"x", O_RDONLY, 0)));
    t.say("bad dirfd, absolute path", ok(sys!(openat, 99, c"/", O_RDONLY, 0)));
}

fn open_create(t: Transcript) {
    t.say("exclusive", ok(open(c"a", O_RDWR | O_CREAT | O_EXCL)));
    t.say("exclusive again", ok(open(c"a", O_RDWR | O_CREAT | O_EXCL)));
    t.say("existing", ok(open(c"a", O_RDWR | O_CREAT)));
    t.say("trailing slash", ok(open(c"b/", O_RDWR | O_CREAT)));
    t.say("existing with slash", ok(open(c"a/", O_RDONLY)));
    t.say("below a file", ok(open(c"a/b", O_RDWR | O_CREAT)));
    t.say("dot below a file", ok(open(c"a/.", O_RDONLY)));
    must(sys!(symlink, c"target", c"dangling"));
    t.say("exclusive over dangling link", ok(open(c"dangling", O_RDWR | O_CREAT | O_EXCL)));
    t.say("through dangling link", ok(open(c"dangling", O_RDWR | O_CREAT)));
    t.say("target was made", ok(open(c"target", O_RDONLY)));
}

fn open_directory(t: Transcript) {
    must(sys!(mkdir, c"dir", 0o755));
    file(c"file");
    t.say("read", ok(open(c"dir", O_RDONLY)));
    t.say("write", ok(open(c"dir", O_WRONLY)));
    t.say("read and write", ok(open(c"dir", O_RDWR)));
    t.say("create", ok(open(c"dir", O_RDONLY | O_CREAT)));
    t.say("exclusive", ok(open(c"dir", O_RDONLY | O_CREAT | O_EXCL)));
    t.say("truncate", ok(open(c"dir", O_RDONLY | O_TRUNC)));
    t.say("must be a directory", ok(open(c"dir", O_RDONLY | O_DIRECTORY)));
    t.say("file as directory", ok(open(c"file", O_RDONLY | O_DIRECTORY)));
    let dir = must(open(c"dir", O_RDONLY));
    t.say("read(2) of it", read_text(dir, 10));
    t.say("write(2) to it", write(dir, b"x"));
    t.say("openat in it", ok(sys!(openat, dir, c"inner", O_CREAT | O_RDWR, 0o644)));
    let plain = must(open(c"file", O_RDONLY));
    t.say("openat in a file", ok(sys!(openat, plain, c"inner", O_RDONLY, 0)));
}

fn open_symlink(t: Transcript) {
    file_with(c"file", b"data");
    must(sys!(mkdir, c"dir", 0o755));
    must(sys!(symlink, c"file", c"link"));
    must(sys!(symlink, c"dir", c"dirlink"));
    must(sys!(symlink, c"loop2", c"loop1"));
    must(sys!(symlink, c"loop1", c"loop2"));
    t.say("followed", content(c"link"));
    t.say("nofollow", ok(open(c"link", O_RDONLY | O_NOFOLLOW)));
    t.say("nofollow on file", ok(open(c"file", O_RDONLY | O_NOFOLLOW)));
    t.say("nofollow dir link", ok(open(c"dirlink", O_RDONLY | O_NOFOLLOW | O_DIRECTORY)));
    t.say("nofollow with slash", ok(open(c"dirlink/", O_RDONLY | O_NOFOLLOW)));
    t.say("nofollow in the middle", ok(open(c"dirlink/.", O_RDONLY | O_NOFOLLOW)));
    t.say("loop", ok(open(c"loop1", O_RDONLY)));
    t.say("loop create", ok(open(c"loop1", O_RDWR | O_CREAT)));
}

fn open_names(t: Transcript) {
    t.say("255 bytes", ok(open(&c(&"n".repeat(255)), O_RDWR | O_CREAT)));
    t.say("256 bytes", ok(open(&c(&"n".repeat(256)), O_RDWR | O_CREAT)));
    t.say("256 bytes, reading", ok(open(&c(&"n".repeat(256)), O_RDONLY)));
    t.say("path of 4095 bytes", ok(open(&c(&format!("{}a", "./".repeat(2047))), O_RDWR | O_CREAT)));
    t.say("path of 4096 bytes", ok(open(&c(&format!("{}ab", "./".repeat(2047))), O_RDWR | O_CREAT)));
    t.say("odd bytes", ok(open(c"\x01\xff \n", O_RDWR | O_CREAT)));
    t.say("three dots", ok(open(c"...", O_RDWR | O_CREAT)));
    t.say("many slashes", ok(open(c".//..///files.open_names////...", O_RDONLY)));
}

fn open_path_only(t: Transcript) {
    file_with(c"file", b"data");
    must(sys!(symlink, c"file", c"link"));
    let fd = must(open(c"file", O_PATH));
    t.say("read", read_text(fd, 4));
    t.say("write", write(fd, b"x"));
    t.say("lseek", lseek(fd, 0, SEEK_SET));
    t.say("fstat size", size(fd));
    t.say("fchmod", ok(sys!(fchmod, fd, 0o600)));
    t.say("ftruncate", ok(sys!(ftruncate, fd, 0)));
    t.say("getdents", ok(sys!(getdents64, fd, &mut [0_u8; 512], 512)));
    t.say("ioctl", ok(sys!(ioctl, fd, libc::FIONREAD, &mut 0)));
    t.say("mmap", ok(sys!(mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0)));
    t.say("flags are O_PATH", sys!(fcntl, fd, F_GETFL).map(|flags| flags as i32 & O_PATH == O_PATH));
    t.say("dup", ok(sys!(dup, fd)));
    let link = must(open(c"link", O_PATH | O_NOFOLLOW));
    let mut target = [0_u8; 16];
    t.say("readlinkat of a link by descriptor", sys!(readlinkat, link, c"", &mut target, 16));
    t.say("missing", ok(open(c"missing", O_PATH)));
    t.say("does not create", ok(open(c"missing", O_PATH | O_CREAT)));
}

fn open_old_call(t: Transcript) {
    t.say("open creates", ok(sys!(open, c"a", O_RDWR | O_CREAT, 0o644)));
    t.say("creat", ok(sys!(creat, c"b", 0o600)));
    let fd = must(sys!(creat, c"b", 0o600));
    t.say("creat is write-only", read_text(fd, 1));
    t.say("openat2 unknown flags", ok(sys!(openat2, libc::AT_FDCWD, c"a", &[1_u64 << 40, 0, 0], 24)));
    t.say("openat2 short structure", ok(sys!(openat2, libc::AT_FDCWD, c"a", &[0_u64; 3], 16)));
    t.say("openat2", ok(sys!(openat2, libc::AT_FDCWD, c"a", &[0_u64; 3], 24)));
}

fn open_truncate(t: Transcript) {
    file_with(c"file", b"content");
    t.say("without write access keeps nothing", ok(open(c"file", O_WRONLY | O_TRUNC)));
    t.say("size", content(c"file"));
    file_with(c"other", b"content");
    let held = must(open(c"other", O_RDWR));
    must(lseek(held, 3, SEEK_SET));
    must(open(c"other", O_WRONLY | O_TRUNC));
    t.say("an open reader sees the end", read_text(held, 10));
    t.say("its write leaves a hole", write(held, b"x"));
    t.say("content", content(c"other"));
}

fn access_mode(t: Transcript) {
    file_with(c"file", b"data");
    let reader = must(open(c"file", O_RDONLY));
    let writer = must(open(c"file", O_WRONLY));
    t.say("write to reader", write(reader, b"x"));
    t.say("read from writer", read_text(writer, 1));
    t.say("pread from writer", sys!(pread64, writer, &mut [0_u8; 4], 4, 0));
    t.say("pwrite to reader", sys!(pwrite64, reader, b"x", 1, 0));
    t.say("ftruncate of reader", ok(sys!(ftruncate, reader, 0)));
    t.say("zero bytes to reader", write(reader, b""));
    t.say("zero bytes from writer", read_text(writer, 0));
    t.say("read closed", read_text(99, 1));
    t.say("write closed", write(99, b"x"));
    t.say("negative descriptor", write(-1, b"x"));
}

fn status_flags(t: Transcript) {
    let mode = |flags: i32| {
        let fd = must(open(c"file", flags | O_CREAT));
        let got = must(sys!(fcntl, fd, F_GETFL));
        let names = [
            ("append", O_APPEND),
            ("nonblock", O_NONBLOCK),
            ("creat", O_CREAT),
            ("trunc", O_TRUNC),
            ("excl", O_EXCL),
        ];
        let mut shown = vec![["rdonly", "wronly", "rdwr", "none"][(got & O_ACCMODE) as usize]];
        shown.extend(names.iter().filter(|(_, bit)| got & bit != 0).map(|(name, _)| *name));
        (shown.join("+"), sys!(fcntl, fd, F_GETFD))
    };
    t.say("read-only", mode(O_RDONLY));
    t.say("write-only append", mode(O_WRONLY | O_APPEND));
    t.say("read-write truncate", mode(O_RDWR | O_TRUNC));
    t.say("nonblock cloexec", mode(O_RDWR | O_NONBLOCK | O_CLOEXEC));
    t.say("both access bits", mode(O_RDWR | O_WRONLY));
    let fd = file(c"other");
    t.say("set", ok(sys!(fcntl, fd, F_SETFL, O_APPEND | O_NONBLOCK | O_CREAT | O_WRONLY)));
    let now = must(sys!(fcntl, fd, F_GETFL));
    t.say(
        "changes only some",
        (now & O_APPEND != 0, now & O_NONBLOCK != 0, now & O_CREAT != 0, now & O_ACCMODE),
    );
    t.say("of a closed one", ok(sys!(fcntl, 99, F_GETFL)));
}

fn read_write(t: Transcript) {
    let fd = file(c"file");
    t.say("write", write(fd, b"hello world"));
    t.say("read at end", read_text(fd, 5));
    must(lseek(fd, 0, SEEK_SET));
    t.say("read", read_text(fd, 5));
    t.say("read on", read_text(fd, 100));
    t.say("zero bytes, wrong pointer", sys!(read, fd, 0, 0));
    t.say("wrong pointer at the end", sys!(read, fd, 1, 10));
    must(lseek(fd, 0, SEEK_SET));
    t.say("wrong pointer", sys!(read, fd, 1, 10));
    t.say("offset did not move", lseek(fd, 0, SEEK_CUR));
    t.say("write from wrong pointer", sys!(write, fd, 1, 10));
    t.say("write of nothing from wrong pointer", sys!(write, fd, 1, 0));
    t.say("size did not change", size(fd));
    t.say("huge count", read_text_of(fd, usize::MAX));
    t.say("count past the sign", sys!(read, fd, 0, 1_usize << 63));
    let map = Map::new(1);
    must(lseek(fd, 0, SEEK_SET));
    t.say("buffer that ends at an unmapped page", sys!(read, fd, map.end() - 4, 4));
}

/// read(2) with a count that is larger than the buffer, for counts that must be refused.
fn read_text_of(fd: i32, count: usize) -> Res {
    sys!(read, fd, &mut [0_u8; 16], count)
}

fn offsets(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    must(lseek(fd, 20, SEEK_SET));
    t.say("read past the end", read_text(fd, 5));
    t.say("write past the end", write(fd, b"x"));
    t.say("size", size(fd));
    t.say("gap", content(c"file"));
    must(lseek(fd, 5, SEEK_SET));
    t.say("overwrite", write(fd, b"AB"));
    t.say("content", content(c"file"));
    let far = file(c"far");
    t.say("far seek", lseek(far, 1 << 40, SEEK_SET));
    t.say("far write", write(far, b"x"));
    t.say("far size", size(far));
}

fn shared_offset(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    must(lseek(fd, 2, SEEK_SET));
    let copy = must(sys!(dup, fd));
    t.say("dup reads on", (read_text(copy, 2), read_text(fd, 2)));
    let again = must(open(c"file", O_RDONLY));
    t.say("second open starts at 0", read_text(again, 2));
    t.say("child", in_child(|| status(read_text(fd, 2).is_ok())));
    t.say("child moved it", lseek(fd, 0, SEEK_CUR));
}

fn append(t: Transcript) {
    file_with(c"file", b"start");
    let fd = must(open(c"file", O_RDWR | O_APPEND));
    t.say("offset after open", lseek(fd, 0, SEEK_CUR));
    t.say("write", write(fd, b"+1"));
    must(lseek(fd, 0, SEEK_SET));
    t.say("write after seek", write(fd, b"+2"));
    t.say("offset", lseek(fd, 0, SEEK_CUR));
    t.say("pwrite appends too", sys!(pwrite64, fd, b"+3", 2, 0));
    t.say("content", content(c"file"));
    must(sys!(fcntl, fd, F_SETFL, 0));
    must(lseek(fd, 0, SEEK_SET));
    t.say("flag off", write(fd, b"S"));
    t.say("content at last", content(c"file"));
    let other = must(open(c"file", O_WRONLY | O_APPEND));
    must(write(fd, b"tart"));
    t.say("two writers", (write(other, b"+4"), content(c"file")));
}

fn positioned(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let mut buffer = [0_u8; 4];
    t.say("pread", sys!(pread64, fd, &mut buffer, 4, 3));
    t.say("bytes", String::from_utf8_lossy(&buffer).into_owned());
    t.say("at the end", sys!(pread64, fd, &mut buffer, 4, 10));
    t.say("across the end", sys!(pread64, fd, &mut buffer, 4, 8));
    t.say("negative offset", sys!(pread64, fd, &mut buffer, 4, -1));
    t.say("pwrite", sys!(pwrite64, fd, b"xy", 2, 12));
    t.say("pwrite negative", sys!(pwrite64, fd, b"xy", 2, -1));
    t.say("offset stays", lseek(fd, 0, SEEK_CUR));
    t.say("content", content(c"file"));
    let (reader, writer) = pipe(0);
    t.say("pread of a pipe", sys!(pread64, reader, &mut buffer, 4, 0));
    t.say("pwrite to a pipe", sys!(pwrite64, writer, b"x", 1, 0));
    t.say("pwrite at the largest offset", sys!(pwrite64, fd, b"xy", 2, i64::MAX));
}

fn part(bytes: &[u8]) -> iovec {
    iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() }
}

fn vectors(t: Transcript) {
    let fd = file(c"file");
    let parts = [part(b"one "), part(b""), part(b"two "), part(b"three")];
    t.say("writev", sys!(writev, fd, &parts, 4));
    t.say("content", content(c"file"));
    must(lseek(fd, 0, SEEK_SET));
    let (mut first, mut second) = ([0_u8; 3], [0_u8; 20]);
    let into = [part_mut(&mut first), part_mut(&mut second)];
    t.say("readv", sys!(readv, fd, &into, 2));
    t.say("parts", (String::from_utf8_lossy(&first).into_owned(), second[9]));
    t.say("no parts", sys!(writev, fd, 0, 0));
    t.say("1024 parts", sys!(writev, fd, &[part(b"x"); 1024][..], 1024));
    t.say("1025 parts", sys!(writev, fd, &[part(b"x"); 1025][..], 1025));
    t.say("negative count", sys!(writev, fd, &parts, -1));
    t.say("wrong array", sys!(writev, fd, 1, 1));
    let wrong = iovec { iov_base: std::ptr::without_provenance_mut(1), iov_len: 5 };
    t.say("wrong part", sys!(writev, fd, &[wrong], 1));
    let huge = iovec { iov_base: first.as_mut_ptr().cast(), iov_len: usize::MAX };
    t.say("negative length", sys!(writev, fd, &[huge], 1));
    t.say("closed", sys!(readv, 99, &into, 2));
}

fn part_mut(bytes: &mut [u8]) -> iovec {
    iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

fn vectors_positioned(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    let parts = [part(b"ab"), part(b"cd")];
    t.say("pwritev", sys!(pwritev, fd, &parts, 2, 3, 0));
    t.say("content", content(c"file"));
    let mut buffer = [0_u8; 4];
    let into = [part_mut(&mut buffer)];
    t.say("preadv", sys!(preadv, fd, &into, 1, 6, 0));
    t.say("bytes", String::from_utf8_lossy(&buffer).into_owned());
    t.say("negative offset", sys!(preadv, fd, &into, 1, -1, -1));
    t.say("offset stays", lseek(fd, 0, SEEK_CUR));
    t.say("pwritev2 at the file's offset", sys!(pwritev2, fd, &parts, 2, -1, -1, 0));
    t.say("it moved", lseek(fd, 0, SEEK_CUR));
    t.say("preadv2 unknown flag", sys!(preadv2, fd, &into, 1, 0, 0, 1 << 30));
    let (reader, _writer) = pipe(0);
    t.say("preadv of a pipe", sys!(preadv, reader, &into, 1, 0, 0));
}

fn seek(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    t.say("set", lseek(fd, 4, SEEK_SET));
    t.say("current", lseek(fd, 2, SEEK_CUR));
    t.say("back", lseek(fd, -3, SEEK_CUR));
    t.say("end", lseek(fd, -1, SEEK_END));
    t.say("beyond", lseek(fd, 100, SEEK_END));
    t.say("negative", lseek(fd, -1, SEEK_SET));
    t.say("before the start", lseek(fd, -11, SEEK_END));
    t.say("stays after an error", lseek(fd, 0, SEEK_CUR));
    t.say("unknown whence", lseek(fd, 0, 99));
    t.say("overflow", lseek(fd, i64::MAX, SEEK_CUR));
    let (reader, _writer) = pipe(0);
    t.say("pipe", lseek(reader, 0, SEEK_SET));
    t.say("closed", lseek(99, 0, SEEK_SET));
    let dir = must(open(c".", O_RDONLY));
    t.say("directory", lseek(dir, 0, SEEK_SET));
}

fn seek_holes(t: Transcript) {
    let fd = file(c"file");
    t.say("empty data", lseek(fd, 0, SEEK_DATA));
    t.say("empty hole", lseek(fd, 0, SEEK_HOLE));
    must(sys!(pwrite64, fd, &[1_u8; 65536], 65536, 1 << 20));
    must(sys!(ftruncate, fd, 2 << 20));
    t.say("data after a hole", lseek(fd, 0, SEEK_DATA));
    t.say("hole at the start", lseek(fd, 0, SEEK_HOLE));
    t.say("inside data", lseek(fd, (1 << 20) + 10, SEEK_DATA));
    t.say("hole after data", lseek(fd, 1 << 20, SEEK_HOLE));
    t.say("no data left", lseek(fd, (1 << 20) + 65536, SEEK_DATA));
    t.say("at the end", lseek(fd, 2 << 20, SEEK_HOLE));
    t.say("beyond the end", lseek(fd, (2 << 20) + 1, SEEK_DATA));
    t.say("negative", lseek(fd, -1, SEEK_DATA));
}

fn truncate(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    t.say("shrink", ok(sys!(ftruncate, fd, 4)));
    t.say("offset stays", lseek(fd, 0, SEEK_CUR));
    t.say("grow", ok(sys!(ftruncate, fd, 8)));
    t.say("no old bytes", content(c"file"));
    t.say("by name", ok(sys!(truncate, c"file", 2)));
    t.say("content", content(c"file"));
    must(sys!(pwrite64, fd, &[b'x'; 10000], 10000, 0));
    must(sys!(ftruncate, fd, 5000));
    must(sys!(ftruncate, fd, 10000));
    let mut tail = [1_u8; 5000];
    must(sys!(pread64, fd, &mut tail, 5000, 5000));
    t.say("zero behind the cut", tail.iter().all(|&byte| byte == 0));
    must(sys!(symlink, c"file", c"link"));
    t.say("through a link", (ok(sys!(truncate, c"link", 1)), size(fd)));
}

fn ftruncate_errors(t: Transcript) {
    let fd = file(c"file");
    must(sys!(mkdir, c"dir", 0o755));
    t.say("negative", ok(sys!(ftruncate, fd, -1)));
    t.say("name, negative", ok(sys!(truncate, c"file", -1)));
    t.say("directory", ok(sys!(truncate, c"dir", 0)));
    t.say("missing", ok(sys!(truncate, c"missing", 0)));
    t.say("closed", ok(sys!(ftruncate, 99, 0)));
    let (_reader, writer) = pipe(0);
    t.say("pipe", ok(sys!(ftruncate, writer, 0)));
    t.say("directory by descriptor", ok(sys!(ftruncate, must(open(c"dir", O_RDONLY)), 0)));
}

fn file_size_limit(t: Transcript) {
    let fd = file(c"file");
    let limit = libc::rlimit { rlim_cur: 100, rlim_max: libc::RLIM_INFINITY };
    let limited = |then: fn(i32) -> i32| {
        in_child(|| {
            must(sys!(prlimit64, 0, libc::RLIMIT_FSIZE, &limit, 0));
            then(fd)
        })
    };
    t.say("write across it", limited(|fd| must(write(fd, &[0; 150]))));
    t.say("write beyond it", limited(|fd| must(write(fd, b"x"))));
    t.say("truncate beyond it", limited(|fd| must(sys!(ftruncate, fd, 200))));
    t.say(
        "signal ignored",
        limited(|fd| {
            must(user_sys::Handler::install_function(libc::SIGXFSZ, libc::SIG_IGN, 0, &[]));
            write(fd, b"x").map_or_else(|errno| errno.into_raw(), |_| 0)
        }),
    );
    t.say("size", size(fd));
}

fn unlinked(t: Transcript) {
    let fd = file_with(c"file", b"data");
    t.say("unlink", ok(sys!(unlink, c"file")));
    t.say("gone", ok(open(c"file", O_RDONLY)));
    must(lseek(fd, 0, SEEK_SET));
    t.say("still readable", read_text(fd, 10));
    t.say("still writable", write(fd, b"more"));
    let mut stat = libc::stat::zeroed();
    must(sys!(fstat, fd, &mut stat));
    t.say("links and size", (stat.st_nlink, stat.st_size));
    t.say("same name again", ok(open(c"file", O_RDWR | O_CREAT | O_EXCL)));
    t.say("is another file", content(c"file"));
    t.say("close", ok(close(fd)));
}

fn tmpfile(t: Transcript) {
    let fd = sys!(openat, libc::AT_FDCWD, c".", O_TMPFILE | O_RDWR, 0o600);
    t.say("open", ok(fd));
    t.say("needs write access", ok(sys!(openat, libc::AT_FDCWD, c".", O_TMPFILE | O_RDONLY, 0o600)));
    t.say("on a file", {
        file(c"file");
        ok(sys!(openat, libc::AT_FDCWD, c"file", O_TMPFILE | O_RDWR, 0o600))
    });
    let Ok(fd) = fd else { return };
    t.say("write", write(fd as i32, b"data"));
    let own = c(&format!("/proc/self/fd/{fd}"));
    t.say("link", ok(sys!(linkat, libc::AT_FDCWD, &*own, libc::AT_FDCWD, c"named", libc::AT_SYMLINK_FOLLOW)));
    t.say("content", content(c"named"));
}

fn memfd(t: Transcript) {
    let fd = must(sys!(memfd_create, c"name", libc::MFD_CLOEXEC));
    t.say("cloexec", sys!(fcntl, fd, F_GETFD));
    t.say("write", write(fd, b"data"));
    t.say("size", size(fd));
    t.say("truncate", ok(sys!(ftruncate, fd, 100_000)));
    t.say("pread", sys!(pread64, fd, &mut [0_u8; 8], 8, 99_996));
    t.say("unknown flag", ok(sys!(memfd_create, c"name", 0x8000)));
    t.say("name too long", ok(sys!(memfd_create, &*c(&"n".repeat(250)), 0)));
    t.say("wrong name", ok(sys!(memfd_create, 1, 0)));
    t.say("sealing not asked for", sys!(fcntl, fd, libc::F_GET_SEALS));
    t.say("add seal", ok(sys!(fcntl, fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE)));
}

fn creat_mode(t: Transcript) {
    let mode = |name: &std::ffi::CStr, mode: u32| {
        let fd = must(sys!(openat, libc::AT_FDCWD, name, O_RDWR | O_CREAT, mode));
        let mut stat = libc::stat::zeroed();
        must(sys!(fstat, fd, &mut stat));
        format!("{:o}", stat.st_mode)
    };
    t.say("0666 under umask 022", mode(c"a", 0o666));
    t.say("04755", mode(c"b", 0o4755));
    t.say("existing keeps its mode", mode(c"a", 0o600));
    must(sys!(umask, 0o077));
    t.say("0777 under umask 077", mode(c"d", 0o777));
    let (_, fd) = (sys!(umask, 0), must(sys!(openat, libc::AT_FDCWD, c"e", O_WRONLY | O_CREAT, 0o400)));
    t.say("mode 0400 does not bind its creator", write(fd, b"x"));
}

/// Set-user-id and set-group-id of a file whose content one changes who is not root.
fn set_ids_go(t: Transcript) {
    let after = |change: fn(i32) -> Res| {
        in_child(|| {
            let fd = must(sys!(memfd_create, c"program", 0));
            must(write(fd, b"old"));
            must(sys!(fchmod, fd, 0o6755));
            // Without privilege the user is such a one already.
            let _ = sys!(setresuid, 1000, 1000, 1000);
            let mut stat = libc::stat::zeroed();
            must(change(fd));
            must(sys!(fstat, fd, &mut stat));
            (stat.st_mode >> 9 & 7) as i32
        })
    };
    t.say("nothing", after(|_| Ok(0)));
    t.say("write", after(|fd| sys!(write, fd, b"new", 3)));
    t.say("ftruncate", after(|fd| sys!(ftruncate, fd, 1)));
}
