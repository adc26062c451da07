//! A list whose entries go from anywhere in constant time: for those who wait, of whom there may be very many.
//!
//! The entries lie in one array and are linked in the order in which they came. A place that was left is taken again, so the
//! array grows only when the list has never been so long.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// No place.
const NONE: usize = usize::MAX;

struct Slot<T> {
    /// `None` in a place that is free.
    value: Option<T>,
    before: usize,
    /// The next entry, or the next free place.
    after: usize,
}

/// See the module.
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    first: usize,
    last: usize,
    free: usize,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slots<T> {
    /// Without entries.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), first: NONE, last: NONE, free: NONE, len: 0 }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry at the end. Returns its place, by which it is removed.
    pub fn push(&mut self, value: T) -> usize {
        let slot = Slot { value: Some(value), before: self.last, after: NONE };
        let place = self.free;
        let place = match self.slots.get_mut(place) {
            Some(free) => {
                self.free = core::mem::replace(free, slot).after;
                place
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        match self.slots.get_mut(self.last) {
            Some(last) => last.after = place,
            None => self.first = place,
        }
        self.last = place;
        self.len += 1;
        place
    }

    /// Makes room for `more` entries.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        self.slots.try_reserve((self.len + more).saturating_sub(self.slots.len()))
    }

    /// The entry at a place, if there is one.
    pub fn get(&self, place: usize) -> Option<&T> {
        self.slots.get(place)?.value.as_ref()
    }

    /// Removes the entry that came first.
    pub fn pop_front(&mut self) -> Option<T> {
        self.remove(self.first)
    }

    /// Removes the entry at a place, if there is one.
    pub fn remove(&mut self, place: usize) -> Option<T> {
        let slot = self.slots.get_mut(place)?;
        let value = slot.value.take()?;
        let (before, after) = (slot.before, slot.after);
        slot.after = core::mem::replace(&mut self.free, place);
        match self.slots.get_mut(before) {
            Some(before) => before.after = after,
            None => self.first = after,
        }
        match self.slots.get_mut(after) {
            Some(after) => after.before = before,
            None => self.last = before,
        }
        self.len -= 1;
        Some(value)
    }

    /// The entries, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let mut at = self.first;
        core::iter::from_fn(move || {
            let slot = self.slots.get(at)?;
            at = slot.after;
            slot.value.as_ref()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_stay_in_order_whoever_goes(steps in prop::collection::vec(any::<Option<prop::sample::Index>>(), 1..80)) {
            let (mut slots, mut model) = (Slots::new(), Vec::new());
            for (value, step) in steps.into_iter().enumerate() {
                match step {
                    Some(index) if !model.is_empty() => {
                        let (place, expected) = model.remove(index.index(model.len()));
                        prop_assert_eq!(slots.remove(place), Some(expected));
                        prop_assert_eq!(slots.remove(place), None);
                    }
                    _ => model.push((slots.push(value), value)),
                }
                prop_assert_eq!(slots.len(), model.len());
                prop_assert!(slots.iter().eq(model.iter().map(|(_, value)| value)));
            }
        }
    }
}
