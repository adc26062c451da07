//! The in-memory file system, path walking and the calls on names against a model: a plain tree, and the rules of
//! path_resolution(7) and of the calls' pages written down once more, as simply as possible.

use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

use alloc::sync::Arc;
use proptest::prelude::*;

use super::memfs::{Budget, MemFs};
use super::mount::Mount;
use super::node::{NewKind, RenameMode};
use super::path::{View, resolve};
use super::tree::{self, At};
use super::{Change, FileType, Identity, Location, OpenFlags, Stat, open};
use crate::errno::Errno;
use crate::uaccess::{ReadBuf, WriteBuf};

const USER: u32 = 1000;

#[derive(Clone, Debug)]
enum Op {
    Mkdir(String, u32),
    Open(String, OpenFlags),
    Symlink(String, String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, RenameMode),
    Chmod(String, u32),
    Stat(String, bool),
    Write(String, u8),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        6 => proptest::sample::select(vec!["a", "b", "c"]).prop_map(String::from),
        1 => Just(String::from("..")),
        1 => Just(String::from(".")),
    ];
    let names = proptest::collection::vec(name, 1..4);
    (names, 0..4u8, 0..8u8).prop_map(|(names, absolute, slash)| {
        let path = names.join("/");
        let path = if absolute == 0 { format!("/{path}") } else { path };
        if slash == 0 { format!("{path}/") } else { path }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let mode = || proptest::sample::select(vec![0o755u32, 0o777, 0o1777, 0o700, 0o111]);
    let flags = proptest::sample::select(vec![
        OpenFlags::CREAT | OpenFlags::WRONLY,
        OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::WRONLY,
        OpenFlags::RDWR | OpenFlags::TRUNC,
        OpenFlags::empty(),
        OpenFlags::DIRECTORY,
        OpenFlags::NOFOLLOW,
        OpenFlags::CREAT | OpenFlags::RDWR | OpenFlags::NOFOLLOW,
    ]);
    let rename = proptest::sample::select(vec![
        RenameMode::Replace,
        RenameMode::Replace,
        RenameMode::NoReplace,
        RenameMode::Exchange,
    ]);
    prop_oneof![
        4 => (path(), mode()).prop_map(|(path, mode)| Op::Mkdir(path, mode)),
        4 => (path(), flags).prop_map(|(path, flags)| Op::Open(path, flags)),
        2 => (path(), path()).prop_map(|(to, path)| Op::Symlink(to, path)),
        2 => (path(), path()).prop_map(|(old, new)| Op::Link(old, new)),
        2 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        4 => (path(), path(), rename).prop_map(|(old, new, mode)| Op::Rename(old, new, mode)),
        1 => (path(), mode()).prop_map(|(path, mode)| Op::Chmod(path, mode)),
        2 => (path(), any::<bool>()).prop_map(|(path, follow)| Op::Stat(path, follow)),
        2 => (path(), any::<u8>()).prop_map(|(path, byte)| Op::Write(path, byte)),
    ]
}

/// What a call that looks at a file tells about it: type, links, mode, owner, size.
type Seen = (FileType, u32, u32, u32, u64);

fn seen(stat: &Stat) -> Seen {
    let size = if stat.file_type() == FileType::Directory { 0 } else { stat.size };
    (stat.file_type(), stat.links, stat.mode & 0o7777, stat.uid, size)
}

// The file system under test.

struct Real {
    root: Location,
}

impl Real {
    fn new() -> Self {
        let fs = MemFs::new(Budget::unlimited(), 0o777).unwrap();
        Self { root: Location::root_of(Mount::detached(Arc::new(fs))) }
    }

    fn apply(&self, uid: u32, op: &Op) -> Result<Option<Seen>, Errno> {
        let who = Identity { uid, gid: uid, groups: &[], privileged: uid == 0 };
        let (view, start) = (View { who, root: &self.root }, &self.root);
        let at = |path| At { start, path };
        match op {
            Op::Mkdir(path, mode) => {
                tree::create(view, at(path.as_bytes()), NewKind::Directory, *mode).map(|_| None)
            }
            Op::Open(path, flags) => {
                open::open(view, start, path.as_bytes(), *flags, 0o644).map(|file| Some(seen(&file.stat())))
            }
            Op::Symlink(to, path) => {
                tree::create(view, at(path.as_bytes()), NewKind::Symlink(to.as_bytes()), 0o777).map(|_| None)
            }
            Op::Link(old, new) => {
                let old = resolve(view, start, old.as_bytes(), false)?;
                tree::link(view, &old, at(new.as_bytes())).map(|()| None)
            }
            Op::Unlink(path) => tree::unlink(view, at(path.as_bytes())).map(|()| None),
            Op::Rmdir(path) => tree::rmdir(view, at(path.as_bytes())).map(|()| None),
            Op::Rename(old, new, mode) => {
                tree::rename(view, at(old.as_bytes()), at(new.as_bytes()), *mode).map(|()| None)
            }
            Op::Chmod(path, mode) => {
                let change = Change { mode: Some(*mode), ..Change::default() };
                resolve(view, start, path.as_bytes(), true)?.node.change(&who, &change).map(|()| None)
            }
            Op::Stat(path, follow) => {
                resolve(view, start, path.as_bytes(), *follow).map(|found| Some(seen(&found.stat())))
            }
            Op::Write(path, byte) => {
                let flags = OpenFlags::WRONLY | OpenFlags::APPEND;
                let file = open::open(view, start, path.as_bytes(), flags, 0)?;
                file.write(&mut WriteBuf::kernel(&[*byte]))?;
                Ok(Some(seen(&file.stat())))
            }
        }
    }

    /// All names with what they refer to; the content of files and links as text.
    fn dump(&self) -> BTreeMap<String, (Seen, Vec<u8>)> {
        let mut all = BTreeMap::new();
        let mut rest = vec![(String::new(), self.root.clone())];
        while let Some((path, location)) = rest.pop() {
            let content = match location.node.file_type() {
                FileType::Symlink => location.node.link_text().unwrap().to_vec(),
                FileType::Regular => {
                    let mut bytes = vec![0; location.stat().size as usize];
                    let file = location.node.clone().open(OpenFlags::empty()).unwrap();
                    file.read(0, &mut ReadBuf::kernel(&mut bytes)).unwrap();
                    bytes
                }
                _ => Vec::new(),
            };
            if location.node.file_type() == FileType::Directory {
                let mut names = Vec::new();
                location
                    .node
                    .list(0, &mut |entry| {
                        names.push(entry.name.to_vec());
                        true
                    })
                    .unwrap();
                for name in names {
                    let node = location.node.lookup(&Identity::ROOT, &name).unwrap();
                    if node.file_type() == FileType::Directory {
                        let (parent, known_as) = node.place().expect("a directory knows its name");
                        assert_eq!(&known_as[..], &name[..]);
                        assert!(super::node::same_node(&parent, &location.node));
                    }
                    let name = String::from_utf8(name).unwrap();
                    rest.push((format!("{path}/{name}"), Location { node, ..location.clone() }));
                }
            }
            all.insert(path, (seen(&location.stat()), content));
        }
        all
    }
}

// The model.

#[derive(Clone, Debug)]
enum Content {
    File(Vec<u8>),
    Link(String),
    Dir(BTreeMap<String, usize>, usize),
}

#[derive(Clone, Debug)]
struct Inode {
    mode: u32,
    uid: u32,
    links: u32,
    content: Content,
}

struct Model {
    inodes: Vec<Inode>,
}

/// Where a path leads: directory, last component, trailing slash.
struct End {
    dir: usize,
    last: Tail,
    slash: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Tail {
    Root,
    Dot,
    DotDot,
    Name(String),
}

impl Model {
    fn new() -> Self {
        let root = Inode { mode: 0o777, uid: 0, links: 2, content: Content::Dir(BTreeMap::new(), 0) };
        Self { inodes: vec![root] }
    }

    fn may(&self, uid: u32, inode: usize, bit: u32) -> bool {
        let inode = &self.inodes[inode];
        let own = if uid == inode.uid { inode.mode >> 6 } else { inode.mode };
        let root =
            uid == 0 && (bit != 1 || inode.mode & 0o111 != 0 || matches!(inode.content, Content::Dir(..)));
        own & bit == bit || root
    }

    fn search(&self, uid: u32, dir: usize) -> Result<&BTreeMap<String, usize>, Errno> {
        match &self.inodes[dir].content {
            Content::Dir(entries, _) if self.may(uid, dir, 1) => Ok(entries),
            Content::Dir(..) => Err(Errno::EACCES),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn is_dir(&self, inode: usize) -> bool {
        matches!(self.inodes[inode].content, Content::Dir(..))
    }

    fn parent(&self, dir: usize) -> usize {
        match self.inodes[dir].content {
            Content::Dir(_, parent) => parent,
            _ => unreachable!("only directories have a parent"),
        }
    }

    /// Unfolds symbolic links textually until only the last component is left.
    fn end(&self, uid: u32, path: &str, follow: bool) -> Result<End, Errno> {
        let mut todo: Vec<String> =
            path.split('/').rev().filter(|s| !s.is_empty()).map(String::from).collect();
        let mut slash = path.ends_with('/');
        let (mut at, mut links) = (0, 0);
        while let Some(name) = todo.pop() {
            let last = todo.is_empty();
            let entries = self.search(uid, at)?;
            match name.as_str() {
                "." if last => return Ok(End { dir: at, last: Tail::Dot, slash }),
                ".." if last => return Ok(End { dir: at, last: Tail::DotDot, slash }),
                "." => continue,
                ".." => {
                    at = self.parent(at);
                    continue;
                }
                _ => {}
            }
            let found = entries.get(&name).copied();
            match found.map(|inode| &self.inodes[inode].content) {
                Some(Content::Link(text)) if !last || follow => {
                    links += 1;
                    if links > 40 {
                        return Err(Errno::ELOOP);
                    }
                    slash |= last && text.ends_with('/');
                    if text.starts_with('/') {
                        at = 0;
                    }
                    todo.extend(text.split('/').rev().filter(|s| !s.is_empty()).map(String::from));
                }
                _ if last => return Ok(End { dir: at, last: Tail::Name(name), slash }),
                Some(_) => at = found.unwrap(),
                None => return Err(Errno::ENOENT),
            }
        }
        Ok(End { dir: at, last: Tail::Root, slash })
    }

    fn inode(&self, uid: u32, path: &str, follow: bool) -> Result<usize, Errno> {
        let end = self.end(uid, path, follow || path.ends_with('/'))?;
        let inode = match end.last {
            Tail::Root | Tail::Dot => end.dir,
            Tail::DotDot => self.parent(end.dir),
            Tail::Name(name) => *self.search(uid, end.dir)?.get(&name).ok_or(Errno::ENOENT)?,
        };
        if end.slash && !self.is_dir(inode) { Err(Errno::ENOTDIR) } else { Ok(inode) }
    }

    fn seen(&self, inode: usize) -> Seen {
        let inode = &self.inodes[inode];
        let (file_type, size) = match &inode.content {
            Content::File(bytes) => (FileType::Regular, bytes.len()),
            Content::Link(text) => (FileType::Symlink, text.len()),
            Content::Dir(..) => (FileType::Directory, 0),
        };
        (file_type, inode.links, inode.mode, inode.uid, size as u64)
    }

    fn entries(&mut self, dir: usize) -> &mut BTreeMap<String, usize> {
        match &mut self.inodes[dir].content {
            Content::Dir(entries, _) => entries,
            _ => unreachable!("a directory"),
        }
    }

    fn add(
        &mut self,
        uid: u32,
        dir: usize,
        name: String,
        mode: u32,
        content: Content,
    ) -> Result<usize, Errno> {
        if self.search(uid, dir)?.contains_key(&name) {
            return Err(Errno::EEXIST);
        }
        self.may(uid, dir, 3).then_some(()).ok_or(Errno::EACCES)?;
        let links = if matches!(content, Content::Dir(..)) { 2 } else { 1 };
        self.inodes[dir].links += links - 1;
        self.inodes.push(Inode { mode, uid, links, content });
        let inode = self.inodes.len() - 1;
        self.entries(dir).insert(name, inode);
        Ok(inode)
    }

    fn may_remove(&self, uid: u32, dir: usize, inode: usize) -> Result<(), Errno> {
        self.may(uid, dir, 3).then_some(()).ok_or(Errno::EACCES)?;
        let sticky = self.inodes[dir].mode & 0o1000 != 0;
        let owns = uid == 0 || self.inodes[dir].uid == uid || self.inodes[inode].uid == uid;
        if sticky && !owns { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn create(&mut self, uid: u32, path: &str, mode: u32, content: Content) -> Result<(), Errno> {
        let end = self.end(uid, path, false)?;
        let Tail::Name(name) = end.last else { return Err(Errno::EEXIST) };
        if end.slash && !matches!(content, Content::Dir(..)) {
            let taken = self.search(uid, end.dir)?.contains_key(&name);
            return Err(if taken { Errno::EEXIST } else { Errno::ENOENT });
        }
        let content =
            if let Content::Dir(entries, _) = content { Content::Dir(entries, end.dir) } else { content };
        self.add(uid, end.dir, name, mode, content).map(|_| ())
    }

    fn open(&mut self, uid: u32, path: &str, flags: OpenFlags) -> Result<usize, Errno> {
        let create = flags.contains(OpenFlags::CREAT);
        let exclusive = create && flags.contains(OpenFlags::EXCL);
        let follow = !exclusive && !flags.contains(OpenFlags::NOFOLLOW);
        let end = self.end(uid, path, follow || (path.ends_with('/') && !exclusive))?;
        let (inode, slash) = match end.last {
            Tail::Name(name) => match self.search(uid, end.dir)?.get(&name).copied() {
                Some(_) if exclusive => return Err(Errno::EEXIST),
                Some(inode) => (inode, end.slash),
                None if create && end.slash => return Err(Errno::EISDIR),
                None if create => return self.add(uid, end.dir, name, 0o644, Content::File(Vec::new())),
                None => return Err(Errno::ENOENT),
            },
            _ if exclusive => return Err(Errno::EEXIST),
            _ if create => return Err(Errno::EISDIR),
            Tail::DotDot => (self.parent(end.dir), end.slash),
            Tail::Root | Tail::Dot => (end.dir, end.slash),
        };
        if slash && !self.is_dir(inode) {
            return Err(if create { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        if flags.contains(OpenFlags::DIRECTORY) && !self.is_dir(inode) {
            return Err(Errno::ENOTDIR);
        }
        let write = flags.intersects(OpenFlags::WRONLY | OpenFlags::RDWR);
        match self.inodes[inode].content {
            Content::Link(_) => return Err(Errno::ELOOP),
            Content::Dir(..) if write => return Err(Errno::EISDIR),
            _ => {}
        }
        let read = !flags.contains(OpenFlags::WRONLY);
        let allowed = (!read || self.may(uid, inode, 4)) && (!write || self.may(uid, inode, 2));
        allowed.then_some(()).ok_or(Errno::EACCES)?;
        if let Content::File(bytes) = &mut self.inodes[inode].content
            && flags.contains(OpenFlags::TRUNC)
        {
            bytes.clear();
        }
        Ok(inode)
    }

    fn remove(&mut self, uid: u32, path: &str, directory: bool) -> Result<(), Errno> {
        let end = self.end(uid, path, false)?;
        let name = match (end.last, directory) {
            (Tail::Name(name), _) => name,
            (_, false) => return Err(Errno::EISDIR),
            (Tail::Root, true) => return Err(Errno::EBUSY),
            (Tail::Dot, true) => return Err(Errno::EINVAL),
            (Tail::DotDot, true) => return Err(Errno::ENOTEMPTY),
        };
        let inode = *self.search(uid, end.dir)?.get(&name).ok_or(Errno::ENOENT)?;
        if !directory && end.slash {
            return Err(if self.is_dir(inode) { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        match (directory, self.is_dir(inode)) {
            (false, true) => {
                self.may(uid, end.dir, 3).then_some(()).ok_or(Errno::EACCES)?;
                return Err(Errno::EISDIR);
            }
            (_, is_dir) => {
                self.may_remove(uid, end.dir, inode)?;
                if directory && !is_dir {
                    return Err(Errno::ENOTDIR);
                }
            }
        }
        if directory && !self.entries(inode).is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.entries(end.dir).remove(&name);
        self.unlinked(end.dir, inode);
        Ok(())
    }

    fn unlinked(&mut self, dir: usize, inode: usize) {
        if self.is_dir(inode) {
            self.inodes[inode].links = 0;
            self.inodes[dir].links -= 1;
        } else {
            self.inodes[inode].links -= 1;
        }
    }

    fn is_below(&self, mut dir: usize, top: usize) -> bool {
        while dir != top && dir != 0 {
            dir = self.parent(dir);
        }
        dir == top
    }

    fn rename(&mut self, uid: u32, old: &str, new: &str, mode: RenameMode) -> Result<(), Errno> {
        let (from, to) = (self.end(uid, old, false)?, self.end(uid, new, false)?);
        let Tail::Name(old_name) = from.last else { return Err(Errno::EBUSY) };
        let Tail::Name(new_name) = to.last else {
            return Err(if mode == RenameMode::NoReplace { Errno::EEXIST } else { Errno::EBUSY });
        };
        let source = *self.search(uid, from.dir)?.get(&old_name).ok_or(Errno::ENOENT)?;
        if !self.is_dir(source) && (from.slash || to.slash && mode != RenameMode::Exchange) {
            return Err(Errno::ENOTDIR);
        }
        let target = self.search(uid, to.dir)?.get(&new_name).copied();
        let exchange = mode == RenameMode::Exchange;
        match (target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(Errno::EEXIST),
            (None, RenameMode::Exchange) => return Err(Errno::ENOENT),
            _ => {}
        }
        if self.is_dir(source) && self.is_below(to.dir, source) {
            return Err(Errno::EINVAL);
        }
        if target.is_some_and(|target| self.is_dir(target) && self.is_below(from.dir, target)) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if target == Some(source) {
            return Ok(());
        }
        let across = from.dir != to.dir;
        let moves = |model: &Self, inode: usize| {
            let refused = across && model.is_dir(inode) && !model.may(uid, inode, 2);
            if refused { Err(Errno::EACCES) } else { Ok(()) }
        };
        self.may_remove(uid, from.dir, source)?;
        self.may(uid, to.dir, 3).then_some(()).ok_or(Errno::EACCES)?;
        moves(self, source)?;
        if let Some(target) = target {
            self.may_remove(uid, to.dir, target)?;
            match (self.is_dir(source), self.is_dir(target)) {
                _ if exchange => moves(self, target)?,
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !self.entries(target).is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
        }
        self.entries(from.dir).remove(&old_name);
        self.entries(to.dir).insert(new_name, source);
        self.moved(from.dir, to.dir, source);
        match target {
            Some(target) if exchange => {
                self.entries(from.dir).insert(old_name, target);
                self.moved(to.dir, from.dir, target);
            }
            Some(target) => self.unlinked(to.dir, target),
            None => {}
        }
        Ok(())
    }

    fn moved(&mut self, from: usize, to: usize, inode: usize) {
        if let Content::Dir(_, parent) = &mut self.inodes[inode].content {
            *parent = to;
            self.inodes[from].links -= 1;
            self.inodes[to].links += 1;
        }
    }

    fn link(&mut self, uid: u32, old: &str, new: &str) -> Result<(), Errno> {
        let inode = self.inode(uid, old, false)?;
        let end = self.end(uid, new, false)?;
        let Tail::Name(name) = end.last else { return Err(Errno::EEXIST) };
        let taken = self.search(uid, end.dir)?.contains_key(&name);
        match (taken, end.slash) {
            (true, _) => return Err(Errno::EEXIST),
            (false, true) => return Err(Errno::ENOENT),
            _ => {}
        }
        self.may(uid, end.dir, 3).then_some(()).ok_or(Errno::EACCES)?;
        if self.is_dir(inode) {
            return Err(Errno::EPERM);
        }
        self.inodes[inode].links += 1;
        self.entries(end.dir).insert(name, inode);
        Ok(())
    }

    fn apply(&mut self, uid: u32, op: &Op) -> Result<Option<Seen>, Errno> {
        match op {
            Op::Mkdir(path, mode) => {
                self.create(uid, path, *mode, Content::Dir(BTreeMap::new(), 0)).map(|()| None)
            }
            Op::Open(path, flags) => self.open(uid, path, *flags).map(|inode| Some(self.seen(inode))),
            Op::Symlink(to, path) => self.create(uid, path, 0o777, Content::Link(to.clone())).map(|()| None),
            Op::Link(old, new) => self.link(uid, old, new).map(|()| None),
            Op::Unlink(path) => self.remove(uid, path, false).map(|()| None),
            Op::Rmdir(path) => self.remove(uid, path, true).map(|()| None),
            Op::Rename(old, new, mode) => self.rename(uid, old, new, *mode).map(|()| None),
            Op::Chmod(path, mode) => {
                let inode = self.inode(uid, path, true)?;
                if uid != 0 && self.inodes[inode].uid != uid {
                    return Err(Errno::EPERM);
                }
                self.inodes[inode].mode = *mode;
                Ok(None)
            }
            Op::Stat(path, follow) => self.inode(uid, path, *follow).map(|inode| Some(self.seen(inode))),
            Op::Write(path, byte) => {
                let inode = self.open(uid, path, OpenFlags::WRONLY)?;
                if let Content::File(bytes) = &mut self.inodes[inode].content {
                    bytes.push(*byte);
                }
                Ok(Some(self.seen(inode)))
            }
        }
    }

    fn dump(&self) -> BTreeMap<String, (Seen, Vec<u8>)> {
        let mut all = BTreeMap::new();
        let mut rest = vec![(String::new(), 0)];
        while let Some((path, inode)) = rest.pop() {
            let content = match &self.inodes[inode].content {
                Content::File(bytes) => bytes.clone(),
                Content::Link(text) => text.clone().into_bytes(),
                Content::Dir(entries, _) => {
                    rest.extend(entries.iter().map(|(name, inode)| (format!("{path}/{name}"), *inode)));
                    Vec::new()
                }
            };
            all.insert(path, (self.seen(inode), content));
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn calls_on_names_behave_as_the_model(ops in proptest::collection::vec((any::<bool>(), op()), 1..60)) {
        let (real, mut model) = (Real::new(), Model::new());
        for (root, op) in ops {
            let uid = if root { 0 } else { USER };
            prop_assert_eq!(real.apply(uid, &op), model.apply(uid, &op), "{} {:?}", uid, op);
        }
        prop_assert_eq!(real.dump(), model.dump());
    }
}
