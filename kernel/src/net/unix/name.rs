//! Names of unix-domain sockets (unix(7)): inodes in the file system, and the abstract names.

use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use hashbrown::HashMap;

use super::UnixSocket;
use crate::errno::Errno;
use crate::fs::node::NewKind;
use crate::fs::path::{View, resolve};
use crate::fs::{FileType, Identity, Location, Wanted, tree};
use crate::net::socket::address::UnixName;
use crate::sync::SpinLock;

/// Linux's limit on names made up by the kernel: five hexadecimal digits.
const AUTOMATIC: u32 = 1 << 20;

static ABSTRACT: SpinLock<Option<HashMap<Vec<u8>, Weak<UnixSocket>>>> = SpinLock::new(None);

/// What the inode of a bound socket keeps.
struct Bound(Weak<UnixSocket>);

/// Gives `socket` a name; returns it, made up if none was wanted.
///
/// # Errors
/// `EADDRINUSE`; those of mknod(2).
pub fn bind(name: &UnixName, socket: &Arc<UnixSocket>) -> Result<UnixName, Errno> {
    match name {
        UnixName::Path(path) => bind_path(path, socket)?,
        UnixName::Abstract(name) => enter(name, socket)?,
        UnixName::Unnamed => return bind_automatically(socket),
    }
    Ok(name.clone())
}

fn bind_automatically(socket: &Arc<UnixSocket>) -> Result<UnixName, Errno> {
    let start = crate::random::next_u64() as u32;
    for number in (0..AUTOMATIC).map(|n| start.wrapping_add(n) % AUTOMATIC) {
        let name = format!("{number:05x}").into_bytes();
        match enter(&name, socket) {
            Err(Errno::EADDRINUSE) => {}
            done => return done.map(|()| UnixName::Abstract(name)),
        }
    }
    Err(Errno::ENOSPC)
}

fn enter(name: &[u8], socket: &Arc<UnixSocket>) -> Result<(), Errno> {
    let mut names = ABSTRACT.lock();
    let names = names.get_or_insert_with(HashMap::new);
    if names.get(name).is_some_and(|other| other.strong_count() > 0) {
        return Err(Errno::EADDRINUSE);
    }
    names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    names.insert(name.to_vec(), Arc::downgrade(socket));
    Ok(())
}

/// A socket with this name is gone. Its inode, if it has one, stays, as on Linux.
pub fn release(name: &UnixName) {
    if let (UnixName::Abstract(name), Some(names)) = (name, ABSTRACT.lock().as_mut()) {
        names.remove(name);
    }
}

/// The socket with this name.
///
/// # Errors
/// `ECONNREFUSED` when there is none; those of path resolution; `EACCES` without permission to write to the inode.
pub fn find(name: &UnixName) -> Result<Arc<UnixSocket>, Errno> {
    match name {
        UnixName::Unnamed => Err(Errno::EINVAL),
        UnixName::Abstract(name) => {
            let names = ABSTRACT.lock();
            let found = names.as_ref().and_then(|names| names.get(name.as_slice()));
            found.and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)
        }
        UnixName::Path(path) => find_path(path),
    }
}

/// Calls `with` with the running thread's view of the file system and its current directory and umask.
fn with_view<T>(with: impl FnOnce(View<'_>, &Location, u32) -> Result<T, Errno>) -> Result<T, Errno> {
    let thread = crate::process::current().ok_or(Errno::ENOENT)?;
    let (credentials, fs) = (thread.credentials(), thread.fs());
    let who = Identity::of(&credentials);
    fs.with(|places| with(View { who, root: &places.root }, &places.cwd, fs.umask()))
}

fn bind_path(path: &[u8], socket: &Arc<UnixSocket>) -> Result<(), Errno> {
    let node = with_view(|view, start, umask| {
        let at = tree::At { start, path };
        tree::create(view, at, NewKind::Socket, 0o777 & !umask)
    });
    let node = node.map_err(|error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error })?;
    let slot = node.slot().ok_or(Errno::EPERM)?;
    *slot.lock() = Some(Arc::new(Bound(Arc::downgrade(socket))));
    Ok(())
}

fn find_path(path: &[u8]) -> Result<Arc<UnixSocket>, Errno> {
    let node = with_view(|view, start, _| {
        let place = resolve(view, start, path, true)?;
        place.node.check(&view.who, Wanted::WRITE)?;
        Ok(place.node)
    })?;
    if node.file_type() != FileType::Socket {
        return Err(Errno::ECONNREFUSED);
    }
    let slot = node.slot().ok_or(Errno::ECONNREFUSED)?.lock();
    let bound = slot.as_ref().and_then(|kept| kept.downcast_ref::<Bound>());
    bound.and_then(|bound| bound.0.upgrade()).ok_or(Errno::ECONNREFUSED)
}
