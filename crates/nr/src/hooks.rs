//! What the library asks of its surroundings: how to wait, and whom to tell about a replica that lags.

use crate::ReplicaId;

/// Supplied by the owner of a replicated structure; called on slow paths only.
///
/// A kernel answers interrupts in [`relax`](Hooks::relax) and wakes a core in [`stalled`](Hooks::stalled);
/// a host program yields its processor.
pub trait Hooks: Send + Sync {
    /// Called in every round of every wait; `round` counts up from zero within one wait.
    ///
    /// It may be called with internal locks held: it must not use the same replicated structure.
    fn relax(&self, round: u32) {
        let _ = round;
        core::hint::spin_loop();
    }

    /// The log was full, and `replica`, `behind` entries behind the tail, was the one that held it up.
    ///
    /// The caller of a write then brings that replica forward itself, so nothing has to be done here; a kernel
    /// may want to wake a core of that node so that it does not happen again.
    fn stalled(&self, replica: ReplicaId, behind: u64) {
        let _ = (replica, behind);
    }
}

/// The default: a pause instruction, and nobody to tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spin;

impl Hooks for Spin {}
