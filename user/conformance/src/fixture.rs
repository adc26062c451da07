//! What several sections share: files, pipes, descriptors with known content.

use std::ffi::{CStr, CString};

use user_sys::{Handler, Res, must, sys, timespec};

/// `open` with O_CREAT's usual mode.
pub fn open(path: &CStr, flags: i32) -> Res {
    sys!(openat, libc::AT_FDCWD, path, flags, 0o644)
}

/// An open read-write descriptor of a new or emptied file.
#[track_caller]
pub fn file(path: &CStr) -> i32 {
    must(open(path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC))
}

/// As [`file()`], holding `content`, with the offset at its end.
#[track_caller]
pub fn file_with(path: &CStr, content: &[u8]) -> i32 {
    let fd = file(path);
    must(write(fd, content));
    fd
}

/// write(2) of all of `bytes`.
pub fn write(fd: i32, bytes: &[u8]) -> Res {
    sys!(write, fd, bytes, bytes.len())
}

/// The bytes that one read(2) of at most `len` returns.
pub fn read(fd: i32, len: usize) -> Result<Vec<u8>, user_sys::Errno> {
    let mut buffer = vec![0; len];
    let count = sys!(read, fd, &mut buffer[..], len)?;
    buffer.truncate(count);
    Ok(buffer)
}

/// As [`read`], as an outcome.
pub fn read_text(fd: i32, len: usize) -> Result<String, user_sys::Errno> {
    read(fd, len).map(|bytes| format!("\"{}\"", bytes.escape_ascii()))
}

/// lseek(2).
pub fn lseek(fd: i32, offset: i64, whence: i32) -> Res {
    sys!(lseek, fd, offset, whence)
}

/// Everything in the file at `path`, as an outcome.
pub fn content(path: &CStr) -> Result<String, user_sys::Errno> {
    let fd = open(path, libc::O_RDONLY)? as i32;
    let text = read_text(fd, 65536);
    let _ = close(fd);
    text
}

/// close(2).
pub fn close(fd: i32) -> Res {
    sys!(close, fd)
}

/// A pipe: the end to read, the end to write.
#[track_caller]
pub fn pipe(flags: i32) -> (i32, i32) {
    let mut ends = [0_i32; 2];
    must(sys!(pipe2, &mut ends, flags));
    (ends[0], ends[1])
}

/// Size of an open file as fstat(2) tells it.
#[track_caller]
pub fn size(fd: i32) -> i64 {
    let mut stat = <libc::stat as user_sys::Zeroed>::zeroed();
    must(sys!(fstat, fd, &mut stat));
    stat.st_size
}

/// A C string made at run time.
pub fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// Whether the descriptor is open.
pub fn is_open(fd: i32) -> bool {
    sys!(fcntl, fd, libc::F_GETFD).is_ok()
}

/// Ends the child `body` runs in with the status that a boolean gives: 0 for true.
pub fn status(good: bool) -> i32 {
    i32::from(!good)
}

/// Runs `body` and tells its outcome, and whether it took at least so many milliseconds.
pub fn took_at_least<T>(milliseconds: i64, body: impl FnOnce() -> T) -> (T, bool) {
    let before = monotonic();
    let outcome = body();
    (outcome, monotonic() - before >= milliseconds * 1_000_000)
}

/// The monotonic clock, in nanoseconds.
pub fn monotonic() -> i64 {
    let mut now = timespec(0, 0);
    must(sys!(clock_gettime, libc::CLOCK_MONOTONIC, &mut now));
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Counts SIGALRM every so many milliseconds from now on, with these `SA_` flags.
///
/// Repeated, so that a call which must be interrupted is, even if the first signal came before it.
pub fn repeat_alarm(milliseconds: i64, flags: i32) {
    must(Handler::install(libc::SIGALRM, flags, &[]));
    let time = libc::timeval { tv_sec: 0, tv_usec: milliseconds * 1000 };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    must(sys!(setitimer, libc::ITIMER_REAL, &timer, 0));
}

/// Ends what [`repeat_alarm`] began.
pub fn stop_alarm() {
    must(sys!(setitimer, libc::ITIMER_REAL, &[0_i64; 4], 0));
}
