//! The log alone: reservation, marks, wrap-around, garbage collection.

use loom::thread;

use crate::log::{Kind, Log};
use crate::sync::Arc;

/// Appends `value`, waiting for room. Returns its position.
fn append(log: &Log<Box<u64>>, value: u64) -> u64 {
    let position = loop {
        match log.reserve(1, 0) {
            Ok(position) => break position,
            Err(_) => thread::yield_now(),
        }
    };
    // SAFETY: reserved just now.
    unsafe { log.fill(position, Kind::One, || Box::new(value)) };
    position
}

/// Reads `count` entries through `cursor`, waiting for each.
fn consume(log: &Log<Box<u64>>, cursor: usize, count: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    for position in log.cursor(cursor)..log.cursor(cursor) + count {
        while log.kind_at(position).is_none() {
            thread::yield_now();
        }
        // SAFETY: published, and the cursor stands at it.
        seen.push(unsafe { log.with_entry(position, |value| **value) });
        log.set_cursor(cursor, position + 1);
    }
    seen
}

fn log(length: usize, cursors: usize) -> Arc<Log<Box<u64>>> {
    let log = Log::new(length, cursors);
    (0..cursors).for_each(|cursor| log.set_cursor(cursor, 0));
    Arc::new(log)
}

#[test]
fn two_writers_get_places_of_their_own_and_a_reader_sees_both() {
    loom::model(|| {
        let log = log(4, 1);
        let writers: Vec<_> = [1, 2]
            .map(|value| {
                let log = log.clone();
                thread::spawn(move || append(&log, value))
            })
            .into();
        let mut seen = consume(&log, 0, 2);
        let mut places: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        seen.sort();
        places.sort();
        assert_eq!(seen, [1, 2]);
        assert_eq!(places, [0, 1]);
    });
}

#[test]
fn a_cell_is_used_again_only_when_its_reader_is_past_it() {
    loom::model(|| {
        let log = log(1, 1);
        let writer = {
            let log = log.clone();
            thread::spawn(move || (1..=3).for_each(|value| _ = append(&log, value)))
        };
        assert_eq!(consume(&log, 0, 3), [1, 2, 3]);
        writer.join().unwrap();
    });
}

#[test]
fn the_slowest_of_two_readers_holds_the_log_and_both_see_the_same() {
    loom::model(|| {
        let log = log(1, 2);
        let reader = {
            let log = log.clone();
            thread::spawn(move || consume(&log, 1, 2))
        };
        for value in [1, 2] {
            append(&log, value);
            assert_eq!(consume(&log, 0, 1), [value]);
        }
        assert_eq!(reader.join().unwrap(), [1, 2]);
    });
}

#[test]
fn a_reader_that_leaves_holds_nobody_up() {
    loom::model(|| {
        let log = log(1, 2);
        let leaver = {
            let log = log.clone();
            thread::spawn(move || log.deactivate(1))
        };
        let writer = {
            let log = log.clone();
            thread::spawn(move || (1..=2).for_each(|value| _ = append(&log, value)))
        };
        assert_eq!(consume(&log, 0, 2), [1, 2]);
        leaver.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_batch_is_one_reservation_and_stays_together() {
    loom::model(|| {
        let log = log(4, 1);
        let other = {
            let log = log.clone();
            thread::spawn(move || append(&log, 9))
        };
        let start = log.reserve(2, 0).unwrap();
        for (offset, value) in [1, 2].into_iter().enumerate() {
            // SAFETY: reserved just now.
            unsafe { log.fill(start + offset as u64, Kind::One, || Box::new(value)) };
        }
        let seen = consume(&log, 0, 3);
        other.join().unwrap();
        assert!(matches!(seen[..], [1, 2, 9] | [9, 1, 2]), "{seen:?}");
    });
}
