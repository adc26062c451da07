//! futex(2): decoding; the work is done in `process/futex.rs`.

use super::Caller;
use super::clock::Timespec;
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::memory::{Access, AddressSpace, VirtAddr};
use crate::process::futex::{Key, MATCH_ANY, WakeOperation, Word, requeue, wait, wake, wake_op};
use crate::process::memory::futex_key;
use crate::uaccess::{self, UserPtr};

const FUTEX_WAIT: u32 = 0;
const FUTEX_WAKE: u32 = 1;
const FUTEX_REQUEUE: u32 = 3;
const FUTEX_CMP_REQUEUE: u32 = 4;
const FUTEX_WAKE_OP: u32 = 5;
const FUTEX_WAIT_BITSET: u32 = 9;
const FUTEX_WAKE_BITSET: u32 = 10;
const FUTEX_PRIVATE_FLAG: u32 = 0x80;
const FUTEX_CLOCK_REALTIME: u32 = 0x100;

/// futex(2). The fourth argument is a timeout or a count, by operation.
pub async fn futex(
    c: &mut Caller<'_>,
    address: VirtAddr,
    operation: u32,
    value: u32,
    timeout_or_count: u64,
    second: VirtAddr,
    value3: u32,
) -> SysResult {
    let private = operation & FUTEX_PRIVATE_FLAG != 0;
    let realtime = operation & FUTEX_CLOCK_REALTIME != 0;
    let command = operation & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    if realtime && command != FUTEX_WAIT_BITSET {
        return Err(Errno::ENOSYS);
    }
    let key = |address| futex_key(&c.space, address, private);
    // Linux wakes one before it looks whether that was enough.
    let count = |value: u32| (value as i32).max(1) as usize;
    match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            let absolute = command == FUTEX_WAIT_BITSET;
            let bitset = if absolute { value3 } else { MATCH_ANY };
            let deadline = deadline(c, timeout_or_count, absolute, realtime)?;
            wait_at(c, key(address)?, address, value, bitset, deadline).await
        }
        FUTEX_WAKE => Ok(wake(key(address)?, count(value), MATCH_ANY)),
        FUTEX_WAKE_BITSET if value3 == 0 => Err(Errno::EINVAL),
        FUTEX_WAKE_BITSET => Ok(wake(key(address)?, count(value), value3)),
        FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
            let second_count = timeout_or_count as u32;
            if (value as i32) < 0 || (second_count as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            let (from, to) = (key(address)?, key(second)?);
            let word: &dyn Word = &UserWord { space: &c.space, address };
            let compare = (command == FUTEX_CMP_REQUEUE).then_some((word, value3));
            let (woken, moved) = requeue(from, to, value as usize, second_count as usize, compare)?;
            Ok(woken + moved)
        }
        FUTEX_WAKE_OP => {
            let operation = WakeOperation::decode(value3)?;
            let (first, other) = (key(address)?, key(second)?);
            let word = UserWord { space: &c.space, address: second };
            let second_count = count(timeout_or_count as u32);
            wake_op((first, count(value)), (other, second_count), operation, &word)
        }
        _ => Err(Errno::ENOSYS),
    }
}

async fn wait_at(
    c: &Caller<'_>,
    key: Key,
    address: VirtAddr,
    expected: u32,
    bitset: u32,
    deadline: Option<u64>,
) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let word = UserWord { space: &c.space, address };
    let result = wait(c.thread, key, bitset, &word, expected, deadline).await;
    match result {
        Ok(()) => Ok(0),
        // A wait with a timeout is not begun anew after a handler, since that would be longer; without a handler it goes on.
        Err(Errno::ERESTARTSYS) if deadline.is_some() => {
            c.thread.set_restart_deadline(deadline);
            Err(Errno::ERESTARTNOHAND)
        }
        Err(error) => Err(error),
    }
}

/// When a wait ends, on the monotonic clock. `timeout` points to a `timespec`, relative or absolute.
fn deadline(c: &Caller<'_>, timeout: u64, absolute: bool, realtime: bool) -> Result<Option<u64>, Errno> {
    let kept = c.thread.restart_deadline_or(|| None);
    if kept.is_some() || timeout == 0 {
        return Ok(kept);
    }
    let timeout = UserPtr::<Timespec>::new(VirtAddr::new(timeout)).read(&c.space)?.nanoseconds()?;
    Ok(Some(match (absolute, realtime) {
        (false, _) => arch::now().saturating_add(timeout),
        (true, false) => timeout,
        (true, true) => timeout.saturating_sub(arch::wall_clock_offset()),
    }))
}

/// A futex word in the caller's memory.
struct UserWord<'a> {
    space: &'a AddressSpace,
    address: VirtAddr,
}

impl Word for UserWord<'_> {
    fn peek(&self) -> Option<u32> {
        uaccess::try_read_u32(self.address)
    }

    fn exchange(&self, old: u32, new: u32) -> Option<u32> {
        uaccess::try_compare_exchange(self.address, old, new)
    }

    fn bring_in(&self, write: bool) -> Result<(), Errno> {
        let access = if write { Access::Write } else { Access::Read };
        uaccess::resolve(self.space, self.address, access)
    }
}
