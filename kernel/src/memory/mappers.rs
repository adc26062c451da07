//! Who maps an object: so that pages that it loses are lost to the programs, too (truncate(2), mmap(2)).
//!
//! A file that may lose pages has [`Mappers`], where address spaces put themselves down when they map it. A fault fetches a page from the
//! object and installs it a moment later; if the object lost pages in between, the fault is to be answered anew, which it sees by the
//! [`generation`](Mappers::generation).
//!
//! // Lock order: the list's lock is never held together with another.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{AddressSpace, OutOfMemory, VirtAddr};
use crate::fs::PageSource;
use crate::sched::leftovers::{Leftover, leave};
use crate::sync::SpinLock;

/// The address spaces that map an object.
#[derive(Default)]
pub struct Mappers {
    spaces: SpinLock<Spaces>,
    generation: AtomicU64,
}

#[derive(Default)]
struct Spaces {
    list: Vec<Weak<AddressSpace>>,
    /// Registrations until now.
    added: u64,
    /// How long the list may get before the dead are looked for.
    limit: usize,
}

impl Mappers {
    /// Puts down that `space` maps the object, or may.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn add(&self, space: &Weak<AddressSpace>) -> Result<(), OutOfMemory> {
        let mut spaces = self.spaces.lock();
        if spaces.list.iter().any(|known| Weak::ptr_eq(known, space)) {
            return Ok(());
        }
        if spaces.list.len() >= spaces.limit {
            spaces.list.retain(|space| space.strong_count() > 0);
            spaces.limit = 2 * spaces.list.len() + 8;
        }
        spaces.list.try_reserve(1).map_err(|_| OutOfMemory)?;
        spaces.list.push(space.clone());
        spaces.added += 1;
        Ok(())
    }

    /// Changes when the object loses pages: what was fetched from it before must not be installed any more.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Unmaps `pages` of `source`, which has lost them, wherever they are mapped; private copies of them only with `copies`. What
    /// takes long is [left](crate::sched::leftovers) for the way back to user mode. The caller holds no lock.
    pub fn unmap(&self, source: Arc<dyn PageSource>, pages: Range<u64>, copies: bool) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        leave(Unmapping { source, pages, copies, seen: 0, spaces: Vec::new(), at: VirtAddr::default() });
    }

    fn snapshot(&self) -> (Vec<Arc<AddressSpace>>, u64) {
        let spaces = self.spaces.lock();
        (spaces.list.iter().filter_map(Weak::upgrade).collect(), spaces.added)
    }
}

/// Pages of an object that are being unmapped, space by space.
struct Unmapping {
    source: Arc<dyn PageSource>,
    pages: Range<u64>,
    copies: bool,
    /// Registrations until the spaces were listed.
    seen: u64,
    spaces: Vec<Arc<AddressSpace>>,
    /// How far the last of the spaces has been gone through.
    at: VirtAddr,
}

impl Unmapping {
    /// Lists the spaces again: a child that was forked meanwhile may have copies that its parent had at that time. Whether there are
    /// new ones.
    fn list(&mut self) -> bool {
        let Some(mappers) = self.source.mappers() else { return false };
        let (spaces, added) = mappers.snapshot();
        let new = added != self.seen;
        (self.spaces, self.seen) = (if new { spaces } else { Vec::new() }, added);
        new
    }
}

impl Leftover for Unmapping {
    fn take_apart(&mut self) -> bool {
        let Some(space) = self.spaces.last() else { return self.list() };
        match space.discard_object(&*self.source, &self.pages, self.copies, self.at) {
            Some(next) => self.at = next,
            None => {
                self.spaces.pop();
                self.at = VirtAddr::default();
            }
        }
        true
    }
}
