//! The whole machinery: combiner and lock, readers against writers, lagging, new and removed replicas.

use loom::thread;

use crate::explore;
use crate::sync::Arc;
use crate::{
    Concurrent, ConcurrentReplicated, Config, Hooks, NodeReplicated, ReplicaId, Replicated, Route, Routed,
    Write, WriteShared,
};

/// Gives way to the other threads of the model.
struct Yield;

impl Hooks for Yield {
    fn relax(&self, _round: u32) {
        thread::yield_now();
    }
}

/// A counter whose two halves are equal whenever nobody is in the middle of a write. The heap shows lost drops.
#[derive(Clone)]
struct Twins(Box<u64>, u64);

struct Add(Box<u64>);

impl Replicated for Twins {
    type Entry = Add;

    fn replay(&mut self, entry: &Add) {
        Add(entry.0.clone()).write(self);
    }
}

impl Write<Twins> for Add {
    type Response = Box<u64>;

    fn write(self, twins: &mut Twins) -> Box<u64> {
        *twins.0 += *self.0;
        twins.1 += *self.0;
        twins.0.clone()
    }

    fn record(&self) -> Add {
        Add(self.0.clone())
    }
}

type Twin = Arc<NodeReplicated<Twins, Yield>>;

fn twins(config: Config) -> Twin {
    Arc::new(NodeReplicated::with_hooks(config, Twins(Box::new(0), 0), Yield))
}

const SMALL: Config = Config { replicas: 2, threads: 2, log_entries: 4 };

fn add(structure: &Twin, replica: usize, amount: u64) -> u64 {
    *NodeReplicated::register_shared(structure, ReplicaId(replica)).unwrap().write(Add(Box::new(amount)))
}

fn value(structure: &Twin, replica: usize) -> u64 {
    let look = |twins: &Twins| {
        assert_eq!(*twins.0, twins.1);
        twins.1
    };
    NodeReplicated::register_shared(structure, ReplicaId(replica)).unwrap().read(look)
}

#[test]
fn one_replica_two_writers_and_no_write_is_lost() {
    explore(3, || {
        let structure = twins(Config { replicas: 1, ..SMALL });
        // Registered beforehand, so that the model is about the writes.
        let mut here = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let mut there = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let other = thread::spawn(move || *there.write(Add(Box::new(1))));
        let mine = *here.write(Add(Box::new(2)));
        let theirs = other.join().unwrap();
        assert!((mine, theirs) == (2, 3) || (mine, theirs) == (3, 1), "{mine} {theirs}");
        assert_eq!(here.look(|twins| twins.1), 3);
    });
}

#[test]
fn a_writer_follows_another_and_every_write_is_run_and_answered_once() {
    explore(2, || {
        let structure = twins(Config { replicas: 1, ..SMALL });
        let mut here = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let mut there = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        // The second write of a thread whose first was run by the other takes the follower's way.
        let other = thread::spawn(move || [1, 2].map(|_| *there.write(Add(Box::new(1)))));
        let mine = [1, 2].map(|_| *here.write(Add(Box::new(1))));
        let theirs = other.join().unwrap();
        assert!(mine.is_sorted() && theirs.is_sorted(), "{mine:?} {theirs:?}");
        let mut answers = [mine, theirs].concat();
        answers.sort();
        assert_eq!(answers, [1, 2, 3, 4]);
    });
}

#[test]
fn a_reader_never_sees_half_a_write() {
    explore(3, || {
        let structure = twins(Config { replicas: 1, ..SMALL });
        let mut here = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let mut there = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let writer = thread::spawn(move || {
            there.write(Add(Box::new(1)));
        });
        let seen = here.look(|twins| {
            assert_eq!(*twins.0, twins.1);
            twins.1
        });
        assert!(seen <= 1);
        writer.join().unwrap();
        assert_eq!(here.look(|twins| twins.1), 1);
    });
}

#[test]
fn a_reader_that_is_handed_the_lock_has_it_alone() {
    explore(3, || {
        let structure = twins(Config { replicas: 1, ..SMALL });
        let mut here = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let mut there = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        // The reader gives up sharing during the first write; the second comes when it may have the lock.
        let writer = thread::spawn(move || (0..2).for_each(|_| _ = there.write(Add(Box::new(1)))));
        here.look(|twins| assert_eq!(*twins.0, twins.1));
        writer.join().unwrap();
        assert_eq!(here.look(|twins| twins.1), 2);
    });
}

#[test]
fn writers_on_two_replicas_agree_on_an_order() {
    explore(2, || {
        let structure = twins(SMALL);
        structure.add_replica().unwrap();
        let mut here = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let mut there = NodeReplicated::register_shared(&structure, ReplicaId(1)).unwrap();
        let other = thread::spawn(move || {
            let sum = *there.write(Add(Box::new(1)));
            (sum, there.look(|twins| twins.1))
        });
        let mine = *here.write(Add(Box::new(2)));
        let (theirs, seen) = other.join().unwrap();
        assert!((mine, theirs) == (2, 3) || (mine, theirs) == (3, 1), "{mine} {theirs}");
        assert!(seen >= theirs);
        assert_eq!(here.look(|twins| twins.1), 3);
    });
}

#[test]
fn a_read_sees_what_was_completed_on_another_replica() {
    explore(2, || {
        let structure = twins(SMALL);
        structure.add_replica().unwrap();
        let mut here = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let mut there = NodeReplicated::register_shared(&structure, ReplicaId(1)).unwrap();
        let done = Arc::new(crate::sync::AtomicBool::new(false));
        let writer = {
            let done = done.clone();
            thread::spawn(move || {
                there.write(Add(Box::new(1)));
                done.store(true, crate::sync::Ordering::Release);
            })
        };
        let before = done.load(crate::sync::Ordering::Acquire);
        let seen = here.look(|twins| twins.1);
        assert!(!before || seen == 1, "a completed write was not seen");
        writer.join().unwrap();
    });
}

#[test]
fn a_full_log_waits_for_nobody_who_is_absent() {
    explore(2, || {
        let structure = twins(Config { threads: 1, log_entries: 2, ..SMALL });
        structure.add_replica().unwrap();
        let mut here = NodeReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let other = {
            let structure = structure.clone();
            thread::spawn(move || structure.sync(ReplicaId(1)))
        };
        for _ in 0..4 {
            here.write(Add(Box::new(1)));
        }
        assert!(other.join().unwrap());
        assert_eq!(value(&structure, 1), 4);
    });
}

#[test]
fn a_replica_that_is_added_during_writes_misses_none() {
    explore(2, || {
        let structure = twins(Config { threads: 1, ..SMALL });
        let writer = {
            let structure = structure.clone();
            thread::spawn(move || {
                add(&structure, 0, 1);
                add(&structure, 0, 1)
            })
        };
        let added = structure.add_replica().unwrap();
        assert!(value(&structure, added.0) <= 2);
        assert_eq!(writer.join().unwrap(), 2);
        assert_eq!(value(&structure, added.0), 2);
    });
}

#[test]
fn a_replica_that_is_removed_during_writes_is_a_state_in_between() {
    explore(2, || {
        let structure = twins(Config { threads: 1, ..SMALL });
        structure.add_replica().unwrap();
        let writer = {
            let structure = structure.clone();
            thread::spawn(move || {
                add(&structure, 0, 1);
                add(&structure, 0, 1)
            })
        };
        let left = structure.remove_replica(ReplicaId(1)).map_err(|_| ()).unwrap();
        assert!(*left.0 == left.1 && left.1 <= 2);
        assert_eq!(writer.join().unwrap(), 2);
        assert_eq!(value(&structure, 0), 2);
    });
}

/// Two counters, one per log.
struct Pair([loom::sync::atomic::AtomicU64; 2]);

impl Clone for Pair {
    fn clone(&self) -> Self {
        Self([0, 1].map(|i| self.0[i].load(loom::sync::atomic::Ordering::Relaxed).into()))
    }
}

#[derive(Clone, Copy)]
enum Count {
    One(usize),
    Both,
}

impl Routed for Count {
    fn route(&self) -> Route {
        match *self {
            Count::One(log) => Route::One(log),
            Count::Both => Route::All,
        }
    }
}

impl Concurrent for Pair {
    type Entry = Count;

    fn replay(&self, entry: &Count) {
        entry.write(self);
    }
}

impl WriteShared<Pair> for Count {
    type Response = [u64; 2];

    fn write(self, pair: &Pair) -> [u64; 2] {
        use loom::sync::atomic::Ordering::Relaxed;
        // Load and store: operations of one log must exclude each other.
        let bump = |i: usize| pair.0[i].store(pair.0[i].load(Relaxed) + 1, Relaxed);
        match self {
            Count::One(log) => bump(log),
            Count::Both => [0, 1].into_iter().for_each(bump),
        }
        [0, 1].map(|i| pair.0[i].load(Relaxed))
    }

    fn record(&self) -> Count {
        *self
    }
}

#[test]
fn an_operation_on_all_logs_falls_between_the_others_on_every_replica() {
    explore(1, || {
        let pair = Pair([0.into(), 0.into()]);
        let config = Config { replicas: 2, threads: 1, log_entries: 2 };
        let structure = Arc::new(ConcurrentReplicated::with_hooks(config, 2, pair, Yield));
        structure.add_replica().unwrap();
        let mut here = ConcurrentReplicated::register_shared(&structure, ReplicaId(0)).unwrap();
        let mut there = ConcurrentReplicated::register_shared(&structure, ReplicaId(1)).unwrap();
        let other = thread::spawn(move || {
            there.write(Count::Both);
        });
        here.write(Count::One(0));
        other.join().unwrap();
        use loom::sync::atomic::Ordering::Relaxed;
        let seen = here.look(Route::All, |pair| [0, 1].map(|i| pair.0[i].load(Relaxed)));
        assert_eq!(seen, [2, 1]);
    });
}
