//! [`NodeReplicated`]: a sequential structure, replicated, with one log.
//!
//! Neighbours: [`crate::group`] and [`crate::combine`] do the work; [`crate::concurrent`] is the same with several logs.

use core::ptr::NonNull;

use crate::ReplicaId;
use crate::command::{Alone, Exclusive};
use crate::counters::Counters;
use crate::error::{AddError, RegisterError, RemoveError};
use crate::group::{At, Config, Group};
use crate::hooks::{Hooks, Spin};
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

    /// Adds a replica which begins as a clone of a live one.
    ///
    /// # Errors
    /// [`AddError`]
    pub fn add_replica(&self) -> Result<ReplicaId, AddError>
    where
        D: Clone,
    {
        self.add_replica_with(D::clone)
    }

    /// Adds a replica which begins as what `copy` makes of a live one: a copy on memory of its own node, for instance.
    ///
    /// The replica that is copied stands still meanwhile. `copy` must not use this structure.
    ///
    /// # Errors
    /// [`AddError`]
    pub fn add_replica_with(&self, copy: impl FnOnce(&D) -> D) -> Result<ReplicaId, AddError> {
        self.group.add(copy)
    }

    /// Takes a replica out, and returns its data. Its threads must have gone before.
    ///
    /// # Errors
    /// [`RemoveError`]
    pub fn remove_replica(&self, replica: ReplicaId) -> Result<D, RemoveError> {
        self.group.remove(replica)
    }

    /// How many replicas there are.
    pub fn replicas(&self) -> usize {
        self.group.present_count()
    }

    /// Registers the calling thread (or core) with a replica.
    ///
    /// # Errors
    /// [`RegisterError`]
    pub fn register(&self, replica: ReplicaId) -> Result<Handle<'_, D, H>, RegisterError> {
        Handle::new(self, None, replica)
    }

    /// As [`register`](Self::register), for a handle that keeps the structure alive.
    ///
    /// # Errors
    /// [`RegisterError`]
    pub fn register_shared(
        structure: &Arc<Self>,
        replica: ReplicaId,
    ) -> Result<Handle<'static, D, H>, RegisterError>
    where
        H: 'static,
    {
        let share = Arc::clone(structure);
        // SAFETY: the handle keeps a share for as long as it uses this, and a share does not move its target.
        let structure = unsafe { NonNull::from(&*share).as_ref() };
        Handle::new(structure, Some(share), replica)
    }

    /// Brings a replica up to everything that was completed before the call, from any thread.
    ///
    /// Returns false if there is no such replica, or it is poisoned.
    pub fn sync(&self, replica: ReplicaId) -> bool {
        self.group.sync(replica).is_ok()
    }

    /// What a replica did so far.
    pub fn counters(&self, replica: ReplicaId) -> Counters {
        self.group.counters(replica)
    }

    /// Begins to record the log, at the state that `look` is shown.
    ///
    /// # Errors
    /// [`RecordError`]
    pub fn record<T>(&self, look: impl FnOnce(&D) -> T) -> Result<(Recorder<'_, D::Entry>, T), RecordError> {
        let seen = self.group.start_recording(look)?;
        Ok((Recorder::new(self), seen))
    }
}

impl<D: Replicated, H: Hooks> Source for NodeReplicated<D, H> {
    type Entry = D::Entry;

    fn drain(&self, sink: &mut dyn FnMut(&D::Entry)) -> Result<usize, Overrun> {
        self.group.drain_recorder(sink)
    }

    fn stop(&self) {
        self.group.stop_recording();
    }
}

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
    _share: Option<Arc<NodeReplicated<D, H>>>,
}

impl<'a, D: Replicated, H: Hooks> Handle<'a, D, H> {
    fn new(
        structure: &'a NodeReplicated<D, H>,
        share: Option<Arc<NodeReplicated<D, H>>>,
        replica: ReplicaId,
    ) -> Result<Self, RegisterError> {
        let seat = structure.group.register(replica)?;
        let at = At { replica: replica.0, lane: 0 };
        Ok(Self { port: structure.group.port(at, seat), _share: share })
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
