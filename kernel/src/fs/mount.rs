//! Mounts: which file system is where in the tree of names.
//!
//! A [`Location`] is a node together with the mount through which it was reached, for `..` at a file system's root. Path walking asks the
//! table only at nodes whose [`MountFlag`](super::node::MountFlag) is set.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::node::{PATH_MAX, same_node};
use super::{FsStat, Node, Stat};
use crate::errno::Errno;
use crate::sync::RwSpinLock;

bitflags::bitflags! {
    /// Options of mount(2) that are kept (`MS_*`, and as `ST_*` in statfs(2), whose numbers are the same for these).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        /// Nothing is changed through it.
        const RDONLY = 1;
        /// Set-user-id has no effect.
        const NOSUID = 2;
        /// Device nodes do not open.
        const NODEV = 4;
        /// Nothing is executed from it.
        const NOEXEC = 8;
    }
}

/// A file system that can be mounted.
pub trait FileSystem: Send + Sync {
    /// Its root directory: always the same node.
    fn root(&self) -> Arc<dyn Node>;
    /// Its type, as mount(8) names it.
    fn name(&self) -> &'static str;
    /// Its size.
    fn stat(&self) -> FsStat;
}

/// A mounted file system.
pub struct Mount {
    /// What is mounted.
    pub fs: Arc<dyn FileSystem>,
    /// Its root.
    pub root: Arc<dyn Node>,
    /// On what, as the caller named it.
    pub source: String,
    /// Options.
    pub flags: MountFlags,
    /// Where; `None` for the root of all, and for what has no place in the tree.
    at: Option<Location>,
}

impl Mount {
    /// A file system that is in no tree: memfds, anonymous objects.
    pub fn detached(fs: Arc<dyn FileSystem>) -> Arc<Self> {
        let root = fs.root();
        Arc::new(Self { fs, root, source: "none".into(), flags: MountFlags::empty(), at: None })
    }

    /// `EROFS` when nothing may be changed through this mount.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.flags.contains(MountFlags::RDONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }
}

/// A node and the mount through which it was reached.
#[derive(Clone)]
pub struct Location {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The node.
    pub node: Arc<dyn Node>,
}

impl Location {
    /// The root of `mount`.
    pub fn root_of(mount: Arc<Mount>) -> Self {
        let node = mount.root.clone();
        Self { mount, node }
    }

    /// Whether both are the same place.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && same_node(&self.node, &other.node)
    }

    /// Whether this is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        same_node(&self.node, &self.mount.root)
    }

    /// The place on which this location's mount is mounted.
    pub fn mount_point(&self) -> Option<&Location> {
        self.mount.at.as_ref()
    }

    /// The attributes of the node.
    pub fn stat(&self) -> Stat {
        self.node.stat()
    }

    /// Goes to the root of what is mounted here, if something is.
    pub fn enter_mounts(&mut self) {
        while self.node.mounted().is_some_and(super::node::MountFlag::is_set) {
            match find(self) {
                Some(mount) => *self = Self::root_of(mount),
                None => return,
            }
        }
    }

    /// The absolute path as seen from `root`: `None` when it cannot be reached from there.
    pub fn path(&self, root: &Location) -> Result<Option<Vec<u8>>, Errno> {
        let mut names = Vec::new();
        let (mut at, mut len) = (self.clone(), 0);
        while !at.is(root) {
            if at.is_mount_root() {
                let Some(point) = at.mount_point().cloned() else { return Ok(None) };
                at = point;
                continue;
            }
            let Some((parent, name)) = at.node.place() else { return Ok(None) };
            len += name.len() + 1;
            names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            names.push(name);
            at.node = parent;
        }
        if len >= PATH_MAX * 16 {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut path = Vec::new();
        path.try_reserve(len.max(1)).map_err(|_| Errno::ENOMEM)?;
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(Some(path))
    }

    /// The path for people and for /proc: with ` (deleted)` when the name is gone.
    pub fn display_path(&self, root: &Location) -> Result<Vec<u8>, Errno> {
        let stat = self.stat();
        let mut path = match self.path(root)? {
            Some(path) => path,
            None => self.node.place().map_or_else(|| b"/".to_vec(), |(_, name)| [b"/", &name[..]].concat()),
        };
        if stat.links == 0 {
            path.try_reserve(10).map_err(|_| Errno::ENOMEM)?;
            path.extend_from_slice(b" (deleted)");
        }
        Ok(path)
    }
}

/// The mounts, oldest first. The root is not among them, having no place.
static MOUNTS: RwSpinLock<Vec<Arc<Mount>>> = RwSpinLock::new(Vec::new());

fn find(at: &Location) -> Option<Arc<Mount>> {
    let mounts = MOUNTS.read();
    mounts.iter().rev().find(|mount| mount.at.as_ref().is_some_and(|point| point.is(at))).cloned()
}

/// Mounts `fs` on `at`, a directory.
///
/// # Errors
/// `ENOTDIR`; `EINVAL` where nothing can be mounted; `ENOMEM`.
pub fn mount(
    fs: Arc<dyn FileSystem>,
    source: String,
    flags: MountFlags,
    at: Location,
) -> Result<Arc<Mount>, Errno> {
    let root = fs.root();
    if at.node.file_type() != root.file_type() {
        return Err(Errno::ENOTDIR);
    }
    if at.stat().links == 0 {
        return Err(Errno::ENOENT);
    }
    let mut mounts = MOUNTS.write();
    mounts.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    at.node.mounted().ok_or(Errno::EINVAL)?.set(true);
    let mount = Arc::new(Mount { fs, root, source, flags, at: Some(at) });
    mounts.push(mount.clone());
    Ok(mount)
}

/// Unmounts what is mounted at `at`, a root: at once, or with `detach` as soon as nobody uses it.
///
/// # Errors
/// `EINVAL` when nothing is mounted there; `EBUSY` when it is in use.
pub fn unmount(at: &Location, detach: bool) -> Result<(), Errno> {
    let mut mounts = MOUNTS.write();
    let index = mounts.iter().rposition(|mount| Arc::ptr_eq(mount, &at.mount));
    let index = index.filter(|_| at.is_mount_root()).ok_or(Errno::EINVAL)?;
    let has_mounts_below = mounts
        .iter()
        .any(|mount| mount.at.as_ref().is_some_and(|point| Arc::ptr_eq(&point.mount, &at.mount)));
    // One reference is the table's, one the caller's.
    if !detach && (has_mounts_below || Arc::strong_count(&at.mount) > 2) {
        return Err(Errno::EBUSY);
    }
    // With a mount go those that are mounted in it.
    let mut gone = alloc::vec![mounts.remove(index)];
    let mut next = 0;
    while let Some(mount) = gone.get(next).cloned() {
        if let Some(point) = &mount.at {
            let others = mounts.iter().any(|other| other.at.as_ref().is_some_and(|at| at.is(point)));
            if let Some(flag) = point.node.mounted() {
                flag.set(others);
            }
        }
        let inside =
            |other: &mut Arc<Mount>| other.at.as_ref().is_some_and(|point| Arc::ptr_eq(&point.mount, &mount));
        gone.extend(mounts.extract_if(.., inside));
        next += 1;
    }
    drop(mounts);
    Ok(())
}

/// A mount, and the path of the place on which it is.
pub type Mounted = (Vec<u8>, Arc<Mount>);

/// The mounts that can be reached from `root`, with their paths from there.
pub fn list(root: &Location) -> Result<Vec<Mounted>, Errno> {
    let mut all = Vec::new();
    all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    all.push((b"/".to_vec(), root.mount.clone()));
    let mounts = MOUNTS.read().clone();
    for mount in mounts {
        let Some(point) = &mount.at else { continue };
        if let Some(path) = point.path(root)? {
            all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            all.push((path, mount));
        }
    }
    Ok(all)
}

/// A device number for a file system without a device.
pub fn next_device() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    super::DeviceNumber::new(0, NEXT.fetch_add(1, Ordering::Relaxed) as u32).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::fixture::Fixture;
    use crate::fs::memfs::{Budget, MemFs};
    use crate::fs::node::NewKind;
    use crate::fs::path::resolve;
    use crate::fs::tree::{self, At};

    fn mount_at(place: Location) -> Result<Arc<Mount>, Errno> {
        let fs = Arc::new(MemFs::new(Budget::unlimited(), 0o755).unwrap());
        mount(fs, "test".into(), MountFlags::empty(), place)
    }

    #[test]
    fn a_file_system_is_mounted_on_directories_that_are_there_and_take_it() {
        let files = Fixture::new();
        files.file("/file", b"");
        files.symlink("/link", "/missing");
        assert_eq!(mount_at(files.find("/file").unwrap()).err(), Some(Errno::ENOTDIR));
        let link = resolve(files.view(), &files.root, b"/link", false).unwrap();
        assert_eq!(mount_at(link).err(), Some(Errno::ENOTDIR));
        files.mkdir("/gone");
        let gone = files.find("/gone").unwrap();
        tree::rmdir(files.view(), files.at("/gone")).unwrap();
        assert_eq!(mount_at(gone).err(), Some(Errno::ENOENT));
        let made_up = Location::root_of(Mount::detached(Arc::new(crate::fs::proc::new())));
        assert_eq!(mount_at(made_up).err(), Some(Errno::EINVAL));
        assert!(list(&files.root).unwrap().len() == 1);
    }

    #[test]
    fn only_the_root_of_a_mount_with_a_place_is_unmounted_and_only_when_nobody_uses_it() {
        let files = Fixture::new();
        files.mkdir("/dir");
        assert_eq!(unmount(&files.root, false), Err(Errno::EINVAL));
        let mounted = mount_at(files.find("/dir").unwrap()).unwrap();
        files.mkdir("/dir/inner");
        assert_eq!(unmount(&files.find("/dir/inner").unwrap(), false), Err(Errno::EINVAL));
        assert_eq!(unmount(&files.find("/dir").unwrap(), false), Err(Errno::EBUSY));
        assert_eq!(unmount(&files.find("/dir").unwrap(), true), Ok(()));
        // Who holds it has it still, but in no place.
        assert_eq!(unmount(&Location::root_of(mounted), true), Err(Errno::EINVAL));
        assert_eq!(files.find("/dir/inner").err(), Some(Errno::ENOENT));
    }

    #[test]
    fn a_mount_hides_what_was_there_until_it_goes() {
        let files = Fixture::new();
        files.mkdir("/dir");
        files.mkdir("/dir/below");
        for name in ["/dir/middle", "/dir/top"] {
            mount_at(files.find("/dir").unwrap()).unwrap();
            files.mkdir(name);
            assert_eq!(files.find("/dir/below").err(), Some(Errno::ENOENT));
        }
        unmount(&files.find("/dir").unwrap(), false).unwrap();
        assert!(files.find("/dir/middle").is_ok() && files.find("/dir/top").is_err());
        unmount(&files.find("/dir").unwrap(), false).unwrap();
        assert!(files.find("/dir/below").is_ok());
    }

    #[test]
    fn a_place_deeper_than_any_path_has_none() {
        let files = Fixture::new();
        let (name, mut at) = ([b'x'; 255], files.root.clone());
        for _ in 0..PATH_MAX * 16 / 256 {
            tree::create(files.view(), At { start: &at, path: &name }, NewKind::Directory, 0o755).unwrap();
            at = resolve(files.view(), &at, &name, true).unwrap();
        }
        assert_eq!(at.path(&files.root).err(), Some(Errno::ENAMETOOLONG));
        at.node = at.node.place().unwrap().0;
        assert_eq!(at.path(&files.root).unwrap().unwrap().len(), PATH_MAX * 16 - 256);
    }
}
