//! What both public faces have in common, whatever the structure and the number of logs: [`crate::node`] and
//! [`crate::concurrent`] differ in how they are made and in how their handles run operations.

/// Writes the methods of a replicated structure `$name`, whose threads use it through `$handle`.
///
/// `$name` has a field `group`, and `$handle` a function `enter` that registers a thread.
macro_rules! face {
    ($name:ident, $handle:ident, $contract:ident) => {
        impl<D: $contract, H: Hooks> $name<D, H> {
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

            /// Adds a replica which begins as what `copy` makes of a live one: a copy on memory of its own node, for
            /// instance.
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
            pub fn register(&self, replica: ReplicaId) -> Result<$handle<'_, D, H>, RegisterError> {
                $handle::enter(Owner::borrowed(self), replica)
            }

            /// As [`register`](Self::register), for a handle that keeps the structure alive.
            ///
            /// # Errors
            /// [`RegisterError`]
            pub fn register_shared(
                structure: &Arc<Self>,
                replica: ReplicaId,
            ) -> Result<$handle<'static, D, H>, RegisterError>
            where
                H: 'static,
            {
                $handle::enter(Owner::shared(Arc::clone(structure)), replica)
            }

            /// Brings a replica up to everything that was completed before the call, from any thread.
            ///
            /// Returns false if there is no such replica, or it is poisoned.
            pub fn sync(&self, replica: ReplicaId) -> bool {
                self.group.sync(replica).is_ok()
            }

            /// What a replica did so far, summed over its logs.
            pub fn counters(&self, replica: ReplicaId) -> Counters {
                self.group.counters(replica)
            }

            /// Begins to record the log, at the state that `look` is shown.
            ///
            /// # Errors
            /// [`RecordError`]
            pub fn record<T>(
                &self,
                look: impl FnOnce(&D) -> T,
            ) -> Result<(Recorder<'_, D::Entry>, T), RecordError> {
                let seen = self.group.start_recording(look)?;
                Ok((Recorder::new(self), seen))
            }
        }

        impl<D: $contract, H: Hooks> Source for $name<D, H> {
            type Entry = D::Entry;

            fn drain(&self, sink: &mut dyn FnMut(&D::Entry)) -> Result<usize, Overrun> {
                self.group.drain_recorder(sink)
            }

            fn stop(&self) {
                self.group.stop_recording();
            }
        }
    };
}

pub(crate) use face;
