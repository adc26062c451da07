//! [`ConcurrentReplicated`]: a structure that is concurrent inside itself, replicated, with several logs (CNR).
//!
//! Neighbours: [`crate::node`] is the same for sequential structures, and [`crate::face`] what the two have in common; [`crate::all`] runs
//! what goes to all logs.

use crate::ReplicaId;
use crate::command::{Beside, Striped};
use crate::counters::Counters;
use crate::error::{AddError, RegisterError, RemoveError};
use crate::face::face;
use crate::group::{At, Config, Group};
use crate::hooks::{Hooks, Spin};
use crate::owner::Owner;
use crate::recorder::{Overrun, RecordError, Recorder, Source};
use crate::structure::{Concurrent, Read, Route, Routed, WriteShared};
use crate::sync::Arc;

/// A concurrent structure, replicated through several logs.
///
/// Operations say by [`Routed`] to which log they go. Threads use it through a [`ConcurrentHandle`].
pub struct ConcurrentReplicated<D: Concurrent, H: Hooks = Spin> {
    group: Group<Striped<D>, H>,
}

impl<D: Concurrent> ConcurrentReplicated<D> {
    /// Makes `data` the first replica, [`ReplicaId`]`(0)`, with `logs` logs (at least one).
    pub fn new(config: Config, logs: usize, data: D) -> Self {
        Self::with_hooks(config, logs, data, Spin)
    }
}

impl<D: Concurrent, H: Hooks> ConcurrentReplicated<D, H> {
    /// As [`new`](ConcurrentReplicated::new), with the owner's way to wait.
    pub fn with_hooks(config: Config, logs: usize, data: D, hooks: H) -> Self {
        Self { group: Group::new(config, logs, data, hooks) }
    }

    /// How many logs there are.
    pub fn logs(&self) -> usize {
        self.group.logs.len()
    }
}

face!(ConcurrentReplicated, ConcurrentHandle, Concurrent);

/// A thread's access to a [`ConcurrentReplicated`] structure: its slots at one replica.
///
/// Dropping it gives them back.
///
/// # Panics
/// Operations panic when the replica is poisoned, that is after a dispatch on it has panicked.
#[must_use]
pub struct ConcurrentHandle<'a, D: Concurrent, H: Hooks = Spin> {
    structure: Owner<'a, ConcurrentReplicated<D, H>>,
    replica: usize,
    seat: usize,
}

impl<'a, D: Concurrent, H: Hooks> ConcurrentHandle<'a, D, H> {
    fn enter(
        structure: Owner<'a, ConcurrentReplicated<D, H>>,
        replica: ReplicaId,
    ) -> Result<Self, RegisterError> {
        let seat = structure.group.register(replica)?;
        Ok(Self { structure, replica: replica.0, seat })
    }

    /// The replica that this handle uses.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId(self.replica)
    }

    /// Looks at the structure, after everything in the operation's log (or in all of them) that was completed before.
    ///
    /// Writes to the same log are kept out meanwhile, those to other logs are not. Allocates nothing.
    #[inline]
    pub fn read<R: Read<D> + Routed>(&mut self, op: R) -> R::Response {
        self.look(op.route(), |data| op.read(data))
    }

    /// [`read`](Self::read) with a closure.
    #[inline]
    pub fn look<R>(&mut self, route: Route, look: impl FnOnce(&D) -> R) -> R {
        let group = &self.structure.group;
        match route {
            Route::One(log) => group.port(self.at(log), self.seat).read(look),
            Route::All => group.read_all(self.replica, self.seat, look),
        }
    }

    /// Changes the structure; when this returns, every later read on any replica sees it.
    ///
    /// `op` may be run by another thread of the same replica. Allocates nothing by itself.
    #[inline]
    pub fn write<W: WriteShared<D>>(&mut self, op: W) -> W::Response {
        let group = &self.structure.group;
        match op.route() {
            Route::One(log) => group.port(self.at(log), self.seat).write(Beside(op)),
            Route::All => group.write_all(self.replica, self.seat, Beside(op)),
        }
    }

    fn at(&self, log: usize) -> At {
        At { replica: self.replica, lane: log % self.structure.group.logs.len() }
    }
}

impl<D: Concurrent, H: Hooks> Drop for ConcurrentHandle<'_, D, H> {
    fn drop(&mut self) {
        self.structure.group.deregister(self.replica, self.seat);
    }
}
