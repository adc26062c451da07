//! The calls that make, remove and move names, on typed values: mkdir, mknod, symlink, link, unlink, rmdir, rename.

use alloc::sync::Arc;

use super::node::{NewKind, RenameMode};
use super::path::{Component, Last, View, check_name, resolve_parent};
use super::{FileType, Location, Node};
use crate::errno::Errno;

/// A path, and the place from which it is seen if it is relative.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The place.
    pub start: &'a Location,
    /// The path.
    pub path: &'a [u8],
}

/// Makes a file that is not regular (or, by mknod, one that is). `mode` has permission bits only, the umask applied.
pub fn create(view: View<'_>, at: At<'_>, kind: NewKind<'_>, mode: u32) -> Result<Arc<dyn Node>, Errno> {
    let (parent, last, slash) = resolve_parent(view, at.start, at.path)?;
    let Last::Name(name) = last else { return Err(Errno::EEXIST) };
    check_name(name.bytes())?;
    if slash && kind.file_type() != FileType::Directory {
        return Err(parent
            .node
            .lookup(&view.who, name.bytes())
            .map_or_else(|error| error, |_| Errno::EEXIST));
    }
    check_writable(&view, &parent, &name)?;
    parent.node.create(&view.who, name.bytes(), kind, mode)
}

/// `EROFS`, but `EEXIST` where the name is taken anyway.
fn check_writable(view: &View<'_>, parent: &Location, name: &Component<'_>) -> Result<(), Errno> {
    parent.mount.check_writable().map_err(|error| match parent.node.lookup(&view.who, name.bytes()) {
        Ok(_) => Errno::EEXIST,
        Err(_) => error,
    })
}

/// unlink(2).
pub fn unlink(view: View<'_>, at: At<'_>) -> Result<(), Errno> {
    let (parent, last, slash) = resolve_parent(view, at.start, at.path)?;
    let Last::Name(name) = last else { return Err(Errno::EISDIR) };
    check_name(name.bytes())?;
    if slash {
        let node = parent.node.lookup(&view.who, name.bytes())?;
        return Err(if node.file_type() == FileType::Directory { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    parent.mount.check_writable()?;
    parent.node.unlink(&view.who, name.bytes(), false)
}

/// rmdir(2).
pub fn rmdir(view: View<'_>, at: At<'_>) -> Result<(), Errno> {
    let (parent, last, _) = resolve_parent(view, at.start, at.path)?;
    let name = match last {
        Last::Name(name) => name,
        Last::Here => return Err(Errno::EINVAL),
        Last::Parent => return Err(Errno::ENOTEMPTY),
        Last::Root => return Err(Errno::EBUSY),
    };
    check_name(name.bytes())?;
    parent.mount.check_writable()?;
    parent.node.unlink(&view.who, name.bytes(), true)
}

/// link(2) of a file that was found already.
pub fn link(view: View<'_>, old: &Location, new: At<'_>) -> Result<(), Errno> {
    let (parent, last, slash) = resolve_parent(view, new.start, new.path)?;
    let Last::Name(name) = last else { return Err(Errno::EEXIST) };
    check_name(name.bytes())?;
    if slash {
        return Err(parent
            .node
            .lookup(&view.who, name.bytes())
            .map_or_else(|error| error, |_| Errno::EEXIST));
    }
    if !Arc::ptr_eq(&old.mount, &parent.mount) {
        return Err(Errno::EXDEV);
    }
    check_writable(&view, &parent, &name)?;
    parent.node.link(&view.who, name.bytes(), &old.node)
}

/// rename(2).
pub fn rename(view: View<'_>, old: At<'_>, new: At<'_>, mode: RenameMode) -> Result<(), Errno> {
    let (from, old_last, old_slash) = resolve_parent(view, old.start, old.path)?;
    let (to, new_last, new_slash) = resolve_parent(view, new.start, new.path)?;
    if !Arc::ptr_eq(&from.mount, &to.mount) {
        return Err(Errno::EXDEV);
    }
    let Last::Name(old_name) = old_last else { return Err(Errno::EBUSY) };
    let Last::Name(new_name) = new_last else {
        return Err(if mode == RenameMode::NoReplace { Errno::EEXIST } else { Errno::EBUSY });
    };
    check_name(old_name.bytes())?;
    check_name(new_name.bytes())?;
    from.mount.check_writable()?;
    let source = from.node.lookup(&view.who, old_name.bytes())?;
    if source.file_type() != FileType::Directory && (old_slash || new_slash && mode != RenameMode::Exchange) {
        return Err(Errno::ENOTDIR);
    }
    drop(source);
    from.node.rename(&view.who, old_name.bytes(), &to.node, new_name.bytes(), mode)
}
