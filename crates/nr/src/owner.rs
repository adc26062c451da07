//! How a handle holds on to its structure: by a borrow, or by a share of its own.

use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::sync::Arc;

/// A `&'a T` or an `Arc<T>`, without a branch to tell which.
pub(crate) struct Owner<'a, T> {
    target: NonNull<T>,
    _share: Option<Arc<T>>,
    _borrow: PhantomData<&'a T>,
}

impl<'a, T> Owner<'a, T> {
    pub(crate) fn borrowed(target: &'a T) -> Self {
        Self { target: NonNull::from(target), _share: None, _borrow: PhantomData }
    }

    pub(crate) fn shared(target: Arc<T>) -> Self {
        Self { target: NonNull::from(&*target), _share: Some(target), _borrow: PhantomData }
    }

    /// The target, for as long as an owner can live.
    ///
    /// # Safety
    /// Not used any more when this owner is dropped.
    pub(crate) unsafe fn target(&self) -> &'a T {
        // SAFETY: borrowed for `'a`, or kept alive by the share while the caller uses it.
        unsafe { self.target.as_ref() }
    }
}

impl<T> Deref for Owner<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: borrowed for `'a`, or kept alive by the share, which does not move its target.
        unsafe { self.target.as_ref() }
    }
}

// SAFETY: it is a `&T` or an `Arc<T>`.
unsafe impl<T: Send + Sync> Send for Owner<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Owner<'_, T> {}
