//! Who may look into a process, at its memory, its descriptors, where it stands: ptrace(2), "Ptrace access mode checking".
//!
//! One question, asked by /proc/PID, pidfd_getfd(2) and get_robust_list(2). Who may signal a process, schedule it or change its
//! limits are others, with other answers: kill(2), sched_setscheduler(2), prlimit(2).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::credentials::Credentials;
use super::thread::Thread;

/// As whom the asking thread acts. Whether it reads or attaches makes no difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActingAs {
    /// The user and group that access files, and the capabilities in effect (`PTRACE_MODE_FSCREDS`): for /proc.
    FileUser,
    /// The real user and group, and the permitted capabilities (`PTRACE_MODE_REALCREDS`): for system calls.
    RealUser,
}

/// `PR_SET_DUMPABLE`: the process holds nothing that its user may not see.
const DUMPABLE: i32 = 1;

/// Whether `asking` may look into `target`. A process may always look into itself.
pub fn may_inspect(asking: &Thread, acting_as: ActingAs, target: &Thread) -> bool {
    let process = target.process();
    let dumpable = process.dumpable.load(Ordering::Relaxed) == DUMPABLE;
    Arc::ptr_eq(asking.process(), process)
        || permits(&asking.credentials(), acting_as, &target.credentials(), dumpable)
}

/// The answer for another process. A target that is not dumpable, since it changed its ids or runs a program that it may not read,
/// may hold what was never meant for its user.
fn permits(own: &Credentials, acting_as: ActingAs, target: &Credentials, dumpable: bool) -> bool {
    let (uid, gid, capable) = match acting_as {
        ActingAs::FileUser => (own.fsuid, own.fsgid, own.effective),
        ActingAs::RealUser => (own.uid, own.gid, own.permitted),
    };
    // CAP_SYS_PTRACE, which like all capabilities counts in effect only.
    own.is_privileged() || (target.has_only(uid, gid) && dumpable && (capable || !target.permitted))
}

#[cfg(test)]
mod tests {
    use super::super::UNCHANGED;
    use super::super::tests::{process, second_thread};
    use super::ActingAs::{FileUser, RealUser};
    use super::*;

    fn user(uid: u32, gid: u32) -> Credentials {
        Credentials::root().set_group_ids(gid, gid, gid).unwrap().set_uid(uid).unwrap()
    }

    fn each_way(own: &Credentials, target: &Credentials, dumpable: bool) -> [bool; 2] {
        [FileUser, RealUser].map(|acting_as| permits(own, acting_as, target, dumpable))
    }

    #[test]
    fn the_same_user_and_group_may_and_others_may_not() {
        assert_eq!(each_way(&user(5, 6), &user(5, 6), true), [true, true]);
        assert_eq!(each_way(&user(5, 6), &user(7, 6), true), [false, false]);
        assert_eq!(each_way(&user(5, 6), &user(5, 7), true), [false, false]);
        assert_eq!(each_way(&user(5, 6), &Credentials::root(), true), [false, false]);
    }

    #[test]
    fn each_id_of_the_target_counts() {
        let own = user(5, 6);
        let changes: [fn(&mut Credentials); 6] =
            [|c| c.uid = 0, |c| c.euid = 0, |c| c.suid = 0, |c| c.gid = 0, |c| c.egid = 0, |c| c.sgid = 0];
        for change in changes {
            let mut target = user(5, 6);
            change(&mut target);
            assert_eq!(each_way(&own, &target, true), [false, false], "{target:?}");
        }
    }

    #[test]
    fn of_the_asking_one_the_file_ids_count_or_the_real_ones() {
        // A set-user-id program of user 7, started by user 5.
        let raised = Credentials { euid: 7, suid: 7, fsuid: 7, ..user(5, 5) };
        assert_eq!(each_way(&raised, &user(5, 5), true), [false, true]);
        assert_eq!(each_way(&raised, &user(7, 5), true), [true, false]);
        let group = Credentials { egid: 7, sgid: 7, fsgid: 7, ..user(5, 5) };
        assert_eq!(each_way(&group, &user(5, 5), true), [false, true]);
        assert_eq!(each_way(&group, &user(5, 7), true), [true, false]);
    }

    #[test]
    fn what_is_not_dumpable_is_for_the_privileged() {
        assert_eq!(each_way(&user(5, 5), &user(5, 5), false), [false, false]);
        assert_eq!(each_way(&Credentials::root(), &user(5, 5), false), [true, true]);
    }

    #[test]
    fn a_target_that_could_do_more_is_for_those_that_could_too() {
        let keeper = Credentials { keeps_permitted: true, ..Credentials::root() };
        let target = keeper.set_group_ids(5, 5, 5).unwrap().set_uid(5).unwrap();
        assert!(target.permitted);
        assert_eq!(each_way(&user(5, 5), &target, true), [false, false]);
        // Permitted but not in effect: enough for system calls, not for /proc.
        assert_eq!(each_way(&target, &target, true), [false, true]);
    }

    #[test]
    fn privilege_is_what_is_in_effect_whatever_the_ids() {
        let capable = Credentials { effective: true, permitted: true, ..user(5, 5) };
        assert_eq!(each_way(&capable, &user(9, 9), true), [true, true]);
        let suspended = Credentials::root().set_user_ids(UNCHANGED, 5, UNCHANGED).unwrap();
        assert_eq!(each_way(&suspended, &user(9, 9), true), [false, false]);
        // The user that files see is root; its capabilities are not in effect.
        let by_files = suspended.set_fs_ids(0, UNCHANGED).unwrap();
        assert_eq!(each_way(&by_files, &Credentials::root(), true), [false, true]);
    }

    #[test]
    fn a_process_sees_itself_as_it_is() {
        let (own, other) = (process(), process());
        let thread = own.leader().unwrap();
        let mate = second_thread(&own);
        for thread in [&thread, &mate, &other.leader().unwrap()] {
            thread.set_credentials(user(5, 5));
        }
        mate.set_credentials(user(6, 6));
        let stranger = other.leader().unwrap();
        assert!(may_inspect(&thread, RealUser, &stranger));
        own.dumpable.store(0, Ordering::Relaxed);
        assert!(may_inspect(&thread, FileUser, &mate) && may_inspect(&mate, RealUser, &thread));
        assert!(!may_inspect(&stranger, RealUser, &thread));
        other.dumpable.store(2, Ordering::Relaxed);
        assert!(!may_inspect(&thread, FileUser, &stranger));
    }
}
