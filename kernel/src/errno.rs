//! Error numbers at the system-call ABI, as errno(3) names them.
//!
//! Modules below the ABI have small error enums of their own and convert them here-wards with `From`.
//! Three values never reach a program: they tell the return path how an interrupted call goes on (signal(7),
//! "Interruption of system calls and library functions by signal handlers").

/// What a system call returns: a value, or why not.
pub type SysResult = Result<usize, Errno>;

/// An error number of Linux on x86-64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs, clippy::upper_case_acronyms, reason = "the names are errno(3)'s")]
#[allow(dead_code, reason = "the table is the ABI's, whole, whether or not a call uses each number yet")]
pub enum Errno {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    ENOEXEC = 8,
    EBADF = 9,
    ECHILD = 10,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    ENOTBLK = 15,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENODEV = 19,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    ENFILE = 23,
    EMFILE = 24,
    ENOTTY = 25,
    ETXTBSY = 26,
    EFBIG = 27,
    ENOSPC = 28,
    ESPIPE = 29,
    EROFS = 30,
    EMLINK = 31,
    EPIPE = 32,
    EDOM = 33,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOLCK = 37,
    ENOSYS = 38,
    ENOTEMPTY = 39,
    ELOOP = 40,
    ENOMSG = 42,
    ENODATA = 61,
    ETIME = 62,
    EPROTO = 71,
    EOVERFLOW = 75,
    EBADFD = 77,
    ELIBBAD = 80,
    EILSEQ = 84,
    EUSERS = 87,
    ENOTSOCK = 88,
    EDESTADDRREQ = 89,
    EMSGSIZE = 90,
    EPROTOTYPE = 91,
    ENOPROTOOPT = 92,
    EPROTONOSUPPORT = 93,
    ESOCKTNOSUPPORT = 94,
    EOPNOTSUPP = 95,
    EPFNOSUPPORT = 96,
    EAFNOSUPPORT = 97,
    EADDRINUSE = 98,
    EADDRNOTAVAIL = 99,
    ENETDOWN = 100,
    ENETUNREACH = 101,
    ENETRESET = 102,
    ECONNABORTED = 103,
    ECONNRESET = 104,
    ENOBUFS = 105,
    EISCONN = 106,
    ENOTCONN = 107,
    ESHUTDOWN = 108,
    ETOOMANYREFS = 109,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTDOWN = 112,
    EHOSTUNREACH = 113,
    EALREADY = 114,
    EINPROGRESS = 115,
    ESTALE = 116,
    EDQUOT = 122,
    ECANCELED = 125,
    EOWNERDEAD = 130,
    ENOTRECOVERABLE = 131,
    /// Interrupted: restart if the handler has `SA_RESTART`, else `EINTR`.
    ERESTARTSYS = 512,
    /// Interrupted: always restart.
    ERESTARTNOINTR = 513,
    /// Interrupted: restart only if no handler ran, else `EINTR`.
    ERESTARTNOHAND = 514,
}

impl Errno {
    /// The positive number.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// Whether the call was interrupted, and goes on or ends with `EINTR`, by what the signal does.
    pub fn is_restart(self) -> bool {
        matches!(self, Self::ERESTARTSYS | Self::ERESTARTNOINTR | Self::ERESTARTNOHAND)
    }

    /// The value in RAX that tells a program of this error.
    pub fn to_return_value(self) -> u64 {
        -i64::from(self.number()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_linux() {
        assert_eq!(Errno::EAGAIN.number(), 11);
        assert_eq!(Errno::ELOOP.number(), 40);
        assert_eq!(Errno::ECONNREFUSED.number(), 111);
        assert_eq!(Errno::ENOSYS.to_return_value() as i64, -38);
    }
}
