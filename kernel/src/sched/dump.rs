//! Queues and timers in the dump (see [`crate::dump`]).

use core::fmt::{self, Write};

use super::{executor, timer};
use crate::arch::CoreId;
use crate::dump::Deadline;

/// Writes what the first `cores` cores have to do at the time `now`.
pub fn dump(cores: usize, now: u64, out: &mut dyn Write) -> fmt::Result {
    (0..cores as u16).map(CoreId).try_for_each(|core| {
        let ((urgent, normal), (first, armed)) = (executor::ready(core), timer::state(core));
        writeln!(
            out,
            "core {}: {urgent} urgent tasks ready and {normal} others; first deadline {}, timer set for {}",
            core.0,
            Deadline { at: first, now },
            Deadline { at: armed, now }
        )
    })
}
