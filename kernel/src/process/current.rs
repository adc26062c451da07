//! Which thread a core runs.

use alloc::sync::Arc;

use super::thread::Thread;
use crate::percore::PerCore;
use crate::sync::{SpinLock, SpinLockGuard};

static CURRENT: PerCore<SpinLock<Option<Arc<Thread>>>> = crate::per_core!(SpinLock::new(None));

/// The thread that this core runs; `None` in a kernel activity.
pub fn current() -> Option<Arc<Thread>> {
    CURRENT.here().lock().clone()
}

/// The same for who may not wait: `None` while somebody is at it.
pub(super) fn try_here() -> Option<SpinLockGuard<'static, Option<Arc<Thread>>>> {
    CURRENT.here().try_lock()
}

/// This core runs `thread` until the returned value is dropped.
#[inline]
pub(super) fn enter(thread: &Arc<Thread>) -> Running {
    let old = CURRENT.here().lock().replace(thread.clone());
    drop(old);
    Running(())
}

/// While it lives, the core runs a thread.
pub(super) struct Running(());

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        let thread = CURRENT.here().lock().take();
        drop(thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_runs_a_thread_while_it_is_polled() {
        let thread = super::super::tests::process().leader().unwrap();
        let running = enter(&thread);
        assert!(Arc::ptr_eq(&current().unwrap(), &thread));
        drop(running);
        assert!(current().is_none());
    }
}
