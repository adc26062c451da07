//! Raw Linux system calls for the programs that test a kernel.
//!
//! A test program needs to say exactly what it asks for: which call, with which bits in which register, and
//! which errno came back. A C library hides part of that (it retries, caches and translates), so the programs
//! in `user/` make their calls through [`sys!`] and look at a [`Res`].
//!
//! Key types: [`Res`] and [`Errno`]; [`Arg`], which turns what Rust holds into a register; [`Child`] and
//! [`Ended`], a forked child under a watchdog and what became of it; [`Map`], memory with known neighbours;
//! [`Handler`], what a signal handler saw.
//!
//! Neighbours: `user/conformance` and `user/torture` are built on this crate; it is built on `libc` for the C
//! structures and on `syscalls` for numbers and errno names.
//!
//! # Safety
//!
//! [`sys!`] can be written without `unsafe` around it although a system call may do anything to the process:
//! these programs exist to make such calls, each in a child of its own whose memory dies with it, and a
//! block around every one of a thousand calls would single out none. The rule that stands instead: a call
//! that writes to memory is given `&mut`, memory from [`Map`], or an address that is wrong on purpose.

pub mod child;
pub mod map;
pub mod rng;
pub mod signal;

pub use child::{Child, Ended};
pub use map::{Map, PAGE};
pub use rng::Rng;
pub use signal::{Handler, signal_name};
pub use syscalls::{Errno, Sysno};

use std::ffi::CStr;

/// What a system call returned: a value, or the errno.
pub type Res = Result<usize, Errno>;

/// Makes the system call `$name` with up to six arguments, each an [`Arg`]; yields a [`Res`].
#[macro_export]
macro_rules! sys {
    ($name:ident $(, $arg:expr)* $(,)?) => {
        // `match` keeps temporaries among the arguments alive until the call has returned.
        match [$($crate::Arg::raw($arg)),*] as [usize; _] {
            // SAFETY: see the crate's documentation: memory that the call writes belongs to the caller.
            args => unsafe { $crate::call($crate::Sysno::$name as usize, &args) },
        }
    };
}

/// Makes system call number `nr`; missing arguments are zero. Inlined, so that what a timed call costs is the kernel's work.
///
/// # Safety
/// The kernel may write through any argument that is a pointer, and may change or end the process.
#[inline(always)]
pub unsafe fn call(nr: usize, args: &[usize]) -> Res {
    let mut a = [0; 6];
    a[..args.len()].copy_from_slice(args);
    // SAFETY: passed on to the caller.
    Errno::from_ret(unsafe { syscalls::raw::syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]) })
}

/// A value that fits one argument register.
pub trait Arg {
    /// The register's content; signed values are extended with their sign, as a C caller would.
    fn raw(self) -> usize;
}

macro_rules! integer_args {
    ($($t:ty),*) => {$(
        impl Arg for $t {
            fn raw(self) -> usize {
                self as usize
            }
        }
    )*};
}
integer_args!(i32, u32, i64, u64, isize, usize, u16, u8);

impl<T> Arg for *const T {
    fn raw(self) -> usize {
        self as usize
    }
}

impl<T> Arg for *mut T {
    fn raw(self) -> usize {
        self as usize
    }
}

impl<T> Arg for &T {
    fn raw(self) -> usize {
        std::ptr::from_ref(self) as usize
    }
}

impl<T> Arg for &mut T {
    fn raw(self) -> usize {
        std::ptr::from_mut(self) as usize
    }
}

impl<T> Arg for &[T] {
    fn raw(self) -> usize {
        self.as_ptr() as usize
    }
}

impl<T> Arg for &mut [T] {
    fn raw(self) -> usize {
        self.as_mut_ptr() as usize
    }
}

impl Arg for &CStr {
    fn raw(self) -> usize {
        self.as_ptr() as usize
    }
}

/// A structure of the C library for which all bytes zero is a value.
///
/// # Safety
/// Zero bytes must be a valid value of the type.
pub unsafe trait Zeroed: Sized {
    /// The value with every byte zero, to be filled by the kernel.
    fn zeroed() -> Self {
        // SAFETY: the trait's contract.
        unsafe { std::mem::zeroed() }
    }
}

macro_rules! zeroed {
    ($($t:ident),* $(,)?) => {$(
        // SAFETY: integers, arrays of integers and nullable pointers only.
        unsafe impl Zeroed for libc::$t {}
    )*};
}
zeroed!(
    clone_args,
    epoll_event,
    fd_set,
    flock,
    iovec,
    itimerspec,
    itimerval,
    mmsghdr,
    msghdr,
    pollfd,
    rlimit,
    rusage,
    sched_param,
    sigaction,
    sigevent,
    siginfo_t,
    signalfd_siginfo,
    sockaddr_in,
    sockaddr_storage,
    sockaddr_un,
    stack_t,
    stat,
    statfs,
    statx,
    sysinfo,
    termios,
    timespec,
    timeval,
    tms,
    ucred,
    utsname,
    winsize,
);

/// A time as the kernel takes it.
pub fn timespec(seconds: i64, nanoseconds: i64) -> libc::timespec {
    libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds }
}

/// A duration in milliseconds as the kernel takes it.
pub fn millis(ms: i64) -> libc::timespec {
    timespec(ms / 1000, ms % 1000 * 1_000_000)
}

/// The result as a descriptor or another small number; ends the case where the call failed.
///
/// For steps that only prepare what is tested.
///
/// # Panics
/// With the errno, when the call failed: the runner shows that as the outcome of the case.
#[track_caller]
pub fn must(result: Res) -> i32 {
    match result {
        Ok(value) => value as i32,
        Err(errno) => panic!("{}", errno_name(errno)),
    }
}

/// The errno's symbolic name, or its number where it has none.
pub fn errno_name(errno: Errno) -> String {
    errno.name().map_or_else(|| format!("errno {}", errno.into_raw()), str::to_owned)
}

/// The errno that the last call through the C library left.
pub fn last_errno() -> Errno {
    Errno::new(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}
