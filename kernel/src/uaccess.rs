//! The only door to user memory.
//!
//! A user pointer is an allegation: it becomes bytes only here, and a wrong one becomes `EFAULT`. Two layers:
//!
//! - System calls read and write their arguments through [`UserPtr`] (and [`read_bytes`], [`write_bytes`], [`read_cstr`]): a page
//!   that is not there yet is faulted in through the caller's address space, so these must not run under a lock.
//! - Files move data through [`ReadBuf`] (what a read fills) and [`WriteBuf`] (what a write takes from). These *never* resolve a
//!   fault, so a file may copy while it holds its lock: the copy stops short, the file keeps what was not copied, and
//!   the system call resolves the fault without any lock and tries again.

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::arch;
use crate::errno::Errno;
use crate::memory::{Access, AddressSpace, PAGE_SIZE, USER_END, VirtAddr};

/// Whether `len` bytes at `address` lie in the user half.
pub fn is_user_range(address: VirtAddr, len: usize) -> bool {
    address.as_usize().checked_add(len).is_some_and(|end| end <= USER_END)
}

/// How many of `len` bytes at `address` lie in the user half.
fn within_user_half(address: VirtAddr, len: usize) -> usize {
    len.min(USER_END.saturating_sub(address.as_usize()))
}

/// Copies from user memory as far as pages are present. Returns the number of bytes copied.
fn try_read(from: VirtAddr, to: &mut [u8]) -> usize {
    let len = within_user_half(from, to.len());
    let to = &mut to[..len];
    // SAFETY: `to` is valid for its length; the source is user memory, whose faults the platform turns into a short count.
    unsafe { arch::copy_from_user(to.as_mut_ptr(), from, to.len()) }
}

/// Copies to user memory as far as pages are present and writable. Returns the number of bytes copied.
fn try_write(to: VirtAddr, from: &[u8]) -> usize {
    let from = &from[..within_user_half(to, from.len())];
    // SAFETY: `from` is valid for its length; the target is user memory, whose faults the platform turns into a short count.
    unsafe { arch::copy_to_user(to, from.as_ptr(), from.len()) }
}

/// Copies `to.len()` bytes from the user address `from`, faulting pages in.
pub fn read_bytes(space: &AddressSpace, from: VirtAddr, to: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < to.len() {
        done += try_read(from + done, &mut to[done..]);
        if done < to.len() {
            resolve(space, from + done, Access::Read)?;
        }
    }
    Ok(())
}

/// Copies `from` to the user address `to`, faulting pages in.
pub fn write_bytes(space: &AddressSpace, to: VirtAddr, from: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while done < from.len() {
        done += try_write(to + done, &from[done..]);
        if done < from.len() {
            resolve(space, to + done, Access::Write)?;
        }
    }
    Ok(())
}

/// Reads the string at `from` up to its NUL, which is not kept.
///
/// # Errors
/// `too_long` when no NUL is found in the first `limit` bytes (`ENAMETOOLONG` for a path, `E2BIG` for an argument); `EFAULT`.
pub fn read_cstr(
    space: &AddressSpace,
    from: VirtAddr,
    limit: usize,
    too_long: Errno,
) -> Result<Vec<u8>, Errno> {
    let mut string = Vec::new();
    let mut chunk = [0; 256];
    while string.len() < limit {
        let at = from.checked_add(string.len()).ok_or(Errno::EFAULT)?;
        // Never beyond the page: the next one may be absent though the string ends before it.
        let len = chunk.len().min(PAGE_SIZE - at.page_offset()).min(limit - string.len());
        read_bytes(space, at, &mut chunk[..len])?;
        string.try_reserve(len).map_err(|_| Errno::ENOMEM)?;
        match chunk[..len].iter().position(|&byte| byte == 0) {
            Some(end) => {
                string.extend_from_slice(&chunk[..end]);
                return Ok(string);
            }
            None => string.extend_from_slice(&chunk[..len]),
        }
    }
    Err(too_long)
}

/// The word at `address`, or `None` while its page is away: serves no fault, so that it may be called under a lock.
pub fn try_read_u32(address: VirtAddr) -> Option<u32> {
    let mut bytes = [0; size_of::<u32>()];
    (try_read(address, &mut bytes) == bytes.len()).then(|| u32::from_ne_bytes(bytes))
}

/// As [`compare_exchange`], but `None` while the page is away or cannot be written: serves no fault.
pub fn try_compare_exchange(address: VirtAddr, old: u32, new: u32) -> Option<u32> {
    let sane = address.is_aligned(size_of::<u32>()) && is_user_range(address, size_of::<u32>());
    if sane { arch::compare_exchange_user(address, old, new) } else { None }
}

/// Makes the page at `address` accessible.
///
/// # Errors
/// `EFAULT` when there can be no such page.
pub fn resolve(space: &AddressSpace, address: VirtAddr, access: Access) -> Result<(), Errno> {
    if !is_user_range(address, 1) {
        return Err(Errno::EFAULT);
    }
    space.fault(address, access).map_err(|_| Errno::EFAULT)
}

/// Replaces the 32-bit word at `address` by `new` if it is `old`, atomically; the value found is returned.
pub fn compare_exchange(space: &AddressSpace, address: VirtAddr, old: u32, new: u32) -> Result<u32, Errno> {
    if !address.is_aligned(4) {
        return Err(Errno::EINVAL);
    }
    loop {
        if !is_user_range(address, 4) {
            return Err(Errno::EFAULT);
        }
        if let Some(found) = arch::compare_exchange_user(address, old, new) {
            return Ok(found);
        }
        resolve(space, address, Access::Write)?;
    }
}

/// The address of a `T` in user memory; null where an argument is absent.
pub struct UserPtr<T> {
    address: VirtAddr,
    target: PhantomData<fn() -> T>,
}

impl<T> Clone for UserPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for UserPtr<T> {}

impl<T> UserPtr<T> {
    /// The pointer to `address`.
    pub fn new(address: VirtAddr) -> Self {
        Self { address, target: PhantomData }
    }

    /// Where it points.
    pub fn address(self) -> VirtAddr {
        self.address
    }

    /// `None` for a null pointer.
    pub fn non_null(self) -> Option<Self> {
        (self.address.as_u64() != 0).then_some(self)
    }

    /// The pointer to the element `index` places on.
    pub fn index(self, index: usize) -> Self {
        Self::new(self.address + index.wrapping_mul(size_of::<T>()))
    }
}

impl<T: FromBytes> UserPtr<T> {
    /// The value there.
    pub fn read(self, space: &AddressSpace) -> Result<T, Errno> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the slice covers `value`, which is initialised (to zeroes).
        let bytes = unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast(), size_of::<T>()) };
        read_bytes(space, self.address, bytes)?;
        // SAFETY: `T: FromBytes`, so every bit pattern is a value.
        Ok(unsafe { value.assume_init() })
    }

    /// The `count` values there; at most `limit`, or `EINVAL`.
    pub fn read_vec(self, space: &AddressSpace, count: usize, limit: usize) -> Result<Vec<T>, Errno> {
        if count > limit {
            return Err(Errno::EINVAL);
        }
        let mut values = Vec::<T>::new();
        values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        let room = values.as_mut_ptr().cast::<u8>();
        let bytes = count * size_of::<T>();
        // SAFETY: room for `count` values was reserved, and is initialised (to zeroes) before it is a slice.
        let bytes = unsafe {
            room.write_bytes(0, bytes);
            core::slice::from_raw_parts_mut(room, bytes)
        };
        read_bytes(space, self.address, bytes)?;
        // SAFETY: so many values are there, and `T: FromBytes`: every bit pattern is a value.
        unsafe { values.set_len(count) };
        Ok(values)
    }
}

impl<T: IntoBytes + Immutable> UserPtr<T> {
    /// Stores `value` there.
    pub fn write(self, space: &AddressSpace, value: &T) -> Result<(), Errno> {
        write_bytes(space, self.address, value.as_bytes())
    }
}

/// A range of user memory: `struct iovec` of readv(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoVec {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

/// The memory of a transfer: user ranges, or a buffer of the kernel's own (sendfile, tests).
enum Memory<'a> {
    One(IoVec),
    Many(&'a [IoVec]),
}

impl Memory<'_> {
    fn segments(&self) -> &[IoVec] {
        match self {
            Self::One(segment) => core::slice::from_ref(segment),
            Self::Many(segments) => segments,
        }
    }
}

/// How far a transfer has come: to go back to, when what was moved since does not count.
#[derive(Clone, Copy)]
pub struct Position {
    segment: usize,
    within: usize,
    done: usize,
}

/// Position in a list of user ranges.
struct Cursor<'a> {
    memory: Memory<'a>,
    segment: usize,
    within: usize,
    done: usize,
    total: usize,
    fault: Option<VirtAddr>,
}

impl<'a> Cursor<'a> {
    fn new(memory: Memory<'a>) -> Self {
        let total = memory.segments().iter().fold(0usize, |sum, s| sum.saturating_add(s.len as usize));
        Self { memory, segment: 0, within: 0, done: 0, total, fault: None }
    }

    /// Calls `copy(address, offset, len)` for each piece of the next `len` bytes until one falls short.
    fn advance(&mut self, len: usize, mut copy: impl FnMut(VirtAddr, usize, usize) -> usize) -> usize {
        let (mut moved, len) = (0, len.min(self.total - self.done));
        while moved < len {
            let segment = self.memory.segments()[self.segment];
            let piece = (segment.len as usize - self.within).min(len - moved);
            let at = VirtAddr::new(segment.base) + self.within;
            let copied = copy(at, moved, piece);
            moved += copied;
            self.within += copied;
            if copied < piece {
                self.fault = Some(at + copied);
                break;
            }
            if self.within == segment.len as usize {
                self.segment += 1;
                self.within = 0;
            }
        }
        self.done += moved;
        moved
    }

    /// Goes `len` bytes back. A fault stays noted.
    fn go_back(&mut self, len: usize) {
        self.done -= len.min(self.done);
        (self.segment, self.within) = (0, self.done);
        while let Some(segment) = self.memory.segments().get(self.segment) {
            let len = segment.len as usize;
            if self.within < len {
                break;
            }
            self.within -= len;
            self.segment += 1;
        }
    }
}

macro_rules! buffer_methods {
    ($access:expr) => {
        /// The user range of `len` bytes at `address`.
        pub fn user(address: VirtAddr, len: usize) -> Self {
            Self::over(Memory::One(IoVec { base: address.as_u64(), len: len as u64 }))
        }

        /// The user ranges of readv(2) and writev(2), in order.
        pub fn vectors(segments: &'a [IoVec]) -> Self {
            Self::over(Memory::Many(segments))
        }

        /// Bytes in all.
        pub fn len(&self) -> usize {
            match &self.inner {
                Inner::User(cursor) => cursor.total,
                Inner::Kernel { bytes, .. } => bytes.len(),
            }
        }

        /// Bytes moved so far.
        pub fn done(&self) -> usize {
            match &self.inner {
                Inner::User(cursor) => cursor.done,
                Inner::Kernel { done, .. } => *done,
            }
        }

        /// How far it has come.
        pub fn position(&self) -> Position {
            match &self.inner {
                Inner::User(cursor) => {
                    Position { segment: cursor.segment, within: cursor.within, done: cursor.done }
                }
                Inner::Kernel { done, .. } => Position { segment: 0, within: 0, done: *done },
            }
        }

        /// Goes back to where it was: what was moved since counts as not moved. A fault stays to be resolved.
        pub fn rewind(&mut self, to: Position) {
            match &mut self.inner {
                Inner::User(cursor) => {
                    (cursor.segment, cursor.within, cursor.done) = (to.segment, to.within, to.done);
                }
                Inner::Kernel { done, .. } => *done = to.done,
            }
        }

        /// Bytes still to move.
        pub fn remaining(&self) -> usize {
            self.len() - self.done()
        }

        /// Takes the last `len` bytes back: the next copy begins where they did. For objects that move a piece whole or not at all.
        pub fn take_back(&mut self, len: usize) {
            match &mut self.inner {
                Inner::User(cursor) => cursor.go_back(len),
                Inner::Kernel { done, .. } => *done -= len.min(*done),
            }
        }

        /// Whether the last copy stopped at a page that is not there.
        pub fn faulted(&self) -> bool {
            matches!(&self.inner, Inner::User(cursor) if cursor.fault.is_some())
        }

        /// Faults in the page at which the last copy stopped, so that the next goes on. Not under a lock.
        ///
        /// # Errors
        /// `EFAULT` when there can be no such page.
        pub fn resolve_fault(&mut self, space: &AddressSpace) -> Result<(), Errno> {
            match &mut self.inner {
                Inner::User(cursor) => match cursor.fault.take() {
                    Some(address) => resolve(space, address, $access),
                    None => Ok(()),
                },
                Inner::Kernel { .. } => Ok(()),
            }
        }
    };
}

enum Inner<'a, B> {
    User(Cursor<'a>),
    Kernel { bytes: B, done: usize },
}

/// Where a read puts its bytes.
pub struct ReadBuf<'a> {
    inner: Inner<'a, &'a mut [u8]>,
}

impl<'a> ReadBuf<'a> {
    buffer_methods!(Access::Write);

    fn over(memory: Memory<'a>) -> Self {
        Self { inner: Inner::User(Cursor::new(memory)) }
    }

    /// A buffer of the kernel's own.
    pub fn kernel(bytes: &'a mut [u8]) -> Self {
        Self { inner: Inner::Kernel { bytes, done: 0 } }
    }

    /// Appends `data`, as much as fits and does not fault. Returns the number of bytes taken.
    pub fn push(&mut self, data: &[u8]) -> usize {
        match &mut self.inner {
            Inner::User(cursor) => {
                cursor.advance(data.len(), |to, at, len| try_write(to, &data[at..at + len]))
            }
            Inner::Kernel { bytes, done } => {
                let len = data.len().min(bytes.len() - *done);
                bytes[*done..*done + len].copy_from_slice(&data[..len]);
                *done += len;
                len
            }
        }
    }

    /// Appends `data` as a whole or, where it does not fit or faults, not at all: for what is read as one.
    pub fn push_whole(&mut self, data: &[u8]) -> bool {
        let start = self.position();
        let whole = self.push(data) == data.len();
        if !whole {
            self.rewind(start);
        }
        whole
    }

    /// Appends up to `len` zero bytes. Returns their number.
    pub fn push_zeroes(&mut self, len: usize) -> usize {
        static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let mut pushed = 0;
        while pushed < len {
            let piece = (len - pushed).min(PAGE_SIZE);
            let taken = self.push(&ZEROES[..piece]);
            pushed += taken;
            if taken < piece {
                break;
            }
        }
        pushed
    }
}

/// Where a write takes its bytes from.
pub struct WriteBuf<'a> {
    inner: Inner<'a, &'a [u8]>,
}

impl<'a> WriteBuf<'a> {
    buffer_methods!(Access::Read);

    fn over(memory: Memory<'a>) -> Self {
        Self { inner: Inner::User(Cursor::new(memory)) }
    }

    /// A buffer of the kernel's own.
    pub fn kernel(bytes: &'a [u8]) -> Self {
        Self { inner: Inner::Kernel { bytes, done: 0 } }
    }

    /// Passes over up to `len` bytes without looking at them. Returns their number.
    pub fn skip(&mut self, len: usize) -> usize {
        match &mut self.inner {
            Inner::User(cursor) => cursor.advance(len, |_, _, piece| piece),
            Inner::Kernel { bytes, done } => {
                let len = len.min(bytes.len() - *done);
                *done += len;
                len
            }
        }
    }

    /// Fills `out` from the front, as far as there are bytes and they do not fault. Returns the number of bytes given.
    pub fn pull(&mut self, out: &mut [u8]) -> usize {
        match &mut self.inner {
            Inner::User(cursor) => {
                cursor.advance(out.len(), |from, at, len| try_read(from, &mut out[at..at + len]))
            }
            Inner::Kernel { bytes, done } => {
                let len = out.len().min(bytes.len() - *done);
                out[..len].copy_from_slice(&bytes[*done..*done + len]);
                *done += len;
                len
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_buffers_take_and_give_what_fits() {
        let mut bytes = [0; 5];
        let mut buf = ReadBuf::kernel(&mut bytes);
        assert_eq!((buf.push(b"abc"), buf.push(b"def"), buf.push(b"g")), (3, 2, 0));
        assert_eq!((buf.done(), buf.remaining()), (5, 0));
        assert_eq!(&bytes, b"abcde");

        let mut out = [0; 3];
        let mut buf = WriteBuf::kernel(b"vwxyz");
        assert_eq!(buf.pull(&mut out), 3);
        assert_eq!((buf.pull(&mut out), &out[..2]), (2, &b"yz"[..]));
        assert_eq!(buf.remaining(), 0);
    }

    #[test]
    fn what_was_moved_can_be_taken_back() {
        let mut bytes = [0; 5];
        let mut buf = ReadBuf::kernel(&mut bytes);
        assert!(buf.push_whole(b"abc"));
        assert!(!buf.push_whole(b"def"));
        assert_eq!((buf.done(), buf.push_whole(b"de"), buf.remaining()), (3, true, 0));

        let mut out = [0; 3];
        let mut buf = WriteBuf::kernel(b"vwxyz");
        let start = buf.position();
        assert_eq!(buf.pull(&mut out), 3);
        buf.rewind(start);
        assert_eq!((buf.remaining(), buf.pull(&mut out), &out), (5, 3, b"vwx"));

        let segments = [IoVec { base: 0x1000, len: 2 }, IoVec { base: 0x3000, len: 4 }];
        let mut buf = WriteBuf::vectors(&segments);
        assert_eq!(buf.skip(1), 1);
        let middle = buf.position();
        assert_eq!(buf.skip(4), 4);
        buf.rewind(middle);
        assert_eq!((buf.done(), buf.skip(9), buf.remaining()), (1, 5, 0));
    }

    #[test]
    fn ranges_outside_the_user_half_are_refused() {
        assert!(is_user_range(VirtAddr::new(0), 0));
        assert!(is_user_range(VirtAddr::new(USER_END as u64 - 1), 1));
        assert!(!is_user_range(VirtAddr::new(USER_END as u64 - 1), 2));
        assert!(!is_user_range(VirtAddr::new(u64::MAX), 1));
        assert!(!is_user_range(VirtAddr::new(1), usize::MAX));
    }

    #[test]
    fn a_range_is_cut_at_the_end_of_the_user_half() {
        assert_eq!(within_user_half(VirtAddr::new(USER_END as u64 - 3), 8), 3);
        assert_eq!(within_user_half(VirtAddr::new(0x1000), 8), 8);
        assert_eq!(within_user_half(VirtAddr::new(USER_END as u64), 8), 0);
        assert_eq!(within_user_half(VirtAddr::new(u64::MAX), 8), 0);
    }

    #[test]
    fn what_is_taken_back_is_moved_again() {
        let segments = [3, 0, 2, 4].map(|len| IoVec { base: 0x1000, len });
        for (skipped, back) in [(9, 9), (9, 4), (9, 5), (5, 2), (5, 3), (4, 0), (0, 0)] {
            let (mut buf, mut plain) = (WriteBuf::vectors(&segments), WriteBuf::vectors(&segments));
            buf.skip(skipped);
            buf.take_back(back);
            plain.skip(skipped - back);
            assert_eq!(buf.done(), skipped - back);
            assert_eq!(buf.skip(100), 9 - (skipped - back), "{skipped} {back}");
            assert_eq!(plain.skip(100), 9 - (skipped - back));
        }
        let mut bytes = [0; 4];
        let mut buf = ReadBuf::kernel(&mut bytes);
        buf.push(b"abc");
        buf.take_back(2);
        buf.push(b"xyz");
        assert_eq!(&bytes, b"axyz");
    }

    #[test]
    fn a_fault_stops_the_copy_and_is_remembered() {
        let mut buf = ReadBuf::user(VirtAddr::new(0x1000), 16);
        assert_eq!(buf.push(b"abc"), 0);
        assert!(buf.faulted());
        assert_eq!(buf.remaining(), 16);
    }
}
