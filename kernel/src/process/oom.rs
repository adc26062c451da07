//! When memory has run out under a page fault: the largest process goes.

use alloc::sync::Arc;

use super::group::Process;
use super::memory::resident_pages;
use super::registry;
use super::signal::Signal;
use super::status::ExitStatus;
use super::thread::Thread;

/// Ends the process that has most memory, so that `thread`'s access can be tried again. The first process is spared while
/// there is another.
pub(super) fn make_room(thread: &Thread) {
    let candidates = registry::list();
    if candidates.iter().any(|process| is_leaving(process)) {
        // Somebody is already on the way out; that may be enough.
        return;
    }
    let size = |process: &Arc<Process>| process.leader().map_or(0, |leader| resident_pages(&leader.space()));
    let largest = candidates
        .iter()
        .filter(|process| !process.is_init() && !process.is_zombie())
        .max_by_key(|process| size(process))
        .filter(|process| size(process) > 0);
    let victim = largest.unwrap_or(thread.process());
    let name = victim.leader().map(|leader| leader.name()).unwrap_or_default();
    log::warn!(
        "out of memory: process {} ({}, {} KiB) is killed",
        victim.pid(),
        name.as_bytes().escape_ascii(),
        size(victim) * 4
    );
    victim.group().begin_exit(ExitStatus::Killed(Signal::KILL));
}

fn is_leaving(process: &Process) -> bool {
    process.exit_status().is_some() && !process.is_zombie()
}
