//! The entries of a directory: found by name, listed in the order in which they were made.
//!
//! Each entry has a *cookie*, a number that only grows, so that a listing which is continued after
//! others came and went shows every entry that stayed, once (readdir(3)).

use alloc::collections::BTreeMap;
use core::ops::Bound;

use hashbrown::HashMap;

use crate::fs::Name;
use crate::memory::OutOfMemory;

struct Entry<T> {
    cookie: u64,
    value: T,
}

/// A directory whose entries are `T`s: handles of inodes.
pub struct Directory<T> {
    entries: HashMap<Name, Entry<T>>,
    order: BTreeMap<u64, Name>,
    last_cookie: u64,
}

impl<T> Directory<T> {
    /// A directory without entries.
    pub fn new() -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), last_cookie: 0 }
    }

    /// Number of entries, `.` and `..` not counted: they are not kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What `name` refers to.
    pub fn get(&self, name: &[u8]) -> Option<&T> {
        self.entries.get(name).map(|entry| &entry.value)
    }

    /// Makes `name`, which must be free, refer to `value`.
    pub fn insert(&mut self, name: Name, value: T) -> Result<(), OutOfMemory> {
        debug_assert!(self.get(&name).is_none(), "the name is taken");
        self.entries.try_reserve(1).map_err(|_| OutOfMemory)?;
        self.last_cookie += 1;
        self.order.insert(self.last_cookie, name.clone());
        self.entries.insert(name, Entry { cookie: self.last_cookie, value });
        Ok(())
    }

    /// Makes `name`, which must be taken, refer to `value`; returns what it referred to.
    pub fn replace(&mut self, name: &[u8], value: T) -> Option<T> {
        let entry = self.entries.get_mut(name)?;
        Some(core::mem::replace(&mut entry.value, value))
    }

    /// Removes `name`; returns what it referred to.
    pub fn remove(&mut self, name: &[u8]) -> Option<T> {
        let entry = self.entries.remove(name)?;
        self.order.remove(&entry.cookie);
        Some(entry.value)
    }

    /// Calls `emit(cookie, name, value)` for the entries after cookie `after`, until it returns false.
    pub fn list(&self, after: u64, mut emit: impl FnMut(u64, &[u8], &T) -> bool) {
        for (&cookie, name) in self.order.range((Bound::Excluded(after), Bound::Unbounded)) {
            let Some(entry) = self.entries.get(name) else { continue };
            if !emit(cookie, name, &entry.value) {
                return;
            }
        }
    }

    /// Takes all entries out.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.order.clear();
        core::mem::take(&mut self.entries).into_values().map(|entry| entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn names(directory: &Directory<u32>, after: u64) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        directory.list(after, |cookie, name, _| {
            all.push((cookie, name.to_vec()));
            true
        });
        all
    }

    #[test]
    fn a_listing_goes_on_where_it_stopped_whatever_happened_meanwhile() {
        let mut directory = Directory::new();
        for name in [b"a", b"b", b"c", b"d"] {
            directory.insert(Name::from(&name[..]), 0).unwrap();
        }
        let second = names(&directory, 0)[1].0;
        directory.remove(b"a");
        directory.remove(b"b");
        directory.insert(Name::from(&b"a"[..]), 1).unwrap();
        let rest: Vec<_> = names(&directory, second).into_iter().map(|(_, name)| name).collect();
        assert_eq!(rest, [b"c", b"d", b"a"]);
    }

    #[test]
    fn replacing_keeps_the_place_and_returns_the_old() {
        let mut directory = Directory::new();
        directory.insert(Name::from(&b"x"[..]), 1).unwrap();
        directory.insert(Name::from(&b"y"[..]), 2).unwrap();
        assert_eq!(directory.replace(b"x", 3), Some(1));
        assert_eq!(directory.replace(b"z", 3), None);
        assert_eq!(directory.get(b"x"), Some(&3));
        assert_eq!(names(&directory, 0)[0].1, b"x");
        assert_eq!((directory.remove(b"x"), directory.remove(b"x"), directory.len()), (Some(3), None, 1));
    }
}
