//! Who is compared: this library, its predecessor, locks, and structures that are concurrent by themselves.
//!
//! A [`Contender`] is a structure, filled; a [`Session`] is one thread's access to it.

use std::sync::{Arc, Mutex, RwLock};

use crossbeam_skiplist::SkipMap;
use dashmap::DashMap;
use nr::{Config, Hooks, NodeReplicated, Read, ReplicaId, Replicated, Write};

use crate::data::Data;

/// One thread's access to a structure.
pub trait Session: Send {
    /// The read operation.
    fn get(&mut self, key: u64) -> u64;
    /// The write operation.
    fn put(&mut self, key: u64, value: u64) -> u64;
}

/// A structure that threads use together.
pub trait Contender: Sync {
    /// A thread's access.
    type Session<'a>: Session
    where
        Self: 'a;

    /// Makes a structure with `keys` keys for so many threads on so many simulated nodes.
    fn new(keys: u64, threads: usize, nodes: usize) -> Self;

    /// Access for the thread with this number.
    fn session(&self, thread: usize) -> Self::Session<'_>;
}

fn filled<D: Data>(keys: u64) -> D {
    let mut data = D::default();
    data.fill(keys);
    data
}

// ---- this library

/// A structure, replicated by `nr`.
#[derive(Clone)]
pub struct Subject<D>(D);

#[derive(Clone, Copy)]
pub struct Put(u64, u64);

pub struct Get(u64);

impl<D: Data> Replicated for Subject<D> {
    type Entry = Put;

    fn replay(&mut self, entry: &Put) {
        entry.write(self);
    }
}

impl<D: Data> Write<Subject<D>> for Put {
    type Response = u64;

    #[inline]
    fn write(self, subject: &mut Subject<D>) -> u64 {
        subject.0.put(self.0, self.1)
    }

    fn record(&self) -> Put {
        *self
    }
}

impl<D: Data> Read<Subject<D>> for Get {
    type Response = u64;

    #[inline]
    fn read(self, subject: &Subject<D>) -> u64 {
        subject.0.get(self.0)
    }
}

/// Waits as a host program should: after a while it lets others run.
pub struct Host;

impl Hooks for Host {
    fn relax(&self, round: u32) {
        if round > 200 { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// This library.
pub struct Nr<D: Data> {
    structure: NodeReplicated<Subject<D>, Host>,
    nodes: usize,
}

impl<D: Data> Contender for Nr<D> {
    type Session<'a> = nr::Handle<'a, Subject<D>, Host>;

    fn new(keys: u64, threads: usize, nodes: usize) -> Self {
        let config = Config { replicas: nodes, threads, log_entries: 1 << 16 };
        let structure = NodeReplicated::with_hooks(config, Subject(filled::<D>(keys)), Host);
        for _ in 1..nodes {
            structure.add_replica().expect("there is room for `nodes` replicas");
        }
        Self { structure, nodes }
    }

    fn session(&self, thread: usize) -> Self::Session<'_> {
        let replica = ReplicaId(thread % self.nodes);
        self.structure.register(replica).expect("there is room for `threads` threads")
    }
}

impl<D: Data> Session for nr::Handle<'_, Subject<D>, Host> {
    #[inline]
    fn get(&mut self, key: u64) -> u64 {
        self.read(Get(key))
    }

    #[inline]
    fn put(&mut self, key: u64, value: u64) -> u64 {
        self.write(Put(key, value))
    }
}

// ---- node-replication 0.1.1

/// A structure, replicated by node-replication.
#[derive(Clone)]
pub struct OldSubject<D>(D);

impl<D: Data> Default for OldSubject<D> {
    fn default() -> Self {
        // It builds its replicas from the default only.
        Self(filled(crate::KEYS))
    }
}

impl<D: Data> node_replication::Dispatch for OldSubject<D> {
    type ReadOperation = u64;
    type WriteOperation = (u64, u64);
    type Response = u64;

    fn dispatch(&self, key: u64) -> u64 {
        self.0.get(key)
    }

    fn dispatch_mut(&mut self, (key, value): (u64, u64)) -> u64 {
        self.0.put(key, value)
    }
}

type OldReplica<D> = Arc<node_replication::Replica<'static, OldSubject<D>>>;

/// The predecessor, node-replication 0.1.1.
pub struct Old<D: Data> {
    replicas: Vec<OldReplica<D>>,
    tokens: Vec<node_replication::ReplicaToken>,
}

impl<D: Data> Contender for Old<D> {
    type Session<'a> = OldSession<D>;

    fn new(_: u64, threads: usize, nodes: usize) -> Self {
        let log = Arc::new(node_replication::Log::new(2 * 1024 * 1024));
        let replicas: Vec<_> = (0..nodes).map(|_| node_replication::Replica::new(&log)).collect();
        let token = |thread: usize| replicas[thread % nodes].register().expect("it has room for 64 threads");
        let tokens = (0..threads).map(token).collect();
        Self { replicas, tokens }
    }

    fn session(&self, thread: usize) -> OldSession<D> {
        OldSession(self.replicas[thread % self.replicas.len()].clone(), self.tokens[thread])
    }
}

/// A thread's access to it.
pub struct OldSession<D: Data>(OldReplica<D>, node_replication::ReplicaToken);

impl<D: Data> Session for OldSession<D> {
    #[inline]
    fn get(&mut self, key: u64) -> u64 {
        self.0.execute(key, self.1)
    }

    #[inline]
    fn put(&mut self, key: u64, value: u64) -> u64 {
        self.0.execute_mut((key, value), self.1)
    }
}

// ---- locks

macro_rules! locked {
    ($name:ident, $lock:ident, $what:literal, |$read:ident| $get:expr, |$write:ident| $put:expr) => {
        #[doc = $what]
        pub struct $name<D>($lock<D>);

        impl<D: Data> Contender for $name<D> {
            type Session<'a> = &'a $name<D>;

            fn new(keys: u64, _: usize, _: usize) -> Self {
                Self($lock::new(filled(keys)))
            }

            fn session(&self, _: usize) -> &Self {
                self
            }
        }

        impl<D: Data> Session for &$name<D> {
            #[inline]
            fn get(&mut self, key: u64) -> u64 {
                let $read = &self.0;
                $get.get(key)
            }

            #[inline]
            fn put(&mut self, key: u64, value: u64) -> u64 {
                let $write = &self.0;
                $put.put(key, value)
            }
        }
    };
}

type ParkingMutex<D> = parking_lot::Mutex<D>;
type ParkingRwLock<D> = parking_lot::RwLock<D>;

locked!(StdMutex, Mutex, "The standard library's mutex.", |lock| lock.lock().expect("no panics"), |lock| {
    lock.lock().expect("no panics")
});
locked!(
    StdRwLock,
    RwLock,
    "The standard library's readers-writer lock.",
    |lock| lock.read().expect("no panics"),
    |lock| { lock.write().expect("no panics") }
);
locked!(Parking, ParkingMutex, "parking_lot's mutex.", |lock| lock.lock(), |lock| lock.lock());
locked!(ParkingRw, ParkingRwLock, "parking_lot's readers-writer lock.", |lock| lock.read(), |lock| lock
    .write());

// ---- concurrent by themselves

/// dashmap: a sharded hash map.
pub struct Dash(DashMap<u64, u64>);

impl Contender for Dash {
    type Session<'a> = &'a Dash;

    fn new(keys: u64, _: usize, _: usize) -> Self {
        Self((0..keys).map(|key| (key, 2 * key)).collect())
    }

    fn session(&self, _: usize) -> &Self {
        self
    }
}

impl Session for &Dash {
    #[inline]
    fn get(&mut self, key: u64) -> u64 {
        self.0.get(&key).map_or(0, |value| *value)
    }

    #[inline]
    fn put(&mut self, key: u64, value: u64) -> u64 {
        self.0.insert(key, value).unwrap_or(0)
    }
}

/// crossbeam-skiplist as an ordered map.
pub struct Skip(SkipMap<u64, u64>);

impl Contender for Skip {
    type Session<'a> = &'a Skip;

    fn new(keys: u64, _: usize, _: usize) -> Self {
        Self((0..keys).map(|key| (key, 2 * key)).collect())
    }

    fn session(&self, _: usize) -> &Self {
        self
    }
}

impl Session for &Skip {
    #[inline]
    fn get(&mut self, key: u64) -> u64 {
        self.0.get(&key).map_or(0, |entry| *entry.value())
    }

    #[inline]
    fn put(&mut self, key: u64, value: u64) -> u64 {
        *self.0.insert(key, value).value()
    }
}

/// crossbeam-skiplist as a priority queue.
pub struct SkipQueue(SkipMap<u64, u64>);

impl Contender for SkipQueue {
    type Session<'a> = &'a SkipQueue;

    fn new(keys: u64, _: usize, _: usize) -> Self {
        Self((0..keys).map(|key| (key, 2 * key)).collect())
    }

    fn session(&self, _: usize) -> &Self {
        self
    }
}

impl Session for &SkipQueue {
    #[inline]
    fn get(&mut self, _: u64) -> u64 {
        self.0.front().map_or(0, |entry| *entry.key())
    }

    #[inline]
    fn put(&mut self, key: u64, value: u64) -> u64 {
        if value % 2 == 1 {
            return self.0.pop_front().map_or(0, |entry| *entry.key());
        }
        self.0.insert(key, value);
        0
    }
}
