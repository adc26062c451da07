//! The sequential structures that the contenders make concurrent.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

/// A sequential structure with one read and one write operation.
pub trait Data: Clone + Default + Send + Sync + 'static {
    /// Puts in what is there before the measurement.
    fn fill(&mut self, keys: u64) {
        (0..keys).for_each(|key| _ = self.put(key, 2 * key));
    }

    /// The read operation.
    fn get(&self, key: u64) -> u64;

    /// The write operation.
    fn put(&mut self, key: u64, value: u64) -> u64;
}

/// A hash map, with the standard library's hash function.
pub type Hash = HashMap<u64, u64>;

/// An ordered map.
pub type Ordered = BTreeMap<u64, u64>;

/// A priority queue: reads look at the smallest, writes push or, for odd values, pop.
pub type Queue = BinaryHeap<Reverse<u64>>;

impl Data for Hash {
    #[inline]
    fn get(&self, key: u64) -> u64 {
        self.get(&key).copied().unwrap_or(0)
    }

    #[inline]
    fn put(&mut self, key: u64, value: u64) -> u64 {
        self.insert(key, value).unwrap_or(0)
    }
}

impl Data for Ordered {
    #[inline]
    fn get(&self, key: u64) -> u64 {
        self.get(&key).copied().unwrap_or(0)
    }

    #[inline]
    fn put(&mut self, key: u64, value: u64) -> u64 {
        self.insert(key, value).unwrap_or(0)
    }
}

impl Data for Queue {
    #[inline]
    fn get(&self, _: u64) -> u64 {
        self.peek().map_or(0, |least| least.0)
    }

    #[inline]
    fn put(&mut self, key: u64, value: u64) -> u64 {
        if value % 2 == 1 {
            return self.pop().map_or(0, |least| least.0);
        }
        self.push(Reverse(key));
        0
    }
}
