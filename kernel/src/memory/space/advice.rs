//! Advice, locking and residency: madvise(2), mlock(2) and its family, msync(2), mincore(2).

use core::ops::Range;

use super::map::{POPULATE_BATCH, named_range};
use super::{AddressSpace, MapError, State};
use crate::memory::{Access, PAGE_SIZE, USER_END, VirtAddr};
use crate::replicated::Operation;
use crate::replicated::address_space::{Backing, Flag, VmaFlags};

/// What madvise(2) may be told. Advice that this kernel can neither follow nor may ignore is not among it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Hints on the order of use, and on what is used next or no more: nothing to do, since nothing is paged out.
    Hint,
    /// `MADV_POPULATE_READ`, `MADV_POPULATE_WRITE`: page in for this access ([`AddressSpace::page_in_some`]).
    Populate(Access),
    /// `MADV_DONTNEED`, and `MADV_FREE` (`private_only`): the pages go at once; the next access finds them as new.
    Discard {
        /// Whether only private anonymous memory may be named.
        private_only: bool,
    },
    /// `MADV_DONTFORK` and the like: a property of the areas.
    Set {
        /// Flags to set.
        set: VmaFlags,
        /// Flags to clear.
        clear: VmaFlags,
        /// Whether only private anonymous memory may have it.
        private_only: bool,
    },
}

impl Advice {
    /// The advice with a number of Linux's `MADV_*`.
    pub fn from_number(number: i32) -> Option<Self> {
        let set = |set, clear| Self::Set { set, clear, private_only: false };
        Some(match number {
            // NORMAL, RANDOM, SEQUENTIAL, WILLNEED; COLD, PAGEOUT.
            0..=3 | 20 | 21 => Self::Hint,
            4 => Self::Discard { private_only: false },
            8 => Self::Discard { private_only: true },
            10 => set(VmaFlags::DONT_FORK, VmaFlags::empty()),
            11 => set(VmaFlags::empty(), VmaFlags::DONT_FORK),
            16 => set(VmaFlags::DONT_DUMP, VmaFlags::empty()),
            17 => set(VmaFlags::empty(), VmaFlags::DONT_DUMP),
            18 => Self::Set { set: VmaFlags::WIPE_ON_FORK, clear: VmaFlags::empty(), private_only: true },
            19 => set(VmaFlags::empty(), VmaFlags::WIPE_ON_FORK),
            22 => Self::Populate(Access::Read),
            23 => Self::Populate(Access::Write),
            _ => return None,
        })
    }
}

/// How memory is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Paged in now.
    Now,
    /// As it is touched (`MLOCK_ONFAULT`).
    OnFault,
}

impl LockMode {
    fn flags(self) -> VmaFlags {
        match self {
            Self::Now => VmaFlags::LOCKED,
            Self::OnFault => VmaFlags::LOCKED | VmaFlags::LOCK_ON_FAULT,
        }
    }
}

const LOCK_FLAGS: VmaFlags = VmaFlags::LOCKED.union(VmaFlags::LOCK_ON_FAULT);

impl AddressSpace {
    /// madvise(2). What is mapped in the range is advised, also if there are gaps.
    ///
    /// # Errors
    /// [`MapError::NotMapped`] for a gap, [`MapError::Invalid`] for memory to which the advice does not apply.
    pub fn advise(&self, address: VirtAddr, len: usize, advice: Advice) -> Result<(), MapError> {
        let range = advised_range(address, len)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let covered = state.mappings.areas().covers(&range);
        match advice {
            // What is to be paged in is, when the advice has been found good.
            Advice::Hint | Advice::Populate(_) => {}
            Advice::Discard { private_only } => {
                state.check_kind(&range, private_only, VmaFlags::LOCKED)?;
                self.discard(&mut state, range.clone(), true);
            }
            Advice::Set { set, clear, private_only } => {
                state.check_kind(&range, private_only, VmaFlags::empty())?;
                state.mappings.prepare()?;
                Flag { range: range.clone(), set, clear }.apply(&mut state.mappings);
            }
        }
        if covered { Ok(()) } else { Err(MapError::NotMapped) }
    }

    /// Pages in the first pages of `range`, which is whole pages, for `access`. Says from where to go on; `None` at the end.
    ///
    /// # Errors
    /// [`MapError::NotMapped`] for a page that cannot be had.
    pub fn page_in_some(
        &self,
        range: &Range<VirtAddr>,
        access: Access,
    ) -> Result<Option<VirtAddr>, MapError> {
        let mut at = range.start;
        let end = range.end.min(at.checked_add(POPULATE_BATCH).ok_or(MapError::Invalid)?);
        while at < end {
            self.fault(at, access).map_err(|_| MapError::NotMapped)?;
            at = at + PAGE_SIZE;
        }
        Ok((at < range.end).then_some(at))
    }

    /// mlock(2), mlock2(2): returns what is to be paged in now.
    ///
    /// # Errors
    /// As mlock(2): [`MapError::NotMapped`], [`MapError::OutOfMemory`] beyond the limit, [`MapError::MayNotLock`].
    pub fn lock_memory(
        &self,
        address: VirtAddr,
        len: usize,
        mode: LockMode,
    ) -> Result<Range<VirtAddr>, MapError> {
        let range = lock_range(address, len)?;
        if !range.is_empty() {
            let mut state = self.lock();
            let locked: usize = state.locked_pages(&range);
            state.check_locked((range.end - range.start) / PAGE_SIZE - locked).map_err(
                |error| match error {
                    MapError::TooMuchLocked => MapError::OutOfMemory,
                    other => other,
                },
            )?;
            if !state.mappings.areas().covers(&range) {
                return Err(MapError::NotMapped);
            }
            state.mappings.prepare()?;
            Flag { range: range.clone(), set: mode.flags(), clear: LOCK_FLAGS }.apply(&mut state.mappings);
        }
        Ok(if mode == LockMode::Now { range } else { range.end..range.end })
    }

    /// munlock(2).
    ///
    /// # Errors
    /// [`MapError::NotMapped`] for a gap.
    pub fn unlock_memory(&self, address: VirtAddr, len: usize) -> Result<(), MapError> {
        let range = lock_range(address, len)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let covered = state.mappings.areas().covers(&range);
        state.mappings.prepare()?;
        Flag { range, set: VmaFlags::empty(), clear: LOCK_FLAGS }.apply(&mut state.mappings);
        if covered { Ok(()) } else { Err(MapError::NotMapped) }
    }

    /// mlockall(2): locks what is mapped now (`current`), what will be (`future`), or neither: munlockall(2). Nothing is paged in.
    ///
    /// # Errors
    /// [`MapError::OutOfMemory`] beyond the limit, [`MapError::MayNotLock`].
    pub fn lock_all(&self, current: Option<LockMode>, future: Option<LockMode>) -> Result<(), MapError> {
        let all = VirtAddr::default()..VirtAddr::new(USER_END as u64);
        let mut state = self.lock();
        let totals = state.mappings.areas().totals();
        if current.is_some() || future.is_some() {
            let added = if current.is_some() { totals.mapped - totals.locked } else { 0 };
            state.check_locked(added).map_err(|error| match error {
                MapError::TooMuchLocked => MapError::OutOfMemory,
                other => other,
            })?;
        }
        state.layout.default_flags = future.map_or(VmaFlags::empty(), LockMode::flags);
        if current.is_some() || future.is_none() {
            let set = current.map_or(VmaFlags::empty(), LockMode::flags);
            Flag { range: all, set, clear: LOCK_FLAGS }.apply(&mut state.mappings);
        }
        Ok(())
    }

    /// The first area that ends above `at`.
    pub fn next_area(&self, at: VirtAddr) -> Option<Range<VirtAddr>> {
        self.lock().mappings.areas().find_from(at).map(|area| area.range())
    }

    /// msync(2): nothing is ever out of step, since mapped pages are the file's own; only the range is checked.
    ///
    /// # Errors
    /// [`MapError::NotMapped`] for a gap; [`MapError::Busy`] to invalidate locked memory.
    pub fn sync(&self, address: VirtAddr, len: usize, invalidate: bool) -> Result<(), MapError> {
        let range = named_range(address, len)?;
        let state = self.lock();
        if invalidate && state.locked_pages(&range) > 0 {
            return Err(MapError::Busy);
        }
        if range.is_empty() || state.mappings.areas().covers(&range) {
            Ok(())
        } else {
            Err(MapError::NotMapped)
        }
    }

    /// mincore(2): for each page from `address` on, whether it is in memory. Pages of objects always are.
    ///
    /// # Errors
    /// [`MapError::NotMapped`] for a gap.
    pub fn resident_pages(&self, address: VirtAddr, out: &mut [u8]) -> Result<(), MapError> {
        let range = named_range(address, out.len() * PAGE_SIZE)?;
        let state = self.lock();
        if !range.is_empty() && !state.mappings.areas().covers(&range) {
            return Err(MapError::NotMapped);
        }
        for area in state.mappings.areas().overlapping(&range) {
            let part = area.start.max(range.start)..area.end.min(range.end);
            let index = |at: VirtAddr| (at - range.start) / PAGE_SIZE;
            let object = matches!(area.backing, Backing::File { .. });
            out[index(part.start)..index(part.end)].fill(u8::from(object));
            state.mappings.tables().visit(part, |at, _| out[index(at)] = 1);
        }
        Ok(())
    }
}

/// The range that madvise(2) means: whole pages of the user half.
///
/// # Errors
/// [`MapError::Invalid`].
pub fn advised_range(address: VirtAddr, len: usize) -> Result<Range<VirtAddr>, MapError> {
    named_range(address, len).map_err(|_| MapError::Invalid)
}

/// The range that mlock(2) means: all pages that the bytes touch.
fn lock_range(address: VirtAddr, len: usize) -> Result<Range<VirtAddr>, MapError> {
    let len = len.checked_add(address.page_offset()).ok_or(MapError::Invalid)?;
    named_range(address.align_down(PAGE_SIZE), len).map_err(|error| match error {
        MapError::OutOfMemory => MapError::NotMapped,
        other => other,
    })
}

impl State {
    /// Whether all areas in `range` are free of `forbidden` and, with `private_only`, private and anonymous.
    fn check_kind(
        &self,
        range: &Range<VirtAddr>,
        private_only: bool,
        forbidden: VmaFlags,
    ) -> Result<(), MapError> {
        let refused = self.mappings.areas().overlapping(range).iter().any(|area| {
            let private = matches!(area.backing, Backing::Anonymous);
            area.flags.intersects(forbidden) || private_only && !private
        });
        if refused { Err(MapError::Invalid) } else { Ok(()) }
    }

    fn locked_pages(&self, range: &Range<VirtAddr>) -> usize {
        let part = |area: &crate::replicated::address_space::Vma| {
            (area.end.min(range.end) - area.start.max(range.start)) / PAGE_SIZE
        };
        let areas = self.mappings.areas().overlapping(range).iter();
        areas.filter(|area| area.flags.contains(VmaFlags::LOCKED)).map(part).sum()
    }
}
