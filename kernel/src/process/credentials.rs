//! Who a thread acts for: credentials(7), and capabilities, of which a thread has all or none.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::Errno;

/// The user and group ids of a thread. Immutable: a change makes a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Saved user id.
    pub suid: u32,
    /// User id for access to files.
    pub fsuid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Saved group id.
    pub sgid: u32,
    /// Group id for access to files.
    pub fsgid: u32,
    /// Supplementary groups, sorted.
    pub groups: Arc<[u32]>,
    /// Whether the capabilities are in effect.
    pub effective: bool,
    /// Whether they may be put into effect.
    pub permitted: bool,
    /// `PR_SET_KEEPCAPS`: they stay permitted when the last of the user ids 0 goes.
    pub keeps_permitted: bool,
}

/// In a set-id call: leave this id as it is.
pub const UNCHANGED: u32 = u32::MAX;
/// The most supplementary groups.
pub const MAX_GROUPS: usize = 65536;

impl Credentials {
    /// Root's: all ids zero, all capabilities.
    pub fn root() -> Self {
        Self { effective: true, permitted: true, ..Self::default() }
    }

    /// Whether privileged operations are allowed: the capabilities are in effect.
    pub fn is_privileged(&self) -> bool {
        self.effective
    }

    /// Whether the permission bits of files are passed over. Capabilities for that come and go with file-system user id 0.
    pub fn passes_files(&self) -> bool {
        if self.fsuid == self.euid { self.effective } else { self.fsuid == 0 && self.permitted }
    }

    /// Whether its user ids (real, effective and saved) are all `uid`, and its group ids `gid`.
    pub fn has_only(&self, uid: u32, gid: u32) -> bool {
        [self.uid, self.euid, self.suid].iter().all(|&id| id == uid)
            && [self.gid, self.egid, self.sgid].iter().all(|&id| id == gid)
    }

    /// Whether files and processes see the same in both.
    pub fn acts_as(&self, other: &Self) -> bool {
        let acting = |c: &Self| (c.euid, c.egid, c.fsuid, c.fsgid);
        acting(self) == acting(other)
    }

    /// Capabilities after a change of user ids from those of `old` (capabilities(7), "Effect of user ID changes").
    fn with_capabilities_since(mut self, old: &Self) -> Self {
        let has_zero = |c: &Self| [c.uid, c.euid, c.suid].contains(&0);
        if has_zero(old) && !has_zero(&self) && !self.keeps_permitted {
            (self.permitted, self.effective) = (false, false);
        }
        match (old.euid, self.euid) {
            (0, 1..) => self.effective = false,
            (1.., 0) => self.effective = self.permitted,
            _ => {}
        }
        self
    }

    /// capset(2), where both are all or none.
    ///
    /// # Errors
    /// `EPERM` for what is not permitted.
    pub fn set_capabilities(&self, effective: bool, permitted: bool) -> Result<Self, Errno> {
        if (permitted && !self.permitted) || (effective && !permitted) {
            return Err(Errno::EPERM);
        }
        Ok(Self { effective, permitted, ..self.clone() })
    }

    /// Whether a thread with these may send signals to one with `target`'s (kill(2)).
    pub fn may_signal(&self, target: &Self) -> bool {
        let own = [self.euid, self.uid];
        self.is_privileged() || own.iter().any(|&id| id == target.suid || id == target.uid)
    }

    /// setresuid(2): each id may become the real, effective or saved one; root may choose freely.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_user_ids(&self, uid: u32, euid: u32, suid: u32) -> Result<Self, Errno> {
        let allowed = |id| self.is_privileged() || [UNCHANGED, self.uid, self.euid, self.suid].contains(&id);
        if ![uid, euid, suid].into_iter().all(allowed) {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        (new.uid, new.euid, new.suid) = (pick(uid, self.uid), pick(euid, self.euid), pick(suid, self.suid));
        new.fsuid = new.euid;
        Ok(new.with_capabilities_since(self))
    }

    /// setresgid(2), likewise.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_group_ids(&self, gid: u32, egid: u32, sgid: u32) -> Result<Self, Errno> {
        let allowed = |id| self.is_privileged() || [UNCHANGED, self.gid, self.egid, self.sgid].contains(&id);
        if ![gid, egid, sgid].into_iter().all(allowed) {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        (new.gid, new.egid, new.sgid) = (pick(gid, self.gid), pick(egid, self.egid), pick(sgid, self.sgid));
        new.fsgid = new.egid;
        Ok(new)
    }

    /// setuid(2): root sets all three, others the effective id.
    ///
    /// # Errors
    /// `EINVAL` for the id -1, `EPERM`.
    pub fn set_uid(&self, uid: u32) -> Result<Self, Errno> {
        match uid {
            UNCHANGED => Err(Errno::EINVAL),
            _ if self.is_privileged() => self.set_user_ids(uid, uid, uid),
            _ if uid == self.uid || uid == self.suid => self.set_user_ids(UNCHANGED, uid, UNCHANGED),
            _ => Err(Errno::EPERM),
        }
    }

    /// setgid(2), likewise.
    ///
    /// # Errors
    /// `EINVAL` for the id -1, `EPERM`.
    pub fn set_gid(&self, gid: u32) -> Result<Self, Errno> {
        match gid {
            UNCHANGED => Err(Errno::EINVAL),
            _ if self.is_privileged() => self.set_group_ids(gid, gid, gid),
            _ if gid == self.gid || gid == self.sgid => self.set_group_ids(UNCHANGED, gid, UNCHANGED),
            _ => Err(Errno::EPERM),
        }
    }

    /// setreuid(2): the real id may become the real or effective one; the saved id follows when the real id is set or the
    /// effective one becomes something else than the former real one.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_real_uid(&self, uid: u32, euid: u32) -> Result<Self, Errno> {
        let allowed = |id, own: &[u32]| self.is_privileged() || id == UNCHANGED || own.contains(&id);
        if !allowed(uid, &[self.uid, self.euid]) || !allowed(euid, &[self.uid, self.euid, self.suid]) {
            return Err(Errno::EPERM);
        }
        let follows = uid != UNCHANGED || (euid != UNCHANGED && euid != self.uid);
        let euid = pick(euid, self.euid);
        let mut new = self.clone();
        (new.uid, new.euid, new.fsuid) = (pick(uid, self.uid), euid, euid);
        if follows {
            new.suid = euid;
        }
        Ok(new.with_capabilities_since(self))
    }

    /// setregid(2), likewise.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_real_gid(&self, gid: u32, egid: u32) -> Result<Self, Errno> {
        if !self.is_privileged() && ![UNCHANGED, self.gid, self.egid].contains(&gid) {
            return Err(Errno::EPERM);
        }
        let follows = gid != UNCHANGED || (egid != UNCHANGED && egid != self.gid);
        let mut new = self.set_group_ids(gid, egid, UNCHANGED)?;
        if follows {
            new.sgid = new.egid;
        }
        Ok(new)
    }

    /// setfsuid(2) and setfsgid(2): a refused change is silent. `None` when nothing changes.
    pub fn set_fs_ids(&self, fsuid: u32, fsgid: u32) -> Option<Self> {
        let user = [self.uid, self.euid, self.suid, self.fsuid];
        let group = [self.gid, self.egid, self.sgid, self.fsgid];
        let allowed = |id, own: [u32; 4]| id != UNCHANGED && (self.is_privileged() || own.contains(&id));
        let mut new = self.clone();
        if allowed(fsuid, user) {
            new.fsuid = fsuid;
        }
        if allowed(fsgid, group) {
            new.fsgid = fsgid;
        }
        (new != *self).then_some(new)
    }

    /// setgroups(2).
    ///
    /// # Errors
    /// `EPERM`.
    pub fn set_groups(&self, mut groups: Vec<u32>) -> Result<Self, Errno> {
        if !self.is_privileged() {
            return Err(Errno::EPERM);
        }
        groups.sort_unstable();
        Ok(Self { groups: groups.into(), ..self.clone() })
    }

    /// After the exec of a file that is owned by (`uid`, `gid`) and set-user-id or set-group-id as said.
    pub fn after_exec(&self, set_uid: Option<u32>, set_gid: Option<u32>) -> Self {
        let mut new = self.clone();
        new.euid = set_uid.unwrap_or(self.euid);
        new.egid = set_gid.unwrap_or(self.egid);
        (new.suid, new.fsuid) = (new.euid, new.euid);
        (new.sgid, new.fsgid) = (new.egid, new.egid);
        new.permitted = new.uid == 0 || new.euid == 0;
        new.effective = new.euid == 0;
        new.keeps_permitted = false;
        new
    }
}

fn pick(new: u32, old: u32) -> u32 {
    if new == UNCHANGED { old } else { new }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Credentials {
        Credentials::root().set_uid(uid).unwrap()
    }

    #[test]
    fn root_gives_up_all_ids_at_once_and_for_good() {
        let user = user(1000);
        assert_eq!((user.uid, user.euid, user.suid, user.fsuid), (1000, 1000, 1000, 1000));
        assert_eq!(user.set_uid(0), Err(Errno::EPERM));
        assert_eq!(user.set_groups(Vec::new()), Err(Errno::EPERM));
        assert_eq!(user.set_uid(UNCHANGED), Err(Errno::EINVAL));
    }

    #[test]
    fn a_saved_id_allows_the_way_back() {
        let suspended = Credentials::root().set_user_ids(UNCHANGED, 1000, UNCHANGED).unwrap();
        assert!(!suspended.is_privileged());
        assert_eq!(suspended.set_uid(0).unwrap().euid, 0);
        assert_eq!(suspended.set_user_ids(5, UNCHANGED, UNCHANGED), Err(Errno::EPERM));
    }

    #[test]
    fn capabilities_follow_the_user_ids_unless_they_are_kept() {
        let state = |c: &Credentials| (c.effective, c.permitted, c.passes_files());
        let suspended = Credentials::root().set_user_ids(UNCHANGED, 1000, UNCHANGED).unwrap();
        assert_eq!(state(&suspended), (false, true, false));
        assert_eq!(state(&suspended.set_uid(0).unwrap()), (true, true, true));
        assert_eq!(state(&user(1000)), (false, false, false));
        assert_eq!(user(1000).set_capabilities(true, true), Err(Errno::EPERM));

        let keeper = Credentials { keeps_permitted: true, ..Credentials::root() };
        let kept = keeper.set_uid(1000).unwrap();
        assert_eq!(state(&kept), (false, true, false));
        let raised = kept.set_capabilities(true, true).unwrap();
        assert_eq!(state(&raised), (true, true, true));
        assert_eq!(raised.set_capabilities(true, false), Err(Errno::EPERM));
        assert_eq!(state(&raised.after_exec(None, None)), (false, false, false));
        assert_eq!(kept.set_real_uid(1000, 0), Err(Errno::EPERM));
        // What root gives up comes back with the next program.
        let bare = Credentials::root().set_capabilities(false, false).unwrap();
        assert_eq!((bare.is_privileged(), bare.set_uid(5)), (false, Err(Errno::EPERM)));
        assert_eq!(state(&bare.after_exec(None, None)), (true, true, true));
    }

    #[test]
    fn files_are_passed_with_file_system_user_zero() {
        let root = Credentials::root();
        let other = root.set_fs_ids(1000, UNCHANGED).unwrap();
        assert_eq!((root.passes_files(), other.passes_files(), other.is_privileged()), (true, false, true));
        let suspended = root.set_user_ids(UNCHANGED, 1000, UNCHANGED).unwrap();
        assert!(suspended.set_fs_ids(0, UNCHANGED).unwrap().passes_files());
    }

    #[test]
    fn setreuid_moves_the_saved_id_along() {
        let suspended = Credentials::root().set_real_uid(1000, 1001).unwrap();
        assert_eq!((suspended.uid, suspended.euid, suspended.suid), (1000, 1001, 1001));
        let swapped = suspended.set_real_uid(1001, 1000).unwrap();
        assert_eq!((swapped.uid, swapped.euid, swapped.suid), (1001, 1000, 1000));
        let unchanged = suspended.set_real_uid(UNCHANGED, 1000).unwrap();
        assert_eq!(unchanged.suid, 1001);
    }

    #[test]
    fn signals_pass_between_equals_and_from_root() {
        assert!(Credentials::root().may_signal(&user(5)));
        assert!(user(5).may_signal(&user(5)));
        assert!(!user(5).may_signal(&user(6)));
        assert!(!user(5).may_signal(&Credentials::root()));
    }

    #[test]
    fn groups_are_kept_in_order() {
        let with = Credentials::root().set_groups(vec![9, 3, 7]).unwrap();
        assert_eq!(with.groups[..], [3, 7, 9]);
    }
}
