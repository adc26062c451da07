//! Unpacking the initramfs, which the boot loader left in memory, into the root file system.
//!
//! An archive that is damaged or hostile never stops the boot: what can be unpacked is, the rest is reported. Names are walked as any
//! path is, so none leads out of the root.

mod cpio;

use alloc::sync::Arc;
use core::fmt;

use hashbrown::HashMap;

pub use cpio::Problem;

use self::cpio::{Entries, Entry};
use super::memfs::{Inode, MemFs};
use super::node::{NewKind, same_node};
use super::path::{Last, View, resolve_parent};
use super::stat::PERMISSIONS;
use super::{Change, DeviceNumber, FileType, Identity, Location, Node};
use crate::errno::Errno;
use crate::memory::{Frame, OutOfMemory, PAGE_SIZE};

/// What became of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries unpacked.
    pub entries: usize,
    /// Bytes of file data unpacked.
    pub bytes: u64,
    /// Entries that could not be made, and why the first of them could not.
    pub refused: usize,
    /// The error of the first refused entry.
    pub first_error: Option<Errno>,
    /// Why reading stopped before the end.
    pub problem: Option<Problem>,
}

impl Report {
    /// Whether all of the archive was unpacked.
    pub fn is_complete(&self) -> bool {
        self.refused == 0 && self.problem.is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries, {} KiB", self.entries, self.bytes / 1024)?;
        if let Some(error) = self.first_error {
            write!(f, "; {} entries refused, the first with {error:?}", self.refused)?;
        }
        match &self.problem {
            Some(problem) => write!(f, "; the archive is damaged: {problem}"),
            None => Ok(()),
        }
    }
}

/// Unpacks `archive` into `fs`, whose root is `root`.
pub fn unpack(fs: &MemFs, root: &Location, archive: &[u8]) -> Report {
    let mut unpacker = Unpacker { fs, root, linked: HashMap::new() };
    let mut report = Report::default();
    for entry in Entries::new(archive) {
        match entry.map(|entry| (unpacker.unpack(&entry), entry.data.len())) {
            Ok((Ok(()), len)) => {
                report.entries += 1;
                report.bytes += len as u64;
            }
            Ok((Err(error), _)) => {
                report.refused += 1;
                report.first_error.get_or_insert(error);
            }
            Err(problem) => report.problem = Some(problem),
        }
    }
    report
}

struct Unpacker<'a> {
    fs: &'a MemFs,
    root: &'a Location,
    /// Files with several names, by their inode in the archive.
    linked: HashMap<(u32, u32, u32), Arc<dyn Node>>,
}

impl Unpacker<'_> {
    fn view(&self) -> View<'_> {
        View { who: Identity::ROOT, root: self.root }
    }

    fn unpack(&mut self, entry: &Entry<'_>) -> Result<(), Errno> {
        let file_type = FileType::of_mode(entry.mode).ok_or(Errno::EINVAL)?;
        self.make_parents(entry.name)?;
        let (parent, last, _) = resolve_parent(self.view(), self.root, entry.name)?;
        let name = match last {
            Last::Name(name) => name,
            // `.`: the root itself.
            _ if file_type == FileType::Directory => return self.settle(&parent.node, entry),
            _ => return Err(Errno::EINVAL),
        };
        let node = self.make(&parent, name.bytes(), entry, file_type)?;
        self.settle(&node, entry)
    }

    /// Makes, links or finds the file of `entry`, and puts its data there.
    fn make(
        &mut self,
        parent: &Location,
        name: &[u8],
        entry: &Entry<'_>,
        file_type: FileType,
    ) -> Result<Arc<dyn Node>, Errno> {
        let who = Identity::ROOT;
        let several = entry.links > 1 && file_type != FileType::Directory;
        let first = if several { self.linked.get(&entry.inode).cloned() } else { None };
        if let Ok(old) = parent.node.lookup(&who, name) {
            if file_type == FileType::Directory && old.file_type() == FileType::Directory {
                return Ok(old);
            }
            if !first.as_ref().is_some_and(|first| same_node(first, &old)) {
                parent.node.unlink(&who, name, old.file_type() == FileType::Directory)?;
            }
        }
        let node = match first {
            Some(first) if first.file_type() == file_type => {
                match parent.node.link(&who, name, &first) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error),
                }
                first
            }
            _ => parent.node.create(&who, name, kind(entry, file_type)?, entry.mode & PERMISSIONS)?,
        };
        if several {
            self.linked.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.linked.insert(entry.inode, node.clone());
        }
        if file_type == FileType::Regular && !entry.data.is_empty() {
            // No half a program: what does not fit is not there.
            fill(&*self.fs.inode().sibling(&node)?, entry.data)
                .or_else(|error| parent.node.unlink(&who, name, false).and(Err(error)))?;
        }
        Ok(node)
    }

    /// Sets owner, mode and time.
    fn settle(&self, node: &Arc<dyn Node>, entry: &Entry<'_>) -> Result<(), Errno> {
        let owner = Change { uid: Some(entry.uid), gid: Some(entry.gid), ..Change::default() };
        node.change(&Identity::ROOT, &owner)?;
        if node.file_type() != FileType::Symlink {
            let mode = Change { mode: Some(entry.mode & PERMISSIONS), ..Change::default() };
            node.change(&Identity::ROOT, &mode)?;
        }
        // What goes into a mounted /dev is in another file system, and keeps the present as its time.
        if let Ok(inode) = self.fs.inode().sibling(node) {
            inode.set_times(i64::from(entry.modified) * 1_000_000_000);
        }
        Ok(())
    }

    /// Makes the directories of `name` that the archive does not list.
    fn make_parents(&self, name: &[u8]) -> Result<(), Errno> {
        let Err(Errno::ENOENT) = resolve_parent(self.view(), self.root, name) else { return Ok(()) };
        for (at, _) in name.iter().enumerate().skip(1).filter(|&(_, &byte)| byte == b'/') {
            let (parent, last, _) = resolve_parent(self.view(), self.root, &name[..at])?;
            let Last::Name(name) = last else { continue };
            match parent.node.create(&Identity::ROOT, name.bytes(), NewKind::Directory, 0o755) {
                Ok(_) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn kind<'a>(entry: &Entry<'a>, file_type: FileType) -> Result<NewKind<'a>, Errno> {
    Ok(match file_type {
        FileType::Regular => NewKind::Regular,
        FileType::Directory => NewKind::Directory,
        FileType::Symlink if entry.data.is_empty() => return Err(Errno::ENOENT),
        FileType::Symlink if entry.data.len() >= super::node::PATH_MAX => return Err(Errno::ENAMETOOLONG),
        FileType::Symlink => NewKind::Symlink(entry.data),
        FileType::Fifo => NewKind::Fifo,
        FileType::Socket => NewKind::Socket,
        FileType::CharDevice | FileType::BlockDevice => {
            NewKind::Device(file_type, DeviceNumber::new(entry.device.0, entry.device.1).0)
        }
        FileType::Anonymous => return Err(Errno::EINVAL),
    })
}

/// Copies `data` into frames, which become the file's.
fn fill(inode: &Inode, data: &[u8]) -> Result<(), Errno> {
    Node::truncate(inode, 0)?;
    inode.install_pages(data.len() as u64, data.chunks(PAGE_SIZE).map(frame_of))
}

fn frame_of(data: &[u8]) -> Result<Frame, OutOfMemory> {
    let frame = Frame::uninit()?;
    frame.write(0, data);
    frame.clear(data.len(), PAGE_SIZE - data.len());
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::cpio::tests::entry;
    use super::*;
    use crate::fs::memfs::Budget;
    use crate::fs::mount::Mount;
    use crate::fs::path::resolve;
    use crate::fs::{OpenFlags, Stat};
    use crate::uaccess::ReadBuf;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    struct Tree {
        fs: Arc<MemFs>,
        root: Location,
    }

    impl Tree {
        fn new(budget: Budget) -> Self {
            let fs = Arc::new(MemFs::new(budget, 0o755).unwrap());
            let root = Location::root_of(Mount::detached(fs.clone()));
            Self { fs, root }
        }

        fn unpack(&self, archive: &[u8]) -> Report {
            unpack(&self.fs, &self.root, archive)
        }

        fn find(&self, path: &str) -> Result<Location, Errno> {
            resolve(View { who: Identity::ROOT, root: &self.root }, &self.root, path.as_bytes(), false)
        }

        fn stat(&self, path: &str) -> Stat {
            self.find(path).unwrap().stat()
        }

        fn content(&self, path: &str) -> Vec<u8> {
            let node = self.find(path).unwrap().node;
            let mut bytes = vec![0; node.stat().size as usize + 1];
            let len =
                node.open(OpenFlags::empty()).unwrap().read(0, &mut ReadBuf::kernel(&mut bytes)).unwrap();
            bytes.truncate(len);
            bytes
        }
    }

    #[test]
    fn every_type_arrives_with_its_attributes() {
        let long: Vec<u8> = (0..3 * PAGE_SIZE + 5).map(|n| n as u8).collect();
        let device = Entry { device: (1, 3), ..entry(4, "dev/null", 0o020_666, b"") };
        let archive = cpio::write(&[
            entry(1, ".", 0o040_700, b""),
            entry(2, "bin/program", 0o104_755, &long),
            entry(3, "bin/link", 0o120_777, b"program"),
            device,
            entry(5, "./fifo", 0o010_600, b""),
        ]);
        let tree = Tree::new(Budget::unlimited());
        let report = tree.unpack(&archive);
        assert!(report.is_complete(), "{report}");
        assert_eq!((report.entries, tree.content("/bin/program") == long), (5, true));
        let stat = tree.stat("/bin/program");
        assert_eq!((stat.mode, stat.uid, stat.gid, stat.modified), (0o104_755, 1, 2, 77_000_000_000));
        assert_eq!(&*tree.find("/bin/link").unwrap().node.link_text().unwrap(), b"program");
        assert_eq!(tree.stat("/dev/null").special_device, 0x103);
        assert_eq!(tree.stat("/fifo").file_type(), FileType::Fifo);
        assert_eq!((tree.stat("/").mode, tree.stat("/bin").mode), (0o040_700, 0o040_755));
    }

    #[test]
    fn hard_links_share_data_that_comes_with_the_last_name() {
        let several = |name, data| Entry { links: 2, ..entry(9, name, 0o100_644, data) };
        let archive = cpio::write(&[several("a", b""), several("b", b"content")]);
        let tree = Tree::new(Budget::unlimited());
        assert!(tree.unpack(&archive).is_complete());
        assert_eq!((tree.content("/a"), tree.stat("/a").links), (b"content".to_vec(), 2));
        assert_eq!(tree.stat("/a").inode, tree.stat("/b").inode);
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one() {
        let archive = cpio::write(&[
            entry(1, "x", 0o100_644, b"old and longer"),
            entry(2, "x", 0o100_600, b"new"),
            entry(3, "d", 0o040_755, b""),
            entry(4, "d", 0o040_711, b""),
        ]);
        let tree = Tree::new(Budget::unlimited());
        assert!(tree.unpack(&archive).is_complete());
        assert_eq!((tree.content("/x"), tree.stat("/x").mode), (b"new".to_vec(), 0o100_600));
        assert_eq!(tree.stat("/d").mode, 0o040_711);
    }

    #[test]
    fn names_stay_inside_and_what_cannot_be_made_is_counted() {
        let archive = cpio::write(&[
            entry(1, "../../outside", 0o100_644, b"1"),
            entry(2, "/absolute", 0o100_644, b"2"),
            entry(3, "absolute/below", 0o100_644, b"3"),
            entry(4, "odd", 0o030_644, b""),
            entry(5, "loop", 0o120_777, b"loop"),
            entry(6, "loop/x", 0o100_644, b""),
            entry(7, "last", 0o100_644, b"7"),
        ]);
        let tree = Tree::new(Budget::unlimited());
        let report = tree.unpack(&archive);
        assert_eq!((report.entries, report.refused, report.first_error), (4, 3, Some(Errno::ENOTDIR)));
        assert_eq!(tree.content("/outside"), b"1");
        assert_eq!((tree.content("/absolute"), tree.content("/last")), (b"2".to_vec(), b"7".to_vec()));
    }

    #[test]
    fn too_little_memory_refuses_files_and_goes_on() {
        let big = vec![1; 4 * PAGE_SIZE];
        let archive = cpio::write(&[entry(1, "big", 0o100_644, &big), entry(2, "small", 0o100_644, b"x")]);
        let tree = Tree::new(Budget::new(16, 3));
        let report = tree.unpack(&archive);
        assert_eq!((report.refused, report.first_error), (1, Some(Errno::ENOSPC)));
        assert_eq!(tree.find("/big").err(), Some(Errno::ENOENT));
        assert_eq!(tree.content("/small"), b"x");
    }

    proptest! {
        #[test]
        fn damage_never_does_more_than_lose_entries(flips in proptest::collection::vec((0usize..700, any::<u8>()), 0..6), cut in 0usize..900) {
            let mut archive = cpio::write(&[
                entry(1, "dir", 0o040_755, b""),
                Entry { links: 2, ..entry(2, "dir/file", 0o100_644, b"0123456789") },
                Entry { links: 2, ..entry(2, "dir/again", 0o100_644, b"0123456789") },
                entry(3, "dir/link", 0o120_777, b"file"),
            ]);
            for (at, value) in flips {
                let at = at % archive.len();
                archive[at] = value;
            }
            archive.truncate(cut);
            let tree = Tree::new(Budget::new(64, 64));
            let report = tree.unpack(&archive);
            prop_assert!(report.entries + report.refused <= 5);
        }
    }
}
