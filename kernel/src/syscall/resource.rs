//! Limits and accounts: prlimit(2), getrusage(2), times(2), sysinfo(2).

use alloc::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::process::Rusage;
use super::sched::target;
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::memory::{self, PAGE_SIZE};
use crate::process::usage::{TICK, Totals};
use crate::process::{self, Credentials, Limit, Resource, Thread};
use crate::uaccess::UserPtr;

/// prlimit64(2)
pub fn prlimit64(
    c: &mut Caller<'_>,
    pid: i32,
    resource: u32,
    new: UserPtr<Limit>,
    old: UserPtr<Limit>,
) -> SysResult {
    let new = new.non_null().map(|new| new.read(&c.space)).transpose()?;
    let thread = target(c.thread, pid).map_err(|_| Errno::ESRCH)?;
    let former = change_limit(c.thread, &thread, Resource::new(resource)?, new)?;
    if let Some(old) = old.non_null() {
        old.write(&c.space, &former)?;
    }
    Ok(0)
}

/// getrlimit(2)
pub fn getrlimit(c: &mut Caller<'_>, resource: u32, to: UserPtr<Limit>) -> SysResult {
    let limit = c.thread.process().rlimit(Resource::new(resource)?);
    to.write(&c.space, &limit)?;
    Ok(0)
}

/// setrlimit(2)
pub fn setrlimit(c: &mut Caller<'_>, resource: u32, new: UserPtr<Limit>) -> SysResult {
    let new = new.read(&c.space)?;
    change_limit(c.thread, c.thread, Resource::new(resource)?, Some(new))?;
    Ok(0)
}

/// Sets a limit of the process of `target`, if there is a new one. Returns the former.
fn change_limit(
    caller: &Arc<Thread>,
    target: &Arc<Thread>,
    resource: Resource,
    new: Option<Limit>,
) -> Result<Limit, Errno> {
    let (credentials, process) = (caller.credentials(), target.process());
    let own = Arc::ptr_eq(caller.process(), process);
    if !own && !may_limit(&credentials, &target.credentials()) {
        return Err(Errno::EPERM);
    }
    match new {
        Some(new) => process.change_limit(resource, new, credentials.is_privileged()),
        None => Ok(process.rlimit(resource)),
    }
}

/// Whether `caller` may look at and change the limits of `target`: all its ids are the caller's real ones.
fn may_limit(caller: &Credentials, target: &Credentials) -> bool {
    caller.is_privileged() || target.has_only(caller.uid, caller.gid)
}

/// getrusage(2)
pub fn getrusage(c: &mut Caller<'_>, who: i32, to: UserPtr<Rusage>) -> SysResult {
    to.write(&c.space, &Rusage::from(&usage_of(c.thread, who)?))?;
    Ok(0)
}

fn usage_of(thread: &Arc<Thread>, who: i32) -> Result<Totals, Errno> {
    /// `RUSAGE_CHILDREN`
    const CHILDREN: i32 = -1;
    /// `RUSAGE_SELF`
    const SELF: i32 = 0;
    /// `RUSAGE_THREAD`
    const THREAD: i32 = 1;
    let process = thread.process();
    match who {
        CHILDREN => Ok(process.children_usage()),
        SELF => Ok(process.usage()),
        // The resident set is the whole process's in any case.
        THREAD => {
            Ok(Totals { max_resident: process.usage().max_resident, ..thread.usage().totals(arch::now()) })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `struct tms`, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tms {
    user: i64,
    system: i64,
    children_user: i64,
    children_system: i64,
}

impl Tms {
    fn of(own: &Totals, children: &Totals) -> Self {
        let [user, system, children_user, children_system] =
            [own.user, own.system, children.user, children.system].map(|time| (time / TICK) as i64);
        Self { user, system, children_user, children_system }
    }
}

/// times(2): returns the clock ticks since boot.
pub fn times(c: &mut Caller<'_>, to: UserPtr<Tms>) -> SysResult {
    if let Some(to) = to.non_null() {
        let process = c.thread.process();
        to.write(&c.space, &Tms::of(&process.usage(), &process.children_usage()))?;
    }
    Ok((arch::now() / TICK) as usize)
}

/// `struct sysinfo`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sysinfo {
    uptime: i64,
    loads: [u64; 3],
    total_memory: u64,
    free_memory: u64,
    shared_memory: u64,
    buffer_memory: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    padding: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    padding2: u32,
}

const _: () = assert!(size_of::<Sysinfo>() == 112, "struct sysinfo of x86-64");

impl Sysinfo {
    /// The machine as it is. Averages are not kept: as in /proc/loadavg, the load is that of this moment.
    fn now() -> Self {
        /// `SI_LOAD_SHIFT`: loads are fixed-point numbers.
        const LOAD_SHIFT: u32 = 16;
        let memory = memory::statistics();
        let (tasks, _) = process::counts();
        Self {
            // A second that has begun counts, as on Linux.
            uptime: arch::now().div_ceil(1_000_000_000) as i64,
            loads: [(process::running() as u64) << LOAD_SHIFT; 3],
            total_memory: memory.total * PAGE_SIZE as u64,
            free_memory: memory.free * PAGE_SIZE as u64,
            processes: u16::try_from(tasks).unwrap_or(u16::MAX),
            unit: 1,
            ..Self::default()
        }
    }
}

/// sysinfo(2)
pub fn sysinfo(c: &mut Caller<'_>, to: UserPtr<Sysinfo>) -> SysResult {
    to.write(&c.space, &Sysinfo::now())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tests::process;

    #[test]
    fn limits_of_others_are_for_their_owner_and_root() {
        let (one, other) = (process().leader().unwrap(), process().leader().unwrap());
        let lower = Limit { soft: 10, hard: 20 };
        let change = |new| change_limit(&one, &other, Resource::Files, new);
        change(Some(lower)).unwrap();
        one.set_credentials(Credentials::root().set_uid(5).unwrap());
        assert_eq!(change(None), Err(Errno::EPERM));
        other.set_credentials(Credentials::root().set_uid(5).unwrap());
        assert_eq!(change(None), Ok(lower));
        assert_eq!(change(Some(Limit { soft: 20, hard: 21 })), Err(Errno::EPERM));
        // The group ids have to agree as well.
        other.set_credentials(Credentials { gid: 1, ..(*one.credentials()).clone() });
        assert_eq!(change(None), Err(Errno::EPERM));
    }

    #[test]
    fn a_limit_on_descriptors_takes_effect() {
        let thread = process().leader().unwrap();
        let new = Limit { soft: 7, hard: 4096 };
        change_limit(&thread, &thread, Resource::Files, Some(new)).unwrap();
        assert_eq!(thread.files().limit(), 7);
        assert_eq!(thread.process().rlimit(Resource::Files), new);
    }

    #[test]
    fn usage_is_told_by_thread_process_and_children() {
        let thread = process().leader().unwrap();
        thread.usage().count_fault();
        assert_eq!(usage_of(&thread, 0).unwrap().faults, 1);
        assert_eq!(usage_of(&thread, 1).unwrap().faults, 1);
        assert_eq!(usage_of(&thread, -1).unwrap().faults, 0);
        assert_eq!(usage_of(&thread, 2), Err(Errno::EINVAL));
    }

    #[test]
    fn times_are_in_ticks() {
        let own = Totals { user: 25 * TICK, system: TICK - 1, ..Totals::default() };
        let tms = Tms::of(&own, &Totals { system: 3 * TICK, ..Totals::default() });
        assert_eq!(tms, Tms { user: 25, system: 0, children_user: 0, children_system: 3 });
    }

    #[test]
    fn sysinfo_tells_of_the_memory_there_is_and_of_a_second_that_has_begun() {
        let info = Sysinfo::now();
        assert!(info.total_memory > 0 && info.free_memory <= info.total_memory && info.processes > 0);
        assert!(info.uptime > 0);
    }
}
