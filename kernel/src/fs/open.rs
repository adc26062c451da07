//! Opening by name: open(2) and the file of execve(2).

use alloc::sync::Arc;

use super::mount::MountFlags;
use super::node::{NewKind, Use};
use super::path::{Last, Rules, View, Walker, resolve_with};
use super::tree::At;
use super::{File, FileType, Location, Node, OpenFile, OpenFlags, Stat, Wanted};
use crate::errno::Errno;

/// Opens `path`, seen from `start`, as open(2) does; `mode` has the umask applied.
///
/// A FIFO is opened at once: see [`File::open_ready`].
pub fn open(
    view: View<'_>,
    start: &Location,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
) -> Result<Arc<OpenFile>, Errno> {
    open_with(view, At { start, path }, flags, mode, Rules::empty())
}

/// As [`open`], keeping to `rules`: openat2(2).
pub fn open_with(
    view: View<'_>,
    at: At<'_>,
    flags: OpenFlags,
    mode: u32,
    rules: Rules,
) -> Result<Arc<OpenFile>, Errno> {
    let flags = check_flags(flags)?;
    if flags.contains(OpenFlags::TMPFILE) {
        return open_unnamed(view, at, flags, mode, rules);
    }
    let walker = Walker::with_rules(view, at.start, at.path, rules)?;
    let (location, created) = find_or_create(view, walker, flags, mode)?;
    open_location(&view, location, flags, created)
}

/// `EINVAL` for flags that contradict each other; `O_PATH` leaves few of them.
fn check_flags(flags: OpenFlags) -> Result<OpenFlags, Errno> {
    let tmpfile = OpenFlags::TMPFILE.union(OpenFlags::DIRECTORY);
    if flags.contains(OpenFlags::PATH) {
        let kept = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
        return Ok(flags & kept);
    }
    let unnamed = flags.contains(OpenFlags::TMPFILE);
    let wrong = match flags.contains(OpenFlags::CREAT) {
        true => flags.intersects(tmpfile),
        false => unnamed && !(flags.contains(tmpfile) && flags.writable()),
    };
    if wrong { Err(Errno::EINVAL) } else { Ok(flags) }
}

fn find_or_create(
    view: View<'_>,
    mut walker: Walker<'_, '_>,
    flags: OpenFlags,
    mode: u32,
) -> Result<(Location, bool), Errno> {
    let create = flags.contains(OpenFlags::CREAT);
    let exclusive = create && flags.contains(OpenFlags::EXCL);
    let follow = !exclusive && !flags.contains(OpenFlags::NOFOLLOW);
    loop {
        let name = match walker.walk_to_last()? {
            Last::Name(name) => name,
            Last::Parent if !create => {
                walker.go_up()?;
                break;
            }
            _ if exclusive => return Err(Errno::EEXIST),
            _ if create => return Err(Errno::EISDIR),
            _ => break,
        };
        let slash = walker.has_trailing_slash();
        let (node, created) = match walker.lookup(name.bytes()) {
            Ok(_) if exclusive => return Err(Errno::EEXIST),
            Ok(node) => (node, false),
            Err(Errno::ENOENT) if create && slash => return Err(Errno::EISDIR),
            Err(Errno::ENOENT) if create => create_file(&view, walker.at(), name.bytes(), mode, exclusive)?,
            Err(error) => return Err(error),
        };
        if !walker.step(node, !created && (follow || slash))? {
            if created {
                return Ok((walker.into_place(), true));
            }
            break;
        }
    }
    if walker.has_trailing_slash() && walker.at().node.file_type() != FileType::Directory {
        return Err(if create { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    Ok((walker.into_place(), false))
}

/// Makes the file, or finds the one that somebody made since the look-up. The flag tells which.
fn create_file(
    view: &View<'_>,
    directory: &Location,
    name: &[u8],
    mode: u32,
    exclusive: bool,
) -> Result<(Arc<dyn Node>, bool), Errno> {
    directory.mount.check_writable()?;
    loop {
        match directory.node.create(&view.who, name, NewKind::Regular, mode) {
            Err(Errno::EEXIST) if !exclusive => {}
            made => return Ok((made?, true)),
        }
        match directory.node.lookup(&view.who, name) {
            Err(Errno::ENOENT) => {}
            found => return Ok((found?, false)),
        }
    }
}

fn open_unnamed(
    view: View<'_>,
    at: At<'_>,
    flags: OpenFlags,
    mode: u32,
    rules: Rules,
) -> Result<Arc<OpenFile>, Errno> {
    let follow = !flags.contains(OpenFlags::NOFOLLOW);
    let directory = resolve_with(view, at.start, at.path, follow, rules)?;
    directory.mount.check_writable()?;
    let node = directory.node.create_unnamed(&view.who, mode, flags.contains(OpenFlags::EXCL))?;
    open_location(&view, Location { node, ..directory }, flags - OpenFlags::DIRECTORY, true)
}

/// What cannot be asked of a directory.
const NOT_FOR_DIRECTORIES: OpenFlags =
    OpenFlags::CREAT.union(OpenFlags::TRUNC).union(OpenFlags::WRONLY).union(OpenFlags::RDWR);

/// Opens what a walk found. A file that was just `created` needs no permission.
pub fn open_location(
    view: &View<'_>,
    location: Location,
    flags: OpenFlags,
    created: bool,
) -> Result<Arc<OpenFile>, Errno> {
    let file_type = location.node.file_type();
    if flags.contains(OpenFlags::DIRECTORY) && file_type != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    if flags.contains(OpenFlags::PATH) {
        return OpenFile::at(Arc::new(PathOnly), flags, location);
    }
    let truncate = flags.contains(OpenFlags::TRUNC) && !created && file_type == FileType::Regular;
    match file_type {
        FileType::Symlink => return Err(Errno::ELOOP),
        FileType::Directory if flags.intersects(NOT_FOR_DIRECTORIES) => return Err(Errno::EISDIR),
        _ => {}
    }
    if !created {
        check_access(view, &location, flags, truncate)?;
    }
    let file = location.node.clone().open(flags)?;
    // Every program is one for large files, and what it opens says so.
    let open = OpenFile::at(file, flags | OpenFlags::LARGEFILE, location)?;
    if truncate {
        open.location().map_or(Ok(()), |location| truncate_at(location, 0))?;
    }
    Ok(open)
}

fn check_access(view: &View<'_>, location: &Location, flags: OpenFlags, truncate: bool) -> Result<(), Errno> {
    let mode = flags.bits() & 3;
    let mut wanted =
        [Wanted::READ, Wanted::WRITE, Wanted::READ | Wanted::WRITE, Wanted::READ | Wanted::WRITE]
            [mode as usize];
    if truncate {
        wanted |= Wanted::WRITE;
    }
    let is_device = matches!(location.node.file_type(), FileType::CharDevice | FileType::BlockDevice);
    if is_device && location.mount.flags.contains(MountFlags::NODEV) {
        return Err(Errno::EACCES);
    }
    if wanted.contains(Wanted::WRITE) && location.node.file_type() == FileType::Regular {
        location.mount.check_writable()?;
    }
    location.node.check(&view.who, wanted)?;
    if flags.contains(OpenFlags::NOATIME) && !view.who.owns(location.node.protection().uid) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Cuts or extends the regular file at `location` (`ETXTBSY`). Permission has been checked.
pub fn truncate_at(location: &Location, size: u64) -> Result<(), Errno> {
    location.node.hold(Use::Write)?;
    let result = location.node.truncate(size);
    location.node.release(Use::Write);
    result
}

/// A program's file while it is executed: it cannot be opened for writing.
pub struct Executable(Location);

impl Executable {
    /// Begins to execute the file at `location` (`ETXTBSY` while it is open for writing).
    pub fn new(location: Location) -> Result<Self, Errno> {
        location.node.hold(Use::Execute)?;
        Ok(Self(location))
    }

    /// Begins to execute the file of execve(2) at `location`.
    ///
    /// # Errors
    /// `EACCES` unless it is regular, executable for the caller, and on a mount that allows it; `ETXTBSY`.
    pub fn open(view: &View<'_>, location: Location) -> Result<(Self, Arc<dyn File>), Errno> {
        if location.node.file_type() != FileType::Regular || location.mount.flags.contains(MountFlags::NOEXEC)
        {
            return Err(Errno::EACCES);
        }
        location.node.check(&view.who, Wanted::EXECUTE)?;
        // Before a look at the content, which a writer may be in the middle of.
        let executable = Self::new(location)?;
        let file = executable.0.node.clone().open(OpenFlags::empty())?;
        Ok((executable, file))
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.0
    }
}

impl Drop for Executable {
    fn drop(&mut self) {
        self.0.node.release(Use::Execute);
    }
}

/// What an `O_PATH` descriptor holds: nothing that can be read or written.
struct PathOnly;

impl File for PathOnly {
    fn stat(&self) -> Stat {
        Stat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::fixture::{Fixture, rest};
    use crate::fs::{DeviceNumber, Identity, tree};
    use crate::uaccess::{ReadBuf, WriteBuf};

    const RDWR: OpenFlags = OpenFlags::RDWR;

    #[test]
    fn a_file_is_created_where_a_dangling_link_points() {
        let files = Fixture::new();
        files.symlink("/link", "target");
        let link_only = OpenFlags::CREAT | RDWR | OpenFlags::NOFOLLOW;
        assert_eq!(files.open("/link", link_only).err(), Some(Errno::ELOOP));
        files.open("/link", OpenFlags::CREAT | RDWR).unwrap();
        assert_eq!(files.find("/target").unwrap().node.file_type(), FileType::Regular);
    }

    #[test]
    fn an_unnamed_file_can_be_given_a_name_unless_it_is_exclusive() {
        let files = Fixture::new();
        let unnamed = OpenFlags::TMPFILE | OpenFlags::DIRECTORY | RDWR;
        assert_eq!(files.open("/", unnamed - RDWR).err(), Some(Errno::EINVAL));
        let file = files.open("/", unnamed).unwrap();
        file.write(&mut WriteBuf::kernel(b"abc")).unwrap();
        assert_eq!(file.stat().links, 0);
        let name = |file: &OpenFile| tree::link(files.view(), file.location().unwrap(), files.at("/named"));
        assert_eq!(name(&files.open("/", unnamed | OpenFlags::EXCL).unwrap()), Err(Errno::ENOENT));
        assert_eq!(name(&file), Ok(()));
        assert_eq!(rest(&files.open("/named", OpenFlags::empty()).unwrap()), b"abc");
        // Once its only name is gone it stays without.
        tree::unlink(files.view(), files.at("/named")).unwrap();
        assert_eq!(name(&file), Err(Errno::ENOENT));
    }

    #[test]
    fn a_path_descriptor_names_a_file_and_no_more() {
        let files = Fixture::new();
        files.file("/file", b"x");
        files.symlink("/link", "file");
        let flags = OpenFlags::PATH | OpenFlags::NOFOLLOW | OpenFlags::RDWR;
        let link = files.open("/link", flags).unwrap();
        assert_eq!(link.stat().file_type(), FileType::Symlink);
        let file = files.open("/file", flags).unwrap();
        assert_eq!(file.stat().size, 1);
        assert_eq!(file.read(&mut ReadBuf::kernel(&mut [0])), Err(Errno::EBADF));
        assert_eq!(file.write_at(0, &mut WriteBuf::kernel(b"y")), Err(Errno::EBADF));
    }

    #[test]
    fn truncation_needs_write_permission_and_mounts_have_their_say() {
        let files = Fixture::new();
        files.file("/file", b"content");
        let change = crate::fs::Change { mode: Some(0o444), ..Default::default() };
        files.find("/file").unwrap().node.change(&Identity::ROOT, &change).unwrap();
        let user = files.view_of(Identity { uid: 1, gid: 1, groups: &[], privileged: false });
        let open_as = |flags| open(user, &files.root, b"/file", flags, 0).err();
        assert_eq!((open_as(OpenFlags::empty()), open_as(OpenFlags::TRUNC)), (None, Some(Errno::EACCES)));
        assert_eq!(files.find("/file").unwrap().stat().size, 7);

        files.mkdir("/mnt");
        let mount = files.mount("/mnt", MountFlags::RDONLY | MountFlags::NODEV);
        mount.root.create(&Identity::ROOT, b"file", NewKind::Regular, 0o644).unwrap();
        let zero = NewKind::Device(FileType::CharDevice, DeviceNumber::new(1, 5).0);
        mount.root.create(&Identity::ROOT, b"zero", zero, 0o666).unwrap();
        assert_eq!(files.open("/mnt/file", OpenFlags::RDWR).err(), Some(Errno::EROFS));
        assert_eq!(files.open("/mnt/new", OpenFlags::CREAT | RDWR).err(), Some(Errno::EROFS));
        assert_eq!(files.open("/mnt/zero", OpenFlags::empty()).err(), Some(Errno::EACCES));
        assert!(files.open("/mnt/file", OpenFlags::empty()).is_ok());
    }

    #[test]
    fn what_is_executed_is_not_written_and_the_other_way_round() {
        let files = Fixture::new();
        let writer = files.file("/program", b"code");
        let location = files.find("/program").unwrap();
        assert_eq!(Executable::new(location.clone()).err(), Some(Errno::ETXTBSY));
        drop(writer);
        let first = Executable::new(location.clone()).unwrap();
        let second = Executable::new(location.clone()).unwrap();
        drop(first);
        assert_eq!(files.open("/program", RDWR).err(), Some(Errno::ETXTBSY));
        assert_eq!(files.open("/program", OpenFlags::TRUNC).err(), Some(Errno::ETXTBSY));
        assert_eq!(truncate_at(&location, 0), Err(Errno::ETXTBSY));
        assert!(files.open("/program", OpenFlags::empty()).is_ok());
        drop(second);
        assert!(files.open("/program", RDWR).is_ok());
        assert_eq!(location.stat().size, 4);
    }

    #[test]
    fn an_unlinked_file_lives_until_its_last_close() {
        let files = Fixture::with_budget(crate::fs::memfs::Budget::new(16, 16));
        let file = files.file("/file", b"still here");
        tree::unlink(files.view(), files.at("/file")).unwrap();
        assert_eq!(file.stat().links, 0);
        assert_eq!(rest(&file), b"still here");
        let before = files.root.mount.fs.stat();
        drop(file);
        let after = files.root.mount.fs.stat();
        assert_eq!(after.free_blocks, before.free_blocks + 1);
        assert_eq!(after.free_inodes, before.free_inodes + 1);
    }

    #[test]
    fn appends_go_to_the_end_and_positions_follow() {
        let files = Fixture::new();
        files.file("/file", b"12");
        let (a, b) = (
            files.open("/file", OpenFlags::WRONLY | OpenFlags::APPEND).unwrap(),
            files.open("/file", RDWR).unwrap(),
        );
        a.write(&mut WriteBuf::kernel(b"34")).unwrap();
        b.write(&mut WriteBuf::kernel(b"x")).unwrap();
        a.write_at(0, &mut WriteBuf::kernel(b"56")).unwrap();
        assert_eq!(a.with_position(|position| *position), 4);
        assert_eq!(rest(&b), b"23456"[..].to_vec());
        assert_eq!(a.read(&mut ReadBuf::kernel(&mut [0])), Err(Errno::EBADF));
    }

    #[test]
    fn a_deep_tree_is_given_back_without_deep_recursion() {
        let files = Fixture::new();
        let mut node = files.root.node.clone();
        for _ in 0..50_000 {
            node = node.create(&Identity::ROOT, b"d", NewKind::Directory, 0o755).unwrap();
        }
        drop(node);
        drop(files);
    }
}
