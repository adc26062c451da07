//! Where a process's paths begin: its root, its current directory and its umask (shared by `CLONE_FS`).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use super::Location;
use crate::sync::RwSpinLock;

/// Root and current directory.
#[derive(Clone)]
pub struct Places {
    /// Where absolute paths begin.
    pub root: Location,
    /// Where relative paths begin.
    pub cwd: Location,
}

/// Root, current directory and umask of one or more processes.
pub struct FsContext {
    places: RwSpinLock<Places>,
    umask: AtomicU32,
}

impl FsContext {
    /// A context at `root`, with umask 022.
    pub fn new(root: Location) -> Arc<Self> {
        let places = RwSpinLock::new(Places { cwd: root.clone(), root });
        Arc::new(Self { places, umask: AtomicU32::new(0o022) })
    }

    /// A copy for a child that shares nothing.
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(Self {
            places: RwSpinLock::new(self.places.read().clone()),
            umask: AtomicU32::new(self.umask()),
        })
    }

    /// Calls `with` with the places, which stay as they are meanwhile. Walks run inside, so that no count of
    /// references is touched for them.
    pub fn with<T>(&self, with: impl FnOnce(&Places) -> T) -> T {
        with(&self.places.read())
    }

    /// The root.
    pub fn root(&self) -> Location {
        self.places.read().root.clone()
    }

    /// The current directory.
    pub fn cwd(&self) -> Location {
        self.places.read().cwd.clone()
    }

    /// chdir(2): `to` is a directory that the caller may search.
    pub fn set_cwd(&self, to: Location) {
        let old = core::mem::replace(&mut self.places.write().cwd, to);
        drop(old);
    }

    /// chroot(2): `to` is a directory that the caller may search.
    pub fn set_root(&self, to: Location) {
        let old = core::mem::replace(&mut self.places.write().root, to);
        drop(old);
    }

    /// The permission bits that new files do not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Sets the umask; returns the old.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed)
    }
}
