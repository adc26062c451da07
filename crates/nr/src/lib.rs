//! Node replication: a sequential data structure, replicated once per NUMA node and kept in step by an operation log,
//! becomes a linearizable concurrent one.
//!
//! - [`NodeReplicated`] does this for any sequential structure ([`Replicated`]): one log.
//! - [`ConcurrentReplicated`] does it for structures that are concurrent inside themselves ([`Concurrent`]): several logs,
//!   so that operations which commute need not wait for each other ("CNR").
//!
//! The ideas are those of Calciu, Sen, Balakrishnan and Aguilera, "Black-box Concurrent Data Structures for NUMA
//! Architectures", ASPLOS 2017, and of Bhardwaj et al., "NrOS: Effective Replication and Sharing in an Operating System",
//! OSDI 2021. The crate knows no kernel and no operating system.
//!
//! # How it works
//!
//! ```text
//!        node 0                                          node 1
//!   thread  thread  thread                          thread  thread
//!     |       |       |     each has a slot,          |       |
//!   [slot]  [slot]  [slot]  on cache lines          [slot]  [slot]
//!     '-------+-------'     of its own                '---+---'
//!             v                                           v
//!     lane: lock, combiner                        lane: lock, combiner
//!        |          ^                                |          ^
//!        | append   | apply                          | append   | apply
//!        v          |                                v          |
//!   ====[ a ][ b ][ c ][ d ][ e ]=======================================>   the log, a ring
//!                    ^ cursor of node 0      ^ cursor of node 1, tail
//! ```
//!
//! A **write** takes the lock of its replica, or leaves the operation in its slot for the thread that has it. The
//! holder is the *combiner*: it appends all operations that wait in the slots with one atomic step, applies the log to
//! its replica up to there, and hands the responses back through the slots. Where threads contend, one of them comes to
//! lead: the others leave the lock alone and are served now and then. (`src/port.rs`, `src/combine.rs`)
//!
//! A **read** is local. Its thread says in its own slot that it reads, sees that no writer is there and that the next
//! entry of the log is not there yet, and looks. If there is more in the log, it first applies what is published, and with it
//! every write that was complete when the read began. (`src/port.rs`, `src/lane.rs`)
//!
//! A **full log** never blocks for good: the slowest replica is brought forward by whoever needs the room. A replica that
//! nobody uses holds nobody up. (`src/log.rs`)
//!
//! While there is **one replica**, the log is bypassed: writes are run at once, and no entry is made. While a thread is
//! **alone** with its replica, combining is: a write is a lock, the operation, and an unlock, and a read is a store, a
//! fence and a load.
//!
//! # A replicated map
//!
//! Each operation is a type, with a response of its own. What it needs it may borrow.
//!
//! ```
//! use std::collections::HashMap;
//! use nr::{Config, NodeReplicated, Read, Replicated, ReplicaId, Write};
//!
//! #[derive(Clone, Default)]
//! struct Names(HashMap<String, u32>);
//!
//! /// What the log keeps of writes.
//! enum Entry {
//!     Insert(String, u32),
//!     Remove(String),
//! }
//!
//! impl Replicated for Names {
//!     type Entry = Entry;
//!
//!     fn replay(&mut self, entry: &Entry) {
//!         match entry {
//!             Entry::Insert(name, number) => _ = Insert(name, *number).write(self),
//!             Entry::Remove(name) => _ = Remove(name).write(self),
//!         }
//!     }
//! }
//!
//! struct Insert<'a>(&'a str, u32);
//!
//! impl Write<Names> for Insert<'_> {
//!     /// The number that the name had before.
//!     type Response = Option<u32>;
//!
//!     fn write(self, names: &mut Names) -> Option<u32> {
//!         names.0.insert(self.0.to_owned(), self.1)
//!     }
//!
//!     fn record(&self) -> Entry {
//!         Entry::Insert(self.0.to_owned(), self.1)
//!     }
//! }
//!
//! #[derive(Debug, PartialEq)]
//! struct Unknown;
//!
//! struct Remove<'a>(&'a str);
//!
//! impl Write<Names> for Remove<'_> {
//!     type Response = Result<u32, Unknown>;
//!
//!     fn write(self, names: &mut Names) -> Result<u32, Unknown> {
//!         names.0.remove(self.0).ok_or(Unknown)
//!     }
//!
//!     fn record(&self) -> Entry {
//!         Entry::Remove(self.0.to_owned())
//!     }
//! }
//!
//! struct Lookup<'a>(&'a str);
//!
//! impl Read<Names> for Lookup<'_> {
//!     type Response = Option<u32>;
//!
//!     fn read(self, names: &Names) -> Option<u32> {
//!         names.0.get(self.0).copied()
//!     }
//! }
//!
//! let names = NodeReplicated::new(Config { replicas: 2, ..Config::default() }, Names::default());
//! let second = names.add_replica().unwrap();
//! std::thread::scope(|scope| {
//!     let mut here = names.register(ReplicaId(0)).unwrap();
//!     let mut there = names.register(second).unwrap();
//!     assert_eq!(here.write(Insert("lhasa", 7)), None);
//!     scope.spawn(move || {
//!         // What was completed on one replica is seen on all.
//!         assert_eq!(there.read(Lookup("lhasa")), Some(7));
//!         assert_eq!(there.write(Remove("lhasa")), Ok(7));
//!         assert_eq!(there.write(Remove("lhasa")), Err(Unknown));
//!     });
//! });
//! ```
//!
//! # A replicated counter
//!
//! ```
//! use nr::{Config, NodeReplicated, Replicated, ReplicaId, Write};
//!
//! #[derive(Clone, Default)]
//! struct Counter(u64);
//!
//! #[derive(Clone, Copy)]
//! struct Add(u64);
//!
//! impl Replicated for Counter {
//!     type Entry = Add;
//!
//!     fn replay(&mut self, add: &Add) {
//!         add.write(self);
//!     }
//! }
//!
//! impl Write<Counter> for Add {
//!     type Response = u64;
//!
//!     fn write(self, counter: &mut Counter) -> u64 {
//!         counter.0 += self.0;
//!         counter.0
//!     }
//!
//!     fn record(&self) -> Add {
//!         *self
//!     }
//! }
//!
//! let counter = NodeReplicated::new(Config::default(), Counter::default());
//! let mut handle = counter.register(ReplicaId(0)).unwrap();
//! assert_eq!(handle.write(Add(2)), 2);
//! assert_eq!(handle.look(|counter| counter.0), 2);
//!
//! // The log as data: what was written since now, to be replayed elsewhere.
//! let (mut recorder, mut copy) = counter.record(Counter::clone).unwrap();
//! handle.write(Add(3));
//! recorder.take().unwrap().replay(&mut copy);
//! assert_eq!(copy.0, 5);
//! ```
//!
//! # A map with several logs
//!
//! Keys are spread over the logs. Operations on keys of different logs run side by side; one on all logs runs alone.
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::Mutex;
//! use nr::{Concurrent, ConcurrentReplicated, Config, Read, ReplicaId, Route, Routed, WriteShared};
//!
//! const SHARDS: usize = 4;
//!
//! #[derive(Default)]
//! struct Shards([Mutex<HashMap<usize, u64>>; SHARDS]);
//!
//! #[derive(Clone, Copy)]
//! enum Entry { Put(Put), Clear }
//!
//! impl Concurrent for Shards {
//!     type Entry = Entry;
//!
//!     fn replay(&self, entry: &Entry) {
//!         match entry {
//!             Entry::Put(put) => _ = put.write(self),
//!             Entry::Clear => Clear.write(self),
//!         }
//!     }
//! }
//!
//! #[derive(Clone, Copy)]
//! struct Put(usize, u64);
//!
//! impl Routed for Put {
//!     fn route(&self) -> Route { Route::One(self.0) }
//! }
//!
//! impl WriteShared<Shards> for Put {
//!     type Response = Option<u64>;
//!
//!     fn write(self, shards: &Shards) -> Option<u64> {
//!         shards.0[self.0 % SHARDS].lock().unwrap().insert(self.0, self.1)
//!     }
//!
//!     fn record(&self) -> Entry { Entry::Put(*self) }
//! }
//!
//! struct Clear;
//!
//! impl Routed for Clear {
//!     fn route(&self) -> Route { Route::All }
//! }
//!
//! impl WriteShared<Shards> for Clear {
//!     type Response = ();
//!
//!     fn write(self, shards: &Shards) {
//!         shards.0.iter().for_each(|shard| shard.lock().unwrap().clear());
//!     }
//!
//!     fn record(&self) -> Entry { Entry::Clear }
//! }
//!
//! struct Len;
//!
//! impl Routed for Len {
//!     fn route(&self) -> Route { Route::All }
//! }
//!
//! impl Read<Shards> for Len {
//!     type Response = usize;
//!
//!     fn read(self, shards: &Shards) -> usize {
//!         shards.0.iter().map(|shard| shard.lock().unwrap().len()).sum()
//!     }
//! }
//!
//! let map = ConcurrentReplicated::new(Config::default(), SHARDS, Shards::default());
//! let mut handle = map.register(ReplicaId(0)).unwrap();
//! handle.write(Put(1, 10));
//! handle.write(Put(2, 20));
//! assert_eq!(handle.read(Len), 2);
//! handle.write(Clear);
//! assert_eq!(handle.read(Len), 0);
//! ```
//!
//! # Allocation, waiting, panics
//!
//! Everything is allocated when a structure is made ([`Config`]). Reads, writes, syncs, registering threads and adding
//! replicas allocate nothing by themselves; what the operations do is theirs, and an entry owns what
//! [`record`](Write::record) makes. Entries are dropped when the ring comes round to them, so up to
//! [`Config::log_entries`] old ones are kept. Only [`Recorder::take`] allocates.
//!
//! All waiting goes through [`Hooks::relax`]. A thread that is descheduled in the middle of an operation holds up its
//! replica, as the holder of any lock does; it holds up others only when the log is full, or between reserving and
//! publishing its entries.
//!
//! A dispatch that panics poisons its replica (see [`Replicated`]): other threads then panic instead of hanging, and other
//! replicas are not held up.
//!
//! # Features
//!
//! `serde`: [`Entries`], [`Counters`] and [`ReplicaId`] can be serialized.

#![no_std]

extern crate alloc;

mod all;
mod backoff;
mod combine;
mod command;
mod concurrent;
mod counters;
mod error;
mod face;
mod group;
mod hooks;
mod lane;
mod log;
mod mutex;
mod node;
mod owner;
mod pad;
mod port;
mod recorder;
mod slot;
mod structure;
mod sync;
mod tuning;

pub use concurrent::{ConcurrentHandle, ConcurrentReplicated};
pub use counters::{BATCH_CLASSES, Counters};
pub use error::{AddError, RegisterError, RemoveError};
pub use group::Config;
pub use hooks::{Hooks, Spin};
pub use node::{Handle, NodeReplicated};
pub use recorder::{Entries, Overrun, RecordError, Recorder};
pub use structure::{Concurrent, Read, Replicated, Route, Routed, Write, WriteShared};

/// Names a replica: the place that it has in its structure, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReplicaId(pub usize);
