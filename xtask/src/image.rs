//! A file tree for a guest, built in memory and written as an initramfs.
//!
//! Contents of host files are not held: a node refers to the file, which is read when the archive is written.
//! Paths are absolute, as the guest will see them; whatever is added goes where the tree's own symbolic links lead,
//! so a program from `/bin` lands in `/usr/bin` if `/bin` is a link there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cpio::{self, Meta};

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFIFO: u32 = 0o010_000;
/// As many symbolic links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Directory,
    File(Vec<u8>),
    HostFile(PathBuf),
    Link(PathBuf),
    /// Device nodes, sockets, pipes: the mode says which.
    Special,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    meta: Meta,
    kind: Kind,
}

/// A file tree; its root directory always exists.
#[derive(Debug, Default, Clone)]
pub struct Image {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Image {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory unless something that leads to a directory is there.
    pub fn directory(&mut self, path: impl AsRef<Path>, permissions: u32) -> Result<()> {
        let path = self.resolve(path.as_ref())?;
        if self.is_directory(&path) {
            return Ok(());
        }
        if self.nodes.contains_key(&path) {
            bail!("{} is needed as a directory, but is a file", path.display());
        }
        self.insert(&path, S_IFDIR | permissions, 0, Kind::Directory)
    }

    /// Adds a file with the given content.
    pub fn file(
        &mut self,
        path: impl AsRef<Path>,
        permissions: u32,
        content: impl Into<Vec<u8>>,
    ) -> Result<()> {
        let path = self.resolve(path.as_ref())?;
        self.insert(&path, S_IFREG | permissions, 0, Kind::File(content.into()))
    }

    /// Adds a symbolic link, unless its place is taken by a directory.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) -> Result<()> {
        let path = self.resolve_parent(path.as_ref())?;
        if self.is_directory(&path) {
            return Ok(());
        }
        self.insert(&path, S_IFLNK | 0o777, 0, Kind::Link(target.into()))
    }

    /// Whether a file (no directory) is at a path, behind links or not.
    pub fn has_file(&self, path: &Path) -> bool {
        self.node(path).is_some_and(|node| matches!(node.kind, Kind::File(_) | Kind::HostFile(_)))
    }

    /// The host's file at a path, if it is one.
    pub fn host_source(&self, path: &Path) -> Option<&Path> {
        match &self.node(path)?.kind {
            Kind::HostFile(host) => Some(host),
            _ => None,
        }
    }

    /// Whether a file that may be executed is at a path.
    pub fn has_program(&self, path: &Path) -> bool {
        self.has_file(path) && self.node(path).is_some_and(|node| node.meta.mode & 0o111 != 0)
    }

    /// Whether anything is at a path.
    pub fn exists(&self, path: &Path) -> bool {
        self.node(path).is_some()
    }

    /// Adds a file of the host under its own path, with the links that lead to it.
    pub fn host_file(&mut self, path: &Path) -> Result<()> {
        let meta = fs::metadata(path).with_context(|| format!("cannot find {}", path.display()))?;
        if !meta.is_file() {
            bail!("{} is no regular file", path.display());
        }
        // The host's view and the guest's part where the tree has a directory and the host a link.
        let (mut host, mut guest) = (PathBuf::from("/"), PathBuf::from("/"));
        let mut left: VecDeque<OsString> = parts(path).into();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                host.pop();
                guest.pop();
                continue;
            }
            let (host_next, guest_next) = (host.join(&part), guest.join(&part));
            let meta = fs::symlink_metadata(&host_next)
                .with_context(|| format!("cannot read {}", host_next.display()))?;
            if meta.is_dir() {
                self.directory(&guest_next, meta.mode() & 0o7777)?;
                guest = self.resolve(&guest_next)?;
                host = host_next;
            } else if meta.is_symlink() && self.is_directory(&self.resolve(&guest_next)?) {
                host = fs::canonicalize(&host_next)?;
                guest = self.resolve(&guest_next)?;
            } else if meta.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    bail!("too many symbolic links on the way to {}", path.display());
                }
                let target = fs::read_link(&host_next)?;
                self.link(&guest_next, &target)?;
                if target.is_absolute() {
                    (host, guest) = ("/".into(), "/".into());
                }
                parts(&target).into_iter().rev().for_each(|part| left.push_front(part));
            } else {
                self.host_node(&host_next, &guest_next, &meta)?;
            }
        }
        Ok(())
    }

    /// Adds a file or a whole directory of the host at another path.
    pub fn host_tree(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let meta = fs::metadata(host).with_context(|| format!("cannot find {}", host.display()))?;
        self.host_node(host, guest, &meta)?;
        if !meta.is_dir() {
            return Ok(());
        }
        let entries = fs::read_dir(host).with_context(|| format!("cannot read {}", host.display()))?;
        for entry in entries {
            let entry = entry?;
            let (host, guest) = (entry.path(), guest.join(entry.file_name()));
            let meta = entry.metadata()?;
            if meta.is_symlink() {
                self.link(&guest, fs::read_link(&host)?)?;
            } else if meta.is_dir() {
                self.host_tree(&host, &guest)?;
            } else {
                self.host_node(&host, &guest, &meta)?;
            }
        }
        Ok(())
    }

    /// Adds everything that a cpio archive holds.
    pub fn cpio(&mut self, from: impl Read) -> Result<()> {
        let entries = cpio::read(from)?;
        let mut linked: HashMap<u32, Vec<u8>> = HashMap::new();
        for entry in entries.iter().filter(|e| e.links > 1 && !e.content.is_empty()) {
            linked.insert(entry.inode, entry.content.clone());
        }
        for entry in entries {
            let hard_link =
                entry.links > 1 && entry.content.is_empty() && entry.meta.mode & S_IFMT == S_IFREG;
            let shared = linked.get(&entry.inode).filter(|_| hard_link).cloned();
            let content = shared.unwrap_or(entry.content);
            self.archived(&entry.name, entry.meta, content)?;
        }
        Ok(())
    }

    /// Adds everything that a tar archive holds.
    pub fn tar(&mut self, from: impl Read) -> Result<()> {
        let mut archive = tar::Archive::new(from);
        for entry in archive.entries().context("the tar archive is damaged")? {
            self.tar_entry(entry.context("the tar archive is damaged or cut short")?)?;
        }
        Ok(())
    }

    fn tar_entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<()> {
        let path = entry.path()?.into_owned();
        let target = entry.link_name()?.map(|target| target.into_owned()).unwrap_or_default();
        let header = entry.header();
        let time = u32::try_from(header.mtime()?).unwrap_or(u32::MAX);
        let mut meta = Meta { mode: header.mode()? & 0o7777, mtime: time, ..Meta::default() };
        let mut content = Vec::new();
        meta.mode |= match header.entry_type() {
            tar::EntryType::Directory => S_IFDIR,
            tar::EntryType::Link => return self.hard_link(&path, &target),
            tar::EntryType::XGlobalHeader => return Ok(()),
            tar::EntryType::Fifo => S_IFIFO,
            tar::EntryType::Symlink => {
                content = target.into_os_string().into_vec();
                S_IFLNK
            }
            kind @ (tar::EntryType::Char | tar::EntryType::Block) => {
                meta.device = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
                if kind == tar::EntryType::Char { S_IFCHR } else { S_IFBLK }
            }
            _ => {
                entry.read_to_end(&mut content).context("the tar archive is cut short")?;
                S_IFREG
            }
        };
        self.archived(&path, meta, content)
    }

    /// Writes the tree as a cpio archive, directories before what is in them.
    pub fn write(&self, to: impl Write) -> Result<()> {
        let mut writer = cpio::Writer::new(to);
        for (path, node) in &self.nodes {
            let name = path.strip_prefix("/").unwrap_or(path);
            match &node.kind {
                Kind::Directory | Kind::Special => writer.add(name, node.meta, 0, std::io::empty())?,
                Kind::File(content) => {
                    writer.add(name, node.meta, content.len() as u64, content.as_slice())?
                }
                Kind::Link(target) => {
                    let target = target.as_os_str().as_bytes();
                    writer.add(name, node.meta, target.len() as u64, target)?;
                }
                Kind::HostFile(host) => {
                    let file = File::open(host).with_context(|| format!("cannot read {}", host.display()))?;
                    let size = file.metadata()?.len();
                    writer
                        .add(name, node.meta, size, BufReader::new(file))
                        .with_context(|| host.display().to_string())?;
                }
            }
        }
        writer.finish()?;
        Ok(())
    }

    fn archived(&mut self, name: &Path, meta: Meta, content: Vec<u8>) -> Result<()> {
        let path = Path::new("/").join(name.strip_prefix("/").unwrap_or(name));
        match meta.mode & S_IFMT {
            S_IFDIR => self.directory(path, meta.mode & 0o7777),
            S_IFLNK => self.link(path, OsString::from_vec(content)),
            S_IFREG => {
                let path = self.resolve(&path)?;
                self.insert(&path, meta.mode, meta.mtime, Kind::File(content))
            }
            _ => {
                let path = self.resolve_parent(&path)?;
                self.insert(&path, meta.mode, meta.mtime, Kind::Special)?;
                self.nodes.entry(path).and_modify(|node| node.meta.device = meta.device);
                Ok(())
            }
        }
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let node = self.node(target).cloned();
        let node = node.with_context(|| format!("{} is linked to a missing file", path.display()))?;
        let path = self.resolve_parent(path)?;
        self.insert(&path, node.meta.mode, node.meta.mtime, node.kind)
    }

    fn host_node(&mut self, host: &Path, guest: &Path, meta: &Metadata) -> Result<()> {
        if meta.is_dir() {
            return self.directory(guest, meta.mode() & 0o7777);
        }
        if !meta.is_file() {
            bail!("{} is neither a file nor a directory", host.display());
        }
        File::open(host).with_context(|| format!("cannot read {}", host.display()))?;
        let path = self.resolve(guest)?;
        let time = u32::try_from(meta.mtime()).unwrap_or(0);
        self.insert(&path, S_IFREG | meta.mode() & 0o7777, time, Kind::HostFile(host.to_path_buf()))
    }

    /// Puts a node at a resolved path, and the directories above it.
    fn insert(&mut self, path: &Path, mode: u32, mtime: u32, kind: Kind) -> Result<()> {
        if self.is_directory(path) {
            bail!("{} is a directory in the guest, and cannot be replaced", path.display());
        }
        for above in path.ancestors().skip(1).filter(|above| above.parent().is_some()) {
            let directory =
                Node { meta: Meta { mode: S_IFDIR | 0o755, ..Meta::default() }, kind: Kind::Directory };
            let node = self.nodes.entry(above.to_path_buf()).or_insert(directory);
            if node.kind != Kind::Directory {
                bail!("{} is needed as a directory, but is a file", above.display());
            }
        }
        self.nodes.insert(path.to_path_buf(), Node { meta: Meta { mode, mtime, ..Meta::default() }, kind });
        Ok(())
    }

    fn is_directory(&self, path: &Path) -> bool {
        path == Path::new("/") || self.nodes.get(path).is_some_and(|node| node.kind == Kind::Directory)
    }

    fn node(&self, path: &Path) -> Option<&Node> {
        self.nodes.get(&self.resolve(path).ok()?)
    }

    /// The path with all links on the way followed, but not one at its end.
    fn resolve_parent(&self, path: &Path) -> Result<PathBuf> {
        let Some(name) = path.file_name() else { return self.resolve(path) };
        Ok(self.resolve(path.parent().unwrap_or(Path::new("/")))?.join(name))
    }

    /// The path with all links followed. What does not exist yet is taken as it is.
    fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let mut done = PathBuf::from("/");
        let mut left: VecDeque<OsString> = parts(path).into();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            match self.nodes.get(&next) {
                Some(Node { kind: Kind::Link(target), .. }) => {
                    links += 1;
                    if links > MAX_LINKS {
                        bail!("too many symbolic links in the guest on the way to {}", path.display());
                    }
                    if target.is_absolute() {
                        done = "/".into();
                    }
                    parts(target).into_iter().rev().for_each(|part| left.push_front(part));
                }
                _ => done = next,
            }
        }
        Ok(done)
    }
}

/// The names and `..`s of a path.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Name, mode and content of each entry, as a guest will read them.
    fn entries(image: &Image) -> Vec<(String, u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        let entries = cpio::read(bytes.as_slice()).unwrap();
        entries.into_iter().map(|e| (e.name.to_str().unwrap().to_string(), e.meta.mode, e.content)).collect()
    }

    fn content(image: &Image, name: &str) -> Vec<u8> {
        entries(image).into_iter().find(|e| e.0 == name).unwrap_or_else(|| panic!("no {name}")).2
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut image = Image::new();
        image.file("/a/b/c", 0o600, "x").unwrap();
        image.directory("/tmp", 0o1777).unwrap();
        let names: Vec<_> = entries(&image).into_iter().map(|e| (e.0, e.1)).collect();
        let expected = [("a", 0o040755), ("a/b", 0o040755), ("a/b/c", 0o100600), ("tmp", 0o041777)];
        assert_eq!(names, expected.map(|(name, mode)| (name.to_string(), mode)));
    }

    #[test]
    fn what_is_added_goes_where_links_lead() {
        let mut image = Image::new();
        image.directory("/usr/bin", 0o755).unwrap();
        image.link("/bin", "usr/bin").unwrap();
        image.file("/bin/ls", 0o755, "ls").unwrap();
        assert_eq!(content(&image, "usr/bin/ls"), b"ls");
        assert!(image.has_file(Path::new("/bin/ls")) && !image.has_file(Path::new("/bin")));
        image.link("/bin/dir", "../bin/ls").unwrap();
        assert!(image.has_file(Path::new("/usr/bin/dir")));
    }

    #[test]
    fn conflicts_and_loops_are_errors() {
        let mut image = Image::new();
        image.file("/a", 0o644, "").unwrap();
        assert!(image.file("/a/b", 0o644, "").is_err());
        assert!(image.directory("/a", 0o755).is_err());
        image.directory("/d", 0o755).unwrap();
        assert!(image.file("/d", 0o644, "").is_err());
        image.link("/l", "m").unwrap();
        image.link("/m", "l").unwrap();
        assert!(image.file("/l/x", 0o644, "").is_err());
    }

    #[test]
    fn host_files_bring_the_links_that_lead_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| fs::canonicalize(folder.path()).unwrap().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/lib.so.1.2"), "lib").unwrap();
        symlink("lib.so.1.2", at("real/lib.so.1")).unwrap();
        symlink("real", at("alias")).unwrap();
        let mut image = Image::new();
        image.host_file(&at("alias/lib.so.1")).unwrap();
        assert!(image.has_file(&at("alias/lib.so.1")) && image.has_file(&at("real/lib.so.1.2")));
        let name = at("real/lib.so.1").to_str().unwrap()[1..].to_string();
        assert_eq!(content(&image, &name), b"lib.so.1.2");
        assert!(image.host_file(&at("missing")).is_err());
        assert!(image.host_file(&at("real")).is_err());
    }

    #[test]
    fn a_directory_of_the_guest_wins_over_a_link_of_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| fs::canonicalize(folder.path()).unwrap().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/file"), "x").unwrap();
        symlink("real", at("alias")).unwrap();
        let mut image = Image::new();
        image.directory(at("alias"), 0o755).unwrap();
        image.host_file(&at("alias/file")).unwrap();
        assert_eq!(content(&image, &at("alias/file").to_str().unwrap()[1..]), b"x");
    }

    #[test]
    fn a_folder_is_taken_whole() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/file"), "x").unwrap();
        symlink("sub/file", folder.path().join("link")).unwrap();
        let mut image = Image::new();
        image.host_tree(folder.path(), Path::new("/data")).unwrap();
        assert_eq!(content(&image, "data/sub/file"), b"x");
        assert_eq!(content(&image, "data/link"), b"sub/file");
    }

    #[test]
    fn archives_are_read_back_into_the_same_tree() {
        let mut image = Image::new();
        image.file("/etc/name", 0o640, "nrk").unwrap();
        image.link("/link", "etc/name").unwrap();
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        let mut again = Image::new();
        again.cpio(bytes.as_slice()).unwrap();
        assert_eq!(entries(&again), entries(&image));
        assert!(Image::new().cpio(&bytes[..bytes.len() - 10]).is_err());
    }

    #[test]
    fn a_tar_archive_becomes_a_tree() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("sub/file"), "x").unwrap();
        fs::hard_link(folder.path().join("sub/file"), folder.path().join("twin")).unwrap();
        symlink("sub", folder.path().join("link")).unwrap();
        let mut command = std::process::Command::new("tar");
        let output = command.args(["-c", "--sort=name", "-C"]).arg(folder.path()).arg(".").output().unwrap();
        let mut image = Image::new();
        image.tar(output.stdout.as_slice()).unwrap();
        assert_eq!(content(&image, "sub/file"), b"x");
        assert_eq!(content(&image, "twin"), b"x");
        assert_eq!(content(&image, "link"), b"sub");
    }
}
