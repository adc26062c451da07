//! What is left of large things that ended: taken apart in pieces, by somebody who can pause.
//!
//! A file of a gigabyte goes with the last reference to it, in the middle of code that cannot pause, perhaps under a lock. So it
//! [leaves](leave) what is large, and whoever made it do so takes that apart on the way back to user mode: its call ends when the memory
//! is back, as if it had been done at once. What is left where no thread runs, or by one that ends, is for the [`reap`] task.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use spin::Once;

use super::TaskHandle;
use crate::arch;
use crate::percore::PerCore;
use crate::sync::SpinLock;

/// Something that can be taken apart in pieces.
pub trait Leftover: Send {
    /// Takes a piece of it apart, for some hundred microseconds at most. Whether there is more. May take any lock but that of the
    /// code which left it.
    fn take_apart(&mut self) -> bool;
}

/// One of its kind: as such it can be boxed without a panic when memory is short.
impl<T: Leftover> Leftover for [T; 1] {
    fn take_apart(&mut self) -> bool {
        let [one] = self;
        one.take_apart()
    }
}

/// Large values by key, one at a time.
impl<K: Ord + Send, V: Send> Leftover for BTreeMap<K, V> {
    fn take_apart(&mut self) -> bool {
        let _one = self.pop_first();
        !self.is_empty()
    }
}

static LEFT: PerCore<SpinLock<Vec<Box<dyn Leftover>>>> = crate::per_core!(SpinLock::new(Vec::new()));
static REAPER: Once<TaskHandle> = Once::new();
static TELL: Once<fn()> = Once::new();

/// Has `tell` called when something was left on this core, so that the thread that runs there [clears](next) it. At boot.
pub fn tell_by(tell: fn()) {
    TELL.call_once(|| tell);
}

/// Says which task runs [`reap`]. At boot.
pub fn reap_by(task: TaskHandle) {
    REAPER.call_once(|| task);
}

/// How long something is taken apart at once, in nanoseconds: small things are gone then.
const AT_ONCE: u64 = 50_000;

/// Begins to take `left` apart, and leaves for later what is large.
pub fn leave(mut left: impl Leftover + 'static) {
    if REAPER.get().is_some() {
        return leave_large(left);
    }
    // Nobody would come for it.
    while left.take_apart() {}
}

fn leave_large(mut left: impl Leftover + 'static) {
    if !left.take_apart() {
        return;
    }
    let end = arch::now() + AT_ONCE;
    while arch::now() < end {
        if !left.take_apart() {
            return;
        }
    }
    if let Err(mut left) = put_down(left) {
        // No memory to remember it, so that it has to go now.
        while left.take_apart() {}
    }
}

fn put_down<T: Leftover + 'static>(left: T) -> Result<(), T> {
    let mut one = Vec::new();
    let mut list = LEFT.here().lock();
    if one.try_reserve_exact(1).is_err() || list.try_reserve(1).is_err() {
        return Err(left);
    }
    one.push(left);
    match Box::<[T; 1]>::try_from(one.into_boxed_slice()) {
        Ok(left) => list.push(left),
        Err(_) => unreachable!("one was pushed"),
    }
    drop(list);
    if let Some(tell) = TELL.get() {
        tell();
    }
    if let Some(reaper) = REAPER.get() {
        reaper.wake();
    }
    Ok(())
}

/// What was left last on this core. The caller takes it apart.
pub fn next() -> Option<Box<dyn Leftover>> {
    LEFT.here().lock().pop()
}

/// Takes apart whatever is left on this core, for ever.
pub async fn reap() {
    loop {
        while let Some(mut left) = next() {
            while left.take_apart() {
                arch::take_interrupts();
                super::give_way().await;
            }
        }
        super::wait_for_wake().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicUsize, Ordering};

    struct Pieces(Arc<AtomicUsize>);

    impl Leftover for Pieces {
        fn take_apart(&mut self) -> bool {
            let end = arch::now() + AT_ONCE;
            while self.0.load(Ordering::Relaxed) > 1 && arch::now() < end {}
            self.0.fetch_sub(1, Ordering::Relaxed) > 1
        }
    }

    #[test]
    fn what_is_small_goes_at_once_and_what_is_large_later() {
        let (small, large) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(4)));
        leave_large(Pieces(small.clone()));
        assert!(small.load(Ordering::Relaxed) == 0 && next().is_none());
        leave_large(Pieces(large.clone()));
        assert_eq!(large.load(Ordering::Relaxed), 2);
        let mut left = next().unwrap();
        assert!(left.take_apart() && !left.take_apart() && next().is_none());
    }
}
