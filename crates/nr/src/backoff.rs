//! When to look again at a line that somebody else works on.
//!
//! Every look takes the lock's cache line away from its holder. So whoever waits relaxes all the time, but looks at the
//! lock less and less often, and the holder gets on with its work undisturbed.

use crate::hooks::Hooks;
use crate::tuning::{FIRST_PAUSE, LONGEST_PAUSE, PATIENCE, PAUSE_GROWTH};

/// One wait.
pub(crate) struct Backoff {
    round: u32,
    next: u32,
    pause: u32,
}

impl Backoff {
    /// A wait that looks at once, and then less and less often.
    pub(crate) fn new() -> Self {
        Self { round: 0, next: 0, pause: FIRST_PAUSE }
    }

    /// A wait that leaves the lock alone for a while first.
    pub(crate) fn patient() -> Self {
        Self { next: PATIENCE, ..Self::new() }
    }

    /// Whether it is time to look at the lock.
    #[inline]
    pub(crate) fn due(&self) -> bool {
        self.round >= self.next
    }

    /// Whether this is the first round.
    pub(crate) fn begins(&self) -> bool {
        self.round == 0
    }

    /// The lock was looked at, in vain.
    pub(crate) fn looked(&mut self) {
        self.next = self.round.saturating_add(self.pause);
        self.pause = (self.pause * PAUSE_GROWTH).min(LONGEST_PAUSE);
    }

    /// Waits a little.
    pub(crate) fn relax(&mut self, hooks: &impl Hooks) {
        hooks.relax(self.round);
        self.round = self.round.saturating_add(1);
    }
}
