//! Advisory locks: records (fcntl(2): `F_SETLK`, and its `F_OFD_` kin) and whole files (flock(2)).
//!
//! Each inode has a [`FileLocks`], which costs nothing until a file is locked. Nothing blocks here: `EAGAIN`, and a queue to wait on.

use alloc::boxed::Box;
use alloc::vec::Vec;

use spin::Once;

use crate::errno::Errno;
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;

/// Who holds a lock: a descriptor table (POSIX records, by its address) or an open file (OFD records, flock; by its address).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub usize);

/// How a range or file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// `F_RDLCK`, `LOCK_SH`: together with others of this kind.
    Shared,
    /// `F_WRLCK`, `LOCK_EX`: alone.
    Exclusive,
}

/// A locked range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who holds it.
    pub owner: Owner,
    /// The process, as `F_GETLK` reports it; -1 for an open file description's.
    pub pid: i32,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` for "to the end, however far".
    pub last: u64,
    /// How.
    pub kind: LockKind,
}

impl Record {
    fn overlaps(&self, start: u64, last: u64) -> bool {
        self.start <= last && start <= self.last
    }

    fn conflicts(&self, other: &Record) -> bool {
        self.owner != other.owner
            && self.overlaps(other.start, other.last)
            && (self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive)
    }
}

#[derive(Default)]
struct Held {
    records: Vec<Record>,
    whole: Vec<(Owner, LockKind)>,
}

#[derive(Default)]
struct Locks {
    held: SpinLock<Held>,
    queue: WaitQueue,
}

/// The locks on one inode.
#[derive(Default)]
pub struct FileLocks(Once<Box<Locks>>);

impl FileLocks {
    fn locks(&self) -> &Locks {
        self.0.call_once(Box::default)
    }

    /// Who waits for a lock on this file to go.
    pub fn queue(&self) -> &WaitQueue {
        &self.locks().queue
    }

    /// The first lock that keeps `wanted` from being set.
    pub fn conflict(&self, wanted: &Record) -> Option<Record> {
        let held = self.0.get()?.held.lock();
        held.records.iter().find(|record| record.conflicts(wanted)).copied()
    }

    /// Sets a record lock; it replaces what its owner holds there.
    ///
    /// # Errors
    /// `EAGAIN` when another's lock is in the way; `ENOLCK` without memory.
    pub fn set(&self, wanted: Record) -> Result<(), Errno> {
        let locks = self.locks();
        let mut held = locks.held.lock();
        if held.records.iter().any(|record| record.conflicts(&wanted)) {
            return Err(Errno::EAGAIN);
        }
        // At most: one range in two, and the new one.
        held.records.try_reserve(2).map_err(|_| Errno::ENOLCK)?;
        held.cut(wanted.owner, wanted.start, wanted.last);
        held.add(wanted);
        drop(held);
        // It may have been an exclusive lock before.
        locks.queue.wake(Events::all());
        Ok(())
    }

    /// Unlocks what `owner` holds of `start..=last`.
    pub fn unlock(&self, owner: Owner, start: u64, last: u64) -> Result<(), Errno> {
        let Some(locks) = self.0.get() else { return Ok(()) };
        let mut held = locks.held.lock();
        held.records.try_reserve(1).map_err(|_| Errno::ENOLCK)?;
        held.cut(owner, start, last);
        drop(held);
        locks.queue.wake(Events::all());
        Ok(())
    }

    /// Locks the whole file as flock(2) does; `None` unlocks.
    ///
    /// # Errors
    /// `EAGAIN` when another's lock is in the way (an old lock of the owner's is then gone, as on Linux); `ENOLCK`.
    pub fn lock_whole(&self, owner: Owner, kind: Option<LockKind>) -> Result<(), Errno> {
        if kind.is_none() && self.0.get().is_none() {
            return Ok(());
        }
        let locks = self.locks();
        let mut held = locks.held.lock();
        let result = held.lock_whole(owner, kind);
        drop(held);
        locks.queue.wake(Events::all());
        result
    }

    /// Drops all locks of `owner`: it closed the file.
    pub fn release(&self, owner: Owner) {
        let Some(locks) = self.0.get() else { return };
        let mut held = locks.held.lock();
        let before = held.records.len() + held.whole.len();
        held.records.retain(|record| record.owner != owner);
        held.whole.retain(|(holder, _)| *holder != owner);
        let released = before != held.records.len() + held.whole.len();
        drop(held);
        if released {
            locks.queue.wake(Events::all());
        }
    }
}

impl Held {
    /// Takes `start..=last` out of the owner's records. Needs room for one more.
    fn cut(&mut self, owner: Owner, start: u64, last: u64) {
        let mut index = 0;
        while let Some(&record) = self.records.get(index) {
            if record.owner != owner || !record.overlaps(start, last) {
                index += 1;
                continue;
            }
            let left = (record.start < start).then(|| Record { last: start - 1, ..record });
            let right = (record.last > last).then(|| Record { start: last + 1, ..record });
            match (left, right) {
                (None, None) => drop(self.records.swap_remove(index)),
                (Some(piece), None) | (None, Some(piece)) => {
                    self.records[index] = piece;
                    index += 1;
                }
                (Some(left), Some(right)) => {
                    self.records[index] = left;
                    self.records.push(right);
                    return;
                }
            }
        }
    }

    /// Adds a record, joined with the owner's neighbours of the same kind.
    fn add(&mut self, mut new: Record) {
        self.records.retain(|record| {
            let touches =
                record.start <= new.last.saturating_add(1) && new.start <= record.last.saturating_add(1);
            let joins = touches && record.owner == new.owner && record.kind == new.kind;
            if joins {
                new.start = new.start.min(record.start);
                new.last = new.last.max(record.last);
            }
            !joins
        });
        self.records.push(new);
    }

    fn lock_whole(&mut self, owner: Owner, kind: Option<LockKind>) -> Result<(), Errno> {
        if self.whole.contains(&(owner, kind.unwrap_or(LockKind::Shared))) && kind.is_some() {
            return Ok(());
        }
        self.whole.retain(|(holder, _)| *holder != owner);
        let Some(kind) = kind else { return Ok(()) };
        if self.whole.iter().any(|(_, other)| kind == LockKind::Exclusive || *other == LockKind::Exclusive) {
            return Err(Errno::EAGAIN);
        }
        self.whole.try_reserve(1).map_err(|_| Errno::ENOLCK)?;
        self.whole.push((owner, kind));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::fixture::Waiter;
    use proptest::prelude::*;

    const BYTES: usize = 24;

    fn record(owner: usize, start: u64, last: u64, kind: LockKind) -> Record {
        Record { owner: Owner(owner), pid: owner as i32, start, last, kind }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn records_behave_as_a_lock_per_byte(
            steps in proptest::collection::vec((1usize..4, 0..BYTES as u64, 0..BYTES as u64, 0u8..3), 1..40)
        ) {
            let locks = FileLocks::default();
            let mut model = [[None; BYTES]; 4];
            for (owner, a, b, action) in steps {
                let (start, last) = (a.min(b), a.max(b));
                let range = start as usize..=last as usize;
                let kind = [LockKind::Shared, LockKind::Exclusive][usize::from(action == 1)];
                if action == 2 {
                    locks.unlock(Owner(owner), start, last).unwrap();
                    model[owner][range].fill(None);
                } else {
                    let blocked = (0..4).filter(|&other| other != owner).any(|other| {
                        model[other][range.clone()].iter().flatten().any(|&held| {
                            held == LockKind::Exclusive || kind == LockKind::Exclusive
                        })
                    });
                    let wanted = record(owner, start, last, kind);
                    prop_assert_eq!(locks.conflict(&wanted).is_some(), blocked);
                    prop_assert_eq!(locks.set(wanted).err(), blocked.then_some(Errno::EAGAIN));
                    if !blocked {
                        model[owner][range].fill(Some(kind));
                    }
                }
                check(&locks, &model)?;
            }
        }
    }

    fn check(locks: &FileLocks, model: &[[Option<LockKind>; BYTES]; 4]) -> Result<(), TestCaseError> {
        let mut seen = [[None; BYTES]; 4];
        let Some(locks) = locks.0.get() else { return Ok(()) };
        for record in &locks.held.lock().records {
            for byte in record.start..=record.last {
                let cell = &mut seen[record.owner.0][byte as usize];
                prop_assert!(cell.is_none(), "a byte is locked twice by one owner");
                *cell = Some(record.kind);
            }
        }
        prop_assert_eq!(&seen, model);
        Ok(())
    }

    #[test]
    fn neighbours_of_one_kind_become_one_and_open_ends_do_not_overflow() {
        let locks = FileLocks::default();
        locks.set(record(1, 0, 9, LockKind::Exclusive)).unwrap();
        locks.set(record(1, 10, u64::MAX, LockKind::Exclusive)).unwrap();
        let conflict = locks.conflict(&record(2, 5, 5, LockKind::Shared)).unwrap();
        assert_eq!((conflict.start, conflict.last, conflict.pid), (0, u64::MAX, 1));
        locks.unlock(Owner(1), 3, u64::MAX).unwrap();
        assert!(locks.conflict(&record(2, 3, u64::MAX, LockKind::Exclusive)).is_none());
    }

    #[test]
    fn whole_file_locks_are_shared_or_alone_and_go_with_their_owner() {
        let locks = FileLocks::default();
        assert_eq!(locks.lock_whole(Owner(1), Some(LockKind::Shared)), Ok(()));
        assert_eq!(locks.lock_whole(Owner(2), Some(LockKind::Shared)), Ok(()));
        assert_eq!(locks.lock_whole(Owner(1), Some(LockKind::Exclusive)), Err(Errno::EAGAIN));
        locks.release(Owner(2));
        assert_eq!(locks.lock_whole(Owner(1), Some(LockKind::Exclusive)), Ok(()));
        assert_eq!(locks.lock_whole(Owner(2), Some(LockKind::Shared)), Err(Errno::EAGAIN));
        assert_eq!(locks.lock_whole(Owner(1), None), Ok(()));
        assert_eq!(locks.lock_whole(Owner(2), Some(LockKind::Shared)), Ok(()));
    }

    #[test]
    fn whoever_waits_for_a_lock_is_told_when_one_goes_or_becomes_less() {
        let locks = FileLocks::default();
        let waiter = Waiter::new(locks.queue(), Events::IN);
        locks.set(record(1, 0, 9, LockKind::Exclusive)).unwrap();
        waiter.was_woken();
        locks.set(record(1, 0, 9, LockKind::Shared)).unwrap();
        assert!(waiter.was_woken());
        locks.unlock(Owner(1), 0, 4).unwrap();
        assert!(waiter.was_woken());
        locks.release(Owner(1));
        assert!(waiter.was_woken());
        locks.lock_whole(Owner(1), Some(LockKind::Exclusive)).unwrap();
        waiter.was_woken();
        locks.lock_whole(Owner(1), None).unwrap();
        assert!(waiter.was_woken());
        // Nothing was held: nothing to tell.
        locks.release(Owner(1));
        assert!(!waiter.was_woken());
    }
}
