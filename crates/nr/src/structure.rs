//! The contract of a replicated structure, and of its operations.
//!
//! A structure says what its log holds ([`Replicated::Entry`]) and how an entry is applied. Each operation is a type of
//! its own, with its own response: [`Read`] for those that look, [`Write`] for those that change. Closures
//! are reads too. [`Concurrent`], [`WriteShared`] and [`Routed`] are the same for structures that are concurrent
//! inside themselves and use several logs.
//!
//! Neighbours: [`crate::command`] turns both contracts into the one that the machinery runs.

/// A sequential data structure that can be replicated.
///
/// # What must hold
/// Dispatch ([`Write::write`] and [`replay`](Replicated::replay)) is **deterministic**: applied to equal states it
/// leaves equal states. It reads no clock, no core id, no random number and no address; times, ids and frames are
/// part of the operation. It does not allocate anything whose failure could differ between replicas: what a
/// replica needs for itself is put aside before the operation is started.
///
/// `replay(op.record())` changes the structure as `op.write()` does. The replica on which an operation was called
/// runs `write`; all others run `replay`.
///
/// # Panics
/// A dispatch that panics leaves its replica *poisoned*: every later use of it panics too. Since dispatch is
/// deterministic, the other replicas follow when they reach the entry.
pub trait Replicated: Send + Sync + 'static {
    /// What the log keeps of a write: an owned value, usually an enum with a variant per operation.
    type Entry: Send + Sync;

    /// Applies an entry that was recorded elsewhere.
    fn replay(&mut self, entry: &Self::Entry);
}

/// An operation that looks at a structure and does not change it. It may borrow; it runs on the calling thread.
///
/// Every `FnOnce(&D) -> R` is such an operation. A read that panics unwinds and poisons nothing.
pub trait Read<D: ?Sized> {
    /// What the caller gets.
    type Response;

    /// Looks at the structure.
    fn read(self, data: &D) -> Self::Response;
}

impl<D: ?Sized, F: FnOnce(&D) -> R, R> Read<D> for F {
    type Response = R;

    #[inline(always)]
    fn read(self, data: &D) -> R {
        self(data)
    }
}

/// An operation that changes a structure.
///
/// The operation may borrow what its caller owns: the call returns only when the operation was run and dropped. Only
/// what outlives the call, the entry in the log, has to own it, and no entry is made while there is one replica.
/// It is `Send` because another thread of the same replica may run it.
pub trait Write<D: Replicated + ?Sized>: Send {
    /// What the caller gets.
    type Response: Send;

    /// Changes the structure; see [`Replicated`] for what must hold.
    fn write(self, data: &mut D) -> Self::Response;

    /// What the other replicas need to know. Not called while there is one replica only.
    fn record(&self) -> D::Entry;
}

/// A structure that is concurrent inside itself, replicated through several logs.
///
/// Operations that go to different logs commute and run at the same time, on the same replica too. Operations of one log
/// exclude each other as they do for [`Replicated`]. All that is said there about dispatch holds here.
pub trait Concurrent: Send + Sync + 'static {
    /// What the logs keep of a write.
    type Entry: Send + Sync;

    /// Applies an entry that was recorded elsewhere.
    fn replay(&self, entry: &Self::Entry);
}

/// An operation that changes a [`Concurrent`] structure.
pub trait WriteShared<D: Concurrent + ?Sized>: Routed + Send {
    /// What the caller gets.
    type Response: Send;

    /// Changes the structure; see [`Concurrent`].
    fn write(self, data: &D) -> Self::Response;

    /// What the other replicas need to know. Not called while there is one replica only.
    fn record(&self) -> D::Entry;
}

/// Maps an operation on a [`Concurrent`] structure to its log.
pub trait Routed {
    /// The log of this operation. Two operations that do not commute must share a log.
    fn route(&self) -> Route;
}

/// Where an operation on a [`Concurrent`] structure goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To one log: this number modulo the number of logs. A hash of the key, an inode number.
    One(usize),
    /// To all of them: the operation excludes every other and sees the whole structure at one point in time.
    All,
}
