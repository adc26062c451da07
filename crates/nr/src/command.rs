//! The two public contracts of [`crate::structure`], seen as one by the machinery.
//!
//! A [`Structure`] is replicated data whose lanes (one per log) have a lock each. [`Exclusive`] is a
//! [`Replicated`] structure with a single lane, whose lock is thereby the right to `&mut`. [`Striped`] is a
//! [`Concurrent`] one: it is only ever shared, and a lane's lock keeps the operations of its log apart.

use core::marker::PhantomData;
use core::mem::MaybeUninit;

use crate::structure::{Concurrent, Replicated, Write, WriteShared};
use crate::sync::UnsafeCell;

/// The data of one replica; initialised while the replica is present.
pub(crate) type Place<T> = UnsafeCell<MaybeUninit<T>>;

/// What the machinery needs to know of a replicated structure.
pub(crate) trait Structure {
    type Data: Send + Sync + 'static;
    type Entry: Send + Sync;

    /// Whether there may be more than one lane, so that something can happen to a replica behind a lane's back.
    const SEVERAL_LANES: bool;

    /// Lends the data to the holder of a lane's lock.
    fn locked<R>(place: &Place<Self::Data>, f: impl FnOnce(*mut Self::Data) -> R) -> R;

    /// Applies an entry.
    ///
    /// # Safety
    /// The pointer came from `locked`, with the lock of the entry's lane held, or of all lanes.
    unsafe fn replay(data: *mut Self::Data, entry: &Self::Entry);
}

/// A write, ready to be run.
pub(crate) trait Command<S: Structure>: Send {
    type Response: Send;

    /// # Safety
    /// The pointer came from `S::locked`, with the lock of the command's lane held, or of all lanes.
    unsafe fn run(self, data: *mut S::Data) -> Self::Response;

    fn record(&self) -> S::Entry;
}

pub(crate) struct Exclusive<D>(PhantomData<D>);

impl<D: Replicated> Structure for Exclusive<D> {
    type Data = D;
    type Entry = D::Entry;

    const SEVERAL_LANES: bool = false;

    #[inline(always)]
    fn locked<R>(place: &Place<D>, f: impl FnOnce(*mut D) -> R) -> R {
        place.with_mut(|data| f(data.cast()))
    }

    unsafe fn replay(data: *mut D, entry: &D::Entry) {
        // SAFETY: there is one lane; its lock is exclusive.
        unsafe { (*data).replay(entry) }
    }
}

/// A [`Write`] as a command.
pub(crate) struct Alone<W>(pub(crate) W);

impl<D: Replicated, W: Write<D>> Command<Exclusive<D>> for Alone<W> {
    type Response = W::Response;

    #[inline(always)]
    unsafe fn run(self, data: *mut D) -> W::Response {
        // SAFETY: there is one lane; its lock is exclusive.
        self.0.write(unsafe { &mut *data })
    }

    fn record(&self) -> D::Entry {
        self.0.record()
    }
}

pub(crate) struct Striped<D>(PhantomData<D>);

impl<D: Concurrent> Structure for Striped<D> {
    type Data = D;
    type Entry = D::Entry;

    const SEVERAL_LANES: bool = true;

    #[inline(always)]
    fn locked<R>(place: &Place<D>, f: impl FnOnce(*mut D) -> R) -> R {
        place.with(|data| f(data.cast_mut().cast()))
    }

    unsafe fn replay(data: *mut D, entry: &D::Entry) {
        // SAFETY: the data is only ever shared.
        unsafe { (*data).replay(entry) }
    }
}

/// A [`WriteShared`] as a command.
pub(crate) struct Beside<W>(pub(crate) W);

impl<D: Concurrent, W: WriteShared<D>> Command<Striped<D>> for Beside<W> {
    type Response = W::Response;

    #[inline(always)]
    unsafe fn run(self, data: *mut D) -> W::Response {
        // SAFETY: the data is only ever shared.
        self.0.write(unsafe { &*data })
    }

    fn record(&self) -> D::Entry {
        self.0.record()
    }
}
