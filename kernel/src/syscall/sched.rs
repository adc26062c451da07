//! Scheduling: sched_setscheduler(2), sched_setaffinity(2), setpriority(2) and their families, ioprio_set(2), membarrier(2).
//!
//! What a thread asks of the scheduler is kept in `process/scheduling.rs`, which says how much of it is heeded.

use alloc::sync::Arc;
use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::clock::Timespec;
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::fs::machine;
use crate::memory::VirtAddr;
use crate::process::run;
use crate::process::scheduling::{CoreSet, Parameters, Policy};
use crate::process::{self, Credentials, Resource, Thread};
use crate::sched::run_queue;
use crate::uaccess::{self, UserPtr};

/// The thread that `tid` names to `caller`; 0 is the caller.
///
/// # Errors
/// `EINVAL` for negative ids, `ESRCH`.
pub fn target(caller: &Arc<Thread>, tid: i32) -> Result<Arc<Thread>, Errno> {
    match u32::try_from(tid) {
        Ok(0) => Ok(caller.clone()),
        Ok(tid) => process::find_task(tid).ok_or(Errno::ESRCH)?.into_thread(),
        Err(_) => Err(Errno::EINVAL),
    }
}

/// The same for the calls on affinity, to which a negative id is that of no thread: `ESRCH`.
fn target_by_affinity(caller: &Arc<Thread>, tid: i32) -> Result<Arc<Thread>, Errno> {
    if tid < 0 { Err(Errno::ESRCH) } else { target(caller, tid) }
}

/// Whether `caller` may change how `target` is scheduled.
fn may_schedule(caller: &Credentials, target: &Credentials) -> bool {
    caller.is_privileged() || [target.uid, target.euid].contains(&caller.euid)
}

fn check_owner(caller: &Thread, target: &Thread) -> Result<(), Errno> {
    if may_schedule(&caller.credentials(), &target.credentials()) { Ok(()) } else { Err(Errno::EPERM) }
}

/// sched_yield(2)
pub async fn sched_yield(c: &mut Caller<'_>) -> SysResult {
    run::yield_now(c.thread).await;
    Ok(0)
}

/// `SCHED_RESET_ON_FORK`, in the policy of sched_setscheduler(2).
const RESET_ON_FORK: u32 = 0x4000_0000;
/// `SCHED_FLAG_RESET_ON_FORK` of sched_setattr(2).
const FLAG_RESET_ON_FORK: u64 = 1;

/// A change of policy.
#[derive(Clone, Copy, Debug)]
struct Change {
    policy: Policy,
    priority: i32,
    reset_on_fork: bool,
    nice: Option<i32>,
}

impl Change {
    /// From the arguments of sched_setscheduler(2).
    fn new(policy: u32, priority: i32) -> Result<Self, Errno> {
        let reset_on_fork = policy & RESET_ON_FORK != 0;
        Ok(Self { policy: Policy::new(policy & !RESET_ON_FORK)?, priority, reset_on_fork, nice: None })
    }

    /// Makes the change to `target`, for `caller`.
    fn apply(self, caller: &Thread, target: &Thread) -> SysResult {
        check_owner(caller, target)?;
        let privileged = caller.credentials().is_privileged();
        let ceiling = target.process().rlimit(Resource::RealTimePriority).soft;
        let allowed = privileged || u64::try_from(self.priority).is_ok_and(|priority| priority <= ceiling);
        let mut parameters = target.scheduling.lock();
        let mut new = *parameters;
        new.set_policy(self.policy, self.priority, allowed)?;
        // Leaving SCHED_IDLE is like lowering a nice value: sched(7), "SCHED_IDLE".
        let leaves_idle = parameters.policy == Policy::Idle && self.policy != Policy::Idle;
        if leaves_idle && !may_favour(target, parameters.nice, privileged) {
            return Err(Errno::EPERM);
        }
        if new.reset_on_fork && !self.reset_on_fork && !privileged {
            return Err(Errno::EPERM);
        }
        new.reset_on_fork = self.reset_on_fork;
        if let Some(nice) = self.nice {
            let allowed = may_favour(target, nice, privileged);
            new.set_nice(nice, allowed).map_err(|_| Errno::EPERM)?;
        }
        *parameters = new;
        drop(parameters);
        target.apply_scheduling();
        Ok(0)
    }
}

/// sched_setscheduler(2)
pub fn sched_setscheduler(c: &mut Caller<'_>, tid: i32, policy: u32, priority: UserPtr<i32>) -> SysResult {
    let priority = priority.non_null().ok_or(Errno::EINVAL)?;
    let target = target(c.thread, tid)?;
    Change::new(policy, priority.read(&c.space)?)?.apply(c.thread, &target)
}

/// sched_getscheduler(2)
pub fn sched_getscheduler(c: &mut Caller<'_>, tid: i32) -> SysResult {
    let parameters = target(c.thread, tid)?.scheduling();
    let reset = if parameters.reset_on_fork { RESET_ON_FORK } else { 0 };
    Ok((parameters.policy as u32 | reset) as usize)
}

/// sched_setparam(2)
pub fn sched_setparam(c: &mut Caller<'_>, tid: i32, priority: UserPtr<i32>) -> SysResult {
    let priority = priority.non_null().ok_or(Errno::EINVAL)?;
    let target = target(c.thread, tid)?;
    let Parameters { policy, reset_on_fork, .. } = target.scheduling();
    let priority = priority.read(&c.space)?;
    Change { policy, priority, reset_on_fork, nice: None }.apply(c.thread, &target)
}

/// sched_getparam(2)
pub fn sched_getparam(c: &mut Caller<'_>, tid: i32, priority: UserPtr<i32>) -> SysResult {
    let priority = priority.non_null().ok_or(Errno::EINVAL)?;
    priority.write(&c.space, &target(c.thread, tid)?.scheduling().priority)?;
    Ok(0)
}

/// `struct sched_attr`, as far as the policies that are there use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Of `SCHED_DEADLINE`.
    deadline: [u64; 3],
}

/// The size of [`SchedAttr`], which is its first version.
const ATTR_SIZE: u32 = size_of::<SchedAttr>() as u32;

impl SchedAttr {
    fn of(parameters: &Parameters) -> Self {
        let nice = if parameters.policy.is_real_time() { 0 } else { parameters.nice };
        Self {
            size: ATTR_SIZE,
            policy: parameters.policy as u32,
            flags: u64::from(parameters.reset_on_fork) * FLAG_RESET_ON_FORK,
            nice,
            priority: parameters.priority as u32,
            deadline: [0; 3],
        }
    }

    fn change(&self) -> Result<Change, Errno> {
        if self.flags & !FLAG_RESET_ON_FORK != 0 {
            return Err(Errno::EINVAL);
        }
        let policy = Policy::new(self.policy)?;
        let priority = i32::try_from(self.priority).map_err(|_| Errno::EINVAL)?;
        let nice = (!policy.is_real_time()).then_some(self.nice);
        Ok(Change { policy, priority, reset_on_fork: self.flags & FLAG_RESET_ON_FORK != 0, nice })
    }
}

/// sched_setattr(2). A later version of the structure is taken if what it has in addition is zero.
pub fn sched_setattr(c: &mut Caller<'_>, tid: i32, attr: UserPtr<SchedAttr>, flags: u32) -> SysResult {
    if attr.non_null().is_none() || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let size = UserPtr::<u32>::new(attr.address()).read(&c.space)?;
    // A size of 0 stands for the first version.
    let size = if size == 0 { ATTR_SIZE } else { size };
    if !(ATTR_SIZE..=crate::memory::PAGE_SIZE as u32).contains(&size) || !rest_is_zero(c, attr, size)? {
        UserPtr::<u32>::new(attr.address()).write(&c.space, &ATTR_SIZE)?;
        return Err(Errno::E2BIG);
    }
    let change = attr.read(&c.space)?.change()?;
    change.apply(c.thread, &*target(c.thread, tid)?)
}

fn rest_is_zero(c: &Caller<'_>, attr: UserPtr<SchedAttr>, size: u32) -> Result<bool, Errno> {
    let rest = UserPtr::<u8>::new(attr.index(1).address());
    let rest = rest.read_vec(&c.space, (size - ATTR_SIZE) as usize, usize::MAX)?;
    Ok(rest.iter().all(|&byte| byte == 0))
}

/// sched_getattr(2)
pub fn sched_getattr(
    c: &mut Caller<'_>,
    tid: i32,
    attr: UserPtr<SchedAttr>,
    size: u32,
    flags: u32,
) -> SysResult {
    let sizes = ATTR_SIZE..=crate::memory::PAGE_SIZE as u32;
    if attr.non_null().is_none() || !sizes.contains(&size) || flags != 0 {
        return Err(Errno::EINVAL);
    }
    attr.write(&c.space, &SchedAttr::of(&target(c.thread, tid)?.scheduling()))?;
    Ok(0)
}

/// The static priorities of a policy by number; `SCHED_DEADLINE`, which is not there, has none.
fn priorities(policy: u32) -> Result<core::ops::RangeInclusive<i32>, Errno> {
    const DEADLINE: u32 = 6;
    if policy == DEADLINE { Ok(0..=0) } else { Ok(Policy::new(policy)?.priorities()) }
}

/// sched_get_priority_max(2)
pub fn sched_get_priority_max(_: &mut Caller<'_>, policy: u32) -> SysResult {
    Ok(*priorities(policy)?.end() as usize)
}

/// sched_get_priority_min(2)
pub fn sched_get_priority_min(_: &mut Caller<'_>, policy: u32) -> SysResult {
    Ok(*priorities(policy)?.start() as usize)
}

/// sched_rr_get_interval(2): a round of `SCHED_RR`, none of `SCHED_FIFO`, and for the others what they ask for at most.
pub fn sched_rr_get_interval(c: &mut Caller<'_>, tid: i32, to: UserPtr<Timespec>) -> SysResult {
    let interval = interval(target(c.thread, tid)?.scheduling().policy);
    to.write(&c.space, &Timespec::from_nanoseconds(interval))?;
    Ok(0)
}

fn interval(policy: Policy) -> u64 {
    match policy {
        Policy::Fifo => 0,
        Policy::RoundRobin => run_queue::ROUND,
        Policy::Other | Policy::Batch | Policy::Idle => run_queue::LONGEST_REQUEST,
    }
}

/// The cores that there are.
fn online() -> CoreSet {
    CoreSet::first(machine::get().cores)
}

/// sched_setaffinity(2)
pub fn sched_setaffinity(c: &mut Caller<'_>, tid: i32, size: usize, mask: VirtAddr) -> SysResult {
    let mut bytes = [0; size_of::<u64>()];
    // Cores beyond those that there are do not matter.
    let len = size.min(bytes.len());
    uaccess::read_bytes(&c.space, mask, &mut bytes[..len])?;
    set_affinity(c.thread, &*target_by_affinity(c.thread, tid)?, CoreSet(u64::from_ne_bytes(bytes)))
}

fn set_affinity(caller: &Thread, target: &Thread, cores: CoreSet) -> SysResult {
    check_owner(caller, target)?;
    target.scheduling.lock().set_cores(cores, online())?;
    Ok(0)
}

/// sched_getaffinity(2): returns the number of bytes stored, as the system call has it.
pub fn sched_getaffinity(c: &mut Caller<'_>, tid: i32, size: usize, mask: UserPtr<u64>) -> SysResult {
    const WORD: usize = size_of::<u64>();
    if size < WORD || !size.is_multiple_of(WORD) {
        return Err(Errno::EINVAL);
    }
    let cores = target_by_affinity(c.thread, tid)?.scheduling().cores;
    mask.write(&c.space, &(cores.0 & online().0))?;
    Ok(WORD)
}

/// getcpu(2). Node 0 is the only one that programs are told of.
pub fn getcpu(c: &mut Caller<'_>, core: UserPtr<u32>, node: UserPtr<u32>) -> SysResult {
    if let Some(core) = core.non_null() {
        core.write(&c.space, &u32::from(arch::core_id().0))?;
    }
    if let Some(node) = node.non_null() {
        node.write(&c.space, &0)?;
    }
    Ok(0)
}

/// Whom setpriority(2) or ioprio_set(2) is about.
#[derive(Clone, Copy, Debug)]
enum Whom {
    /// A thread.
    Thread,
    /// A process group.
    Group,
    /// A real user id.
    User,
}

impl Whom {
    /// The live threads that `id` names to `caller`; 0 is the caller's own.
    fn threads(self, caller: &Arc<Thread>, id: u32) -> Vec<Arc<Thread>> {
        let all_of = |processes: Vec<Arc<process::Process>>| -> Vec<Arc<Thread>> {
            processes.iter().flat_map(|process| process.threads()).collect()
        };
        match (self, id) {
            (Self::Thread, 0) => [caller.clone()].into(),
            (Self::Thread, id) => process::find_thread(id).into_iter().collect(),
            (Self::Group, 0) => all_of(process::group_members(caller.process().pgid())),
            (Self::Group, id) => all_of(process::group_members(id)),
            (Self::User, id) => {
                let uid = if id == 0 { caller.credentials().uid } else { id };
                let mut threads = all_of(process::list());
                threads.retain(|thread| thread.credentials().uid == uid);
                threads
            }
        }
    }
}

/// `PRIO_PROCESS`, `PRIO_PGRP` and `PRIO_USER`.
fn whom(which: i32) -> Result<Whom, Errno> {
    Ok(match which {
        0 => Whom::Thread,
        1 => Whom::Group,
        2 => Whom::User,
        _ => return Err(Errno::EINVAL),
    })
}

/// Whether the nice value of `target` may become `nice`, which favours it, by privilege or by its limit.
fn may_favour(target: &Thread, nice: i32, privileged: bool) -> bool {
    let ceiling = target.process().rlimit(Resource::Nice).soft;
    privileged || (20 - i64::from(nice.clamp(-20, 19))) as u64 <= ceiling
}

/// getpriority(2): returns 20 minus the nice value, of the most favoured thread.
pub fn getpriority(c: &mut Caller<'_>, which: i32, who: u32) -> SysResult {
    let threads = whom(which)?.threads(c.thread, who);
    let nice = threads.iter().map(|thread| thread.scheduling().nice).min().ok_or(Errno::ESRCH)?;
    Ok((20 - nice) as usize)
}

/// setpriority(2)
pub fn setpriority(c: &mut Caller<'_>, which: i32, who: u32, nice: i32) -> SysResult {
    set_nice(c.thread, &whom(which)?.threads(c.thread, who), nice)
}

/// Changes those that it may change; the last refusal counts.
fn set_nice(caller: &Thread, targets: &[Arc<Thread>], nice: i32) -> SysResult {
    let privileged = caller.credentials().is_privileged();
    let mut result = Err(Errno::ESRCH);
    for target in targets {
        let changed = check_owner(caller, target).and_then(|()| {
            let allowed = may_favour(target, nice, privileged);
            target.scheduling.lock().set_nice(nice, allowed)?;
            target.apply_scheduling();
            Ok(())
        });
        result = match (changed, result) {
            (Ok(()), Err(Errno::ESRCH)) => Ok(0),
            (Ok(()), earlier) => earlier,
            (Err(error), _) => Err(error),
        };
    }
    result
}

/// `IOPRIO_WHO_PROCESS`, `IOPRIO_WHO_PGRP` and `IOPRIO_WHO_USER`.
fn io_whom(which: i32) -> Result<Whom, Errno> {
    whom(which.wrapping_sub(1))
}

/// ioprio_get(2): nothing is ordered by it, so it is always `IOPRIO_CLASS_NONE`.
pub fn ioprio_get(c: &mut Caller<'_>, which: i32, who: u32) -> SysResult {
    let threads = io_whom(which)?.threads(c.thread, who);
    if threads.is_empty() { Err(Errno::ESRCH) } else { Ok(0) }
}

/// ioprio_set(2): there is no class but `IOPRIO_CLASS_NONE`.
pub fn ioprio_set(c: &mut Caller<'_>, which: i32, who: u32, priority: i32) -> SysResult {
    if priority != 0 {
        return Err(Errno::EINVAL);
    }
    ioprio_get(c, which, who)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Limit;
    use crate::process::tests::{process, second_thread};

    fn become_user(thread: &Thread, uid: u32) {
        thread.set_credentials(Credentials::root().set_uid(uid).unwrap());
    }

    #[test]
    fn threads_are_found_by_id() {
        let process = process();
        let (caller, second) = (process.leader().unwrap(), second_thread(&process));
        assert!(Arc::ptr_eq(&target(&caller, 0).unwrap(), &caller));
        assert!(Arc::ptr_eq(&target(&caller, second.tid() as i32).unwrap(), &second));
        assert_eq!(target(&caller, -1).err(), Some(Errno::EINVAL));
        assert_eq!(target(&caller, 4_000_000).err(), Some(Errno::ESRCH));
    }

    #[test]
    fn policies_are_set_by_owners_and_real_time_ones_within_the_limit() {
        let (caller, other) = (process().leader().unwrap(), process().leader().unwrap());
        let fifo = Change::new(1 | RESET_ON_FORK, 10).unwrap();
        assert_eq!(fifo.apply(&caller, &other), Ok(0));
        assert_eq!(other.scheduling().policy, Policy::Fifo);
        become_user(&caller, 5);
        let batch = Change::new(3, 0).unwrap();
        assert_eq!(batch.apply(&caller, &other), Err(Errno::EPERM));
        assert_eq!(fifo.apply(&caller, &caller), Err(Errno::EPERM));
        caller
            .process()
            .change_limit(Resource::RealTimePriority, Limit { soft: 10, hard: 10 }, true)
            .unwrap();
        assert_eq!(fifo.apply(&caller, &caller), Ok(0));
        // Only root takes the mark off that children do not inherit it.
        assert_eq!(batch.apply(&caller, &caller), Err(Errno::EPERM));
        assert_eq!(caller.scheduling().policy, Policy::Fifo);
    }

    #[test]
    fn who_is_idle_stays_so_unless_the_limit_of_nice_values_allows_more() {
        let caller = process().leader().unwrap();
        become_user(&caller, 5);
        let [idle, batch, other] = [5, 3, 0].map(|policy| Change::new(policy, 0).unwrap());
        assert_eq!(idle.apply(&caller, &caller), Ok(0));
        assert_eq!(other.apply(&caller, &caller), Err(Errno::EPERM));
        assert_eq!(batch.apply(&caller, &caller), Err(Errno::EPERM));
        assert_eq!(idle.apply(&caller, &caller), Ok(0));
        caller.process().change_limit(Resource::Nice, Limit { soft: 20, hard: 20 }, true).unwrap();
        assert_eq!(other.apply(&caller, &caller), Ok(0));
        assert_eq!(caller.scheduling().policy, Policy::Other);
    }

    #[test]
    fn attributes_go_both_ways() {
        let thread = process().leader().unwrap();
        let attr = SchedAttr { size: ATTR_SIZE, policy: 3, flags: 1, nice: 7, ..SchedAttr::default() };
        attr.change().unwrap().apply(&thread, &thread).unwrap();
        assert_eq!(SchedAttr::of(&thread.scheduling()), attr);
        assert_eq!(SchedAttr { flags: 2, ..attr }.change().err(), Some(Errno::EINVAL));
        assert_eq!(SchedAttr { policy: 6, ..attr }.change().err(), Some(Errno::EINVAL));
    }

    #[test]
    fn nice_values_are_raised_by_owners_and_lowered_within_the_limit() {
        let process = process();
        let thread = process.leader().unwrap();
        let own = [thread.clone()];
        become_user(&thread, 5);
        assert_eq!(set_nice(&thread, &own, 10), Ok(0));
        assert_eq!(set_nice(&thread, &own, 9), Err(Errno::EACCES));
        process.change_limit(Resource::Nice, Limit { soft: 15, hard: 15 }, true).unwrap();
        assert_eq!(set_nice(&thread, &own, 5), Ok(0));
        assert_eq!(set_nice(&thread, &own, 4), Err(Errno::EACCES));
        let root = crate::process::tests::process().leader().unwrap();
        assert_eq!(set_nice(&thread, &[root, thread.clone()], 6), Err(Errno::EPERM));
        assert_eq!(thread.scheduling().nice, 6);
        assert_eq!(set_nice(&thread, &[], 6), Err(Errno::ESRCH));
    }

    #[test]
    fn users_and_groups_are_all_their_threads() {
        let process = process();
        let (caller, second) = (process.leader().unwrap(), second_thread(&process));
        assert_eq!(Whom::Group.threads(&caller, 0).len(), 2);
        become_user(&second, 77_001);
        let found = Whom::User.threads(&caller, 77_001);
        assert!(found.len() == 1 && Arc::ptr_eq(&found[0], &second));
        assert_eq!(Whom::Thread.threads(&caller, second.tid()).len(), 1);
        assert_eq!(whom(3).err(), Some(Errno::EINVAL));
        assert_eq!(io_whom(0).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn affinity_is_a_matter_of_the_owner_and_of_cores_that_are_there() {
        let (caller, other) = (process().leader().unwrap(), process().leader().unwrap());
        assert_eq!(set_affinity(&caller, &other, CoreSet(1)), Ok(0));
        assert_eq!(other.scheduling().cores, CoreSet(1));
        assert_eq!(set_affinity(&caller, &other, CoreSet(0)), Err(Errno::EINVAL));
        become_user(&caller, 5);
        assert_eq!(set_affinity(&caller, &other, CoreSet(1)), Err(Errno::EPERM));
    }

    #[test]
    fn priorities_belong_to_policies() {
        assert_eq!(priorities(2), Ok(1..=99));
        assert_eq!(priorities(6), Ok(0..=0));
        assert_eq!(priorities(4), Err(Errno::EINVAL));
    }

    #[test]
    fn intervals_belong_to_policies() {
        let policies = [Policy::Fifo, Policy::RoundRobin, Policy::Other, Policy::Idle];
        assert_eq!(policies.map(interval), [0, 100_000_000, 3_000_000, 3_000_000]);
    }
}
