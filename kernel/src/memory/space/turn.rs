//! Long changes: who may change areas, and how a range is cut into pieces.
//!
//! A call that changes much lets the space's lock go now and then. Until it is through, nobody else may map or unmap anything: what
//! was mapped meanwhile into a gap of the range would go with the rest. So calls that change areas take a [`Turn`] first. Faults do not.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::{AddressSpace, State};
use crate::memory::{PAGE_SIZE, USER_END, VirtAddr};
use crate::sched::{Events, WaitQueue};

/// Bytes with pages in them that one piece has at most: some hundred microseconds.
const PIECE: usize = 128 * PAGE_SIZE;

/// Areas that one piece has at most.
const AREAS: usize = 64;

/// The right to change areas; given back when dropped.
pub struct Turn<'a>(&'a AddressSpace);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.is_changing.store(false, Ordering::Release);
        self.0.turns.wake(Events::IN);
    }
}

impl AddressSpace {
    /// The right to change areas, unless somebody else has it: then [`turns`](Self::turns) tells when to try again.
    pub fn try_turn(&self) -> Option<Turn<'_>> {
        let free = self.is_changing.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        free.is_ok().then(|| Turn(self))
    }

    /// Told when a turn is over.
    pub fn turns(&self) -> &WaitQueue {
        &self.turns
    }

    /// Where the first piece of `range` ends: it has some hundred pages at most, however large it is.
    pub fn piece(&self, range: &Range<VirtAddr>) -> VirtAddr {
        self.lock().piece(range)
    }

    /// Unmaps a piece of everything: when the last thread is gone, though other parts of the kernel may still hold the space.
    /// Whether there is more.
    pub fn clear_some(&self) -> bool {
        let mut state = self.lock();
        let Some(first) = state.mappings.areas().find_from(VirtAddr::default()).map(|area| area.start) else {
            return false;
        };
        let end = state.piece(&(first..VirtAddr::new(USER_END as u64)));
        self.unmap_pages(&mut state, first, end);
        true
    }
}

impl State {
    /// As [`AddressSpace::piece`].
    pub(super) fn piece(&self, range: &Range<VirtAddr>) -> VirtAddr {
        let areas = self.mappings.areas().overlapping(range);
        let end = areas.get(AREAS - 1).map_or(range.end, |area| area.end.min(range.end));
        match self.mappings.tables().next_page(range.start..end) {
            Some(page) if end - page > PIECE => page + PIECE,
            _ => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MapRequest, Protection};
    use crate::sched::fixture::Waiter;

    #[test]
    fn one_changes_at_a_time() {
        let space = AddressSpace::new().unwrap();
        let turn = space.try_turn();
        assert!(turn.is_some() && space.try_turn().is_none());
        let waiter = Waiter::new(space.turns(), Events::IN);
        drop(turn);
        assert!(waiter.was_woken() && space.try_turn().is_some());
    }

    #[test]
    fn a_piece_ends_some_pages_after_the_first_that_is_there() {
        let space = AddressSpace::new().unwrap();
        let request = MapRequest::anonymous(1 << 40, Protection::WRITE);
        let start = space.map(request.with(crate::memory::MapFlags::NORESERVE)).unwrap();
        let whole = start..start + (1 << 40);
        assert_eq!(space.piece(&whole), whole.end, "nothing is there");
        let page = start + (1 << 33);
        space.write_initial(page, b"x").unwrap();
        assert_eq!(space.piece(&whole), page + PIECE);
        assert_eq!(space.piece(&(page + PAGE_SIZE..whole.end)), whole.end);
        while space.clear_some() {}
        assert_eq!(space.statistics().mapped, 0);
    }
}
