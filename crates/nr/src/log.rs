//! The operation log: a ring of entries that every replica applies in the same order.
//!
//! ```text
//!   position  0 1 2 ...        head            cursor of B   cursor of A   tail
//!                                |                  |             |          |
//!   ring     [ free ... free ][ marked ] [ marked ] [ marked ] [ marked ] [ reserved, not yet marked ] [ free
//!                              '--- applied by all --'--- still wanted by a replica ---'
//! ```
//!
//! A position is a number that only grows; the cell that holds it is `position % length`. Appending takes one
//! compare-and-swap of `tail` for a whole batch; the cells are then filled, and each is published by its *mark*, which
//! names the position (and with it the generation of the ring) that the cell now holds. A reader of the log
//! knows from the mark alone whether the entry at its position is there yet, so marks need no resetting.
//!
//! `head` is a cached lower bound of all cursors: cells below it may be used again. Entries are dropped when their cell
//! is used again, or with the log. Nothing is allocated after construction.
//!
//! Neighbours: [`crate::combine`] appends and applies; [`crate::group`] owns one log per lane.

use alloc::boxed::Box;
use core::mem::MaybeUninit;

use crate::pad::Padded;
use crate::sync::{AtomicU64, Ordering, UnsafeCell};

/// What a marked cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    /// An entry for this log alone.
    One = 0,
    /// An entry that touches everything: it is applied when every other log has reached its `Barrier`.
    All = 1,
    /// The place, in the other logs, of an `All` entry of the first.
    Barrier = 2,
    /// Nothing: its writer was interrupted by a panic, or gave the place up.
    Void = 3,
}

impl Kind {
    fn holds_entry(self) -> bool {
        matches!(self, Kind::One | Kind::All)
    }
}

/// The log has no room: the slowest cursor, `cursor`, stands at `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) cursor: usize,
    pub(crate) position: u64,
}

/// A cursor that holds nothing up. Larger than every position, small enough for a mark.
const INACTIVE: u64 = u64::MAX >> 3;

/// Aligned so that a small entry and its mark share a cache line, which is then all that a reader of the log has to fetch.
#[repr(C, align(32))]
struct Cell<E> {
    /// `(position + 1) << 2 | kind` of what the cell holds; 0 before its first use.
    mark: AtomicU64,
    entry: UnsafeCell<MaybeUninit<E>>,
}

/// A circular log of `E`, read through a fixed number of cursors.
pub(crate) struct Log<E> {
    tail: Padded<AtomicU64>,
    head: Padded<AtomicU64>,
    cursors: Box<[Padded<AtomicU64>]>,
    cells: Box<[Cell<E>]>,
}

// SAFETY: an entry is written by the one thread that reserved its position, before the mark publishes it, and shared
// by reference afterwards until all cursors have passed it (hence `Send` and `Sync`).
unsafe impl<E: Send + Sync> Sync for Log<E> {}
// SAFETY: the log owns its entries.
unsafe impl<E: Send> Send for Log<E> {}

fn mark_of(position: u64, kind: Kind) -> u64 {
    (position + 1) << 2 | kind as u64
}

impl<E> Log<E> {
    /// A log of `length` cells (a power of two) read by at most `cursors` cursors, all of them inactive.
    pub(crate) fn new(length: usize, cursors: usize) -> Self {
        assert!(length.is_power_of_two());
        let cell = |_| Cell { mark: AtomicU64::new(0), entry: UnsafeCell::new(MaybeUninit::uninit()) };
        Self {
            tail: Padded(AtomicU64::new(0)),
            head: Padded(AtomicU64::new(0)),
            cursors: (0..cursors).map(|_| Padded(AtomicU64::new(INACTIVE))).collect(),
            cells: (0..length).map(cell).collect(),
        }
    }

    fn length(&self) -> u64 {
        self.cells.len() as u64
    }

    #[inline(always)]
    fn cell(&self, position: u64) -> &Cell<E> {
        // The length is a power of two, so the mask is in bounds and the compiler can see it.
        &self.cells[position as usize & (self.cells.len() - 1)]
    }

    /// The position that the next append will get.
    #[inline]
    pub(crate) fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// A position that the tail has not passed yet, found without a look at the tail, whose line the writers share: no
    /// entry is further from a cursor than the log is long.
    #[inline]
    pub(crate) fn bound(&self, cursor: &AtomicU64) -> u64 {
        cursor.load(Ordering::Acquire) + self.length()
    }

    /// The place of `cursor`, for who looks at it again and again.
    pub(crate) fn place(&self, cursor: usize) -> &AtomicU64 {
        &self.cursors[cursor]
    }

    /// Where `cursor` stands: the first position that it has not applied.
    #[inline(always)]
    pub(crate) fn cursor(&self, cursor: usize) -> u64 {
        self.place(cursor).load(Ordering::Acquire)
    }

    /// Moves `cursor` forward (or activates it, at a position that another active cursor holds).
    #[inline]
    pub(crate) fn set_cursor(&self, cursor: usize, position: u64) {
        self.cursors[cursor].store(position, Ordering::Release);
    }

    /// Takes `cursor` out of the reckoning: it holds up nobody any more.
    pub(crate) fn deactivate(&self, cursor: usize) {
        self.cursors[cursor].store(INACTIVE, Ordering::Release);
    }

    /// Whether somebody uses `cursor`.
    pub(crate) fn active(&self, cursor: usize) -> bool {
        self.cursor(cursor) != INACTIVE
    }

    /// Reserves `count` positions in one atomic step and returns the first. The caller must `fill` all of them.
    ///
    /// The tail is taken to be where `cursor` stands, which is so if the cursor's owner is up to date. To look first would move
    /// the tail's line twice, for reading and then for writing.
    pub(crate) fn reserve(&self, count: u64, cursor: usize) -> Result<u64, Full> {
        debug_assert!(count <= self.length());
        let mut tail =
            Some(self.cursor(cursor)).filter(|&position| position != INACTIVE).unwrap_or_else(|| self.tail());
        loop {
            let limit = tail + count;
            if limit > self.head.load(Ordering::Acquire) + self.length() {
                let (cursor, slowest) = self.collect();
                if limit > slowest + self.length() {
                    return Err(Full { cursor, position: slowest });
                }
            }
            // Acquire: a barrier reserved here must come after those before it were marked as reserved elsewhere.
            match self.tail.compare_exchange_weak(tail, limit, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(tail),
                Err(now) => tail = now,
            }
        }
    }

    /// Garbage collection: raises `head` to the slowest cursor, and says which one that is.
    fn collect(&self) -> (usize, u64) {
        let positions = self.cursors.iter().map(|cursor| cursor.load(Ordering::Acquire));
        let (cursor, slowest) =
            positions.enumerate().min_by_key(|&(_, position)| position).unwrap_or((0, INACTIVE));
        if slowest == INACTIVE {
            return (cursor, self.tail());
        }
        self.head.fetch_max(slowest, Ordering::AcqRel);
        (cursor, slowest)
    }

    /// Publishes the entry that `make` gives at a reserved position.
    ///
    /// When `make` (or the drop of the entry that was there before) panics, the position is left unmarked, and the
    /// caller has to fill it with `Kind::Void`.
    ///
    /// # Safety
    /// The caller reserved `position` and has not filled it; `kind` holds an entry.
    pub(crate) unsafe fn fill(&self, position: u64, kind: Kind, make: impl FnOnce() -> E) {
        debug_assert!(kind.holds_entry());
        let cell = self.cell(position);
        self.empty(cell);
        let entry = make();
        // SAFETY: the position is the caller's, and every cursor has passed what the cell held before.
        cell.entry.with_mut(|place| unsafe {
            (*place).write(entry);
        });
        cell.mark.store(mark_of(position, kind), Ordering::Release);
    }

    /// Publishes that a reserved position has no entry.
    ///
    /// # Safety
    /// The caller reserved `position` and has not filled it; `kind` holds no entry.
    pub(crate) unsafe fn fill_without_entry(&self, position: u64, kind: Kind) {
        debug_assert!(!kind.holds_entry());
        let cell = self.cell(position);
        self.empty(cell);
        cell.mark.store(mark_of(position, kind), Ordering::Release);
    }

    /// Drops what `cell` holds. The caller has the cell for itself.
    fn empty(&self, cell: &Cell<E>) {
        // Relaxed: the mark of the last generation was seen by every cursor, and `head` handed that on.
        let mark = cell.mark.load(Ordering::Relaxed);
        if mark != 0 && kind_of(mark).holds_entry() {
            // Still of the last generation, so no cursor waits for it; and no longer full should the drop panic.
            cell.mark.store(mark | Kind::Void as u64, Ordering::Relaxed);
            // SAFETY: the mark said that the entry is there, and it cannot be reached any more.
            cell.entry.with_mut(|place| unsafe { (*place).assume_init_drop() });
        }
    }

    /// What `position` holds, or `None` while its writer has not published it (or nobody has reserved it).
    #[inline(always)]
    pub(crate) fn kind_at(&self, position: u64) -> Option<Kind> {
        let mark = self.cell(position).mark.load(Ordering::Acquire);
        (mark >> 2 == position + 1).then(|| kind_of(mark))
    }

    /// Whether the owner of `cursor` has everything that any write completed so far.
    ///
    /// A write is complete when some replica has applied it, so its entry, and all before it, are marked by then. If
    /// the entry at the cursor is not marked, no write at or behind it was complete when this began.
    #[inline(always)]
    pub(crate) fn nothing_new(&self, cursor: &AtomicU64) -> bool {
        self.kind_at(cursor.load(Ordering::Acquire)).is_none()
    }

    /// Lends the entry at `position`.
    ///
    /// # Safety
    /// `kind_at(position)` said `One` or `All`, and the caller holds an active cursor at or before `position`.
    pub(crate) unsafe fn with_entry<R>(&self, position: u64, f: impl FnOnce(&E) -> R) -> R {
        // SAFETY: the mark was seen (Acquire), and the cursor keeps the cell from being used again.
        self.cell(position).entry.with(|place| f(unsafe { (*place).assume_init_ref() }))
    }
}

fn kind_of(mark: u64) -> Kind {
    match mark & 3 {
        0 => Kind::One,
        1 => Kind::All,
        2 => Kind::Barrier,
        _ => Kind::Void,
    }
}

impl<E> Drop for Log<E> {
    fn drop(&mut self) {
        for cell in &self.cells {
            self.empty(cell);
        }
    }
}
