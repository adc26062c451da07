//! The programs.

use std::sync::Arc;

use shuttle::thread;

use crate::hooks::Hooks;
use crate::{
    Concurrent, ConcurrentReplicated, Config, NodeReplicated, ReplicaId, Replicated, Route, Routed, Write,
    WriteShared,
};

struct Yield;

impl Hooks for Yield {
    fn relax(&self, _round: u32) {
        thread::yield_now();
    }
}

/// What was appended, in order. Dispatch gives way, so that others run in its middle.
#[derive(Clone, Debug, Default, PartialEq)]
struct Journal(Vec<u32>);

struct Append(u32);

impl Replicated for Journal {
    type Entry = u32;

    fn replay(&mut self, entry: &u32) {
        Append(*entry).write(self);
    }
}

impl Write<Journal> for Append {
    type Response = usize;

    fn write(self, journal: &mut Journal) -> usize {
        journal.0.push(self.0);
        thread::yield_now();
        journal.0.len() - 1
    }

    fn record(&self) -> u32 {
        self.0
    }
}

/// Runs a program under schedules with few but well placed switches.
fn placed(schedules: usize, program: impl Fn() + Send + Sync + 'static) {
    shuttle::check_pct(program, schedules, 3);
}

/// Runs a program under schedules that switch anywhere.
fn random(schedules: usize, program: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(program, schedules);
}

/// Each thread writes and reads; afterwards all answers must fit the one journal that all replicas have.
fn journal(nodes: usize, threads: u32, writes: u32, entries: usize) {
    let config = Config { replicas: nodes, threads: 3, log_entries: entries };
    let structure = Arc::new(NodeReplicated::with_hooks(config, Journal::default(), Yield));
    (1..nodes).for_each(|_| _ = structure.add_replica().unwrap());
    let running: Vec<_> = (0..threads)
        .map(|thread| {
            let structure = structure.clone();
            thread::spawn(move || {
                let mut handle = structure.register(ReplicaId(thread as usize % nodes)).unwrap();
                let mut places = Vec::new();
                for i in 0..writes {
                    let place = handle.write(Append(100 * thread + i));
                    assert!(handle.look(|journal| journal.0.len()) > place);
                    places.push((100 * thread + i, place));
                }
                places
            })
        })
        .collect();
    let places: Vec<_> = running.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    for node in 0..nodes {
        let state = structure.register(ReplicaId(node)).unwrap().look(Journal::clone);
        assert_eq!(state.0.len(), (threads * writes) as usize);
        assert!(places.iter().all(|&(value, place)| state.0[place] == value), "{places:?} {state:?}");
    }
}

#[test]
fn one_replica() {
    random(2000, || journal(1, 3, 4, 8));
}

#[test]
fn one_replica_with_placed_switches() {
    placed(500, || journal(1, 3, 4, 8));
}

#[test]
fn two_replicas_and_a_log_that_wraps() {
    random(2000, || journal(2, 4, 5, 2));
}

#[test]
fn three_replicas() {
    random(1000, || journal(3, 6, 3, 2));
}

#[test]
fn replicas_come_and_go_among_writers() {
    random(1000, || {
        let config = Config { replicas: 3, threads: 2, log_entries: 4 };
        let structure = Arc::new(NodeReplicated::with_hooks(config, Journal::default(), Yield));
        let writers: Vec<_> = (0..2)
            .map(|thread| {
                let structure = structure.clone();
                thread::spawn(move || {
                    let mut handle = structure.register(ReplicaId(0)).unwrap();
                    (0..5).for_each(|i| _ = handle.write(Append(10 * thread + i)));
                })
            })
            .collect();
        let guests: Vec<_> = (0..2)
            .map(|guest| {
                let structure = structure.clone();
                thread::spawn(move || {
                    let replica = structure.add_replica().unwrap();
                    let mut handle = structure.register(replica).unwrap();
                    let place = handle.write(Append(100 + guest));
                    assert_eq!(handle.look(|journal| journal.0[place]), 100 + guest);
                    drop(handle);
                    structure.remove_replica(replica).unwrap()
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let left: Vec<Journal> = guests.into_iter().map(|guest| guest.join().unwrap()).collect();
        let state = structure.register(ReplicaId(0)).unwrap().look(Journal::clone);
        assert_eq!(state.0.len(), 12);
        assert!(left.iter().all(|journal| state.0.starts_with(&journal.0)));
    });
}

#[test]
fn a_recorder_sees_every_write_in_order() {
    random(1000, || {
        let config = Config { replicas: 2, threads: 2, log_entries: 16 };
        let structure = Arc::new(NodeReplicated::with_hooks(config, Journal::default(), Yield));
        let writer = {
            let structure = structure.clone();
            thread::spawn(move || {
                let mut handle = structure.register(ReplicaId(0)).unwrap();
                (0..6).for_each(|i| _ = handle.write(Append(i)));
            })
        };
        let (mut recorder, mut copy) = structure.record(Journal::clone).unwrap();
        while copy.0.len() < 6 {
            recorder.take().unwrap().replay(&mut copy);
            thread::yield_now();
        }
        writer.join().unwrap();
        assert_eq!(copy.0, [0, 1, 2, 3, 4, 5]);
    });
}

// ---- several logs

/// A journal per log; an operation on all of them notes their lengths.
#[derive(Default)]
struct Journals([shuttle::sync::Mutex<Vec<u32>>; 2]);

impl Clone for Journals {
    fn clone(&self) -> Self {
        Self([0, 1].map(|i| shuttle::sync::Mutex::new(self.0[i].lock().unwrap().clone())))
    }
}

#[derive(Clone, Copy)]
enum Note {
    One(usize, u32),
    Lengths,
}

impl Routed for Note {
    fn route(&self) -> Route {
        match *self {
            Note::One(log, _) => Route::One(log),
            Note::Lengths => Route::All,
        }
    }
}

impl Concurrent for Journals {
    type Entry = Note;

    fn replay(&self, entry: &Note) {
        entry.write(self);
    }
}

impl WriteShared<Journals> for Note {
    type Response = ();

    fn write(self, journals: &Journals) {
        match self {
            Note::One(log, value) => journals.0[log].lock().unwrap().push(value),
            Note::Lengths => {
                let lengths = [0, 1].map(|i| journals.0[i].lock().unwrap().len() as u32);
                journals.0.iter().for_each(|journal| journal.lock().unwrap().extend(lengths));
            }
        }
    }

    fn record(&self) -> Note {
        *self
    }
}

#[test]
fn operations_on_all_logs_among_operations_on_one() {
    random(1500, || {
        let config = Config { replicas: 2, threads: 2, log_entries: 4 };
        let structure = Arc::new(ConcurrentReplicated::with_hooks(config, 2, Journals::default(), Yield));
        structure.add_replica().unwrap();
        let threads: Vec<_> = (0..3usize)
            .map(|thread| {
                let structure = structure.clone();
                thread::spawn(move || {
                    let mut handle = structure.register(ReplicaId(thread % 2)).unwrap();
                    for i in 0..3 {
                        handle.write(Note::One(thread % 2, i));
                        if thread > 0 {
                            handle.write(Note::Lengths);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let state = |node| {
            let mut handle = structure.register(ReplicaId(node)).unwrap();
            handle
                .look(Route::All, |journals: &Journals| [0, 1].map(|i| journals.0[i].lock().unwrap().clone()))
        };
        assert_eq!(state(0), state(1));
        assert_eq!(state(0).map(|journal| journal.len()).iter().sum::<usize>(), 9 + 6 * 4);
    });
}
