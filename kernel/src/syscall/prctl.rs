//! What a thread or process says about itself: prctl(2), arch_prctl(2), personality(2).
//!
//! Options that nrk lacks get `EINVAL`, as from a Linux built without them.

use core::sync::atomic::Ordering::Relaxed;

use super::Caller;
use super::credentials::LAST_CAPABILITY;
use crate::errno::{Errno, SysResult};
use crate::memory::VirtAddr;
use crate::process::clone::is_user;
use crate::process::{Credentials, DEFAULT_TIMER_SLACK, Name, Signal, Thread};
use crate::uaccess::{self, UserPtr};

const PR_SET_PDEATHSIG: i32 = 1;
const PR_GET_PDEATHSIG: i32 = 2;
const PR_GET_DUMPABLE: i32 = 3;
const PR_SET_DUMPABLE: i32 = 4;
const PR_GET_KEEPCAPS: i32 = 7;
const PR_SET_KEEPCAPS: i32 = 8;
const PR_GET_TIMING: i32 = 13;
const PR_SET_TIMING: i32 = 14;
const PR_SET_NAME: i32 = 15;
const PR_GET_NAME: i32 = 16;
const PR_GET_SECCOMP: i32 = 21;
const PR_CAPBSET_READ: i32 = 23;
const PR_CAPBSET_DROP: i32 = 24;
const PR_GET_TSC: i32 = 25;
const PR_SET_TSC: i32 = 26;
const PR_GET_SECUREBITS: i32 = 27;
const PR_SET_SECUREBITS: i32 = 28;
const PR_SET_TIMERSLACK: i32 = 29;
const PR_GET_TIMERSLACK: i32 = 30;
const PR_SET_CHILD_SUBREAPER: i32 = 36;
const PR_GET_CHILD_SUBREAPER: i32 = 37;
const PR_SET_NO_NEW_PRIVS: i32 = 38;
const PR_GET_NO_NEW_PRIVS: i32 = 39;
const PR_GET_TID_ADDRESS: i32 = 40;
const PR_GET_THP_DISABLE: i32 = 42;
const PR_CAP_AMBIENT: i32 = 47;
/// `SECBIT_KEEP_CAPS`, the one secure bit that there is.
const KEEP_CAPS: u64 = 1 << 4;

/// prctl(2)
pub fn prctl(c: &mut Caller<'_>, option: i32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) -> SysResult {
    /// `PR_TSC_ENABLE`
    const TSC_ENABLED: i32 = 1;
    let (thread, at) = (c.thread, VirtAddr::new(arg2));
    match option {
        PR_GET_PDEATHSIG => {
            UserPtr::new(at).write(&c.space, &thread.parent_death_signal.load(Relaxed))?;
        }
        PR_GET_CHILD_SUBREAPER => {
            let is_subreaper = i32::from(thread.process().is_subreaper.load(Relaxed));
            UserPtr::new(at).write(&c.space, &is_subreaper)?;
        }
        PR_SET_NAME => thread.set_name(read_name(c, at)?),
        PR_GET_NAME => UserPtr::new(at).write(&c.space, thread.name().padded())?,
        PR_GET_TSC => UserPtr::new(at).write(&c.space, &TSC_ENABLED)?,
        PR_GET_TID_ADDRESS => UserPtr::new(at).write(&c.space, &thread.clear_tid.load(Relaxed))?,
        _ => return control(thread, option, [arg2, arg3, arg4, arg5]),
    }
    Ok(0)
}

/// Up to 15 bytes, which need not have an end mark; behind it nothing need be readable.
fn read_name(c: &Caller<'_>, at: VirtAddr) -> Result<Name, Errno> {
    let mut name = [0; 15];
    for (index, byte) in name.iter_mut().enumerate() {
        let at = at.checked_add(index).ok_or(Errno::EFAULT)?;
        uaccess::read_bytes(&c.space, at, core::slice::from_mut(byte))?;
        if *byte == 0 {
            break;
        }
    }
    Ok(Name::new(&name))
}

/// The options that touch no memory.
fn control(thread: &Thread, option: i32, arguments: [u64; 4]) -> SysResult {
    let process = thread.process();
    let [value, rest @ ..] = arguments;
    let only_value = rest == [0; 3];
    let nothing = arguments == [0; 4];
    match option {
        PR_SET_PDEATHSIG => {
            let signal = i32::try_from(value).map_err(|_| Errno::EINVAL)?;
            if signal != 0 {
                Signal::new(signal)?;
            }
            thread.parent_death_signal.store(signal, Relaxed);
        }
        PR_GET_DUMPABLE => return Ok(process.dumpable.load(Relaxed) as usize),
        PR_SET_DUMPABLE if value <= 1 => process.dumpable.store(value as i32, Relaxed),
        PR_SET_TIMERSLACK => {
            let slack = if (value as i64) > 0 { value } else { DEFAULT_TIMER_SLACK };
            thread.timer_slack.store(slack, Relaxed);
        }
        PR_GET_TIMERSLACK => return Ok(thread.timer_slack.load(Relaxed) as usize),
        PR_SET_CHILD_SUBREAPER => process.is_subreaper.store(value != 0, Relaxed),
        PR_SET_NO_NEW_PRIVS if value == 1 && only_value => thread.no_new_privileges.store(true, Relaxed),
        PR_GET_NO_NEW_PRIVS if nothing => return Ok(thread.has_no_new_privileges().into()),
        PR_CAPBSET_READ if value <= u64::from(LAST_CAPABILITY) => return Ok(1),
        PR_CAPBSET_DROP if value <= u64::from(LAST_CAPABILITY) => return Err(Errno::EPERM),
        PR_CAP_AMBIENT => return ambient(value, rest),
        PR_GET_SECUREBITS if thread.credentials().keeps_permitted => return Ok(KEEP_CAPS as usize),
        PR_SET_SECUREBITS if value & !KEEP_CAPS == 0 && thread.credentials().is_privileged() => {
            keep_capabilities(thread, value != 0);
        }
        PR_SET_SECUREBITS => return Err(Errno::EPERM),
        PR_SET_KEEPCAPS if value <= 1 => keep_capabilities(thread, value == 1),
        PR_GET_KEEPCAPS => return Ok(thread.credentials().keeps_permitted.into()),
        // Accounting is exact, which is what `PR_TIMING_STATISTICAL` leaves open.
        PR_SET_TIMING => return only_none(value, Errno::EINVAL),
        PR_SET_TSC if value == 1 => {}
        PR_GET_THP_DISABLE if nothing => {}
        PR_GET_TIMING | PR_GET_SECCOMP | PR_GET_SECUREBITS => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Whether capabilities stay permitted though no user id is 0 any more.
fn keep_capabilities(thread: &Thread, keep: bool) {
    thread.set_credentials(Credentials { keeps_permitted: keep, ..(*thread.credentials()).clone() });
}

/// A setting that has one value here.
fn only_none(value: u64, refusal: Errno) -> SysResult {
    if value == 0 { Ok(0) } else { Err(refusal) }
}

/// `PR_CAP_AMBIENT`: the set is always empty, as capabilities cannot be handed on one by one.
fn ambient(operation: u64, [capability, rest @ ..]: [u64; 3]) -> SysResult {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    let is_known = capability <= u64::from(LAST_CAPABILITY);
    match operation {
        _ if rest != [0; 2] => Err(Errno::EINVAL),
        CLEAR_ALL if capability == 0 => Ok(0),
        IS_SET | LOWER if is_known => Ok(0),
        RAISE if is_known => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// arch_prctl(2): segment bases. CPUID cannot be made to fault.
pub fn arch_prctl(c: &mut Caller<'_>, code: i32, value: u64) -> SysResult {
    const SET_GS: i32 = 0x1001;
    const SET_FS: i32 = 0x1002;
    const GET_FS: i32 = 0x1003;
    const GET_GS: i32 = 0x1004;
    const GET_CPUID: i32 = 0x1011;
    const SET_CPUID: i32 = 0x1012;
    match code {
        SET_GS | SET_FS if !is_user(value) => return Err(Errno::EPERM),
        SET_GS => c.context.set_gs_base(value),
        SET_FS => c.context.set_fs_base(value),
        GET_GS => UserPtr::new(VirtAddr::new(value)).write(&c.space, &c.context.registers.gs_base)?,
        GET_FS => UserPtr::new(VirtAddr::new(value)).write(&c.space, &c.context.registers.fs_base)?,
        GET_CPUID => return Ok(1),
        SET_CPUID => return Err(Errno::ENODEV),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// personality(2)
pub fn personality(c: &mut Caller<'_>, persona: u32) -> SysResult {
    set_personality(c.thread, persona)
}

/// Returns the former persona. Of all that there are, `PER_LINUX` is there, with or without randomised addresses.
fn set_personality(thread: &Thread, persona: u32) -> SysResult {
    const QUERY: u32 = u32::MAX;
    const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
    let current = &thread.process().personality;
    match persona {
        QUERY => Ok(current.load(Relaxed) as usize),
        0 | ADDR_NO_RANDOMIZE => Ok(current.swap(persona, Relaxed) as usize),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;
    use crate::process::tests::process;

    fn thread() -> Arc<Thread> {
        process().leader().unwrap()
    }

    #[test]
    fn settings_are_told_as_they_were_made() {
        let thread = thread();
        let with = |option, value| control(&thread, option, [value, 0, 0, 0]);
        assert_eq!((with(PR_SET_DUMPABLE, 0), with(PR_GET_DUMPABLE, 0)), (Ok(0), Ok(0)));
        assert_eq!((with(PR_SET_DUMPABLE, 1), with(PR_GET_DUMPABLE, 0)), (Ok(0), Ok(1)));
        assert_eq!(with(PR_SET_DUMPABLE, 2), Err(Errno::EINVAL));
        assert_eq!(with(PR_GET_TIMERSLACK, 0), Ok(50_000));
        assert_eq!((with(PR_SET_TIMERSLACK, 7), with(PR_GET_TIMERSLACK, 0)), (Ok(0), Ok(7)));
        assert_eq!((with(PR_SET_TIMERSLACK, 0), with(PR_GET_TIMERSLACK, 0)), (Ok(0), Ok(50_000)));
        assert_eq!(with(PR_SET_PDEATHSIG, 15), Ok(0));
        assert_eq!(thread.parent_death_signal.load(Relaxed), 15);
        assert_eq!(with(PR_SET_PDEATHSIG, 65), Err(Errno::EINVAL));
        assert_eq!(with(PR_SET_CHILD_SUBREAPER, 1), Ok(0));
        assert!(thread.process().is_subreaper.load(Relaxed));
    }

    #[test]
    fn capabilities_are_kept_while_that_is_asked_for() {
        let thread = thread();
        let with = |option, value| control(&thread, option, [value, 0, 0, 0]);
        assert_eq!((with(PR_SET_KEEPCAPS, 1), with(PR_GET_KEEPCAPS, 0)), (Ok(0), Ok(1)));
        assert_eq!(with(PR_GET_SECUREBITS, 0), Ok(16));
        assert_eq!((with(PR_SET_SECUREBITS, 0), with(PR_GET_KEEPCAPS, 0)), (Ok(0), Ok(0)));
        assert_eq!((with(PR_SET_SECUREBITS, 16), with(PR_GET_KEEPCAPS, 0)), (Ok(0), Ok(1)));
        let user = thread.credentials().set_uid(1000).unwrap();
        assert_eq!((user.effective, user.permitted), (false, true));
        thread.set_credentials(user);
        assert_eq!(with(PR_SET_SECUREBITS, 0), Err(Errno::EPERM));
        assert_eq!((with(PR_SET_KEEPCAPS, 0), with(PR_GET_KEEPCAPS, 0)), (Ok(0), Ok(0)));
    }

    #[test]
    fn privileges_are_given_up_for_good() {
        let thread = thread();
        assert_eq!(control(&thread, PR_GET_NO_NEW_PRIVS, [0; 4]), Ok(0));
        assert_eq!(control(&thread, PR_SET_NO_NEW_PRIVS, [0; 4]), Err(Errno::EINVAL));
        assert_eq!(control(&thread, PR_SET_NO_NEW_PRIVS, [1, 0, 0, 1]), Err(Errno::EINVAL));
        assert_eq!(control(&thread, PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]), Ok(0));
        assert_eq!(control(&thread, PR_GET_NO_NEW_PRIVS, [0; 4]), Ok(1));
    }

    #[test]
    fn programs_find_the_last_capability() {
        let thread = thread();
        let last = (0..).find(|&n| control(&thread, PR_CAPBSET_READ, [n, 0, 0, 0]) == Err(Errno::EINVAL));
        assert_eq!(last, Some(41));
        assert_eq!(control(&thread, PR_CAP_AMBIENT, [1, 5, 0, 0]), Ok(0));
        assert_eq!(control(&thread, PR_CAP_AMBIENT, [2, 5, 0, 0]), Err(Errno::EPERM));
        assert_eq!(control(&thread, PR_CAP_AMBIENT, [1, 41, 0, 0]), Err(Errno::EINVAL));
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let thread = thread();
        for option in [0, 5, 22, 35, 41, 999, i32::MIN] {
            assert_eq!(control(&thread, option, [1, 0, 0, 0]), Err(Errno::EINVAL), "{option}");
        }
        assert_eq!(control(&thread, PR_SET_KEEPCAPS, [2, 0, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(control(&thread, PR_SET_SECUREBITS, [1, 0, 0, 0]), Err(Errno::EPERM));
    }

    #[test]
    fn there_is_one_personality_with_or_without_random_addresses() {
        let thread = thread();
        assert_eq!(set_personality(&thread, 0x004_0000), Ok(0));
        assert_eq!(set_personality(&thread, u32::MAX), Ok(0x004_0000));
        assert_eq!(set_personality(&thread, 8), Err(Errno::EINVAL));
        assert_eq!(set_personality(&thread, 0), Ok(0x004_0000));
    }
}
