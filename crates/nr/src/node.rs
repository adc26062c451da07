//! [`NodeReplicated`]: a sequential structure, replicated, with one log.
//!
//! Neighbours: [`crate::group`] and [`crate::combine`] do the work; [`crate::concurrent`] is the same with several logs,
//! and [`crate::face`] what the two have in common.

use crate::ReplicaId;
use crate::command::{Alone, Exclusive};
use crate::counters::Counters;
use crate::error::{AddError, RegisterError, RemoveError};
use crate::face::face;
use crate::group::{At, Config, Group};
use crate::hooks::{Hooks, Spin};
use crate::owner::Owner;
use crate::port::Port;
use crate::recorder::{Overrun, RecordError, Recorder, Source};
use crate::structure::{Read, Replicated, Write};
use crate::sync::Arc;

/// A sequential structure, made concurrent and linearizable by replication.
///
/// Threads use it through a [`Handle`], got from [`register`](Self::register). Dropping it drops all replicas.
pub struct NodeReplicated<D: Replicated, H: Hooks = Spin> {
    group: Group<Exclusive<D>, H>,
}

impl<D: Replicated> NodeReplicated<D> {
    /// Makes `data` the first replica, [`ReplicaId`]`(0)`.
    pub fn new(config: Config, data: D) -> Self {
        Self::with_hooks(config, data, Spin)
    }
}

impl<D: Replicated, H: Hooks> NodeReplicated<D, H> {
    /// As [`new`](NodeReplicated::new), with the owner's way to wait.
    pub fn with_hooks(config: Config, data: D, hooks: H) -> Self {
        Self { group: Group::new(config, 1, data, hooks) }
    }
}

face!(NodeReplicated, Handle, Replicated);

/// A thread's access to a replicated structure: its slot at one replica.
///
/// Dropping it gives the slot back.
///
/// # Panics
/// Operations panic when the replica is poisoned, that is after a dispatch on it has panicked.
#[must_use]
pub struct Handle<'a, D: Replicated, H: Hooks = Spin> {
    port: Port<'a, Exclusive<D>, H>,
    /// Keeps alive what `port` points to, where nobody else does.
    _structure: Owner<'a, NodeReplicated<D, H>>,
}

impl<'a, D: Replicated, H: Hooks> Handle<'a, D, H> {
    fn enter(structure: Owner<'a, NodeReplicated<D, H>>, replica: ReplicaId) -> Result<Self, RegisterError> {
        let seat = structure.group.register(replica)?;
        // SAFETY: the handle keeps the owner for as long as it uses this.
        let group = unsafe { &structure.target().group };
        Ok(Self { port: group.port(At { replica: replica.0, lane: 0 }, seat), _structure: structure })
    }

    /// The replica that this handle uses.
    pub fn replica(&self) -> ReplicaId {
        ReplicaId(self.port.replica())
    }

    /// Looks at the structure: at everything that was completed before the call, on any replica.
    ///
    /// Runs `op` on this thread, on the local replica. Allocates nothing. `op` must not use this structure.
    #[inline]
    pub fn read<R: Read<D>>(&mut self, op: R) -> R::Response {
        self.port.read(op)
    }

    /// [`read`](Self::read) with a closure.
    #[inline]
    pub fn look<R>(&mut self, look: impl FnOnce(&D) -> R) -> R {
        self.read(look)
    }

    /// Changes the structure; when this returns, every later read on any replica sees it.
    ///
    /// `op` may be run by another thread of the same replica. Allocates nothing by itself.
    #[inline]
    pub fn write<W: Write<D>>(&mut self, op: W) -> W::Response {
        self.port.write(Alone(op))
    }
}

impl<D: Replicated, H: Hooks> Drop for Handle<'_, D, H> {
    fn drop(&mut self) {
        self.port.leave();
    }
}
