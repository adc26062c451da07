//! What users of the library rely on, on real threads.

#[path = "../common/polite.rs"]
mod polite;
mod structures;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nr::{
    AddError, Config, Counters, Entries, Hooks, NodeReplicated, Overrun, RecordError, RegisterError,
    RemoveError, ReplicaId, Replicated, Write,
};
use polite::Polite;
use structures::{ALIVE, Get, Insert, Map, MapEntry, Missing, Remove, SMALL, Token, replicas};

const FIRST: ReplicaId = ReplicaId(0);
const SECOND: ReplicaId = ReplicaId(1);

fn map() -> NodeReplicated<Map, Polite> {
    NodeReplicated::with_hooks(SMALL, Map::default(), Polite)
}

#[test]
fn every_operation_has_its_own_response() {
    let map = map();
    let mut handle = map.register(FIRST).unwrap();
    let key = String::from("borrowed");
    assert_eq!(handle.write(Insert(&key, 1)), None);
    assert_eq!(handle.write(Insert(&key, 2)), Some(1));
    assert_eq!(handle.read(Get(&key)), Some(2));
    assert_eq!(handle.write(Remove(&key)), Ok(2));
    assert_eq!(handle.write(Remove(&key)), Err(Missing));
    assert_eq!(handle.look(|map| map.0.len()), 0);
}

#[test]
fn all_replicas_end_up_equal() {
    let map = map();
    (0..3).for_each(|_| _ = map.add_replica().unwrap());
    std::thread::scope(|scope| {
        for (thread, replica) in replicas(4).chain(replicas(4)).enumerate() {
            let mut handle = map.register(replica).unwrap();
            scope.spawn(move || {
                for i in 0..1000 {
                    let key = format!("{}", (i * 7 + thread) % 40);
                    match i % 3 {
                        0 => _ = handle.write(Remove(&key)),
                        1 => _ = handle.write(Insert(&key, i as u64)),
                        _ => _ = handle.read(Get(&key)),
                    }
                }
            });
        }
    });
    let states: Vec<Map> =
        replicas(4).map(|replica| map.register(replica).unwrap().look(Map::clone)).collect();
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "{states:?}");
}

/// A counter that also says how often each replica was asked to apply something.
#[derive(Clone, Default)]
struct Counter(u64);

struct Add(u64);

impl Replicated for Counter {
    type Entry = Add;

    fn replay(&mut self, entry: &Add) {
        self.0 += entry.0;
    }
}

impl Write<Counter> for Add {
    type Response = u64;

    fn write(self, counter: &mut Counter) -> u64 {
        counter.0 += self.0;
        counter.0
    }

    fn record(&self) -> Add {
        Add(self.0)
    }
}

#[test]
fn no_increment_is_lost_and_no_two_get_the_same_answer() {
    for nodes in [1, 2, 4] {
        let counter = NodeReplicated::with_hooks(SMALL, Counter::default(), Polite);
        (1..nodes).for_each(|_| _ = counter.add_replica().unwrap());
        let mut answers: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let mut handle = counter.register(ReplicaId(thread % nodes)).ok();
                    scope.spawn(move || {
                        let mut answers = Vec::new();
                        if let Some(handle) = &mut handle {
                            answers.extend((0..500).map(|_| handle.write(Add(1))));
                        }
                        answers
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        answers.sort_unstable();
        assert!(answers.len() >= 2000);
        assert!(answers.iter().copied().eq(1..=answers.len() as u64), "with {nodes} replicas");
    }
}

#[test]
fn an_unused_replica_holds_nobody_up_and_its_owner_is_told() {
    #[derive(Default)]
    struct Told(AtomicUsize);
    impl Hooks for &Told {
        fn stalled(&self, replica: ReplicaId, behind: u64) {
            assert_eq!(replica, SECOND);
            assert!(behind > 0);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let told = Told::default();
    let counter = NodeReplicated::with_hooks(SMALL, Counter::default(), &told);
    counter.add_replica().unwrap();
    let mut handle = counter.register(FIRST).unwrap();
    (0..1000).for_each(|_| _ = handle.write(Add(1)));
    assert!(told.0.load(Ordering::Relaxed) > 0);
    assert_eq!(counter.register(SECOND).unwrap().look(|counter| counter.0), 1000);
}

#[test]
fn sync_brings_a_foreign_replica_forward() {
    let counter = NodeReplicated::with_hooks(Config { log_entries: 64, ..SMALL }, Counter::default(), Polite);
    counter.add_replica().unwrap();
    let mut handle = counter.register(FIRST).unwrap();
    (0..10).for_each(|_| _ = handle.write(Add(1)));
    assert_eq!(counter.counters(SECOND).lag, 10);
    assert!(counter.sync(SECOND));
    assert_eq!(counter.counters(SECOND).lag, 0);
    assert!(!counter.sync(ReplicaId(3)));
    assert!(!counter.sync(ReplicaId(99)));
}

#[test]
fn replicas_and_threads_come_and_go_while_others_write() {
    let counter = NodeReplicated::with_hooks(SMALL, Counter::default(), Polite);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut handle = counter.register(FIRST).unwrap();
            scope.spawn(move || (0..5000).for_each(|_| _ = handle.write(Add(1))));
        }
        scope.spawn(|| {
            for _ in 0..200 {
                let added = counter.add_replica().unwrap();
                let mut handle = counter.register(added).unwrap();
                let before = handle.look(|counter| counter.0);
                assert!(handle.write(Add(1)) > before);
                drop(handle);
                counter.remove_replica(added).unwrap();
            }
        });
    });
    assert_eq!(counter.replicas(), 1);
    assert_eq!(counter.register(FIRST).unwrap().look(|counter| counter.0), 10_200);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let counter =
        NodeReplicated::with_hooks(Config { replicas: 2, threads: 1, ..SMALL }, Counter::default(), Polite);
    assert_eq!(counter.remove_replica(FIRST).err(), Some(RemoveError::Last));
    assert_eq!(counter.remove_replica(SECOND).err(), Some(RemoveError::Absent));
    assert_eq!(counter.register(SECOND).err(), Some(RegisterError::Absent));
    assert_eq!(counter.register(ReplicaId(7)).err(), Some(RegisterError::Absent));
    assert_eq!(counter.add_replica(), Ok(SECOND));
    assert_eq!(counter.add_replica(), Err(AddError::Full));
    let handle = counter.register(SECOND).unwrap();
    assert_eq!(counter.register(SECOND).err(), Some(RegisterError::Full));
    assert_eq!(counter.remove_replica(SECOND).err(), Some(RemoveError::InUse));
    drop(handle);
    assert_eq!(counter.remove_replica(SECOND).map(|counter| counter.0).ok(), Some(0));
}

#[test]
fn a_lone_replica_makes_no_entries_and_a_lone_thread_no_batches() {
    /// Panics when it is recorded.
    struct Unrecorded;
    impl Write<Counter> for Unrecorded {
        type Response = u64;
        fn write(self, counter: &mut Counter) -> u64 {
            Add(1).write(counter)
        }
        fn record(&self) -> Add {
            panic!("recorded")
        }
    }
    let counter = NodeReplicated::with_hooks(SMALL, Counter::default(), Polite);
    let mut handle = counter.register(FIRST).unwrap();
    (0..100).for_each(|_| _ = handle.write(Unrecorded));
    handle.look(|_| ());
    let counters = counter.counters(FIRST);
    assert_eq!((counters.direct, counters.batches, counters.position, counters.reads), (100, 0, 0, 1));
    // With a second replica, everything is recorded; without it, nothing again.
    let second = counter.add_replica().unwrap();
    handle.write(Add(1));
    assert_eq!(counter.counters(FIRST).position, 1);
    counter.remove_replica(second).unwrap();
    assert_eq!(handle.write(Unrecorded), 102);
}

/// Keeps every token that it was given.
#[derive(Clone, Default)]
struct Keeper(Vec<Token>);

struct Keep(Token);

impl Replicated for Keeper {
    type Entry = Token;

    fn replay(&mut self, entry: &Token) {
        Keep(entry.clone()).write(self);
    }
}

impl Write<Keeper> for Keep {
    type Response = Token;

    fn write(self, keeper: &mut Keeper) -> Token {
        if *self.0.0 == 13 {
            panic!("thirteen");
        }
        keeper.0.push(self.0.clone());
        keeper.0.truncate(10);
        self.0
    }

    fn record(&self) -> Token {
        self.0.clone()
    }
}

/// Everything that counts tokens, in one test: the count is global.
#[test]
fn operations_entries_and_responses_are_dropped_once() {
    for nodes in [1, 2] {
        let keeper = NodeReplicated::with_hooks(SMALL, Keeper::default(), Polite);
        (1..nodes).for_each(|_| _ = keeper.add_replica().unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let mut handle = keeper.register(ReplicaId(thread % nodes)).unwrap();
                scope.spawn(move || {
                    for i in 0..300 {
                        assert_eq!(*handle.write(Keep(Token::new(100 + i))).0, 100 + i);
                    }
                });
            }
        });
        drop(keeper);
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0, "with {nodes} replicas");
    }
    for nodes in [1, 2] {
        let keeper = NodeReplicated::with_hooks(SMALL, Keeper::default(), Polite);
        (1..nodes).for_each(|_| _ = keeper.add_replica().unwrap());
        // All of them before the first begins: a poisoned replica takes nobody in.
        let handles: Vec<_> =
            (0..4).map(|thread| keeper.register(ReplicaId(thread % nodes)).unwrap()).collect();
        std::thread::scope(|scope| {
            for (thread, mut handle) in handles.into_iter().enumerate() {
                let writes = move || {
                    for i in 0..200 {
                        // One of the threads brings the misfortune, in the middle of the work of the others.
                        let value = if thread == 0 && i == 100 { 13 } else { 20 };
                        handle.write(Keep(Token::new(value)));
                    }
                };
                scope.spawn(move || catch_unwind(AssertUnwindSafe(writes)));
            }
        });
        let after = catch_unwind(AssertUnwindSafe(|| keeper.register(FIRST).map(drop)));
        assert_eq!(after.unwrap(), Err(RegisterError::Absent));
        drop(keeper);
        assert_eq!(ALIVE.load(Ordering::SeqCst), 0, "poisoned, with {nodes} replicas");
    }
}

#[test]
fn a_panic_in_a_dispatch_poisons_its_replica_and_those_that_follow() {
    let counter = NodeReplicated::with_hooks(SMALL, Fragile(0), Polite);
    counter.add_replica().unwrap();
    let mut handle = counter.register(FIRST).unwrap();
    let mut other = counter.register(SECOND).unwrap();
    handle.write(Step(1));
    assert!(catch_unwind(AssertUnwindSafe(|| handle.write(Step(u64::MAX)))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| handle.write(Step(1)))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| handle.look(|_| ()))).is_err());
    // The other replica comes to the same entry, and the same end, and does not hang.
    assert!(catch_unwind(AssertUnwindSafe(|| other.look(|_| ()))).is_err());
    assert_eq!(counter.add_replica(), Err(AddError::Poisoned));
}

struct Fragile(u64);
struct Step(u64);

impl Clone for Fragile {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl Replicated for Fragile {
    type Entry = u64;

    fn replay(&mut self, entry: &u64) {
        Step(*entry).write(self);
    }
}

impl Write<Fragile> for Step {
    type Response = ();

    fn write(self, fragile: &mut Fragile) {
        fragile.0 = fragile.0.checked_add(self.0).expect("too large a step");
    }

    fn record(&self) -> u64 {
        self.0
    }
}

#[test]
fn a_panic_in_a_read_stays_with_its_thread() {
    let map = map();
    let mut handle = map.register(FIRST).unwrap();
    handle.write(Insert("key", 1));
    assert!(catch_unwind(AssertUnwindSafe(|| handle.look(|map| map.0["no such key"]))).is_err());
    assert_eq!(handle.write(Insert("key", 2)), Some(1));
}

#[test]
fn a_panic_while_recording_leaves_no_gap_for_the_other_replicas() {
    struct Unrecordable;
    impl Write<Counter> for Unrecordable {
        type Response = ();
        fn write(self, _: &mut Counter) {}
        fn record(&self) -> Add {
            panic!("not recordable")
        }
    }
    let counter = NodeReplicated::with_hooks(SMALL, Counter::default(), Polite);
    counter.add_replica().unwrap();
    let mut here = counter.register(FIRST).unwrap();
    let mut there = counter.register(SECOND).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| here.write(Unrecordable))).is_err());
    for expected in 1..=100 {
        assert_eq!(there.write(Add(1)), expected);
    }
    assert_eq!(there.look(|counter| counter.0), 100);
}

#[test]
fn a_hook_that_panics_neither_hangs_the_others_nor_frees_an_operation_in_use() {
    thread_local!(static ANGRY: Cell<bool> = const { Cell::new(false) });
    struct Moody;
    impl Hooks for Moody {
        fn relax(&self, _: u32) {
            std::thread::yield_now();
            if ANGRY.replace(false) {
                panic!("interrupted");
            }
        }
    }
    let counter = NodeReplicated::with_hooks(SMALL, Counter::default(), Moody);
    let applied = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut handle = counter.register(FIRST).unwrap();
            let applied = &applied;
            scope.spawn(move || {
                for i in 0..2000 {
                    ANGRY.set(i % 50 == 0);
                    let done = catch_unwind(AssertUnwindSafe(|| handle.write(Add(1))));
                    applied.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
                }
            });
        }
    });
    // Whoever was interrupted does not know whether the write was done; who was answered does.
    let total = counter.register(FIRST).map(|mut handle| handle.look(|counter| counter.0));
    assert!(total.is_err() || total.unwrap() >= applied.load(Ordering::Relaxed));
}

#[test]
fn a_recording_replays_to_the_same_state() {
    let map = map();
    let mut handle = map.register(FIRST).unwrap();
    handle.write(Insert("before", 1));
    let (mut recorder, mut copy) = map.record(Map::clone).unwrap();
    assert!(matches!(map.record(|_| ()), Err(RecordError::Busy)));
    handle.write(Insert("after", 2));
    assert_eq!(handle.write(Remove("before")), Ok(1));
    let entries = recorder.take().unwrap();
    assert_eq!(*entries, [MapEntry::Insert("after".into(), 2), MapEntry::Remove("before".into())]);
    entries.replay(&mut copy);
    assert_eq!(copy, handle.look(Map::clone));
    assert_eq!(recorder.take().unwrap().len(), 0);
    drop(recorder);
    assert!(map.record(|_| ()).is_ok());
}

#[test]
fn a_recording_is_exported_and_replayed_elsewhere() {
    let map = map();
    let mut handle = map.register(FIRST).unwrap();
    let (mut recorder, mut copy) = map.record(Map::clone).unwrap();
    handle.write(Insert("key", 1));
    assert_eq!(handle.write(Remove("other")), Err(Missing));
    let text = serde_json::to_string(&recorder.take().unwrap()).unwrap();
    let entries: Entries<MapEntry> = serde_json::from_str(&text).unwrap();
    assert_eq!(entries.len(), 2);
    entries.replay(&mut copy);
    assert_eq!(copy, handle.look(Map::clone));
    let counters = map.counters(FIRST);
    let text = serde_json::to_string(&counters).unwrap();
    assert_eq!(serde_json::from_str::<Counters>(&text).unwrap(), counters);
}

#[test]
fn a_recorder_that_is_not_drained_is_cut_off() {
    let counter = NodeReplicated::with_hooks(SMALL, Counter::default(), Polite);
    let mut handle = counter.register(FIRST).unwrap();
    let (mut recorder, start) = counter.record(|counter| counter.0).unwrap();
    (0..100).for_each(|_| _ = handle.write(Add(1)));
    assert_eq!(start, 0);
    assert_eq!(recorder.for_each(|_| ()), Err(Overrun));
}

#[test]
fn a_shared_handle_keeps_the_structure_alive() {
    let counter = Arc::new(NodeReplicated::with_hooks(SMALL, Counter::default(), Polite));
    let mut handle = NodeReplicated::register_shared(&counter, FIRST).unwrap();
    drop(counter);
    let thread = std::thread::spawn(move || handle.write(Add(5)));
    assert_eq!(thread.join().unwrap(), 5);
}

#[test]
fn batches_are_counted_by_size() {
    let counter = NodeReplicated::with_hooks(SMALL, Counter::default(), Polite);
    counter.add_replica().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut handle = counter.register(FIRST).unwrap();
            scope.spawn(move || (0..1000).for_each(|_| _ = handle.write(Add(1))));
        }
    });
    let counters = counter.counters(FIRST);
    assert_eq!(counters.combined, 4000);
    assert_eq!(counters.position, 4000);
    assert_eq!(counters.batch_sizes.iter().sum::<u64>(), counters.batches);
    assert!(counters.batches >= 1000, "a batch takes at most one write per thread: {counters:?}");
}
