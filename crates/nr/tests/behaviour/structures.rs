//! The structures that are replicated.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicIsize, Ordering};

use nr::{Config, Read, ReplicaId, Replicated, Write};

/// Little room, so that logs wrap and fill.
pub const SMALL: Config = Config { replicas: 4, threads: 4, log_entries: 8 };

/// An ordered map whose keys are borrowed by the operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(pub BTreeMap<String, u64>);

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum MapEntry {
    Insert(String, u64),
    Remove(String),
}

pub struct Insert<'a>(pub &'a str, pub u64);
pub struct Remove<'a>(pub &'a str);
pub struct Get<'a>(pub &'a str);

impl Replicated for Map {
    type Entry = MapEntry;

    fn replay(&mut self, entry: &MapEntry) {
        match entry {
            MapEntry::Insert(key, value) => _ = Insert(key, *value).write(self),
            MapEntry::Remove(key) => _ = Remove(key).write(self),
        }
    }
}

impl Write<Map> for Insert<'_> {
    type Response = Option<u64>;

    fn write(self, map: &mut Map) -> Option<u64> {
        map.0.insert(self.0.to_owned(), self.1)
    }

    fn record(&self) -> MapEntry {
        MapEntry::Insert(self.0.to_owned(), self.1)
    }
}

impl Write<Map> for Remove<'_> {
    /// A structure with failing operations: what is not there cannot be removed.
    type Response = Result<u64, Missing>;

    fn write(self, map: &mut Map) -> Result<u64, Missing> {
        map.0.remove(self.0).ok_or(Missing)
    }

    fn record(&self) -> MapEntry {
        MapEntry::Remove(self.0.to_owned())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing;

impl Read<Map> for Get<'_> {
    type Response = Option<u64>;

    fn read(self, map: &Map) -> Option<u64> {
        map.0.get(self.0).copied()
    }
}

/// How many tokens are alive.
pub static ALIVE: AtomicIsize = AtomicIsize::new(0);

/// Something that owns memory and is counted.
#[derive(Debug)]
pub struct Token(pub Box<u64>);

impl Token {
    pub fn new(value: u64) -> Self {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Self(Box::new(value))
    }
}

impl Clone for Token {
    fn clone(&self) -> Self {
        Self::new(*self.0)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Names of the first `count` replicas.
pub fn replicas(count: usize) -> impl Iterator<Item = ReplicaId> {
    (0..count).map(ReplicaId)
}
