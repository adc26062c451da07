//! Descriptor tables: small numbers for open files (shared by `CLONE_FILES`).
//!
//! The lowest free number is found through a bitmap with a hint below which all words are full.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU32, Ordering};

use super::OpenFile;
use super::lock::Owner;
use crate::errno::Errno;
use crate::process::pace::Pace;
use crate::sync::RwSpinLock;

/// The limit with which a process begins (`RLIMIT_NOFILE`, soft).
pub const DEFAULT_LIMIT: u32 = 1024;

/// No table grows beyond this (`/proc/sys/fs/nr_open`).
pub const LIMIT_MAX: u32 = 1 << 20;

const WORD: usize = u64::BITS as usize;
/// Words of descriptors that are copied under one lock.
const WORDS_AT_ONCE: u32 = 8;
/// What closing a descriptor is charged as.
const CLOSE_UNITS: u32 = 8;

#[derive(Clone, Default)]
struct Slots {
    files: Vec<Option<Arc<OpenFile>>>,
    used: Vec<u64>,
    cloexec: Vec<u64>,
    /// All words before this one are full.
    hint: usize,
}

impl Slots {
    fn get(&self, fd: i32) -> Option<&Arc<OpenFile>> {
        self.files.get(usize::try_from(fd).ok()?)?.as_ref()
    }

    /// The lowest free number that is at least `from`.
    fn lowest_free(&self, from: usize) -> usize {
        let mut word = (from / WORD).max(self.hint);
        while let Some(&used) = self.used.get(word) {
            let below = if word == from / WORD { (1u64 << (from % WORD)) - 1 } else { 0 };
            let free = !(used | below);
            if free != 0 {
                return word * WORD + free.trailing_zeros() as usize;
            }
            word += 1;
        }
        from.max(word * WORD)
    }

    /// Makes room for `fd`.
    fn grow(&mut self, fd: usize) -> Result<(), Errno> {
        if fd < self.files.len() {
            return Ok(());
        }
        // By whole words, twice what there is, so that a run of opens copies little.
        let words = (fd / WORD + 1).max(self.used.len() * 2).min(LIMIT_MAX as usize / WORD);
        let more = words - self.used.len();
        self.used.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
        self.cloexec.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
        self.files.try_reserve(more * WORD).map_err(|_| Errno::ENOMEM)?;
        self.used.resize(words, 0);
        self.cloexec.resize(words, 0);
        self.files.resize(words * WORD, None);
        Ok(())
    }

    fn set(&mut self, fd: usize, file: Arc<OpenFile>, cloexec: bool) -> Option<Arc<OpenFile>> {
        let (word, bit) = (fd / WORD, 1 << (fd % WORD));
        self.used[word] |= bit;
        self.set_cloexec(fd, cloexec);
        while self.used.get(self.hint) == Some(&u64::MAX) {
            self.hint += 1;
        }
        self.files[fd].replace(file)
    }

    fn set_cloexec(&mut self, fd: usize, cloexec: bool) {
        let (word, bit) = (fd / WORD, 1 << (fd % WORD));
        self.cloexec[word] = self.cloexec[word] & !bit | if cloexec { bit } else { 0 };
    }

    fn is_cloexec(&self, fd: usize) -> bool {
        self.cloexec[fd / WORD] >> (fd % WORD) & 1 != 0
    }

    fn take(&mut self, fd: usize) -> Option<Arc<OpenFile>> {
        let file = self.files.get_mut(fd)?.take()?;
        self.used[fd / WORD] &= !(1 << (fd % WORD));
        self.hint = self.hint.min(fd / WORD);
        Some(file)
    }

    /// The first number at or after `from` that is in use.
    fn next_used(&self, from: usize) -> Option<usize> {
        let first = from / WORD;
        self.used.iter().enumerate().skip(first).find_map(|(word, &used)| {
            let used = if word == first { used >> (from % WORD) << (from % WORD) } else { used };
            (used != 0).then(|| word * WORD + used.trailing_zeros() as usize)
        })
    }
}

/// The descriptors of one or more processes.
pub struct FdTable {
    slots: RwSpinLock<Slots>,
    limit: AtomicU32,
}

impl FdTable {
    /// A table without descriptors.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { slots: RwSpinLock::new(Slots::default()), limit: AtomicU32::new(DEFAULT_LIMIT) })
    }

    /// A copy whose descriptors refer to the same open files: fork(2). It is made in pieces, so what is opened and closed meanwhile
    /// may or may not be in it.
    ///
    /// # Errors
    /// `ENOMEM`; `EINTR` when the caller is about to end.
    pub async fn fork(&self, pace: &mut Pace<'_>) -> Result<Arc<Self>, Errno> {
        let copy = Arc::new(Self { slots: RwSpinLock::default(), limit: AtomicU32::new(self.limit()) });
        let mut word = 0;
        let copied = loop {
            match self.fork_some(&copy, &mut word) {
                Ok(true) => {}
                done => break done,
            }
            if let Err(error) = pace.charge(WORDS_AT_ONCE * WORD as u32 / 2).await {
                break Err(error);
            }
        };
        match copied {
            Ok(_) => Ok(copy),
            Err(error) => {
                copy.close_all(pace).await;
                Err(error)
            }
        }
    }

    /// Copies some words' worth of descriptors. Whether there are more.
    fn fork_some(&self, copy: &Self, word: &mut usize) -> Result<bool, Errno> {
        // Lock order: the table, then its copy, which nobody else has yet.
        let (slots, mut copy) = (self.slots.read(), copy.slots.write());
        let words = slots.next_free_end().div_ceil(WORD);
        let part = *word..words.min(*word + WORDS_AT_ONCE as usize);
        if part.is_empty() {
            return Ok(false);
        }
        copy.grow(words * WORD - 1)?;
        let files = part.start * WORD..part.end * WORD;
        copy.files[files.clone()].clone_from_slice(&slots.files[files]);
        copy.used[part.clone()].copy_from_slice(&slots.used[part.clone()]);
        copy.cloexec[part.clone()].copy_from_slice(&slots.cloexec[part.clone()]);
        *word = part.end;
        Ok(part.end < words)
    }

    /// One more than the highest number that may be given out (`RLIMIT_NOFILE`, soft).
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Follows a change of `RLIMIT_NOFILE`.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit.min(LIMIT_MAX.into()) as u32, Ordering::Relaxed);
    }

    /// What `fd` refers to (`EBADF`); for calls that need the object, so not with `O_PATH`.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let file = self.get_any(fd)?;
        match file.flags().contains(super::OpenFlags::PATH) {
            true => Err(Errno::EBADF),
            false => Ok(file),
        }
    }

    /// What `fd` refers to (`EBADF`), `O_PATH` or not.
    pub fn get_any(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.slots.read().get(fd).cloned().ok_or(Errno::EBADF)
    }

    /// Gives `file` the lowest free number.
    ///
    /// # Errors
    /// `EMFILE` at the limit; `ENOMEM`.
    pub fn insert(&self, file: Arc<OpenFile>, cloexec: bool) -> Result<i32, Errno> {
        self.insert_from(0, file, cloexec)
    }

    /// Gives `file` the lowest free number that is at least `from` (`F_DUPFD`; `EINVAL` when that is beyond the limit).
    pub fn insert_from(&self, from: u32, file: Arc<OpenFile>, cloexec: bool) -> Result<i32, Errno> {
        let limit = self.limit();
        if from != 0 && from >= limit {
            return Err(Errno::EINVAL);
        }
        let mut slots = self.slots.write();
        let fd = slots.lowest_free(from as usize);
        if fd >= limit as usize {
            return Err(Errno::EMFILE);
        }
        slots.grow(fd)?;
        slots.set(fd, file, cloexec);
        Ok(fd as i32)
    }

    /// Gives two files the lowest free numbers, both or none: pipe(2), socketpair(2).
    pub fn insert_pair(&self, files: [Arc<OpenFile>; 2], cloexec: bool) -> Result<[i32; 2], Errno> {
        let [first, second] = files;
        let a = self.insert(first, cloexec)?;
        match self.insert(second, cloexec) {
            Ok(b) => Ok([a, b]),
            Err(error) => {
                self.close(a)?;
                Err(error)
            }
        }
    }

    /// Gives `file` the number `fd`; returns what had it, to be dropped without the table's lock (dup2).
    ///
    /// # Errors
    /// `EBADF` beyond the limit; `ENOMEM`.
    pub fn insert_at(
        &self,
        fd: i32,
        file: Arc<OpenFile>,
        cloexec: bool,
    ) -> Result<Option<Arc<OpenFile>>, Errno> {
        let index = usize::try_from(fd).ok().filter(|&fd| fd < self.limit() as usize).ok_or(Errno::EBADF)?;
        let mut slots = self.slots.write();
        slots.grow(index)?;
        let old = slots.set(index, file, cloexec);
        drop(slots);
        Ok(old.inspect(|old| {
            self.release_locks(old);
            if old.is_in_flight() {
                super::flight::ask();
            }
        }))
    }

    /// Frees `fd`; the open file goes if this was the last reference. (`EBADF`)
    pub fn close(&self, fd: i32) -> Result<(), Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let file = self.slots.write().take(index).ok_or(Errno::EBADF)?;
        self.let_go(file);
        Ok(())
    }

    /// Frees the numbers `first..=last`, or with `only_mark` sets close-on-exec for them: close_range(2).
    ///
    /// # Errors
    /// `EINTR` when the caller is about to end.
    pub async fn close_range(
        &self,
        pace: &mut Pace<'_>,
        first: u32,
        last: u32,
        only_mark: bool,
    ) -> Result<(), Errno> {
        let mut numbers = first..=last;
        while self.each_in(&mut numbers, |slots, fd| {
            if only_mark {
                slots.set_cloexec(fd, true);
                return None;
            }
            slots.take(fd)
        }) {
            pace.charge(CLOSE_UNITS).await?;
        }
        Ok(())
    }

    /// Frees what is marked close-on-exec: execve(2). Goes on though the caller is about to end.
    pub async fn close_on_exec(&self, pace: &mut Pace<'_>) {
        let mut numbers = 0..=u32::MAX;
        while self.each_in(&mut numbers, |slots, fd| if slots.is_cloexec(fd) { slots.take(fd) } else { None })
        {
            let _ = pace.charge(CLOSE_UNITS).await;
        }
    }

    /// Frees all: the process ends.
    pub async fn close_all(&self, pace: &mut Pace<'_>) {
        let mut numbers = 0..=u32::MAX;
        while self.each_in(&mut numbers, Slots::take) {
            let _ = pace.charge(CLOSE_UNITS).await;
        }
    }

    /// Runs `action` on the first number in use among `numbers`, which begin behind it from then on, and drops what it takes out
    /// without the lock. Whether there was one.
    fn each_in(
        &self,
        numbers: &mut RangeInclusive<u32>,
        action: impl FnOnce(&mut Slots, usize) -> Option<Arc<OpenFile>>,
    ) -> bool {
        let mut slots = self.slots.write();
        let found = slots.next_used(*numbers.start() as usize).map(|fd| fd as u32);
        let Some(fd) = found.filter(|fd| numbers.contains(fd)) else { return false };
        let file = action(&mut slots, fd as usize);
        drop(slots);
        if let Some(file) = file {
            self.let_go(file);
        }
        // No number in use is the greatest that there is.
        *numbers = fd + 1..=*numbers.end();
        true
    }

    /// Whether `fd` is closed by execve (`EBADF`).
    pub fn cloexec(&self, fd: i32) -> Result<bool, Errno> {
        let slots = self.slots.read();
        slots.get(fd).ok_or(Errno::EBADF)?;
        Ok(slots.is_cloexec(fd as usize))
    }

    /// Says whether `fd` is closed by execve (`EBADF`).
    pub fn set_cloexec(&self, fd: i32, cloexec: bool) -> Result<(), Errno> {
        let mut slots = self.slots.write();
        slots.get(fd).ok_or(Errno::EBADF)?;
        slots.set_cloexec(fd as usize, cloexec);
        Ok(())
    }

    /// The first number at or after `from` that is in use, and what it refers to: for /proc/PID/fd.
    pub fn next(&self, from: u32) -> Option<(u32, Arc<OpenFile>)> {
        let slots = self.slots.read();
        let fd = slots.next_used(from as usize)?;
        Some((fd as u32, slots.get(fd as i32)?.clone()))
    }

    /// Descriptors for which there is room without growing.
    pub fn capacity(&self) -> usize {
        self.slots.read().files.len()
    }

    /// As a holder of record locks.
    pub fn lock_owner(&self) -> Owner {
        Owner(core::ptr::from_ref(self).addr())
    }

    /// A descriptor of `file` is closed.
    fn let_go(&self, file: Arc<OpenFile>) {
        self.release_locks(&file);
        let in_flight = file.is_in_flight();
        drop(file);
        if in_flight {
            super::flight::ask();
        }
    }

    /// POSIX: closing any descriptor of a file drops the process's record locks on it.
    fn release_locks(&self, file: &OpenFile) {
        if let Some(locks) = file.location().and_then(|location| location.node.locks()) {
            locks.release(self.lock_owner());
        }
    }
}

impl Slots {
    /// One past the highest number in use.
    fn next_free_end(&self) -> usize {
        self.used
            .iter()
            .rposition(|&used| used != 0)
            .map_or(0, |word| word * WORD + WORD - self.used[word].leading_zeros() as usize)
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        // Little, if anything, is left: see `process/exit.rs`.
        let mut numbers = 0..=u32::MAX;
        while self.each_in(&mut numbers, Slots::take) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{File, OpenFlags, Stat};
    use crate::process::pace::without_pause;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    struct Nothing(u64);

    impl File for Nothing {
        fn stat(&self) -> Stat {
            Stat { inode: self.0, ..Stat::default() }
        }
    }

    fn file(n: u64) -> Arc<OpenFile> {
        OpenFile::new(Arc::new(Nothing(n)), OpenFlags::empty())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32, bool),
        At(i32, bool),
        Close(i32),
        Range(u32, u32, bool),
        Exec,
        Fork,
        Limit(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let fd = prop_oneof![0..8i32, 60..70i32, 120..200i32];
        prop_oneof![
            6 => (prop_oneof![4 => Just(0u32), 1 => 0..150u32], any::<bool>()).prop_map(|(from, c)| Step::Insert(from, c)),
            2 => (fd.clone(), any::<bool>()).prop_map(|(fd, c)| Step::At(fd, c)),
            3 => fd.clone().prop_map(Step::Close),
            1 => (fd.clone(), 0..80u32, any::<bool>())
                .prop_map(|(fd, len, mark)| Step::Range(fd as u32, fd as u32 + len, mark)),
            1 => Just(Step::Exec),
            1 => Just(Step::Fork),
            1 => (1..200u32).prop_map(Step::Limit),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in proptest::collection::vec(step(), 1..80)) {
            let mut pace = Pace::of_start();
            let (mut table, mut model, mut limit) = (FdTable::new(), BTreeMap::<u32, (u64, bool)>::new(), DEFAULT_LIMIT);
            for (n, step) in (1..).zip(steps) {
                match step {
                    Step::Insert(from, cloexec) => {
                        let free = (from..).find(|fd| !model.contains_key(fd)).unwrap();
                        let expected = match () {
                            () if from != 0 && from >= limit => Err(Errno::EINVAL),
                            () if free >= limit => Err(Errno::EMFILE),
                            () => Ok(free as i32),
                        };
                        prop_assert_eq!(table.insert_from(from, file(n), cloexec), expected);
                        if expected.is_ok() {
                            model.insert(free, (n, cloexec));
                        }
                    }
                    Step::At(fd, cloexec) => {
                        let result = table.insert_at(fd, file(n), cloexec).map(|old| old.map(|old| old.stat().inode));
                        if fd as u32 >= limit {
                            prop_assert_eq!(result, Err(Errno::EBADF));
                        } else {
                            let old = model.insert(fd as u32, (n, cloexec)).map(|(n, _)| n);
                            prop_assert_eq!(result, Ok(old));
                        }
                    }
                    Step::Close(fd) => {
                        let expected = model.remove(&(fd as u32)).map(|_| ()).ok_or(Errno::EBADF);
                        prop_assert_eq!(table.close(fd), expected);
                    }
                    Step::Range(first, last, mark) => {
                        let closed = table.close_range(&mut pace, first, last, mark);
                        prop_assert_eq!(without_pause(closed), Some(Ok(())));
                        if mark {
                            model.range_mut(first..=last).for_each(|(_, entry)| entry.1 = true);
                        } else {
                            model.retain(|fd, _| !(first..=last).contains(fd));
                        }
                    }
                    Step::Exec => {
                        without_pause(table.close_on_exec(&mut pace)).unwrap();
                        model.retain(|_, entry| !entry.1);
                    }
                    Step::Fork => table = without_pause(table.fork(&mut pace)).unwrap().unwrap(),
                    Step::Limit(new) => {
                        limit = new;
                        table.set_limit(new.into());
                    }
                }
                let mut seen = BTreeMap::new();
                let mut from = 0;
                while let Some((fd, file)) = table.next(from) {
                    seen.insert(fd, (file.stat().inode, table.cloexec(fd as i32).unwrap()));
                    from = fd + 1;
                }
                prop_assert_eq!(&seen, &model);
            }
        }
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let table = FdTable::new();
        for fd in [-1, 0, i32::MAX, i32::MIN] {
            assert_eq!(table.get(fd).err(), Some(Errno::EBADF));
            assert_eq!(table.close(fd), Err(Errno::EBADF));
            assert_eq!(table.cloexec(fd), Err(Errno::EBADF));
        }
        assert!(matches!(table.insert_at(-1, file(1), false), Err(Errno::EBADF)));
        table.set_limit(u64::MAX);
        assert_eq!(table.limit(), LIMIT_MAX);
        assert!(matches!(table.insert_at(LIMIT_MAX as i32, file(1), false), Err(Errno::EBADF)));
    }

    #[test]
    fn a_pair_is_given_whole_or_not_at_all() {
        let table = FdTable::new();
        table.set_limit(1);
        assert_eq!(table.insert_pair([file(1), file(2)], false), Err(Errno::EMFILE));
        assert!(table.next(0).is_none());
        table.set_limit(2);
        assert_eq!(table.insert_pair([file(1), file(2)], true), Ok([0, 1]));
    }
}
