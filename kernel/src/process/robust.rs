//! What a thread's end does in its memory: robust futexes and the cleared thread id.
//!
//! A thread keeps a list of the robust mutexes it holds (set_robust_list(2); Linux `Documentation/locking/robust-futexes.rst`).
//! Each is marked `FUTEX_OWNER_DIED` when the thread ends, and a waiter is woken. The list is the program's: every address in it is
//! an allegation, its length is bounded, and the walk ends at the first one that is wrong.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::futex::{self, MATCH_ANY};
use super::memory::futex_key;
use super::thread::Thread;
use crate::memory::{AddressSpace, VirtAddr};
use crate::uaccess::{self, UserPtr};

/// `struct robust_list_head`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Head {
    next: u64,
    futex_offset: i64,
    pending: u64,
}

/// Bytes of the list's head, which set_robust_list(2) checks.
pub const HEAD_SIZE: usize = size_of::<Head>();

/// `ROBUST_LIST_LIMIT`
const MAX_ENTRIES: usize = 2048;
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID_MASK: u32 = 0x3fff_ffff;
/// The lowest bit of an entry says that it is a priority-inheritance futex.
const PI: u64 = 1;

/// Marks the robust futexes that the thread holds.
pub(super) fn release(thread: &Thread, space: &Arc<AddressSpace>) {
    let head_at = thread.robust_list.swap(0, Ordering::Relaxed);
    if head_at == 0 {
        return;
    }
    let Ok(head) = UserPtr::<Head>::new(VirtAddr::new(head_at)).read(space) else { return };
    let tid = thread.tid();
    let futex_of = |entry: u64| VirtAddr::new((entry & !PI).wrapping_add_signed(head.futex_offset));
    let mut entry = head.next;
    for _ in 0..MAX_ENTRIES {
        if entry & !PI == head_at {
            break;
        }
        let next = UserPtr::<u64>::new(VirtAddr::new(entry & !PI)).read(space);
        // The pending one, taken or given back at this moment, is looked at last.
        if entry != head.pending && mark(space, futex_of(entry), tid).is_none() {
            break;
        }
        let Ok(next) = next else { break };
        entry = next;
    }
    if head.pending & !PI != 0 {
        mark(space, futex_of(head.pending), tid);
    }
}

/// Marks one futex, if the thread holds it. `None` when its address is wrong.
fn mark(space: &Arc<AddressSpace>, address: VirtAddr, tid: u32) -> Option<()> {
    let mut value = UserPtr::<u32>::new(address).read(space).ok()?;
    while value & TID_MASK == tid {
        let found = uaccess::compare_exchange(space, address, value, value & WAITERS | OWNER_DIED).ok()?;
        if found == value {
            if value & WAITERS != 0 {
                futex::wake(futex_key(space, address, false).ok()?, 1, MATCH_ANY);
            }
            break;
        }
        value = found;
    }
    Some(())
}

/// `CLONE_CHILD_CLEARTID`: stores 0 at `address` and wakes one who waits for that, as pthread_join(3) does.
pub(super) fn clear_and_wake(space: &Arc<AddressSpace>, address: u64) {
    let address = VirtAddr::new(address);
    if UserPtr::<u32>::new(address).write(space, &0).is_ok()
        && let Ok(key) = futex_key(space, address, false)
    {
        futex::wake(key, 1, MATCH_ANY);
    }
}
