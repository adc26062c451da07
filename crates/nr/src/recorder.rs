//! The log as data: what was written since some point in time, to look at, to keep, and to replay elsewhere.
//!
//! A [`Recorder`] has a cursor of its own on every log, as a replica has, and hands on what it finds instead of applying
//! it. While there is one, writes go through the log also when there is one replica only. It must be drained
//! from time to time: when it holds up a full log it is cut off, for a log that is only listened to may stop nobody.
//!
//! Neighbours: [`crate::group`] knows one recorder at a time; [`crate::node`] and [`crate::concurrent`] hand it out.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use crate::command::Structure;
use crate::group::Group;
use crate::hooks::Hooks;
use crate::log::{Full, Kind};
use crate::structure::{Concurrent, Replicated};

/// Why no recorder was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// There is one already.
    Busy,
    /// A dispatch panicked on every replica.
    Poisoned,
}

/// The recorder was not drained for so long that it held up the log, and was cut off: entries are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "there is a recorder already",
            Self::Poisoned => "every replica is poisoned",
        })
    }
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the recorder was cut off because it held up the log")
    }
}

impl core::error::Error for RecordError {}
impl core::error::Error for Overrun {}

/// Whether somebody records. Guarded by a lock that a recorder also holds while it drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recording {
    Off,
    On,
    CutOff,
}

impl<S: Structure, H: Hooks> Group<S, H> {
    fn recorder_cursor(&self) -> usize {
        self.replicas.len()
    }

    /// Starts to record at the state that `look` is shown.
    pub(crate) fn start_recording<T>(&self, look: impl FnOnce(&S::Data) -> T) -> Result<T, RecordError> {
        let _admin = self.admin.lock(&self.hooks);
        let mut recording = self.recording.lock(&self.hooks);
        if recording.with(|state| *state != Recording::Off) {
            return Err(RecordError::Busy);
        }
        let (source, locked) = self.lock_some_replica().ok_or(RecordError::Poisoned)?;
        // SAFETY: all lanes are locked, so nobody writes.
        let seen = unsafe { self.replicas[source].look(look) };
        for log in &self.logs {
            log.set_cursor(self.recorder_cursor(), log.cursor(source));
        }
        locked.set_logged(true);
        recording.with(|state| *state = Recording::On);
        Ok(seen)
    }

    /// Ends recording.
    pub(crate) fn stop_recording(&self) {
        let _admin = self.admin.lock(&self.hooks);
        self.recording.lock(&self.hooks).with(|state| {
            *state = Recording::Off;
            self.deactivate_recorder();
        });
        self.relax_logging();
    }

    fn deactivate_recorder(&self) {
        for log in &self.logs {
            log.deactivate(self.recorder_cursor());
        }
    }

    /// Takes the recorder's cursors away if it still stands where it made the log full.
    pub(crate) fn cut_off_recorder(&self, lane: usize, full: Full) {
        self.recording.lock(&self.hooks).with(|state| {
            if self.logs[lane].cursor(full.cursor) == full.position {
                self.deactivate_recorder();
                *state = Recording::CutOff;
            }
        });
    }

    /// Shows `sink` what was published since the last time, in an order in which it can be replayed.
    pub(crate) fn drain_recorder(&self, mut sink: impl FnMut(&S::Entry)) -> Result<usize, Overrun> {
        let mut recording = self.recording.lock(&self.hooks);
        if recording.with(|state| *state != Recording::On) {
            return Err(Overrun);
        }
        let mut seen = 0;
        loop {
            let mut stopped = 0;
            for lane in 0..self.logs.len() {
                stopped += usize::from(self.drain_recorded_lane(lane, &mut seen, &mut sink));
            }
            if stopped < self.logs.len() {
                return Ok(seen);
            }
            self.show(0, self.logs[0].cursor(self.recorder_cursor()), &mut seen, &mut sink);
            for log in &self.logs {
                log.set_cursor(self.recorder_cursor(), log.cursor(self.recorder_cursor()) + 1);
            }
        }
    }

    /// Goes on in one log, to its end as of now or to a barrier; returns true if that is what stopped it.
    fn drain_recorded_lane(&self, lane: usize, seen: &mut usize, sink: &mut impl FnMut(&S::Entry)) -> bool {
        let log = &self.logs[lane];
        let end = log.tail();
        let mut position = log.cursor(self.recorder_cursor());
        while position < end {
            match log.kind_at(position) {
                None => break,
                Some(Kind::All | Kind::Barrier) => return true,
                Some(Kind::Void) => {}
                Some(Kind::One) => self.show(lane, position, seen, sink),
            }
            position += 1;
            log.set_cursor(self.recorder_cursor(), position);
        }
        false
    }

    fn show(&self, lane: usize, position: u64, seen: &mut usize, sink: &mut impl FnMut(&S::Entry)) {
        // SAFETY: the entry is published, and the recorder's cursor, held by its lock, is not past it.
        unsafe { self.logs[lane].with_entry(position, sink) };
        *seen += 1;
    }
}

/// Owned entries of a log, in an order in which they can be replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Entries<E>(pub Vec<E>);

impl<E> Entries<E> {
    /// Applies the entries to a structure that is equal to what was recorded from.
    pub fn replay<D: Replicated<Entry = E>>(&self, data: &mut D) {
        self.iter().for_each(|entry| data.replay(entry));
    }

    /// Applies the entries to a concurrent structure that is equal to what was recorded from.
    pub fn replay_shared<D: Concurrent<Entry = E>>(&self, data: &D) {
        self.iter().for_each(|entry| data.replay(entry));
    }
}

impl<E> Deref for Entries<E> {
    type Target = [E];

    fn deref(&self) -> &[E] {
        &self.0
    }
}

/// Something that can be recorded from: a replicated structure.
pub(crate) trait Source {
    type Entry;

    fn drain(&self, sink: &mut dyn FnMut(&Self::Entry)) -> Result<usize, Overrun>;
    fn stop(&self);
}

/// Listens to the log of a replicated structure `N`. Dropping it ends the recording.
///
/// Got from [`NodeReplicated::record`](crate::NodeReplicated::record) or
/// [`ConcurrentReplicated::record`](crate::ConcurrentReplicated::record).
#[must_use]
pub struct Recorder<'a, E> {
    source: &'a (dyn Source<Entry = E> + Sync),
}

impl<'a, E> Recorder<'a, E> {
    pub(crate) fn new(source: &'a (dyn Source<Entry = E> + Sync)) -> Self {
        Self { source }
    }

    /// Shows `sink` every entry that was published since the last time, and returns how many there were.
    ///
    /// Writes that are going on are shown the next time. Allocates nothing. A writer that finds the log full waits
    /// until this returns, so `sink` should be quick, and must not use the structure.
    ///
    /// # Errors
    /// [`Overrun`] once the recorder has been cut off.
    pub fn for_each(&mut self, mut sink: impl FnMut(&E)) -> Result<usize, Overrun> {
        self.source.drain(&mut sink)
    }

    /// Copies every entry that was published since the last time.
    ///
    /// # Errors
    /// As [`for_each`](Self::for_each).
    pub fn take(&mut self) -> Result<Entries<E>, Overrun>
    where
        E: Clone,
    {
        let mut entries = Vec::new();
        self.for_each(|entry| entries.push(entry.clone()))?;
        Ok(Entries(entries))
    }
}

impl<E> Drop for Recorder<'_, E> {
    fn drop(&mut self) {
        self.source.stop();
    }
}
