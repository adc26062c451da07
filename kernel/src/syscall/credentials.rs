//! Identity: setresuid(2) and its relatives, setgroups(2), capget(2), capset(2).
//!
//! The rules are in `process/credentials.rs`. As on Linux, each thread has its own ids; the C library changes those of all.
//! Capabilities come with user id 0 and cannot be had one by one, so a set of some of them is refused.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::sched::target;
use crate::errno::{Errno, SysResult};
use crate::process::memory::space_limits;
use crate::process::{Credentials, MAX_GROUPS, Thread, UNCHANGED};
use crate::uaccess::UserPtr;

/// getuid(2)
pub fn getuid(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.credentials().uid as usize)
}

/// geteuid(2)
pub fn geteuid(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.credentials().euid as usize)
}

/// getgid(2)
pub fn getgid(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.credentials().gid as usize)
}

/// getegid(2)
pub fn getegid(c: &mut Caller<'_>) -> SysResult {
    Ok(c.thread.credentials().egid as usize)
}

/// setuid(2)
pub fn setuid(c: &mut Caller<'_>, uid: u32) -> SysResult {
    change(c.thread, |old| old.set_uid(uid))
}

/// setgid(2)
pub fn setgid(c: &mut Caller<'_>, gid: u32) -> SysResult {
    change(c.thread, |old| old.set_gid(gid))
}

/// setreuid(2)
pub fn setreuid(c: &mut Caller<'_>, uid: u32, euid: u32) -> SysResult {
    change(c.thread, |old| old.set_real_uid(uid, euid))
}

/// setregid(2)
pub fn setregid(c: &mut Caller<'_>, gid: u32, egid: u32) -> SysResult {
    change(c.thread, |old| old.set_real_gid(gid, egid))
}

/// setresuid(2)
pub fn setresuid(c: &mut Caller<'_>, uid: u32, euid: u32, suid: u32) -> SysResult {
    change(c.thread, |old| old.set_user_ids(uid, euid, suid))
}

/// setresgid(2)
pub fn setresgid(c: &mut Caller<'_>, gid: u32, egid: u32, sgid: u32) -> SysResult {
    change(c.thread, |old| old.set_group_ids(gid, egid, sgid))
}

/// setfsuid(2): returns the former id, whether or not it was changed.
pub fn setfsuid(c: &mut Caller<'_>, uid: u32) -> SysResult {
    let old = c.thread.credentials();
    if let Some(new) = old.set_fs_ids(uid, UNCHANGED) {
        commit(c.thread, &old, new);
    }
    Ok(old.fsuid as usize)
}

/// setfsgid(2), likewise.
pub fn setfsgid(c: &mut Caller<'_>, gid: u32) -> SysResult {
    let old = c.thread.credentials();
    if let Some(new) = old.set_fs_ids(UNCHANGED, gid) {
        commit(c.thread, &old, new);
    }
    Ok(old.fsgid as usize)
}

fn change(thread: &Arc<Thread>, rule: impl FnOnce(&Credentials) -> Result<Credentials, Errno>) -> SysResult {
    let old = thread.credentials();
    commit(thread, &old, rule(&old)?);
    Ok(0)
}

/// Puts `new` into effect, and what depends on it: who acts for somebody else from now on is no more to be looked into by, or tied to
/// the life of, those it acted for before (`PR_SET_DUMPABLE`, `PR_SET_PDEATHSIG`).
fn commit(thread: &Thread, old: &Credentials, new: Credentials) {
    let process = thread.process();
    if !new.acts_as(old) {
        process.dumpable.store(0, Ordering::Relaxed);
        thread.parent_death_signal.store(0, Ordering::Relaxed);
    }
    let privileged = new.is_privileged();
    thread.set_credentials(new);
    if old.is_privileged() != privileged {
        thread.space().set_limits(space_limits(process, privileged));
    }
}

/// getresuid(2)
pub fn getresuid(c: &mut Caller<'_>, uid: UserPtr<u32>, euid: UserPtr<u32>, suid: UserPtr<u32>) -> SysResult {
    let ids = c.thread.credentials();
    write_ids(c, [(uid, ids.uid), (euid, ids.euid), (suid, ids.suid)])
}

/// getresgid(2)
pub fn getresgid(c: &mut Caller<'_>, gid: UserPtr<u32>, egid: UserPtr<u32>, sgid: UserPtr<u32>) -> SysResult {
    let ids = c.thread.credentials();
    write_ids(c, [(gid, ids.gid), (egid, ids.egid), (sgid, ids.sgid)])
}

fn write_ids(c: &Caller<'_>, ids: [(UserPtr<u32>, u32); 3]) -> SysResult {
    ids.into_iter().try_for_each(|(to, id)| to.write(&c.space, &id))?;
    Ok(0)
}

/// getgroups(2)
pub fn getgroups(c: &mut Caller<'_>, size: i32, list: UserPtr<u32>) -> SysResult {
    let (size, ids) = (usize::try_from(size).map_err(|_| Errno::EINVAL)?, c.thread.credentials());
    let count = ids.groups.len();
    if size == 0 {
        return Ok(count);
    }
    if size < count {
        return Err(Errno::EINVAL);
    }
    crate::uaccess::write_bytes(&c.space, list.address(), ids.groups.as_bytes())?;
    Ok(count)
}

/// setgroups(2)
pub fn setgroups(c: &mut Caller<'_>, size: usize, list: UserPtr<u32>) -> SysResult {
    if !c.thread.credentials().is_privileged() {
        return Err(Errno::EPERM);
    }
    let groups = list.read_vec(&c.space, size, MAX_GROUPS)?;
    change(c.thread, |old| old.set_groups(groups))
}

/// The last capability, `CAP_CHECKPOINT_RESTORE`.
pub const LAST_CAPABILITY: u32 = 40;
const ALL_CAPABILITIES: u64 = (1 << (LAST_CAPABILITY + 1)) - 1;

/// `struct __user_cap_header_struct`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: 32 capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// How many words a version of the header has behind it.
fn words(version: u32) -> Option<usize> {
    match version {
        0x1998_0330 => Some(1),
        0x2007_1026 | CURRENT_VERSION => Some(2),
        _ => None,
    }
}

const CURRENT_VERSION: u32 = 0x2008_0522;

/// The capabilities of `ids` as capget(2) tells them.
fn capabilities(ids: &Credentials) -> [CapabilityWord; 2] {
    let all = |yes: bool| if yes { ALL_CAPABILITIES } else { 0 };
    let (effective, permitted) = (all(ids.effective), all(ids.permitted));
    [0, 32].map(|shift| CapabilityWord {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: 0,
    })
}

/// `ids` with the capabilities that `wanted` asks for: all or none (`EPERM`).
fn with_capabilities(ids: &Credentials, wanted: &[CapabilityWord]) -> Result<Credentials, Errno> {
    for (effective, permitted) in [(false, false), (false, true), (true, true)] {
        let asked = Credentials { effective, permitted, ..Credentials::default() };
        if capabilities(&asked)[..wanted.len()] == *wanted {
            return ids.set_capabilities(effective, permitted);
        }
    }
    Err(Errno::EPERM)
}

/// Reads the header. An unknown version is answered with the one to use.
fn read_header(
    c: &Caller<'_>,
    pointer: UserPtr<CapabilityHeader>,
) -> Result<(CapabilityHeader, Option<usize>), Errno> {
    let header = pointer.read(&c.space)?;
    let words = words(header.version);
    if words.is_none() {
        pointer.write(&c.space, &CapabilityHeader { version: CURRENT_VERSION, ..header })?;
    }
    Ok((header, words))
}

/// capget(2)
pub fn capget(
    c: &mut Caller<'_>,
    header: UserPtr<CapabilityHeader>,
    data: UserPtr<CapabilityWord>,
) -> SysResult {
    let (header, words) = read_header(c, header)?;
    let (words, data) = match (words, data.non_null()) {
        (Some(words), Some(data)) => (words, data),
        // Without data it is the question which version to use.
        (_, None) => return Ok(0),
        (None, _) => return Err(Errno::EINVAL),
    };
    let ids = target(c.thread, header.pid)?.credentials();
    for (index, word) in capabilities(&ids)[..words].iter().enumerate() {
        data.index(index).write(&c.space, word)?;
    }
    Ok(0)
}

/// capset(2): all that is permitted, or nothing.
pub fn capset(
    c: &mut Caller<'_>,
    header: UserPtr<CapabilityHeader>,
    data: UserPtr<CapabilityWord>,
) -> SysResult {
    let (header, words) = read_header(c, header)?;
    let words = words.ok_or(Errno::EINVAL)?;
    if header.pid != 0 && header.pid as u32 != c.thread.tid() {
        return Err(Errno::EPERM);
    }
    let wanted = data.read_vec(&c.space, words, words)?;
    change(c.thread, |old| with_capabilities(old, &wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Resource;
    use crate::process::tests::process;

    #[test]
    fn who_acts_for_another_user_is_dumpable_no_more() {
        let thread = process().leader().unwrap();
        thread.parent_death_signal.store(9, Ordering::Relaxed);
        // The real id alone is nothing that one acts by.
        assert_eq!(change(&thread, |old| old.set_user_ids(1000, UNCHANGED, UNCHANGED)), Ok(0));
        assert_eq!(thread.process().dumpable.load(Ordering::Relaxed), 1);
        assert_eq!(change(&thread, |old| old.set_uid(1000)), Ok(0));
        assert_eq!(thread.process().dumpable.load(Ordering::Relaxed), 0);
        assert_eq!(thread.parent_death_signal.load(Ordering::Relaxed), 0);
        assert_eq!(change(&thread, |old| old.set_uid(0)), Err(Errno::EPERM));
        assert_eq!(thread.credentials().euid, 1000);
    }

    #[test]
    fn without_privilege_the_limit_on_locked_memory_counts() {
        let process = process();
        let thread = process.leader().unwrap();
        let limits = |privileged| space_limits(&process, privileged).locked;
        assert_eq!(limits(true), u64::MAX);
        assert_eq!(limits(false), process.rlimit(Resource::LockedMemory).soft);
        change(&thread, |old| old.set_uid(1)).unwrap();
        assert!(!thread.credentials().is_privileged());
    }

    #[test]
    fn capabilities_come_with_user_zero() {
        let root = Credentials::root();
        let all = CapabilityWord { effective: u32::MAX, permitted: u32::MAX, inheritable: 0 };
        assert_eq!(
            capabilities(&root),
            [all, CapabilityWord { effective: 0x1ff, permitted: 0x1ff, inheritable: 0 }]
        );
        let suspended = root.set_user_ids(UNCHANGED, 7, UNCHANGED).unwrap();
        assert_eq!(capabilities(&suspended)[0], CapabilityWord { effective: 0, ..all });
        assert_eq!(capabilities(&root.set_uid(7).unwrap()), [CapabilityWord::default(); 2]);
        assert!(with_capabilities(&suspended, &capabilities(&root)).unwrap().effective);
        let one = [CapabilityWord { effective: 0, permitted: 1, inheritable: 0 }, CapabilityWord::default()];
        assert_eq!(with_capabilities(&root, &one), Err(Errno::EPERM));
        assert!(!with_capabilities(&root, &[CapabilityWord::default(); 2]).unwrap().is_privileged());
    }

    #[test]
    fn versions_of_the_capability_header() {
        assert_eq!([0x1998_0330, 0x2007_1026, 0x2008_0522, 1].map(words), [Some(1), Some(2), Some(2), None]);
    }
}
