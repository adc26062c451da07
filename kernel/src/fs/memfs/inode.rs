//! The inode of memfs: a [`State`] behind one lock.
//!
//! An open regular file *is* its inode: opening makes no further object, and a read or write takes the inode's lock and
//! no other. Reads share it.
//!
//! Lock order: the file system's `topology` (rename, rmdir), then directories, then one that is no directory. Who holds
//! two directories holds `topology`, so these may be in any order.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicI64, Ordering};

use super::data::Data;
use super::directory::Directory;
use super::state::{Content, SEAL_FUTURE_WRITE, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE, State};
use super::{Budget, Superblock};
use crate::errno::{Errno, SysResult};
use crate::fs::lock::FileLocks;
use crate::fs::node::{DirEntry, MountFlag, NewKind, RenameMode, Slot, Target, Use};
use crate::fs::{
    Change, File, FileType, Identity, Name, Node, OpenFlags, PageSource, Protection, Stat, Time, special,
};
use crate::memory::{Frame, Mappers, OutOfMemory, PAGE_SIZE};
use crate::sync::RwSpinLock;
use crate::uaccess::{ReadBuf, WriteBuf};

/// An inode of a [`Superblock`].
pub struct Inode {
    me: Weak<Inode>,
    pub(super) fs: Arc<Superblock>,
    number: u64,
    file_type: FileType,
    created: Time,
    /// Apart from the state, since readers change it.
    accessed: AtomicI64,
    /// How often it is open for writing; or, negative, executed.
    uses: AtomicI32,
    mounted: MountFlag,
    locks: FileLocks,
    slot: Slot,
    mappers: Mappers,
    pub(super) state: RwSpinLock<State>,
}

/// With what an inode begins.
pub(super) struct Beginning {
    pub content: Content,
    /// Type and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub linkable: bool,
    pub place: Option<(Weak<Inode>, Name)>,
    pub now: Time,
}

impl Inode {
    /// A new inode; the file system's budget is charged.
    pub(super) fn new(fs: &Arc<Superblock>, begin: Beginning) -> Result<Arc<Self>, Errno> {
        fs.budget.take_inode()?;
        let now = begin.now;
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            fs: fs.clone(),
            number: fs.next_number(),
            file_type: FileType::of_mode(begin.mode).unwrap_or(FileType::Regular),
            created: now,
            accessed: AtomicI64::new(now),
            uses: AtomicI32::new(0),
            mounted: MountFlag::default(),
            locks: FileLocks::default(),
            slot: Slot::new(None),
            mappers: Mappers::default(),
            state: RwSpinLock::new(State {
                mode: begin.mode,
                uid: begin.uid,
                gid: begin.gid,
                links: begin.links,
                modified: now,
                changed: now,
                place: begin.place,
                linkable: begin.linkable,
                content: begin.content,
            }),
        }))
    }

    pub(super) fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }

    pub(super) fn is_mounted(&self) -> bool {
        self.mounted.is_set()
    }

    fn budget(&self) -> &Budget {
        &self.fs.budget
    }

    pub(super) fn weak(&self) -> Weak<Inode> {
        self.me.clone()
    }

    /// `node` as an inode of the same file system (`EXDEV`).
    pub(in crate::fs) fn sibling(&self, node: &Arc<dyn Node>) -> Result<Arc<Inode>, Errno> {
        let any: Arc<dyn core::any::Any + Send + Sync> = node.clone();
        let inode = any.downcast::<Inode>().map_err(|_| Errno::EXDEV)?;
        if Arc::ptr_eq(&inode.fs, &self.fs) { Ok(inode) } else { Err(Errno::EXDEV) }
    }

    /// Notes a read, as `relatime` does: if none was noted since the last change, or for a day.
    fn note_access(&self, modified: Time, changed: Time) {
        const DAY: Time = 86_400_000_000_000;
        let accessed = self.accessed.load(Ordering::Relaxed);
        let now = crate::fs::stamp();
        if accessed <= modified || accessed <= changed || accessed + DAY < now {
            self.accessed.store(now, Ordering::Relaxed);
        }
    }

    fn write_with(
        &self,
        buf: &mut WriteBuf<'_>,
        offset: impl FnOnce(&Data) -> u64,
    ) -> Result<(u64, usize), Errno> {
        let now = crate::fs::stamp();
        let mut state = self.state.write();
        let (may_grow, data) = {
            let may_grow =
                !matches!(state.content, Content::Regular(_, Some(seals)) if seals & SEAL_GROW != 0);
            (may_grow, state.data_mut(SEAL_WRITE | SEAL_FUTURE_WRITE)?)
        };
        let offset = offset(data);
        if !may_grow && offset.saturating_add(buf.remaining() as u64) > data.size() {
            return Err(Errno::EPERM);
        }
        let moved = data.write(&self.fs.budget, offset, buf)?;
        if moved == 0 && buf.remaining() > 0 {
            return Err(Errno::EFAULT);
        }
        if moved > 0 {
            state.content_changed(now);
        }
        Ok((offset + moved as u64, moved))
    }

    /// Puts whole pages of a new file in place without copying them again: unpacking an archive.
    pub(in crate::fs) fn install_pages(
        &self,
        size: u64,
        frames: impl Iterator<Item = Result<Frame, OutOfMemory>>,
    ) -> Result<(), Errno> {
        let mut state = self.state.write();
        let data = state.data_mut(0)?;
        for (index, frame) in (0..).zip(frames) {
            let frame = frame.map_err(|_| Errno::ENOSPC)?;
            self.fs.budget.take_page()?;
            data.install(index, frame, size.min((index + 1) * PAGE_SIZE as u64));
        }
        Ok(())
    }

    /// Sets the times of an inode that comes from an archive.
    pub(in crate::fs) fn set_times(&self, time: Time) {
        let mut state = self.state.write();
        state.touch(time);
        self.accessed.store(time, Ordering::Relaxed);
    }

    /// Unmaps pages that the file has lost, wherever they are mapped; private copies only with `copies`.
    fn unmap(&self, pages: core::ops::Range<u64>, copies: bool) {
        if let Some(me) = self.me.upgrade() {
            self.mappers.unmap(me, pages, copies);
        }
    }

    fn content_of(kind: NewKind<'_>) -> Content {
        match kind {
            NewKind::Regular => Content::Regular(Data::default(), None),
            NewKind::Directory => Content::Directory(Directory::new()),
            NewKind::Symlink(target) => Content::Symlink(target.into()),
            NewKind::Device(_, number) => Content::Device(number),
            NewKind::Fifo | NewKind::Socket => Content::Nothing,
        }
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.fs.budget.give_inode();
        match &mut self.state.get_mut().content {
            Content::Regular(data, _) => self.fs.budget.give_pages(data.page_count()),
            Content::Directory(entries) => drop_tree(entries),
            _ => {}
        }
    }
}

/// Drops a directory's entries without recursion: trees are deeper than the stack.
fn drop_tree(entries: &mut Directory<Arc<Inode>>) {
    let mut rest: Vec<Arc<Inode>> = entries.drain().collect();
    while let Some(inode) = rest.pop() {
        let Some(mut inode) = Arc::into_inner(inode) else { continue };
        if let Content::Directory(entries) = &mut inode.state.get_mut().content {
            rest.extend(entries.drain());
        }
    }
}

impl Node for Inode {
    fn file_type(&self) -> FileType {
        self.file_type
    }

    fn stat(&self) -> Stat {
        let state = self.state.read();
        let (size, blocks) = match &state.content {
            Content::Regular(data, _) => (data.size(), data.page_count() * (PAGE_SIZE as u64 / 512)),
            Content::Directory(entries) => (40 + 20 * entries.len() as u64, 0),
            Content::Symlink(target) => (target.len() as u64, 0),
            Content::Device(_) | Content::Nothing => (0, 0),
        };
        Stat {
            device: self.fs.device,
            inode: self.number,
            mode: state.mode,
            links: state.links,
            uid: state.uid,
            gid: state.gid,
            special_device: if let Content::Device(number) = state.content { number } else { 0 },
            size,
            block_size: PAGE_SIZE as u32,
            blocks,
            accessed: self.accessed.load(Ordering::Relaxed),
            modified: state.modified,
            changed: state.changed,
            created: self.created,
        }
    }

    fn protection(&self) -> Protection {
        self.state.read().protection()
    }

    fn lookup(&self, who: &Identity<'_>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        let state = self.state.read();
        let found = state.entries(who)?.get(name).ok_or(Errno::ENOENT)?;
        Ok(found.clone())
    }

    fn place(&self) -> Option<(Arc<dyn Node>, Name)> {
        let (parent, name) = self.state.read().place.clone()?;
        Some((parent.upgrade()?, name))
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let state = self.state.read();
        let Content::Directory(entries) = &state.content else { return Err(Errno::ENOTDIR) };
        entries.list(from, |cookie, name, inode| {
            emit(DirEntry { name, inode: inode.number, file_type: inode.file_type, next: cookie })
        });
        self.note_access(state.modified, state.changed);
        Ok(())
    }

    fn create(
        &self,
        who: &Identity<'_>,
        name: &[u8],
        kind: NewKind<'_>,
        mode: u32,
    ) -> Result<Arc<dyn Node>, Errno> {
        let now = crate::fs::stamp();
        let mut state = self.state.write();
        if state.entries(who)?.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        state.check_change(who)?;
        if matches!(kind, NewKind::Device(..)) && !who.is_root() {
            return Err(Errno::EPERM);
        }
        let file_type = kind.file_type();
        let (gid, mode) = state.protection().inherit(who, file_type.mode() | mode);
        let name = Name::from(name);
        self.budget().take_inode()?;
        let begin = Beginning {
            content: Self::content_of(kind),
            mode,
            uid: who.uid,
            gid,
            links: if file_type == FileType::Directory { 2 } else { 1 },
            linkable: false,
            place: Some((self.weak(), name.clone())),
            now,
        };
        // The name is charged apart from the inode, as those that link adds are.
        let made = Self::new(&self.fs, begin)
            .and_then(|inode| state.insert(name, inode.clone(), now).map(|()| inode))
            .inspect_err(|_| self.budget().give_inode())?;
        Ok(made)
    }

    fn create_unnamed(&self, who: &Identity<'_>, mode: u32, exclusive: bool) -> Result<Arc<dyn Node>, Errno> {
        let state = self.state.read();
        state.check_change(who)?;
        let (gid, mode) = state.protection().inherit(who, FileType::Regular.mode() | mode);
        let begin = Beginning {
            content: Content::Regular(Data::default(), None),
            mode,
            uid: who.uid,
            gid,
            links: 0,
            linkable: !exclusive,
            place: None,
            now: crate::fs::stamp(),
        };
        Ok(Self::new(&self.fs, begin)?)
    }

    fn link(&self, who: &Identity<'_>, name: &[u8], target: &Arc<dyn Node>) -> Result<(), Errno> {
        let target = self.sibling(target)?;
        let now = crate::fs::stamp();
        let mut state = self.state.write();
        if state.entries(who)?.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        state.check_change(who)?;
        if target.is_directory() {
            return Err(Errno::EPERM);
        }
        self.budget().take_inode()?;
        let key = Name::from(name);
        let linked = state.insert(key.clone(), target.clone(), now).and_then(|()| {
            let linked = target.state.write().add_link(self.weak(), key, now);
            linked.inspect_err(|_| drop(state.remove(name, now)))
        });
        linked.inspect_err(|_| self.budget().give_inode())
    }

    fn unlink(&self, who: &Identity<'_>, name: &[u8], directory: bool) -> Result<(), Errno> {
        let now = crate::fs::stamp();
        let removed = if directory {
            super::rename::remove_directory(self, who, name, now)?
        } else {
            let mut state = self.state.write();
            let inode = state.entries(who)?.get(name).ok_or(Errno::ENOENT)?.clone();
            let owner = match inode.is_directory() {
                // Its lock would be a second directory's.
                true => return state.check_change(who).and(Err(Errno::EISDIR)),
                false => inode.state.read().uid,
            };
            state.check_removal(who, owner)?;
            state.remove(name, now)?;
            inode.state.write().drop_link(now);
            inode
        };
        self.budget().give_inode();
        drop(removed);
        Ok(())
    }

    fn rename(
        &self,
        who: &Identity<'_>,
        old: &[u8],
        directory: &Arc<dyn Node>,
        new: &[u8],
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let directory = self.sibling(directory)?;
        super::rename::rename(self, who, old, &directory, new, mode, crate::fs::stamp())
    }

    fn target(&self) -> Result<Target, Errno> {
        match &self.state.read().content {
            Content::Symlink(target) => Ok(Target::Path(target.clone())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn change(&self, who: &Identity<'_>, change: &Change) -> Result<(), Errno> {
        let accessed = self.state.write().change(who, change, crate::fs::stamp())?;
        if let Some(time) = accessed {
            self.accessed.store(time, Ordering::Relaxed);
        }
        Ok(())
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        let now = crate::fs::stamp();
        let mut state = self.state.write();
        let old = state.data()?.size();
        let seals = if size < old { SEAL_SHRINK } else { 0 } | if size > old { SEAL_GROW } else { 0 };
        state.data_mut(seals)?.truncate(&self.fs.budget, size);
        state.content_changed(now);
        drop(state);
        if size < old {
            // Private copies go as well: what lies past the end is a bus error (mmap(2)).
            self.unmap(size.div_ceil(PAGE_SIZE as u64)..u64::MAX, true);
        }
        Ok(())
    }

    fn hold(&self, purpose: Use) -> Result<(), Errno> {
        let held = self.uses.fetch_update(Ordering::AcqRel, Ordering::Relaxed, |uses| match purpose {
            Use::Write => (uses >= 0).then_some(uses + 1),
            Use::Execute => (uses <= 0).then_some(uses - 1),
        });
        held.map(drop).map_err(|_| Errno::ETXTBSY)
    }

    fn release(&self, purpose: Use) {
        self.uses.fetch_add(if purpose == Use::Write { -1 } else { 1 }, Ordering::Release);
    }

    fn open(self: Arc<Self>, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
        match self.file_type {
            FileType::Symlink => Err(Errno::ELOOP),
            FileType::Regular | FileType::Directory => Ok(self),
            _ => special::open(self.as_ref(), flags),
        }
    }

    fn mounted(&self) -> Option<&MountFlag> {
        Some(&self.mounted)
    }

    fn locks(&self) -> Option<&FileLocks> {
        Some(&self.locks)
    }

    fn slot(&self) -> Option<&Slot> {
        Some(&self.slot)
    }
}

impl File for Inode {
    fn read(&self, offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        let state = self.state.read();
        let moved = state.data()?.read(offset, buf);
        if moved == 0 && buf.faulted() {
            return Err(Errno::EFAULT);
        }
        self.note_access(state.modified, state.changed);
        Ok(moved)
    }

    fn write(&self, offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        self.write_with(buf, |_| offset).map(|(_, moved)| moved)
    }

    fn append(&self, buf: &mut WriteBuf<'_>) -> Result<(u64, usize), Errno> {
        self.write_with(buf, Data::size)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn seek(&self, offset: u64, hole: bool) -> Result<u64, Errno> {
        self.state.read().data()?.seek(offset, hole)
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        Node::truncate(self, size)
    }

    fn may_allocate(&self, offset: u64, len: u64) -> Result<(), Errno> {
        self.state.read().data()?.may_reserve(&self.fs.budget, offset, offset + len)
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        const KEEP_SIZE: u32 = 1;
        const PUNCH_HOLE: u32 = 2;
        const PUNCHED: u32 = PUNCH_HOLE | KEEP_SIZE;
        let now = crate::fs::stamp();
        let (end, mut state) = (offset + len, self.state.write());
        match mode {
            0 | KEEP_SIZE => {
                let extend = mode == 0;
                let grows = extend && end > state.data()?.size();
                let seals = if grows { SEAL_GROW } else { 0 };
                state.data_mut(seals)?.reserve(&self.fs.budget, offset, end, extend)?;
            }
            PUNCHED => state.data_mut(SEAL_WRITE | SEAL_FUTURE_WRITE)?.clear(&self.fs.budget, offset, end),
            _ => return Err(Errno::EOPNOTSUPP),
        }
        state.content_changed(now);
        drop(state);
        if mode == PUNCHED {
            // Copies are the programs' own. Pages in part of the hole stay, with zeroes there.
            let page = PAGE_SIZE as u64;
            self.unmap(offset.div_ceil(page)..end / page, false);
        }
        Ok(())
    }

    fn pages(&self) -> Option<Arc<dyn PageSource>> {
        if self.file_type != FileType::Regular {
            return None;
        }
        let me: Arc<Inode> = self.me.upgrade()?;
        Some(me)
    }

    fn seals(&self) -> Option<u32> {
        match self.state.read().content {
            Content::Regular(_, seals) => seals,
            _ => None,
        }
    }

    fn add_seals(&self, add: u32) -> Result<(), Errno> {
        match &mut self.state.write().content {
            Content::Regular(_, Some(seals)) if *seals & SEAL_SEAL != 0 => Err(Errno::EPERM),
            Content::Regular(_, Some(seals)) => {
                *seals |= add;
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn stat(&self) -> Stat {
        Node::stat(self)
    }
}

impl PageSource for Inode {
    fn page(&self, index: u64, write: bool) -> Result<Option<Frame>, OutOfMemory> {
        if !write {
            let state = self.state.read();
            let Ok(data) = state.data() else { return Ok(None) };
            if !data.has_page(index) {
                return Ok(None);
            }
            if let Some(frame) = data.page(index) {
                return Ok(Some(frame.clone()));
            }
        }
        let now = crate::fs::stamp();
        let mut state = self.state.write();
        let Ok(data) = state.data_mut(0) else { return Ok(None) };
        if !data.has_page(index) {
            return Ok(None);
        }
        let frame = data.page_or_fill(&self.fs.budget, index)?;
        if write {
            state.touch(now);
        }
        Ok(Some(frame))
    }

    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.mappers)
    }

    fn pages_present(&self, first: u64, frames: &mut [Option<Frame>]) {
        let state = self.state.read();
        let Ok(data) = state.data() else { return };
        for (index, frame) in (first..).zip(frames).take_while(|(index, _)| data.has_page(*index)) {
            *frame = data.page(index).cloned();
        }
    }
}
