//! A cell that notices when two threads are in it at once.

use std::sync::atomic::{AtomicIsize, Ordering};

/// As `nr`'s own, but conflicting accesses panic.
#[derive(Debug)]
pub(crate) struct UnsafeCell<T> {
    /// How many look, or negative while one writes.
    inside: AtomicIsize,
    value: std::cell::UnsafeCell<T>,
}

const WRITER: isize = -1000;

impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { inside: AtomicIsize::new(0), value: std::cell::UnsafeCell::new(value) }
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        let before = self.inside.fetch_add(1, Ordering::SeqCst);
        let _leave = Leave(&self.inside, 1);
        assert!(before >= 0, "looked at while it is written");
        f(self.value.get())
    }

    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        let before = self.inside.fetch_add(WRITER, Ordering::SeqCst);
        let _leave = Leave(&self.inside, WRITER);
        assert!(before == 0, "written while others are inside");
        f(self.value.get())
    }
}

struct Leave<'a>(&'a AtomicIsize, isize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}
