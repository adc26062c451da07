//! A small file system for tests.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::memfs::{Budget, MemFs};
use super::mount::{self, Mount, MountFlags};
use super::node::NewKind;
use super::path::{View, resolve};
use super::tree::{self, At};
use super::{Identity, Location, OpenFile, OpenFlags, open};
use crate::errno::Errno;
use crate::uaccess::{ReadBuf, WriteBuf};

/// A tree that is in no other.
pub struct Fixture {
    pub root: Location,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with_budget(Budget::unlimited())
    }

    /// A tree that holds this much, whatever other tests do with the machine's memory.
    pub fn with_budget(budget: Budget) -> Self {
        let fs = MemFs::new(budget, 0o755).unwrap();
        Self { root: Location::root_of(Mount::detached(Arc::new(fs))) }
    }

    /// As user 0 sees it.
    pub fn view(&self) -> View<'_> {
        self.view_of(Identity::ROOT)
    }

    pub fn view_of<'a>(&'a self, who: Identity<'a>) -> View<'a> {
        View { who, root: &self.root }
    }

    pub fn at<'a>(&'a self, path: &'a str) -> At<'a> {
        At { start: &self.root, path: path.as_bytes() }
    }

    pub fn mkdir(&self, path: &str) {
        tree::create(self.view(), self.at(path), NewKind::Directory, 0o755).unwrap();
    }

    pub fn symlink(&self, path: &str, target: &str) {
        tree::create(self.view(), self.at(path), NewKind::Symlink(target.as_bytes()), 0o777).unwrap();
    }

    /// Makes a file with this content, readable and writable by its owner.
    pub fn file(&self, path: &str, content: &[u8]) -> Arc<OpenFile> {
        let file = self.open(path, OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
        assert_eq!(file.write_at(0, &mut WriteBuf::kernel(content)), Ok(content.len()));
        file
    }

    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<Arc<OpenFile>, Errno> {
        open::open(self.view(), &self.root, path.as_bytes(), flags, 0o600)
    }

    pub fn find(&self, path: &str) -> Result<Location, Errno> {
        resolve(self.view(), &self.root, path.as_bytes(), true)
    }

    /// Mounts an empty file system.
    pub fn mount(&self, path: &str, flags: MountFlags) -> Arc<Mount> {
        let fs = Arc::new(MemFs::new(Budget::unlimited(), 0o755).unwrap());
        mount::mount(fs, "test".into(), flags, self.find(path).unwrap()).unwrap()
    }
}

/// What is in `file`, read from its position on.
pub fn rest(file: &OpenFile) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut piece = [0; 100];
        match file.read(&mut ReadBuf::kernel(&mut piece)) {
            Ok(0) => return all,
            Ok(len) => all.extend_from_slice(&piece[..len]),
            Err(error) => assert_eq!(error, crate::errno::Errno::ERESTARTNOINTR),
        }
    }
}
