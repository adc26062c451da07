//! The operations that lock more than one directory: rename and rmdir.
//!
//! Both hold the file system's `topology` lock, so the tree above a directory stands still while they look at it.

use alloc::sync::Arc;

use super::inode::Inode;
use super::state::{Content, State};
use crate::errno::Errno;
use crate::fs::node::RenameMode;
use crate::fs::{Identity, Name, Time, Wanted};

/// Removes the directory `name`, which must be empty, from `parent`.
pub(super) fn remove_directory(
    parent: &Inode,
    who: &Identity<'_>,
    name: &[u8],
    now: Time,
) -> Result<Arc<Inode>, Errno> {
    let _topology = parent.fs.topology.lock();
    let mut state = parent.state.write();
    let child = state.entries(who)?.get(name).ok_or(Errno::ENOENT)?.clone();
    state.check_removal(who, child.state.read().uid)?;
    if !child.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    let mut below = child.state.write();
    check_unused(&child, &below)?;
    state.remove(name, now)?;
    below.drop_link(now);
    drop(below);
    Ok(child)
}

fn check_unused(inode: &Inode, state: &State) -> Result<(), Errno> {
    match &state.content {
        _ if inode.is_mounted() => Err(Errno::EBUSY),
        Content::Directory(entries) if entries.len() > 0 => Err(Errno::ENOTEMPTY),
        _ => Ok(()),
    }
}

/// Moves `old` in `from` to `new` in `to`.
pub(super) fn rename(
    from: &Inode,
    who: &Identity<'_>,
    old: &[u8],
    to: &Inode,
    new: &[u8],
    mode: RenameMode,
    now: Time,
) -> Result<(), Errno> {
    let _topology = from.fs.topology.lock();
    loop {
        let source = find(from, who, old)?.ok_or(Errno::ENOENT)?;
        let target = find(to, who, new)?;
        let victim = match (&target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Errno::EEXIST),
            (None, RenameMode::Exchange) => return Err(Errno::ENOENT),
            _ => target,
        };
        check_cycles(from, &source, to, victim.as_deref(), mode)?;
        let step = Step { from, to, who, old, new, source, victim, mode, now };
        if step.run()? {
            return Ok(());
        }
        // An entry changed between the look and the lock: look again.
    }
}

fn find(directory: &Inode, who: &Identity<'_>, name: &[u8]) -> Result<Option<Arc<Inode>>, Errno> {
    Ok(directory.state.read().entries(who)?.get(name).cloned())
}

/// `EINVAL` when a directory would move below itself, `ENOTEMPTY` when the victim holds the source.
fn check_cycles(
    from: &Inode,
    source: &Inode,
    to: &Inode,
    victim: Option<&Inode>,
    mode: RenameMode,
) -> Result<(), Errno> {
    if source.is_directory() && is_below(to, source) {
        return Err(Errno::EINVAL);
    }
    if let Some(victim) = victim.filter(|victim| victim.is_directory() && is_below(from, victim)) {
        let _ = victim;
        return Err(if mode == RenameMode::Exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    Ok(())
}

/// Whether `directory` is `top` or lies below it. Under the topology lock.
fn is_below(directory: &Inode, top: &Inode) -> bool {
    let mut at = directory.weak().upgrade();
    while let Some(inode) = at {
        if core::ptr::eq(Arc::as_ptr(&inode), top) {
            return true;
        }
        at = inode.state.read().place.as_ref().and_then(|(parent, _)| parent.upgrade());
    }
    false
}

/// A rename whose files are known.
struct Step<'a> {
    from: &'a Inode,
    to: &'a Inode,
    who: &'a Identity<'a>,
    old: &'a [u8],
    new: &'a [u8],
    source: Arc<Inode>,
    victim: Option<Arc<Inode>>,
    mode: RenameMode,
    now: Time,
}

/// The two directories of a rename, locked; `to` is absent where they are one.
struct Locked<'a> {
    from: &'a mut State,
    to: Option<&'a mut State>,
}

impl Locked<'_> {
    fn to(&mut self) -> &mut State {
        match &mut self.to {
            Some(state) => state,
            None => self.from,
        }
    }
}

impl Step<'_> {
    /// False when the names no longer refer to the files.
    fn run(&self) -> Result<bool, Errno> {
        let mut from = self.from.state.write();
        if core::ptr::eq(self.from, self.to) {
            return self.run_locked(Locked { from: &mut from, to: None });
        }
        let mut to = self.to.state.write();
        self.run_locked(Locked { from: &mut from, to: Some(&mut to) })
    }

    fn run_locked(&self, mut locked: Locked<'_>) -> Result<bool, Errno> {
        let is = |state: &State, name: &[u8], inode: Option<&Arc<Inode>>| match &state.content {
            Content::Directory(entries) => entries.get(name).map(Arc::as_ptr) == inode.map(Arc::as_ptr),
            _ => false,
        };
        if !is(locked.from, self.old, Some(&self.source)) || !is(locked.to(), self.new, self.victim.as_ref())
        {
            return Ok(false);
        }
        if self.victim.as_ref().is_some_and(|victim| Arc::ptr_eq(victim, &self.source)) {
            // Two names of one file: rename(2) leaves both.
            return Ok(true);
        }
        self.check(&mut locked)?;
        match (&self.victim, self.mode) {
            (Some(victim), RenameMode::Exchange) => self.exchange(&mut locked, victim)?,
            (victim, _) => self.replace(&mut locked, victim.as_ref())?,
        }
        Ok(true)
    }

    fn check(&self, locked: &mut Locked<'_>) -> Result<(), Errno> {
        let across = !core::ptr::eq(self.from, self.to);
        locked.from.check_removal(self.who, self.source.state.read().uid)?;
        locked.to().check_change(self.who)?;
        self.check_moves_up(&self.source, across)?;
        if self.source.is_mounted() {
            return Err(Errno::EBUSY);
        }
        let Some(victim) = &self.victim else { return Ok(()) };
        locked.to().check_removal(self.who, victim.state.read().uid)?;
        if self.mode == RenameMode::Exchange {
            self.check_moves_up(victim, across)?;
            return if victim.is_mounted() { Err(Errno::EBUSY) } else { Ok(()) };
        }
        match (self.source.is_directory(), victim.is_directory()) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            _ => check_unused(victim, &victim.state.read()),
        }
    }

    /// A directory that gets another `..` is written to.
    fn check_moves_up(&self, inode: &Inode, across: bool) -> Result<(), Errno> {
        if across && inode.is_directory() {
            inode.state.read().protection().check(self.who, Wanted::WRITE)?;
        }
        Ok(())
    }

    fn replace(&self, locked: &mut Locked<'_>, victim: Option<&Arc<Inode>>) -> Result<(), Errno> {
        let name = Name::from(self.new);
        match victim {
            Some(victim) => {
                locked.to().replace(self.new, self.source.clone(), self.now)?;
                victim.state.write().drop_link(self.now);
                self.to.fs.budget.give_inode();
            }
            None => locked.to().insert(name.clone(), self.source.clone(), self.now)?,
        }
        locked.from.remove(self.old, self.now)?;
        self.settle(&self.source, self.to, name);
        Ok(())
    }

    fn exchange(&self, locked: &mut Locked<'_>, victim: &Arc<Inode>) -> Result<(), Errno> {
        locked.to().replace(self.new, self.source.clone(), self.now)?;
        locked.from.replace(self.old, victim.clone(), self.now)?;
        self.settle(&self.source, self.to, self.new.into());
        self.settle(victim, self.from, self.old.into());
        Ok(())
    }

    fn settle(&self, inode: &Inode, parent: &Inode, name: Name) {
        let mut state = inode.state.write();
        state.place = Some((parent.weak(), name));
        state.changed = self.now;
    }
}
