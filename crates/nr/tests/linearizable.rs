//! Random histories are linearizable: there is an order of all operations, in keeping with which of them ended before
//! which began, in which the sequential structure gives the same answers. The search is Wing and Gong's (1993), with
//! the memory of states that Lowe (2017) added.

#[path = "common/polite.rs"]
mod polite;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Barrier;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nr::{
    Concurrent, ConcurrentReplicated, Config, NodeReplicated, Read, ReplicaId, Replicated, Route, Routed,
    Write, WriteShared,
};
use polite::Polite;
use proptest::prelude::*;

/// A sequential structure with its operations.
trait Model: Clone + Default + Eq + Hash + Debug + Send + Sync + 'static {
    type Op: Clone + Debug + Send + Sync;
    type Answer: Clone + Debug + PartialEq + Send;

    fn changes(op: &Self::Op) -> bool;
    /// Looks, for an operation that does not change.
    fn look(&self, op: &Self::Op) -> Self::Answer;
    fn change(&mut self, op: &Self::Op) -> Self::Answer;

    fn step(&mut self, op: &Self::Op) -> Self::Answer {
        if Self::changes(op) { self.change(op) } else { self.look(op) }
    }
}

#[derive(Clone, Debug)]
struct Event<M: Model> {
    op: M::Op,
    answer: M::Answer,
    began: u64,
    ended: u64,
}

/// Whether the events can be put in an order that explains them.
fn linearizable<M: Model>(events: &[Event<M>]) -> bool {
    fn search<M: Model>(events: &[Event<M>], done: u64, state: &M, seen: &mut HashSet<(u64, M)>) -> bool {
        let open = || (0..events.len()).filter(|&i| done & (1 << i) == 0);
        let Some(first_end) = open().map(|i| events[i].ended).min() else { return true };
        // Whatever began before anything open ended may be next.
        open().filter(|&i| events[i].began < first_end).any(|i| {
            let mut next = state.clone();
            next.step(&events[i].op) == events[i].answer
                && seen.insert((done | 1 << i, next.clone()))
                && search(events, done | 1 << i, &next, seen)
        })
    }
    assert!(events.len() <= 64);
    search(events, 0, &M::default(), &mut HashSet::new())
}

/// Runs each list of operations on a thread of its own, through what `connect` makes for it.
fn history<M: Model, C: FnMut(&M::Op) -> M::Answer + Send>(
    work: &[Vec<M::Op>],
    connect: impl Fn(usize) -> C,
) -> Vec<Event<M>> {
    let clock = AtomicU64::new(0);
    let start = Barrier::new(work.len());
    let events = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (thread, ops) in work.iter().enumerate() {
            let mut call = connect(thread);
            let (clock, start, events) = (&clock, &start, &events);
            scope.spawn(move || {
                let mut mine = Vec::new();
                start.wait();
                for op in ops {
                    let began = clock.fetch_add(1, Ordering::SeqCst);
                    let answer = call(op);
                    let ended = clock.fetch_add(1, Ordering::SeqCst);
                    mine.push(Event { op: op.clone(), answer, began, ended });
                }
                events.lock().unwrap().extend(mine);
            });
        }
    });
    events.into_inner().unwrap()
}

/// A model as a replicated structure.
#[derive(Clone, Debug, Default)]
struct Subject<M>(M);

struct Change<'a, M: Model>(&'a M::Op);
struct Look<'a, M: Model>(&'a M::Op);

impl<M: Model> Replicated for Subject<M> {
    type Entry = M::Op;

    fn replay(&mut self, op: &M::Op) {
        self.0.change(op);
    }
}

impl<M: Model> Write<Subject<M>> for Change<'_, M> {
    type Response = M::Answer;

    fn write(self, subject: &mut Subject<M>) -> M::Answer {
        subject.0.change(self.0)
    }

    fn record(&self) -> M::Op {
        self.0.clone()
    }
}

impl<M: Model> Read<Subject<M>> for Look<'_, M> {
    type Response = M::Answer;

    fn read(self, subject: &Subject<M>) -> M::Answer {
        subject.0.look(self.0)
    }
}

fn check<M: Model>(work: &[Vec<M::Op>], nodes: usize, entries: usize) -> Result<(), TestCaseError> {
    let config = Config { replicas: nodes, threads: 4, log_entries: entries };
    for _ in 0..8 {
        let subject = NodeReplicated::with_hooks(config, Subject::<M>::default(), Polite);
        (1..nodes).for_each(|_| _ = subject.add_replica().unwrap());
        let events = history::<M, _>(work, |thread| {
            let mut handle = subject.register(ReplicaId(thread % nodes)).unwrap();
            move |op: &M::Op| {
                if M::changes(op) { handle.write(Change::<M>(op)) } else { handle.read(Look::<M>(op)) }
            }
        });
        prop_assert!(linearizable(&events), "{events:?}");
    }
    Ok(())
}

/// Two to four threads with up to `most` operations each.
fn work<O: Debug>(op: impl Strategy<Value = O>, most: usize) -> impl Strategy<Value = Vec<Vec<O>>> {
    prop::collection::vec(prop::collection::vec(op, 1..=most), 2..=4)
}

// ---- the structures

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct MapModel(BTreeMap<u8, u8>);

#[derive(Clone, Debug)]
enum MapOp {
    Put(u8, u8),
    Delete(u8),
    Get(u8),
    Len,
}

impl Model for MapModel {
    type Op = MapOp;
    type Answer = Option<usize>;

    fn changes(op: &MapOp) -> bool {
        matches!(op, MapOp::Put(..) | MapOp::Delete(_))
    }

    fn look(&self, op: &MapOp) -> Option<usize> {
        match op {
            MapOp::Get(key) => self.0.get(key).map(|&value| value.into()),
            _ => Some(self.0.len()),
        }
    }

    fn change(&mut self, op: &MapOp) -> Option<usize> {
        match *op {
            MapOp::Put(key, value) => self.0.insert(key, value).map(usize::from),
            MapOp::Delete(key) => self.0.remove(&key).map(usize::from),
            _ => None,
        }
    }
}

fn map_op() -> impl Strategy<Value = MapOp> {
    prop_oneof![
        (0..3u8, any::<u8>()).prop_map(|(key, value)| MapOp::Put(key, value)),
        (0..3u8).prop_map(MapOp::Delete),
        (0..3u8).prop_map(MapOp::Get),
        Just(MapOp::Len),
    ]
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct QueueModel(VecDeque<u8>);

#[derive(Clone, Debug)]
enum QueueOp {
    Push(u8),
    Pop,
    Front,
}

impl Model for QueueModel {
    type Op = QueueOp;
    type Answer = Option<u8>;

    fn changes(op: &QueueOp) -> bool {
        !matches!(op, QueueOp::Front)
    }

    fn look(&self, _: &QueueOp) -> Option<u8> {
        self.0.front().copied()
    }

    fn change(&mut self, op: &QueueOp) -> Option<u8> {
        match op {
            QueueOp::Push(value) => {
                self.0.push_back(*value);
                None
            }
            _ => self.0.pop_front(),
        }
    }
}

fn queue_op() -> impl Strategy<Value = QueueOp> {
    prop_oneof![any::<u8>().prop_map(QueueOp::Push), Just(QueueOp::Pop), Just(QueueOp::Front)]
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct CounterModel(u64);

impl Model for CounterModel {
    /// Adds; zero looks.
    type Op = u64;
    type Answer = u64;

    fn changes(op: &u64) -> bool {
        *op != 0
    }

    fn look(&self, _: &u64) -> u64 {
        self.0
    }

    fn change(&mut self, op: &u64) -> u64 {
        self.0 += op;
        self.0
    }
}

/// An account with room for ten, which refuses what does not fit or is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct AccountModel(i8);

impl Model for AccountModel {
    /// Changes by so much; zero looks.
    type Op = i8;
    type Answer = Result<i8, i8>;

    fn changes(op: &i8) -> bool {
        *op != 0
    }

    fn look(&self, _: &i8) -> Result<i8, i8> {
        Ok(self.0)
    }

    fn change(&mut self, op: &i8) -> Result<i8, i8> {
        let after = self.0 + op;
        if !(0..=10).contains(&after) {
            return Err(self.0);
        }
        self.0 = after;
        Ok(after)
    }
}

// ---- a concurrent structure: an array of counters, with an operation on all of them

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct ArrayModel([u64; 4]);

#[derive(Clone, Debug)]
enum ArrayOp {
    Add(usize, u64),
    Get(usize),
    /// Sets all to the sum of all.
    Level,
    All,
}

impl Model for ArrayModel {
    type Op = ArrayOp;
    type Answer = Vec<u64>;

    fn changes(op: &ArrayOp) -> bool {
        matches!(op, ArrayOp::Add(..) | ArrayOp::Level)
    }

    fn look(&self, op: &ArrayOp) -> Vec<u64> {
        match op {
            ArrayOp::Get(i) => vec![self.0[*i]],
            _ => self.0.to_vec(),
        }
    }

    fn change(&mut self, op: &ArrayOp) -> Vec<u64> {
        match *op {
            ArrayOp::Add(i, amount) => {
                self.0[i] += amount;
                vec![self.0[i]]
            }
            _ => {
                self.0 = [self.0.iter().sum::<u64>() % 1000; 4];
                self.0.to_vec()
            }
        }
    }
}

#[derive(Default)]
struct Array([AtomicU64; 4]);

impl Array {
    fn get(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|i| self.0[i].load(Ordering::Relaxed))
    }

    /// Load and store apart: operations on one counter must exclude each other.
    fn change(&self, op: &ArrayOp) -> Vec<u64> {
        let before = self.get();
        let mut model = ArrayModel(before);
        let answer = model.change(op);
        for (i, counter) in self.0.iter().enumerate().filter(|&(i, _)| model.0[i] != before[i]) {
            counter.store(model.0[i], Ordering::Relaxed);
        }
        answer
    }
}

impl Clone for Array {
    fn clone(&self) -> Self {
        Self(self.get().map(AtomicU64::new))
    }
}

impl Concurrent for Array {
    type Entry = ArrayOp;

    fn replay(&self, op: &ArrayOp) {
        self.change(op);
    }
}

impl Routed for ArrayOp {
    fn route(&self) -> Route {
        match *self {
            ArrayOp::Add(i, _) | ArrayOp::Get(i) => Route::One(i),
            ArrayOp::Level | ArrayOp::All => Route::All,
        }
    }
}

impl WriteShared<Array> for ArrayOp {
    type Response = Vec<u64>;

    fn write(self, array: &Array) -> Vec<u64> {
        array.change(&self)
    }

    fn record(&self) -> ArrayOp {
        self.clone()
    }
}

impl Read<Array> for ArrayOp {
    type Response = Vec<u64>;

    fn read(self, array: &Array) -> Vec<u64> {
        ArrayModel(array.get()).look(&self)
    }
}

fn array_op() -> impl Strategy<Value = ArrayOp> {
    prop_oneof![
        4 => (0..4usize, 1..9u64).prop_map(|(i, amount)| ArrayOp::Add(i, amount)),
        2 => (0..4usize).prop_map(ArrayOp::Get),
        1 => Just(ArrayOp::Level),
        2 => Just(ArrayOp::All),
    ]
}

fn check_array(work: &[Vec<ArrayOp>], nodes: usize, logs: usize) -> Result<(), TestCaseError> {
    let config = Config { replicas: nodes, threads: 4, log_entries: 8 };
    for _ in 0..8 {
        let array = ConcurrentReplicated::with_hooks(config, logs, Array::default(), Polite);
        (1..nodes).for_each(|_| _ = array.add_replica().unwrap());
        let events = history::<ArrayModel, _>(work, |thread| {
            let mut handle = array.register(ReplicaId(thread % nodes)).unwrap();
            move |op: &ArrayOp| {
                if ArrayModel::changes(op) { handle.write(op.clone()) } else { handle.read(op.clone()) }
            }
        });
        prop_assert!(linearizable(&events), "{events:?}");
        let mut states =
            (0..nodes).map(|node| array.register(ReplicaId(node)).unwrap().look(Route::All, Array::get));
        let first = states.next();
        prop_assert!(states.all(|state| Some(state) == first));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_map(work in work(map_op(), 10), nodes in 1..4usize) {
        check::<MapModel>(&work, nodes, 8)?;
    }

    #[test]
    fn a_queue(work in work(queue_op(), 8), nodes in 1..4usize) {
        check::<QueueModel>(&work, nodes, 8)?;
    }

    #[test]
    fn a_counter(work in work(0..3u64, 12), nodes in 1..4usize) {
        check::<CounterModel>(&work, nodes, 8)?;
    }

    #[test]
    fn a_structure_whose_operations_fail(work in work(-6..7i8, 10), nodes in 1..4usize) {
        check::<AccountModel>(&work, nodes, 8)?;
    }

    #[test]
    fn a_concurrent_structure(work in work(array_op(), 8), nodes in 1..4usize, logs in 1..5usize) {
        check_array(&work, nodes, logs)?;
    }
}

#[test]
fn the_checker_tells_a_stale_read() {
    let event = |op, answer, began, ended| Event::<CounterModel> { op, answer, began, ended };
    assert!(linearizable(&[event(1, 1, 0, 3), event(0, 0, 1, 2)]));
    assert!(!linearizable(&[event(1, 1, 0, 1), event(0, 0, 2, 3)]));
}
