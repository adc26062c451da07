//! A binary heap whose tasks know where they lie, so that any of them can be taken out.
//!
//! Keys are numbers that wrap around (see [`distance`]); of equal keys the task that arrived first is first.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use super::entity::{Schedulable, Seat};

/// How far `a` lies after `b`, on the circle of 64-bit numbers.
pub fn distance(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b) as i64
}

/// Which heap of a run queue: each task notes it in its [`Seat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Tasks of a rank, the highest first.
    Ranked,
    /// Fair tasks that are taken for eligible, by deadline.
    Ready,
    /// Fair tasks that are not eligible yet, by vruntime.
    Early,
}

struct Item<T> {
    key: u64,
    arrival: u64,
    task: T,
}

impl<T> Item<T> {
    fn is_before(&self, other: &Self) -> bool {
        let by_key = distance(self.key, other.key);
        by_key < 0 || (by_key == 0 && self.arrival < other.arrival)
    }
}

/// A heap; see the module.
pub struct Heap<T> {
    name: Name,
    items: Vec<Item<T>>,
}

impl<T: Schedulable> Heap<T> {
    /// No tasks.
    pub const fn new(name: Name) -> Self {
        Self { name, items: Vec::new() }
    }

    /// Makes room for `tasks` tasks in all.
    ///
    /// # Errors
    /// There is no memory.
    pub fn try_reserve(&mut self, tasks: usize) -> Result<(), TryReserveError> {
        self.items.try_reserve(tasks.saturating_sub(self.items.len()))
    }

    /// How many tasks are in it.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// All tasks.
    #[cfg(test)]
    pub fn tasks(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|item| &item.task)
    }

    /// The first task and its key.
    pub fn first(&self) -> Option<(u64, &T)> {
        self.items.first().map(|item| (item.key, &item.task))
    }

    /// Puts a task in.
    pub fn push(&mut self, key: u64, task: T) {
        let arrival = task.entity().arrival.get();
        self.items.push(Item { key, arrival, task });
        self.rise(self.items.len() - 1);
    }

    /// Takes the first task out.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.items.is_empty() { None } else { self.take(0) }
    }

    /// Takes out the task at `index`, which is what its seat says.
    pub fn take(&mut self, index: usize) -> Option<T> {
        if index >= self.items.len() {
            return None;
        }
        let taken = self.items.swap_remove(index);
        taken.task.entity().sit(Seat::Away);
        if index < self.items.len() {
            let index = self.rise(index);
            self.sink(index);
        }
        Some(taken.task)
    }

    /// Moves the task at `index` towards the top as far as it belongs; returns where it is.
    fn rise(&mut self, mut index: usize) -> usize {
        while index > 0 {
            let parent = (index - 1) / 2;
            if !self.items[index].is_before(&self.items[parent]) {
                break;
            }
            self.items.swap(index, parent);
            self.seat(index);
            index = parent;
        }
        self.seat(index);
        index
    }

    /// Moves the task at `index` away from the top as far as it belongs.
    fn sink(&mut self, mut index: usize) {
        while let Some(child) = self.first_child(index) {
            if !self.items[child].is_before(&self.items[index]) {
                break;
            }
            self.items.swap(index, child);
            self.seat(index);
            index = child;
        }
        self.seat(index);
    }

    fn first_child(&self, index: usize) -> Option<usize> {
        let (left, right) = (2 * index + 1, 2 * index + 2);
        let is_right = self.items.get(right).is_some_and(|item| item.is_before(&self.items[left]));
        (left < self.items.len()).then_some(if is_right { right } else { left })
    }

    fn seat(&self, index: usize) {
        self.items[index].task.entity().sit(Seat::In(self.name, index as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Share;
    use super::super::tests::{Task, task};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is put in and taken out, in whatever order: the first is the least, and each task is where its seat says.
        #[test]
        fn tasks_come_out_in_order_and_can_be_taken_from_anywhere(
            steps in proptest::collection::vec((any::<bool>(), 0..40u64), 1..200),
        ) {
            let mut heap = Heap::new(Name::Ready);
            let mut model: Vec<(u64, Task)> = Vec::new();
            // Keys on both sides of where numbers wrap around.
            let origin = 20_u64.wrapping_neg();
            for (index, &(push, number)) in steps.iter().enumerate() {
                if push || model.is_empty() {
                    let new = task(index as u32, Share::fair(0));
                    new.entity().arrival.set(index as u64);
                    model.push((number, new.clone()));
                    heap.push(origin.wrapping_add(number), new);
                } else {
                    let (_, gone) = model.remove(number as usize % model.len());
                    let Seat::In(Name::Ready, at) = gone.entity().seat() else { panic!("nowhere") };
                    prop_assert_eq!(heap.take(at as usize).unwrap().0.0, gone.0.0);
                    prop_assert_eq!(gone.entity().seat(), Seat::Away);
                }
                prop_assert_eq!(heap.len(), model.len());
            }
            model.sort_by_key(|(key, task)| (*key, task.0.0));
            for (_, expected) in model {
                prop_assert_eq!(heap.pop().unwrap().0.0, expected.0.0);
            }
            prop_assert!(heap.pop().is_none());
        }
    }
}
