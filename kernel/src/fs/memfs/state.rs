//! What an inode is: attributes and content, as a sequential structure with typed operations.
//!
//! Nothing here locks, reads a clock or draws a number: times and permissions are arguments, so that the same operations on
//! the same state give the same result wherever they are run. Locking is in `inode.rs`.

use alloc::sync::{Arc, Weak};

use super::Inode;
use super::data::Data;
use super::directory::Directory;
use crate::errno::Errno;
use crate::fs::stat::{PERMISSIONS, S_ISGID, S_ISUID};
use crate::fs::{Change, Identity, Name, NewTime, Protection, Time, Wanted};

/// What an inode holds.
pub enum Content {
    /// Bytes, and the seals of a memfd (`None`: cannot be sealed).
    Regular(Data, Option<u32>),
    /// Entries.
    Directory(Directory<Arc<Inode>>),
    /// The path to which a symbolic link leads.
    Symlink(Arc<[u8]>),
    /// The device that a node names.
    Device(u64),
    /// Nothing: FIFOs and sockets.
    Nothing,
}

/// `F_SEAL_SEAL` and the others of fcntl(2).
pub const SEAL_SEAL: u32 = 1;
/// No smaller size.
pub const SEAL_SHRINK: u32 = 2;
/// No larger size.
pub const SEAL_GROW: u32 = 4;
/// No writes.
pub const SEAL_WRITE: u32 = 8;
/// No new writes; old writable mappings stay.
pub const SEAL_FUTURE_WRITE: u32 = 0x10;

/// Attributes and content of an inode.
pub struct State {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names; for a directory its own `.` and the `..` of those below as well. None: it is removed.
    pub links: u32,
    /// Last change of the data, in nanoseconds since the epoch.
    pub modified: Time,
    /// Last change of the attributes.
    pub changed: Time,
    /// The latest name: for a directory the only one.
    pub place: Option<(Weak<Inode>, Name)>,
    /// Whether it never had a name and may be given one (`O_TMPFILE`).
    pub linkable: bool,
    /// What it holds.
    pub content: Content,
}

impl State {
    /// Owner, group and mode.
    pub fn protection(&self) -> Protection {
        Protection { mode: self.mode, uid: self.uid, gid: self.gid }
    }

    /// The entries (`ENOTDIR`), for a caller that may search them.
    pub fn entries(&self, who: &Identity<'_>) -> Result<&Directory<Arc<Inode>>, Errno> {
        let Content::Directory(entries) = &self.content else { return Err(Errno::ENOTDIR) };
        self.protection().check(who, Wanted::EXECUTE)?;
        Ok(entries)
    }

    /// The entries, for one who changes them; no check.
    pub fn entries_mut(&mut self) -> Result<&mut Directory<Arc<Inode>>, Errno> {
        match &mut self.content {
            Content::Directory(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Whether this is a directory that `who` may give an entry: `ENOTDIR`, `EACCES`; `ENOENT` when it is removed.
    pub fn check_change(&self, who: &Identity<'_>) -> Result<(), Errno> {
        self.entries(who)?;
        if self.links == 0 {
            return Err(Errno::ENOENT);
        }
        self.protection().check(who, Wanted::WRITE | Wanted::EXECUTE)
    }

    /// Whether `who` may take the entry that refers to a file of `owner` out of this directory.
    pub fn check_removal(&self, who: &Identity<'_>, owner: u32) -> Result<(), Errno> {
        self.protection().check(who, Wanted::WRITE | Wanted::EXECUTE)?;
        self.protection().check_sticky(who, owner)
    }

    /// Puts an entry under a name that is free.
    pub fn insert(&mut self, name: Name, inode: Arc<Inode>, now: Time) -> Result<(), Errno> {
        let is_directory = inode.is_directory();
        self.entries_mut()?.insert(name, inode)?;
        self.links += u32::from(is_directory);
        self.touch(now);
        Ok(())
    }

    /// Takes the entry out.
    pub fn remove(&mut self, name: &[u8], now: Time) -> Result<Arc<Inode>, Errno> {
        let inode = self.entries_mut()?.remove(name).ok_or(Errno::ENOENT)?;
        self.links -= u32::from(inode.is_directory());
        self.touch(now);
        Ok(inode)
    }

    /// Has the taken name `name` refer to `inode`; returns what it referred to.
    pub fn replace(&mut self, name: &[u8], inode: Arc<Inode>, now: Time) -> Result<Arc<Inode>, Errno> {
        let is_directory = inode.is_directory();
        let old = self.entries_mut()?.replace(name, inode).ok_or(Errno::ENOENT)?;
        self.links += u32::from(is_directory);
        self.links -= u32::from(old.is_directory());
        self.touch(now);
        Ok(old)
    }

    /// Notes that data or entries changed.
    pub fn touch(&mut self, now: Time) {
        self.modified = now;
        self.changed = now;
    }

    /// One name more, the entry `name` of `parent`.
    pub fn add_link(&mut self, parent: Weak<Inode>, name: Name, now: Time) -> Result<(), Errno> {
        if self.links == 0 && !self.linkable {
            return Err(Errno::ENOENT);
        }
        self.links = self.links.checked_add(1).ok_or(Errno::EMLINK)?;
        self.place = Some((parent, name));
        self.changed = now;
        Ok(())
    }

    /// One name less; a directory loses its `.` with it.
    pub fn drop_link(&mut self, now: Time) {
        self.linkable = false;
        self.links = match self.content {
            Content::Directory(_) => 0,
            _ => self.links.saturating_sub(1),
        };
        self.changed = now;
    }

    /// Changes attributes as chmod(2), chown(2) and utimensat(2) do; returns the new access time.
    ///
    /// # Errors
    /// `EPERM` for what only the owner or root may; `EACCES` for the present time without write permission.
    pub fn change(&mut self, who: &Identity<'_>, change: &Change, now: Time) -> Result<Option<Time>, Errno> {
        self.check_times(who, change)?;
        if change.mode.is_some() && !who.owns(self.uid) {
            return Err(Errno::EPERM);
        }
        self.check_owner(who, change)?;
        if change.uid.is_some() || change.gid.is_some() {
            self.uid = change.uid.unwrap_or(self.uid);
            self.gid = change.gid.unwrap_or(self.gid);
            self.drop_privileges();
        }
        if let Some(mode) = change.mode {
            let foreign = !who.is_root() && !who.in_group(self.gid);
            let masked = mode & PERMISSIONS & !if foreign { S_ISGID } else { 0 };
            self.mode = self.mode & !PERMISSIONS | masked;
        }
        let time = |new: NewTime| match new {
            NewTime::Now => now,
            NewTime::At(time) => time,
        };
        if let Some(modified) = change.modified {
            self.modified = time(modified);
        }
        self.changed = now;
        Ok(change.accessed.map(time))
    }

    fn check_times(&self, who: &Identity<'_>, change: &Change) -> Result<(), Errno> {
        let times = [change.accessed, change.modified];
        if times.iter().all(Option::is_none) || who.owns(self.uid) {
            return Ok(());
        }
        // Only "both now" needs no ownership.
        match times {
            [Some(NewTime::Now), Some(NewTime::Now)] => self.protection().check(who, Wanted::WRITE),
            _ => Err(Errno::EPERM),
        }
    }

    fn check_owner(&self, who: &Identity<'_>, change: &Change) -> Result<(), Errno> {
        let keeps_user = change.uid.is_none_or(|uid| who.uid == self.uid && uid == self.uid);
        let own_group =
            change.gid.is_none_or(|gid| who.uid == self.uid && (gid == self.gid || who.in_group(gid)));
        (who.is_root() || (keeps_user && own_group)).then_some(()).ok_or(Errno::EPERM)
    }

    /// Notes that the content has changed at `now`: unless that was root's doing (`CAP_FSETID`), the set-id bits go.
    pub fn content_changed(&mut self, now: Time) {
        self.touch(now);
        if self.has_privileges() && !crate::fs::writer_is_root() {
            self.drop_privileges();
        }
    }

    /// Set-user-id and set-group-id end when a file changes hands or content.
    fn drop_privileges(&mut self) {
        if matches!(self.content, Content::Directory(_)) {
            return;
        }
        self.mode &= !S_ISUID;
        if self.mode & 0o010 != 0 {
            self.mode &= !S_ISGID;
        }
    }

    /// Whether the mode has bits that [`drop_privileges`](Self::drop_privileges) would take.
    fn has_privileges(&self) -> bool {
        self.mode & (S_ISUID | S_ISGID) != 0
    }

    /// The bytes (`EISDIR`, `EINVAL`).
    pub fn data(&self) -> Result<&Data, Errno> {
        match &self.content {
            Content::Regular(data, _) => Ok(data),
            Content::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The bytes, to be changed, unless one of `seals` is set (`EPERM`).
    pub fn data_mut(&mut self, seals: u32) -> Result<&mut Data, Errno> {
        match &mut self.content {
            Content::Regular(_, Some(set)) if *set & seals != 0 => Err(Errno::EPERM),
            Content::Regular(data, _) => Ok(data),
            Content::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32) -> State {
        State {
            mode: crate::fs::FileType::Regular.mode() | mode,
            uid: 10,
            gid: 20,
            links: 1,
            modified: 1,
            changed: 1,
            place: None,
            linkable: false,
            content: Content::Regular(Data::default(), None),
        }
    }

    const OWNER: Identity<'static> = Identity { uid: 10, gid: 20, groups: &[30], privileged: false };
    const OTHER: Identity<'static> = Identity { uid: 11, gid: 21, groups: &[], privileged: false };

    fn chown(uid: u32, gid: u32) -> Change {
        Change { uid: Some(uid), gid: Some(gid), ..Change::default() }
    }

    #[test]
    fn only_root_gives_files_away_and_owners_change_to_groups_of_theirs() {
        assert_eq!(file(0).change(&OWNER, &chown(11, 20), 5), Err(Errno::EPERM));
        assert_eq!(file(0).change(&OWNER, &chown(10, 99), 5), Err(Errno::EPERM));
        assert_eq!(file(0).change(&OTHER, &chown(10, 20), 5), Err(Errno::EPERM));
        assert_eq!(file(0).change(&OWNER, &chown(10, 30), 5), Ok(None));
        assert_eq!(file(0).change(&Identity::ROOT, &chown(1, 2), 5), Ok(None));
    }

    #[test]
    fn changing_hands_drops_set_user_id() {
        let mut program = file(0o6755);
        program.change(&Identity::ROOT, &chown(1, 2), 5).unwrap();
        assert_eq!((program.mode & PERMISSIONS, program.uid, program.gid, program.changed), (0o755, 1, 2, 5));
        // Without group execution the bit means mandatory locking, and stays.
        let mut locked = file(0o2644);
        locked.change(&Identity::ROOT, &chown(1, 2), 5).unwrap();
        assert_eq!(locked.mode & PERMISSIONS, 0o2644);
    }

    #[test]
    fn times_need_ownership_unless_both_are_now() {
        let both = |new| Change { accessed: Some(new), modified: Some(new), ..Change::default() };
        assert_eq!(file(0o666).change(&OTHER, &both(NewTime::At(7)), 5), Err(Errno::EPERM));
        assert_eq!(file(0o600).change(&OTHER, &both(NewTime::Now), 5), Err(Errno::EACCES));
        assert_eq!(file(0o666).change(&OTHER, &both(NewTime::Now), 5), Ok(Some(5)));
        let mut state = file(0);
        assert_eq!(state.change(&OWNER, &both(NewTime::At(7)), 5), Ok(Some(7)));
        assert_eq!((state.modified, state.changed), (7, 5));
    }

    #[test]
    fn seals_forbid_what_they_name() {
        let mut state = file(0);
        state.content = Content::Regular(Data::default(), Some(SEAL_WRITE));
        assert_eq!(state.data_mut(SEAL_WRITE | SEAL_FUTURE_WRITE).err(), Some(Errno::EPERM));
        assert!(state.data_mut(SEAL_GROW).is_ok());
    }
}
