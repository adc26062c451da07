//! Who may do what with an inode: the permission bits of inode(7), for the file-system ids of credentials(7).
//!
//! Who is privileged has the capabilities that pass these checks (`CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_CHOWN`, `CAP_FSETID`, `CAP_MKNOD`).

use super::FileType;
use super::stat::{S_ISGID, S_ISVTX};
use crate::errno::Errno;
use crate::process::Credentials;

bitflags::bitflags! {
    /// Kinds of access, with the bits of access(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Wanted: u32 {
        /// Execute a file, search a directory.
        const EXECUTE = 1;
        /// Write a file, change the entries of a directory.
        const WRITE = 2;
        /// Read a file, list a directory.
        const READ = 4;
    }
}

/// In whose name a file is used.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: &'a [u32],
    /// Whether the capabilities above are in effect.
    pub privileged: bool,
}

impl Identity<'_> {
    /// The kernel itself, and user 0.
    pub const ROOT: Identity<'static> = Identity { uid: 0, gid: 0, groups: &[], privileged: true };

    /// The file-system ids, by which all calls but access(2) are judged.
    pub fn of(credentials: &Credentials) -> Identity<'_> {
        let privileged = credentials.passes_files();
        Identity { uid: credentials.fsuid, gid: credentials.fsgid, groups: &credentials.groups, privileged }
    }

    /// The real ids: access(2).
    pub fn real(credentials: &Credentials) -> Identity<'_> {
        let privileged = credentials.uid == 0 && credentials.permitted;
        Identity { uid: credentials.uid, gid: credentials.gid, groups: &credentials.groups, privileged }
    }

    /// The effective ids: faccessat2(2) with `AT_EACCESS`.
    pub fn effective(credentials: &Credentials) -> Identity<'_> {
        let privileged = credentials.effective;
        Identity { uid: credentials.euid, gid: credentials.egid, groups: &credentials.groups, privileged }
    }

    /// Whether the user is privileged.
    pub fn is_root(&self) -> bool {
        self.privileged
    }

    /// Whether the user belongs to group `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether the user may change what only the owner may.
    pub fn owns(&self, uid: u32) -> bool {
        self.is_root() || self.uid == uid
    }
}

/// The attributes on which permission depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Protection {
    /// `EACCES` unless `who` has all the access that is `wanted`.
    pub fn check(&self, who: &Identity<'_>, wanted: Wanted) -> Result<(), Errno> {
        let class = if who.uid == self.uid {
            6
        } else if who.in_group(self.gid) {
            3
        } else {
            0
        };
        let granted = Wanted::from_bits_truncate(self.mode >> class);
        if granted.contains(wanted) || (who.is_root() && self.passes_root(wanted)) {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    /// Root executes a file only if somebody may.
    fn passes_root(&self, wanted: Wanted) -> bool {
        !wanted.contains(Wanted::EXECUTE) || self.mode & 0o111 != 0 || self.is_directory()
    }

    fn is_directory(&self) -> bool {
        FileType::of_mode(self.mode) == Some(FileType::Directory)
    }

    /// Whether `who` may remove an entry of this directory that refers to a file owned by `owner` (`EPERM`: sticky bit).
    pub fn check_sticky(&self, who: &Identity<'_>, owner: u32) -> Result<(), Errno> {
        let may = self.mode & S_ISVTX == 0 || who.owns(self.uid) || who.uid == owner;
        may.then_some(()).ok_or(Errno::EPERM)
    }

    /// The group and mode of a new entry: a set-group-id directory hands on its group, and the bit to directories.
    pub fn inherit(&self, who: &Identity<'_>, mode: u32) -> (u32, u32) {
        if self.mode & S_ISGID == 0 {
            return (who.gid, mode);
        }
        let directory = FileType::of_mode(mode) == Some(FileType::Directory);
        let foreign = !who.is_root() && !who.in_group(self.gid);
        let mode = match (directory, foreign && mode & 0o010 != 0) {
            (true, _) => mode | S_ISGID,
            (false, true) => mode & !S_ISGID,
            (false, false) => mode,
        };
        (self.gid, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Identity<'static> = Identity { uid: 10, gid: 1, groups: &[], privileged: false };
    const MEMBER: Identity<'static> = Identity { uid: 11, gid: 1, groups: &[20], privileged: false };
    const OTHER: Identity<'static> = Identity { uid: 12, gid: 1, groups: &[], privileged: false };

    fn file(mode: u32) -> Protection {
        Protection { mode: 0o100_000 | mode, uid: 10, gid: 20 }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        // The owner has less than the others here.
        let odd = file(0o046);
        assert_eq!(odd.check(&OWNER, Wanted::READ), Err(Errno::EACCES));
        assert_eq!(odd.check(&MEMBER, Wanted::READ), Ok(()));
        assert_eq!(odd.check(&MEMBER, Wanted::WRITE), Err(Errno::EACCES));
        assert_eq!(odd.check(&OTHER, Wanted::READ | Wanted::WRITE), Ok(()));
        assert_eq!(odd.check(&OTHER, Wanted::EXECUTE), Err(Errno::EACCES));
    }

    #[test]
    fn root_passes_but_executes_only_what_somebody_may() {
        let root = Identity::ROOT;
        assert_eq!(file(0).check(&root, Wanted::READ | Wanted::WRITE), Ok(()));
        assert_eq!(file(0o644).check(&root, Wanted::EXECUTE), Err(Errno::EACCES));
        assert_eq!(file(0o010).check(&root, Wanted::EXECUTE), Ok(()));
        let directory = Protection { mode: 0o040_000, uid: 1, gid: 1 };
        assert_eq!(directory.check(&root, Wanted::EXECUTE), Ok(()));
    }

    #[test]
    fn sticky_directories_protect_entries_of_others() {
        let tmp = Protection { mode: 0o041_777, uid: 0, gid: 0 };
        assert_eq!(tmp.check_sticky(&OTHER, 10), Err(Errno::EPERM));
        assert_eq!(tmp.check_sticky(&OTHER, 12), Ok(()));
        assert_eq!(tmp.check_sticky(&Identity::ROOT, 10), Ok(()));
    }

    #[test]
    fn set_group_id_directories_hand_on_their_group() {
        let shared = Protection { mode: 0o042_775, uid: 0, gid: 20 };
        assert_eq!(shared.inherit(&OTHER, 0o040_755), (20, 0o042_755));
        assert_eq!(shared.inherit(&OTHER, 0o102_755), (20, 0o100_755));
        assert_eq!(shared.inherit(&MEMBER, 0o102_755), (20, 0o102_755));
        assert_eq!(Protection { mode: 0o040_755, ..shared }.inherit(&OTHER, 0o100_644), (1, 0o100_644));
    }
}
