//! How much of the machine's memory a file system may hold.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::errno::Errno;
use crate::memory::{Frame, OutOfMemory};

/// A number of things of which only so many may exist.
struct Quota {
    used: AtomicU64,
    limit: u64,
}

impl Quota {
    fn take(&self, count: u64) -> bool {
        let taken = self.used.fetch_add(count, Ordering::Relaxed);
        let fits = taken.saturating_add(count) <= self.limit;
        if !fits {
            self.give(count);
        }
        fits
    }

    fn give(&self, count: u64) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used())
    }
}

/// The limits of a file system, and what of them is used: directory entries and inodes together (each costs kernel
/// heap), and pages.
pub struct Budget {
    inodes: Quota,
    pages: Quota,
}

impl Budget {
    /// At most so many inodes (an additional name counts as one) and pages.
    pub fn new(inodes: u64, pages: u64) -> Self {
        let quota = |limit| Quota { used: AtomicU64::new(0), limit };
        Self { inodes: quota(inodes), pages: quota(pages) }
    }

    /// Limited by the machine's memory only.
    #[cfg(test)]
    pub fn unlimited() -> Self {
        Self::new(u64::MAX / 2, u64::MAX / 2)
    }

    /// Takes an inode or a name. `ENOSPC` when none is left.
    pub fn take_inode(&self) -> Result<(), Errno> {
        self.inodes.take(1).then_some(()).ok_or(Errno::ENOSPC)
    }

    /// Gives an inode or a name back.
    pub fn give_inode(&self) {
        self.inodes.give(1);
    }

    /// Takes a page, zeroed. `ENOSPC` when none is left here or in the machine.
    pub fn frame(&self) -> Result<Frame, Errno> {
        self.take(Frame::zeroed)
    }

    /// Takes a page of which every byte is going to be written. `ENOSPC` likewise.
    pub fn uninit_frame(&self) -> Result<Frame, Errno> {
        self.take(Frame::uninit)
    }

    fn take(&self, make: fn() -> Result<Frame, OutOfMemory>) -> Result<Frame, Errno> {
        self.take_page()?;
        make().map_err(|_| {
            self.give_pages(1);
            Errno::ENOSPC
        })
    }

    /// Takes a page that the caller has elsewhere. `ENOSPC` when none is left.
    pub fn take_page(&self) -> Result<(), Errno> {
        self.pages.take(1).then_some(()).ok_or(Errno::ENOSPC)
    }

    /// Gives pages back.
    pub fn give_pages(&self, count: u64) {
        self.pages.give(count);
    }

    /// Pages that are still to be had.
    pub fn free_pages(&self) -> u64 {
        self.pages.free()
    }

    /// Pages in use.
    #[cfg(test)]
    pub fn used_pages(&self) -> u64 {
        self.pages.used()
    }

    /// The limits: inodes, pages.
    pub fn limits(&self) -> (u64, u64) {
        (self.inodes.limit, self.pages.limit)
    }

    /// Inodes that are still to be had.
    pub fn free_inodes(&self) -> u64 {
        self.inodes.free()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let budget = Budget::new(1, 1);
        assert_eq!(budget.take_inode(), Ok(()));
        assert_eq!(budget.take_inode(), Err(Errno::ENOSPC));
        assert!(budget.frame().is_ok());
        assert_eq!(budget.frame().err(), Some(Errno::ENOSPC));
        budget.give_inode();
        budget.give_pages(1);
        assert_eq!((budget.take_inode(), budget.take_page()), (Ok(()), Ok(())));
        assert_eq!((budget.free_inodes(), budget.free_pages(), budget.used_pages()), (0, 0, 1));
    }
}
