//! Files that are made up when they are read: what procfs and sysfs are built from.
//!
//! A directory is described by a constant table of [`Spec`]s: a name, a mode, and what is there: text made by a function, a
//! setting, a link, another directory. A spec is about a *subject* `S`: nothing for the machine as a whole, a process for those of /proc/PID.
//! Nodes are made anew for each look-up; nothing is kept but what is open.

mod rows;

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

pub use rows::{Cursor, NextRow};

use self::rows::RowsFile;
use super::mount::{FileSystem, next_device};
use super::node::{DirEntry, NewKind, Target};
use super::{File, FileType, FsStat, Identity, Name, Node, OpenFlags, Stat, Wanted};
use crate::errno::{Errno, SysResult};
use crate::memory::PAGE_SIZE;
use crate::sync::SpinLock;
use crate::uaccess::{ReadBuf, WriteBuf};

/// Text in the making.
#[derive(Default)]
pub struct Text(Vec<u8>);

impl Text {
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The bytes.
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes all away.
    fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds bytes that need not be text.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.0.try_reserve(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes()).map_err(|_| fmt::Error)
    }
}

/// A [`Text`] fails to take more only for want of memory.
impl From<fmt::Error> for Errno {
    fn from(_: fmt::Error) -> Self {
        Self::ENOMEM
    }
}

/// What a made-up file is about.
pub trait Subject: Clone + Send + Sync + 'static {
    /// User and group to whom its files belong.
    fn owner(&self) -> (u32, u32) {
        (0, 0)
    }

    /// `ENOENT` or `ESRCH` when it is gone.
    fn check(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// The machine as a whole.
impl Subject for () {}

/// An entry of a made-up directory.
pub struct Spec<S: 'static> {
    /// Its name.
    pub name: &'static str,
    /// Its permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: Kind<S>,
}

/// Makes the text of a file.
pub type Show<S> = fn(&S, &mut Text) -> Result<(), Errno>;

/// What an entry is.
pub enum Kind<S: 'static> {
    /// A file that is read.
    Text(Show<S>),
    /// A file that is read, and may be long.
    Rows(NextRow<S>),
    /// A file that is read and written; the second takes what is written, whole.
    Setting(Show<S>, fn(&S, &[u8]) -> Result<(), Errno>),
    /// A symbolic link: where it leads, and its text.
    Link(fn(&S) -> Result<Target, Errno>, fn(&S) -> Result<Vec<u8>, Errno>),
    /// A directory.
    Directory(&'static [Spec<S>]),
    /// A directory of which some entries depend on the subject.
    Branch(&'static dyn Branch<S>),
}

/// A directory of which some entries depend on the subject.
pub trait Branch<S: 'static>: Sync {
    /// The entries that are always there; they come first.
    fn fixed(&self) -> &'static [Spec<S>] {
        &[]
    }

    /// The entry `name` of the directory `parent`.
    fn find(&self, subject: &S, parent: &Arc<Entry<S>>, name: &[u8]) -> Result<Arc<dyn Node>, Errno>;

    /// Calls `emit` with number, name and type of the other entries from number `from` on, in ascending order of
    /// their numbers, until it returns false.
    fn list(&self, subject: &S, from: u32, emit: &mut EmitNumber<'_>) -> Result<(), Errno>;
}

/// Takes number, name and type of an entry; false when it has enough.
pub type EmitNumber<'a> = dyn FnMut(u32, EntryName, FileType) -> bool + 'a;

/// The name of an entry; those that are numbers are written out only when asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryName {
    /// As in the spec.
    Fixed,
    /// A number.
    Number(u32),
    /// Some other constant.
    Given(&'static str),
}

/// A number in a directory listing: of the entries that are always there, and above them of the others.
const FIXED_COOKIES: u64 = 1 << 16;

/// A node of a made-up file system.
pub struct Entry<S: 'static> {
    me: Weak<Entry<S>>,
    parent: Option<Arc<dyn Node>>,
    spec: &'static Spec<S>,
    name: EntryName,
    subject: S,
    device: u64,
    inode: u64,
}

impl<S: Subject> Entry<S> {
    /// The root of a file system.
    pub fn root(spec: &'static Spec<S>, subject: S) -> Arc<Self> {
        let device = next_device();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            parent: None,
            spec,
            name: EntryName::Fixed,
            subject,
            device,
            inode: 1,
        })
    }

    /// An entry of `parent`.
    pub fn new<P: Subject>(
        parent: &Arc<Entry<P>>,
        spec: &'static Spec<S>,
        name: EntryName,
        subject: S,
    ) -> Arc<Self> {
        let (device, inode) = (parent.device, parent.inode_of(spec.name, name));
        let parent: Arc<dyn Node> = parent.clone();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            parent: Some(parent),
            spec,
            name,
            subject,
            device,
            inode,
        })
    }

    /// Inode numbers are made of the numbers and names on the way (FNV-1a), so that each entry keeps its own.
    fn inode_of(&self, fixed: &str, name: EntryName) -> u64 {
        let (number, text) = match name {
            EntryName::Fixed => ([0; 4], fixed),
            EntryName::Number(number) => (number.wrapping_add(1).to_le_bytes(), ""),
            EntryName::Given(text) => ([0; 4], text),
        };
        let parent = self.inode.to_le_bytes();
        let bytes = parent.iter().chain(number.iter()).chain(text.as_bytes());
        bytes
            .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    fn fixed(&self) -> Result<&'static [Spec<S>], Errno> {
        match self.spec.kind {
            Kind::Directory(specs) => Ok(specs),
            Kind::Branch(branch) => Ok(branch.fixed()),
            _ => Err(Errno::ENOTDIR),
        }
    }
}

impl<S> Kind<S> {
    fn file_type(&self) -> FileType {
        match self {
            Self::Text(_) | Self::Rows(_) | Self::Setting(..) => FileType::Regular,
            Self::Link(..) => FileType::Symlink,
            Self::Directory(_) | Self::Branch(_) => FileType::Directory,
        }
    }
}

impl<S: Subject> Node for Entry<S> {
    fn file_type(&self) -> FileType {
        self.spec.kind.file_type()
    }

    fn stat(&self) -> Stat {
        let (uid, gid) = self.subject.owner();
        let now = super::stamp();
        Stat {
            device: self.device,
            inode: self.inode,
            mode: self.file_type().mode() | self.spec.mode,
            links: if self.file_type() == FileType::Directory { 2 } else { 1 },
            uid,
            gid,
            block_size: PAGE_SIZE as u32,
            accessed: now,
            modified: now,
            changed: now,
            ..Stat::default()
        }
    }

    fn lookup(&self, who: &Identity<'_>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        let fixed = self.fixed()?;
        self.subject.check()?;
        self.check(who, Wanted::EXECUTE)?;
        let me = self.me.upgrade().ok_or(Errno::ENOENT)?;
        if let Some(spec) = fixed.iter().find(|spec| spec.name.as_bytes() == name) {
            return Ok(Self::new(&me, spec, EntryName::Fixed, self.subject.clone()));
        }
        match self.spec.kind {
            Kind::Branch(branch) => branch.find(&self.subject, &me, name),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Nothing can be made here; as in Linux's procfs the name is what is said to be wrong.
    fn create(
        &self,
        who: &Identity<'_>,
        name: &[u8],
        _kind: NewKind<'_>,
        _mode: u32,
    ) -> Result<Arc<dyn Node>, Errno> {
        self.lookup(who, name).and(Err(Errno::EEXIST))
    }

    fn place(&self) -> Option<(Arc<dyn Node>, Name)> {
        let parent = self.parent.clone()?;
        let name = match self.name {
            EntryName::Fixed => Name::from(self.spec.name.as_bytes()),
            EntryName::Number(number) => Name::from(alloc::format!("{number}").as_bytes()),
            EntryName::Given(text) => Name::from(text.as_bytes()),
        };
        Some((parent, name))
    }

    fn list(&self, from: u64, emit: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<(), Errno> {
        let fixed = self.fixed()?;
        self.subject.check()?;
        for (next, spec) in (1..).zip(fixed).skip(from as usize) {
            let inode = self.inode_of(spec.name, EntryName::Fixed);
            let file_type = spec.kind.file_type();
            if !emit(DirEntry { name: spec.name.as_bytes(), inode, file_type, next }) {
                return Ok(());
            }
        }
        let Kind::Branch(branch) = self.spec.kind else { return Ok(()) };
        let first = from.saturating_sub(FIXED_COOKIES).min(u32::MAX.into()) as u32;
        branch.list(&self.subject, first, &mut |number, name, file_type| {
            let digits;
            let text = match name {
                EntryName::Given(text) => text,
                _ => {
                    digits = alloc::format!("{number}");
                    &digits
                }
            };
            let inode = self.inode_of("", name);
            let next = FIXED_COOKIES + u64::from(number) + 1;
            emit(DirEntry { name: text.as_bytes(), inode, file_type, next })
        })
    }

    fn target(&self) -> Result<Target, Errno> {
        match self.spec.kind {
            Kind::Link(target, _) => target(&self.subject),
            _ => Err(Errno::EINVAL),
        }
    }

    fn link_text(&self) -> Result<Arc<[u8]>, Errno> {
        match self.spec.kind {
            Kind::Link(_, text) => Ok(text(&self.subject)?.into()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Opening with `O_TRUNC` and writing is how settings are changed.
    fn truncate(&self, _size: u64) -> Result<(), Errno> {
        match self.spec.kind {
            Kind::Setting(..) => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, _flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
        self.subject.check()?;
        if let Kind::Rows(next) = self.spec.kind {
            return Ok(Arc::new(RowsFile::new(self, next)));
        }
        match self.file_type() {
            FileType::Directory => Ok(self),
            FileType::Regular => Ok(Arc::new(TextFile { entry: self, content: SpinLock::new(None) })),
            _ => Err(Errno::ELOOP),
        }
    }
}

/// An open directory.
impl<S: Subject> File for Entry<S> {
    fn read(&self, _offset: u64, _buf: &mut ReadBuf<'_>) -> SysResult {
        Err(Errno::EISDIR)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn stat(&self) -> Stat {
        Node::stat(self)
    }
}

/// An open file: its text is made when it is read from the beginning, and stays for reads that go on.
struct TextFile<S: 'static> {
    entry: Arc<Entry<S>>,
    content: SpinLock<Option<Arc<Text>>>,
}

impl<S: Subject> TextFile<S> {
    fn content(&self, offset: u64) -> Result<Arc<Text>, Errno> {
        if offset != 0
            && let Some(text) = &*self.content.lock()
        {
            return Ok(text.clone());
        }
        let (Kind::Text(show) | Kind::Setting(show, _)) = self.entry.spec.kind else {
            return Err(Errno::EINVAL);
        };
        let mut text = Text::default();
        show(&self.entry.subject, &mut text)?;
        let text = Arc::new(text);
        let old = self.content.lock().replace(text.clone());
        drop(old);
        Ok(text)
    }
}

impl<S: Subject> File for TextFile<S> {
    fn read(&self, offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        let text = self.content(offset)?;
        let rest = text.0.get(offset as usize..).unwrap_or(&[]);
        let wanted = rest.len().min(buf.remaining());
        match buf.push(&rest[..wanted]) {
            0 if wanted > 0 => Err(Errno::EFAULT),
            moved => Ok(moved),
        }
    }

    fn write(&self, _offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        /// Longer than any setting.
        const SETTING_MAX: usize = 4096;
        let Kind::Setting(_, set) = self.entry.spec.kind else { return Err(Errno::EINVAL) };
        if buf.remaining() > SETTING_MAX {
            return Err(Errno::EINVAL);
        }
        let mut value = [0; SETTING_MAX];
        let value = &mut value[..buf.remaining()];
        if buf.pull(value) < value.len() {
            return Err(Errno::EFAULT);
        }
        set(&self.entry.subject, value)?;
        Ok(value.len())
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn truncate(&self, size: u64) -> Result<(), Errno> {
        Node::truncate(&*self.entry, size)
    }

    fn stat(&self) -> Stat {
        Node::stat(&*self.entry)
    }
}

/// A made-up file system.
pub struct PseudoFs {
    root: Arc<Entry<()>>,
    name: &'static str,
    magic: u32,
}

impl PseudoFs {
    /// The file system of type `name` with what `spec` describes at its root.
    pub fn new(name: &'static str, magic: u32, spec: &'static Spec<()>) -> Self {
        Self { root: Entry::root(spec, ()), name, magic }
    }
}

impl FileSystem for PseudoFs {
    fn root(&self) -> Arc<dyn Node> {
        self.root.clone()
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn stat(&self) -> FsStat {
        FsStat { magic: self.magic, block_size: PAGE_SIZE as u64, ..FsStat::default() }
    }
}

/// A decimal number with white space around it, as settings are written.
pub fn parse_number(value: &[u8]) -> Result<i64, Errno> {
    let text = core::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0').parse().map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Location;
    use crate::fs::mount::Mount;
    use crate::fs::path::{View, resolve};
    use core::fmt::Write;
    use core::sync::atomic::{AtomicI64, Ordering};

    static SETTING: AtomicI64 = AtomicI64::new(5);

    static TREE: Spec<()> = Spec {
        name: "",
        mode: 0o555,
        kind: Kind::Directory(&[
            Spec { name: "long", mode: 0o444, kind: Kind::Text(long) },
            Spec { name: "dir", mode: 0o555, kind: Kind::Branch(&Numbers) },
        ]),
    };

    static NUMBER: Spec<()> = Spec { name: "", mode: 0o644, kind: Kind::Setting(show, set) };

    fn long(_: &(), text: &mut Text) -> Result<(), Errno> {
        (0..2000).try_for_each(|n| writeln!(text, "line {n}"))?;
        Ok(())
    }

    fn show(_: &(), text: &mut Text) -> Result<(), Errno> {
        Ok(writeln!(text, "{}", SETTING.load(Ordering::Relaxed))?)
    }

    fn set(_: &(), value: &[u8]) -> Result<(), Errno> {
        SETTING.store(parse_number(value)?, Ordering::Relaxed);
        Ok(())
    }

    struct Numbers;

    impl Branch<()> for Numbers {
        fn find(&self, _: &(), parent: &Arc<Entry<()>>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
            match parse_number(name) {
                Ok(number @ 1..4) => Ok(Entry::new(parent, &NUMBER, EntryName::Number(number as u32), ())),
                _ => Err(Errno::ENOENT),
            }
        }

        fn list(&self, _: &(), from: u32, emit: &mut EmitNumber<'_>) -> Result<(), Errno> {
            (from.max(1)..4).all(|number| emit(number, EntryName::Number(number), FileType::Regular));
            Ok(())
        }
    }

    fn find(path: &str) -> Result<Location, Errno> {
        let root = Location::root_of(Mount::detached(Arc::new(PseudoFs::new("test", 1, &TREE))));
        resolve(View { who: Identity::ROOT, root: &root }, &root, path.as_bytes(), true)
    }

    #[test]
    fn a_file_is_read_in_pieces_as_it_was_at_the_first() {
        let file = find("/long").unwrap().node.open(OpenFlags::empty()).unwrap();
        let mut all = Vec::new();
        loop {
            let mut piece = [0; 1000];
            match file.read(all.len() as u64, &mut ReadBuf::kernel(&mut piece)).unwrap() {
                0 => break,
                len => all.extend_from_slice(&piece[..len]),
            }
        }
        assert!(all.starts_with(b"line 0\n") && all.ends_with(b"line 1999\n"));
        assert_eq!(file.write(0, &mut WriteBuf::kernel(b"x")), Err(Errno::EINVAL));
    }

    #[test]
    fn settings_are_written_and_wrong_ones_refused() {
        let file = find("/dir/2").unwrap().node.open(OpenFlags::RDWR).unwrap();
        assert_eq!(file.write(0, &mut WriteBuf::kernel(b"42\n")), Ok(3));
        let mut out = [0; 8];
        assert_eq!(file.read(0, &mut ReadBuf::kernel(&mut out)), Ok(3));
        assert_eq!(&out[..3], b"42\n");
        assert_eq!(file.write(0, &mut WriteBuf::kernel(b"forty")), Err(Errno::EINVAL));
    }

    #[test]
    fn computed_entries_are_found_listed_and_keep_their_inode_numbers() {
        let directory = find("/dir").unwrap();
        let mut seen = Vec::new();
        directory
            .node
            .list(FIXED_COOKIES + 2, &mut |entry| {
                seen.push((entry.name.to_vec(), entry.inode));
                true
            })
            .unwrap();
        let stat = |path| find(path).unwrap().stat().inode;
        assert_eq!(seen, [(b"2".to_vec(), stat("/dir/2")), (b"3".to_vec(), stat("/dir/3"))]);
        assert_eq!(find("/dir/4").err(), Some(Errno::ENOENT));
        assert_eq!(find("/dir/2/x").err(), Some(Errno::ENOTDIR));
        let two = find("/dir/2").unwrap();
        assert_eq!(two.path(&Location::root_of(two.mount.clone())), Ok(Some(b"/dir/2".to_vec())));
    }
}
