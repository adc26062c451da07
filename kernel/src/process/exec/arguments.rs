//! The strings of execve(2): arguments and environment, copied from the old program, laid out for the new one.

use alloc::vec::Vec;

use crate::errno::Errno;
use crate::memory::{AddressSpace, Purpose, VirtAddr, admit};
use crate::process::pace::Pace;
use crate::uaccess::{UserPtr, read_cstr};

/// Longest string: Linux's `MAX_ARG_STRLEN`.
const MAX_STRING: usize = 131_072;
/// Most bytes in all, whatever the stack limit: three quarters of 8 MiB, Linux's `_STK_LIM / 4 * 3`.
const MAX_TOTAL: u64 = 6 << 20;
/// What is allowed whatever the stack limit.
const MIN_TOTAL: u64 = 128 << 10;

/// A list of strings, each with its NUL, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    bytes: Vec<u8>,
    count: usize,
}

impl Strings {
    /// No strings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a string.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn push(&mut self, string: &[u8]) -> Result<(), Errno> {
        self.bytes.try_reserve(string.len() + 1).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    /// Takes the first string away.
    pub fn remove_first(&mut self) {
        if let Some(end) = self.bytes.iter().position(|&byte| byte == 0) {
            self.bytes.drain(..=end);
            self.count -= 1;
        }
    }

    /// Puts `strings` in front.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn prepend(&mut self, strings: &[&[u8]]) -> Result<(), Errno> {
        let mut front = Self::new();
        for string in strings {
            front.push(string)?;
        }
        front.bytes.try_reserve(self.bytes.len()).map_err(|_| Errno::ENOMEM)?;
        front.bytes.extend_from_slice(&self.bytes);
        front.count += self.count;
        *self = front;
        Ok(())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The strings with their NULs.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where each begins in [`bytes`](Self::bytes).
    pub fn offsets(&self) -> impl Iterator<Item = usize> {
        let mut next = 0;
        self.bytes.split_inclusive(|&byte| byte == 0).map(move |string| {
            let start = next;
            next += string.len();
            start
        })
    }
}

/// What is given to a new program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `argv`
    pub argv: Strings,
    /// `envp`
    pub envp: Strings,
}

impl Arguments {
    /// Copies both lists, which end in a null pointer, from the caller's memory. A null list is empty. `stack_limit` bounds their
    /// size: a quarter of it (execve(2), "Limits on size of arguments and environment").
    ///
    /// # Errors
    /// `E2BIG`, `EFAULT`, `ENOMEM`; `EINTR` when the caller is about to end.
    pub async fn copy(
        pace: &mut Pace<'_>,
        space: &AddressSpace,
        argv: UserPtr<u64>,
        envp: UserPtr<u64>,
        stack_limit: u64,
    ) -> Result<Self, Errno> {
        let mut left = limit(stack_limit);
        let argv = copy_list(pace, space, argv, &mut left).await?;
        let envp = copy_list(pace, space, envp, &mut left).await?;
        Ok(Self { argv, envp })
    }

    /// Bytes on the new stack: the strings and a pointer to each.
    pub fn size(&self) -> usize {
        self.argv.bytes.len() + self.envp.bytes.len() + (self.argv.count + self.envp.count) * size_of::<u64>()
    }

    /// Checks the size against the stack limit: after a script's interpreter was put in front.
    ///
    /// # Errors
    /// `E2BIG`.
    pub fn check(&self, stack_limit: u64) -> Result<(), Errno> {
        if self.size() as u64 <= limit(stack_limit) { Ok(()) } else { Err(Errno::E2BIG) }
    }
}

fn limit(stack_limit: u64) -> u64 {
    (stack_limit / 4).clamp(MIN_TOTAL, MAX_TOTAL)
}

async fn copy_list(
    pace: &mut Pace<'_>,
    space: &AddressSpace,
    list: UserPtr<u64>,
    left: &mut u64,
) -> Result<Strings, Errno> {
    let mut strings = Strings::new();
    let Some(list) = list.non_null() else { return Ok(strings) };
    loop {
        let string = list.index(strings.count).read(space)?;
        if string == 0 {
            return Ok(strings);
        }
        admit(Purpose::User)?;
        let string = read_cstr(space, VirtAddr::new(string), MAX_STRING, Errno::E2BIG)?;
        let size = (string.len() + 1 + size_of::<u64>()) as u64;
        *left = left.checked_sub(size).ok_or(Errno::E2BIG)?;
        strings.push(&string)?;
        pace.charge(8 + string.len() as u32 / 64).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Strings {
        let mut strings = Strings::new();
        list.iter().for_each(|string| strings.push(string.as_bytes()).unwrap());
        strings
    }

    #[test]
    fn strings_are_laid_out_one_after_the_other() {
        let list = strings(&["a", "", "bcd"]);
        assert_eq!((list.len(), list.bytes()), (3, &b"a\0\0bcd\0"[..]));
        assert_eq!(list.offsets().collect::<Vec<_>>(), [0, 2, 3]);
    }

    #[test]
    fn a_script_replaces_the_first_argument() {
        let mut list = strings(&["script", "x"]);
        list.remove_first();
        list.prepend(&[b"/bin/sh", b"-e", b"./script"]).unwrap();
        assert_eq!(list, strings(&["/bin/sh", "-e", "./script", "x"]));
        let mut empty = Strings::new();
        empty.remove_first();
        assert_eq!(empty.len(), 0);
    }

    #[test]
    fn the_limit_is_a_quarter_of_the_stack_within_bounds() {
        assert_eq!(limit(8 << 20), 2 << 20);
        assert_eq!(limit(0), 128 << 10);
        assert_eq!(limit(u64::MAX), 6 << 20);
        let mut arguments = Arguments::default();
        arguments.argv.push(&[b'x'; 100 << 10]).unwrap();
        assert_eq!(arguments.check(0), Ok(()));
        arguments.envp.push(&[b'x'; 100 << 10]).unwrap();
        assert_eq!(arguments.check(0), Err(Errno::E2BIG));
        assert_eq!(arguments.check(8 << 20), Ok(()));
    }
}
