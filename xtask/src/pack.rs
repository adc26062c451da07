//! The initramfs of a guest: a program of this machine with all that it needs, a few system files, and what the
//! user adds.
//!
//! [`initramfs`] is the entry. [`crate::elf`] finds libraries, [`crate::image`] holds the tree.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cpio, elf, host, image::Image, workspace};

/// Where programs are looked for in a root file system that the user brought.
const PROGRAM_FOLDERS: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Files that name users, hosts and services to a program (NSS); what the host has is taken.
const HOST_FILES: [&str; 6] =
    ["/etc/passwd", "/etc/group", "/etc/protocols", "/etc/services", "/etc/localtime", "/etc/ld.so.conf"];
/// Libraries that glibc opens by name at run time.
const OPENED_LATE: [&str; 1] = ["libgcc_s.so.1"];
/// As many interpreters of interpreters as Linux follows.
const MAX_SCRIPTS: usize = 5;

/// What the initramfs holds.
#[derive(Debug, Default, Clone, Hash)]
pub struct Contents {
    /// The init program, by name or path; `None` for a tree without one.
    pub program: Option<PathBuf>,
    /// Files and folders: of the host, in the guest.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// A directory, tar or cpio archive that is laid down first.
    pub rootfs: Option<PathBuf>,
}

/// A packed initramfs.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The archive.
    pub path: PathBuf,
    /// The init program's path in the guest.
    pub init: PathBuf,
    /// The file of this machine, if it is one, with the code that runs: the init program, or for a script its interpreter.
    pub code: Option<PathBuf>,
}

/// Packs an initramfs to a path that depends only on what was asked for.
pub fn initramfs(contents: &Contents) -> Result<Packed> {
    let (image, init) = tree(contents)?;
    let name = init.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    let path = workspace::target().join(format!("initramfs/{name}-{:08x}.cpio", hasher.finish() as u32));
    workspace::write_atomically(&path, |file| image.write(BufWriter::new(file)))?;
    let code = code_of(&image, &init)?;
    Ok(Packed { path, init, code })
}

/// Builds the tree; returns it with the init program's path in it.
pub fn tree(contents: &Contents) -> Result<(Image, PathBuf)> {
    let mut packer =
        Packer { image: Image::new(), linker: elf::Linker::of_this_machine(), packed: BTreeSet::new() };
    if let Some(rootfs) = &contents.rootfs {
        lay_down(&mut packer.image, rootfs)
            .with_context(|| format!("cannot use {} as the root file system", rootfs.display()))?;
    }
    packer.base(contents.rootfs.is_some())?;
    for (from, to) in &contents.files {
        if !to.is_absolute() {
            bail!("{} is no absolute path in the guest", to.display());
        }
        packer.image.host_tree(from, to)?;
        packer.needs_of(from, 0)?;
    }
    let init = match &contents.program {
        Some(program) => packer.init(program)?,
        None => PathBuf::from("/init"),
    };
    Ok((packer.image, init))
}

struct Packer {
    image: Image,
    linker: elf::Linker,
    packed: BTreeSet<PathBuf>,
}

impl Packer {
    /// The folders and files that every guest has.
    fn base(&mut self, has_rootfs: bool) -> Result<()> {
        if !has_rootfs {
            for (folder, target) in
                [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
            {
                self.image.directory(Path::new("/").join(target), 0o755)?;
                self.image.link(Path::new("/").join(folder), target)?;
            }
        }
        for folder in ["/dev", "/proc", "/sys", "/etc", "/run", "/var/lib", "/var/log"] {
            self.image.directory(folder, 0o755)?;
        }
        for (folder, permissions) in [("/root", 0o700), ("/tmp", 0o1777), ("/var/tmp", 0o1777)] {
            self.image.directory(folder, permissions)?;
        }
        for (path, content) in [
            ("/etc/hosts", "127.0.0.1 localhost nrk\n::1 localhost\n"),
            ("/etc/hostname", "nrk\n"),
            (
                "/etc/nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
            ),
            // The name server of QEMU's user-mode network.
            ("/etc/resolv.conf", "nameserver 10.0.2.3\n"),
        ] {
            if !self.image.exists(Path::new(path)) {
                self.image.file(path, 0o644, content)?;
            }
        }
        for path in HOST_FILES.map(Path::new) {
            if path.is_file() && !self.image.exists(path) {
                self.image.host_file(path)?;
            }
        }
        Ok(())
    }

    /// Adds the init program, unless the user brought one of that name; returns its path in the guest.
    fn init(&mut self, program: &Path) -> Result<PathBuf> {
        if let Some(path) = self.in_image(program) {
            return Ok(path);
        }
        let path = host::find_program(program).with_context(|| match program.exists() {
            true => format!("{} is not a program", program.display()),
            false => format!("there is no program {} on this machine", program.display()),
        })?;
        self.program(&path, 0)?;
        Ok(path)
    }

    fn in_image(&self, program: &Path) -> Option<PathBuf> {
        let given = program.is_absolute().then(|| program.to_path_buf());
        let bare = program.components().count() == 1;
        let found = PROGRAM_FOLDERS.iter().filter(|_| bare).map(|folder| Path::new(folder).join(program));
        given.into_iter().chain(found).find(|path| self.image.has_program(path))
    }

    /// Adds a program of the host under its own path.
    fn program(&mut self, path: &Path, depth: usize) -> Result<()> {
        if !self.packed.insert(path.to_path_buf()) {
            return Ok(());
        }
        self.image.host_file(path)?;
        self.needs_of(path, depth)?;
        if path.file_name().is_some_and(|name| name == "busybox") {
            self.busybox_links(path)?;
        }
        Ok(())
    }

    /// Adds what a file needs to run: libraries, or the interpreter of a script. Other files need nothing.
    fn needs_of(&mut self, path: &Path, depth: usize) -> Result<()> {
        if !path.is_file() {
            return Ok(());
        }
        if let Some(interpreter) = script_interpreter(path)? {
            if depth == MAX_SCRIPTS {
                bail!("{}: too many scripts as interpreters of scripts", path.display());
            }
            for program in interpreter {
                let found = host::find_program(&program);
                let found =
                    found.with_context(|| format!("{} needs {}", path.display(), program.display()))?;
                self.program(&found, depth + 1)?;
            }
            return Ok(());
        }
        let mut files = self.linker.files_of(path)?;
        if !files.is_empty() {
            files.extend(OPENED_LATE.iter().filter_map(|name| self.linker.find(name, &[])));
        }
        for file in files {
            self.library(&file)?;
        }
        Ok(())
    }

    /// Adds a library, and a link where ld.so finds it without its cache.
    fn library(&mut self, path: &Path) -> Result<()> {
        self.image.host_file(path)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let Some(name) =
            path.file_name().filter(|_| !elf::DEFAULT_FOLDERS.iter().any(|d| folder == Path::new(d)))
        else {
            return Ok(());
        };
        let home = elf::DEFAULT_FOLDERS.iter().map(Path::new).find(|folder| folder.is_dir());
        let link = home.unwrap_or(Path::new("/lib")).join(name);
        if self.image.exists(&link) { Ok(()) } else { self.image.link(link, path) }
    }

    /// The names under which busybox is its applets.
    fn busybox_links(&mut self, busybox: &Path) -> Result<()> {
        let listed =
            Command::new(busybox).arg("--list-full").output().ok().filter(|output| output.status.success());
        let listed =
            listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for applet in listed.lines().chain(["bin/sh"]) {
            let path = Path::new("/").join(applet);
            if !self.image.exists(&path) {
                self.image.link(path, busybox)?;
            }
        }
        Ok(())
    }
}

/// The programs that a `#!` line names (`env` names a second one), `None` for what is no script.
fn script_interpreter(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(256).read_to_end(&mut start)?;
    let Some(line) = start.strip_prefix(b"#!") else { return Ok(None) };
    let line = String::from_utf8_lossy(line.split(|b| *b == b'\n').next().unwrap_or_default()).into_owned();
    let mut words = line.split_ascii_whitespace();
    let interpreter =
        PathBuf::from(words.next().with_context(|| format!("{} names no interpreter", path.display()))?);
    let is_env = interpreter.file_name().is_some_and(|name| name == "env");
    let named = words.find(|word| is_env && !word.starts_with('-') && !word.contains('='));
    Ok(Some(std::iter::once(interpreter).chain(named.map(PathBuf::from)).collect()))
}

/// The file of this machine with the code that runs when `program` of the tree is started.
fn code_of(image: &Image, program: &Path) -> Result<Option<PathBuf>> {
    let mut program = program.to_path_buf();
    for _ in 0..=MAX_SCRIPTS {
        let Some(host) = image.host_source(&program) else { return Ok(None) };
        let Some(named) = script_interpreter(host)? else { return Ok(Some(host.to_path_buf())) };
        let Some(interpreter) = named.last().and_then(host::find_program) else { return Ok(None) };
        program = interpreter;
    }
    Ok(None)
}

/// Fills a tree from a directory or an archive; archives may be compressed with gzip.
fn lay_down(image: &mut Image, rootfs: &Path) -> Result<()> {
    if rootfs.is_dir() {
        return image.host_tree(rootfs, Path::new("/"));
    }
    let mut start = Vec::new();
    open_archive(rootfs)?.take(512).read_to_end(&mut start)?;
    if cpio::is_archive(&start) {
        image.cpio(open_archive(rootfs)?)
    } else if start.get(257..262) == Some(b"ustar") {
        image.tar(open_archive(rootfs)?)
    } else {
        bail!("it is no directory, and neither a tar nor a cpio (newc) archive")
    }
}

fn open_archive(path: &Path) -> Result<Box<dyn Read>> {
    let open = || File::open(path).map(BufReader::new);
    let mut magic = [0; 2];
    let gzip = open()?.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    Ok(if gzip { Box::new(flate2::bufread::MultiGzDecoder::new(open()?)) } else { Box::new(open()?) })
}

/// Whether everything that `contents` names is there, without packing it.
pub fn check(contents: &Contents) -> Result<()> {
    for path in contents.files.iter().map(|(from, _)| from).chain(&contents.rootfs) {
        fs::metadata(path).with_context(|| format!("cannot find {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_program(program: &Path) -> Contents {
        Contents { program: Some(program.to_path_buf()), ..Contents::default() }
    }

    #[test]
    fn a_dynamic_program_starts_in_its_tree() {
        let (image, init) = tree(&with_program(Path::new("setpriv"))).unwrap();
        assert!(init.is_absolute() && image.has_file(&init));
        for path in ["/etc/passwd", "/etc/nsswitch.conf", "/lib64/ld-linux-x86-64.so.2"] {
            assert!(image.has_file(Path::new(path)), "{path} is missing");
        }
        let libc = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"];
        assert!(libc.iter().any(|path| image.has_file(Path::new(path))));
    }

    #[test]
    fn missing_programs_and_files_are_one_clear_error() {
        let error = tree(&with_program(Path::new("no-such-program-here"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "there is no program no-such-program-here on this machine");
        let error = tree(&with_program(Path::new("/etc/passwd"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "/etc/passwd is not a program");
        let files = vec![("/does/not/exist".into(), "/x".into())];
        let error = tree(&Contents { files, ..Contents::default() }).unwrap_err();
        assert!(format!("{error:#}").contains("cannot find /does/not/exist"), "{error:#}");
        let files = vec![("/etc/passwd".into(), "relative".into())];
        assert!(tree(&Contents { files, ..Contents::default() }).is_err());
    }

    #[test]
    fn scripts_bring_their_interpreters() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/usr/bin/env -S sh -e\necho\n").unwrap();
        let names = script_interpreter(&script).unwrap().unwrap();
        assert_eq!(names, [PathBuf::from("/usr/bin/env"), "sh".into()]);
        fs::write(&script, "#! /bin/sh -e\n").unwrap();
        assert_eq!(script_interpreter(&script).unwrap().unwrap(), [PathBuf::from("/bin/sh")]);
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (image, init) = tree(&with_program(&script)).unwrap();
        assert!(image.has_file(&init) && image.has_file(Path::new("/bin/sh")));
        let code = code_of(&image, &init).unwrap().unwrap();
        assert_eq!(fs::canonicalize(code).unwrap(), fs::canonicalize("/bin/sh").unwrap());
    }

    #[test]
    fn a_root_file_system_has_its_own_programs() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let program = folder.path().join("bin/only-there");
        fs::write(&program, "x").unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let rootfs = Some(folder.path().to_path_buf());
        let program = |name: &str| Contents {
            program: Some(name.into()),
            rootfs: rootfs.clone(),
            ..Contents::default()
        };
        assert_eq!(tree(&program("only-there")).unwrap().1, Path::new("/bin/only-there"));
        assert_eq!(tree(&program("/bin/only-there")).unwrap().1, Path::new("/bin/only-there"));
        let (image, init) = tree(&program("setpriv")).unwrap();
        assert!(image.has_file(&init) && image.has_file(Path::new("/bin/only-there")));
    }

    #[test]
    fn what_is_no_archive_is_no_root_file_system() {
        let contents = Contents { rootfs: Some("/etc/passwd".into()), ..Contents::default() };
        assert!(format!("{:#}", tree(&contents).unwrap_err()).contains("neither a tar nor a cpio"));
    }
}
