//! Names: mkdir(2), rmdir(2), getdents64(2), rename(2), link(2), symlink(2), chdir(2) and the `at` calls.

use std::collections::BTreeSet;
use std::ffi::CStr;

use libc::{AT_FDCWD, AT_REMOVEDIR, O_CREAT, O_DIRECTORY, O_EXCL, O_PATH, O_RDONLY, O_RDWR};
use user_sys::{Errno, Zeroed, must, sys};

use crate::fixture::{c, file, lseek, open, pipe};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("dirs":
    make, remove, unlink, list, list_many, list_errors, list_while_removing, too_long, not_a_directory, not_a_place, not_a_name,
    current, current_removed, descriptors, dots, special_nodes,
);

fn mkdir(path: &CStr) -> Result<(), Errno> {
    ok(sys!(mkdir, path, 0o755))
}

fn make(t: Transcript) {
    t.say("new", mkdir(c"a"));
    t.say("existing", mkdir(c"a"));
    t.say("trailing slash", mkdir(c"b/"));
    t.say("missing parent", mkdir(c"x/y"));
    file(c"file");
    t.say("over a file", mkdir(c"file"));
    t.say("below a file", mkdir(c"file/x"));
    must(sys!(symlink, c"nowhere", c"dangling"));
    t.say("over a dangling link", mkdir(c"dangling"));
    t.say("over a dangling link with slash", mkdir(c"dangling/"));
    t.say("empty", mkdir(c""));
    t.say("dot", mkdir(c"."));
    t.say("root", mkdir(c"/"));
    t.say("inner dot", mkdir(c"a/."));
    t.say("at", ok(sys!(mkdirat, must(open(c"a", O_RDONLY)), c"inner", 0o700)));
    t.say("at, seen", mkdir(c"a/inner"));
}

fn remove(t: Transcript) {
    must(sys!(mkdir, c"a", 0o755));
    must(sys!(mkdir, c"a/b", 0o755));
    file(c"file");
    must(sys!(symlink, c"a", c"link"));
    t.say("not empty", ok(sys!(rmdir, c"a")));
    t.say("inner", ok(sys!(rmdir, c"a/b")));
    t.say("dot", ok(sys!(rmdir, c"a/.")));
    t.say("dot dot", ok(sys!(rmdir, c"a/..")));
    t.say("file", ok(sys!(rmdir, c"file")));
    t.say("link", ok(sys!(rmdir, c"link")));
    t.say("missing", ok(sys!(rmdir, c"missing")));
    t.say("trailing slash", ok(sys!(rmdir, c"a/")));
    t.say("root", ok(sys!(rmdir, c"/")));
    must(sys!(mkdir, c"c", 0o755));
    t.say("unlinkat", ok(sys!(unlinkat, AT_FDCWD, c"c", AT_REMOVEDIR)));
    t.say("unlinkat on a file", ok(sys!(unlinkat, AT_FDCWD, c"file", AT_REMOVEDIR)));
    t.say("unlinkat unknown flag", ok(sys!(unlinkat, AT_FDCWD, c"file", 1)));
}

fn unlink(t: Transcript) {
    must(sys!(mkdir, c"dir", 0o755));
    file(c"file");
    must(sys!(symlink, c"file", c"link"));
    t.say("directory", ok(sys!(unlink, c"dir")));
    t.say("missing", ok(sys!(unlink, c"missing")));
    t.say("file with slash", ok(sys!(unlink, c"file/")));
    t.say("link, not its target", ok(sys!(unlink, c"link")));
    t.say("target is there", ok(open(c"file", O_RDONLY)));
    t.say("file", ok(sys!(unlink, c"file")));
    t.say("again", ok(sys!(unlink, c"file")));
    t.say("dot", ok(sys!(unlink, c".")));
    t.say("empty", ok(sys!(unlink, c"")));
    t.say("wrong pointer", ok(sys!(unlink, 1)));
}

/// An entry of getdents64(2): its name, and its type as a letter.
fn entries(buffer: &[u8]) -> Vec<(String, char)> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at + 19 <= buffer.len() {
        let length = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
        let name = CStr::from_bytes_until_nul(&buffer[at + 19..]).unwrap_or_default();
        let kind = match buffer[at + 18] {
            libc::DT_DIR => 'd',
            libc::DT_REG => 'f',
            libc::DT_LNK => 'l',
            libc::DT_FIFO => 'p',
            libc::DT_SOCK => 's',
            libc::DT_CHR => 'c',
            _ => '?',
        };
        entries.push((name.to_string_lossy().into_owned(), kind));
        at += length.max(19);
    }
    entries
}

/// One getdents64 call with a buffer of `size` bytes.
fn getdents(fd: i32, size: usize) -> Result<Vec<(String, char)>, Errno> {
    let mut buffer = vec![0_u8; size];
    let filled = sys!(getdents64, fd, &mut buffer[..], size)?;
    Ok(entries(&buffer[..filled]))
}

/// Names and types in the directory, sorted: the order is the file system's own.
pub fn listing(path: &CStr) -> Result<Vec<String>, Errno> {
    let fd = open(path, O_RDONLY | O_DIRECTORY)? as i32;
    let mut names = BTreeSet::new();
    loop {
        let batch = getdents(fd, 4096)?;
        if batch.is_empty() {
            break;
        }
        names.extend(batch.into_iter().map(|(name, kind)| format!("{name}:{kind}")));
    }
    must(sys!(close, fd));
    Ok(names.into_iter().collect())
}

fn list(t: Transcript) {
    t.say("empty", listing(c"."));
    must(sys!(mkdir, c"dir", 0o755));
    file(c"file");
    must(sys!(symlink, c"file", c"link"));
    must(sys!(mknod, c"fifo", libc::S_IFIFO | 0o644, 0));
    t.say("kinds", listing(c"."));
    t.say("new directory", listing(c"dir"));
    must(sys!(unlink, c"file"));
    t.say("after unlink", listing(c"."));
    let fd = must(open(c".", O_RDONLY));
    let first = getdents(fd, 4096).map(|names| names.len());
    t.say("first call, then the end", (first, getdents(fd, 4096).map(|names| names.len())));
    must(lseek(fd, 0, libc::SEEK_SET));
    t.say("rewound", getdents(fd, 4096).map(|names| names.len()));
}

fn list_many(t: Transcript) {
    for index in 0..500 {
        must(sys!(mknod, &*c(&format!("file-{index:04}")), libc::S_IFREG | 0o644, 0));
    }
    let fd = must(open(c".", O_RDONLY));
    let (mut seen, mut total, mut calls) = (BTreeSet::new(), 0, 0);
    loop {
        let batch = getdents(fd, 512).unwrap_or_default();
        if batch.is_empty() {
            break;
        }
        calls += 1;
        total += batch.len();
        seen.extend(batch.into_iter().map(|(name, _)| name));
    }
    t.say("entries", (total, seen.len()));
    t.say("in several calls", calls > 10);
    t.say("first and last", (seen.iter().nth(2).cloned(), seen.last().cloned()));
}

fn list_errors(t: Transcript) {
    let fd = must(open(c".", O_RDONLY));
    t.say("buffer too small", getdents(fd, 10).map(|names| names.len()));
    t.say("file", getdents(file(c"file"), 512).map(|names| names.len()));
    t.say("closed", getdents(99, 512).map(|names| names.len()));
    t.say("wrong pointer", ok(sys!(getdents64, fd, 1, 512)));
    must(sys!(mkdir, c"gone", 0o755));
    let gone = must(open(c"gone", O_RDONLY));
    must(sys!(rmdir, c"gone"));
    t.say("removed directory", getdents(gone, 512).map(|names| names.len()));
    t.say("create in removed directory", ok(sys!(openat, gone, c"x", libc::O_CREAT | libc::O_RDWR, 0o644)));
    t.say("dot dot of removed directory", ok(sys!(openat, gone, c".", O_RDONLY, 0)));
}

fn list_while_removing(t: Transcript) {
    for index in 0..200 {
        file(&c(&format!("file-{index:04}")));
    }
    let fd = must(open(c".", O_RDONLY));
    let mut removed = 0;
    while let Ok(batch) = getdents(fd, 1024) {
        if batch.is_empty() {
            break;
        }
        for (name, kind) in batch {
            removed += usize::from(kind == 'f' && sys!(unlink, &*c(&name)).is_ok());
        }
    }
    t.say("removed", removed);
    t.say("left", listing(c"."));
}

pub fn nlink(path: &CStr) -> Result<u64, Errno> {
    let mut stat = libc::stat::zeroed();
    sys!(lstat, path, &mut stat)?;
    Ok(stat.st_nlink)
}

fn too_long(t: Transcript) {
    let long = c(&"n".repeat(256));
    let mut stat = libc::stat::zeroed();
    t.say("mkdir", mkdir(&long));
    t.say("stat", ok(sys!(stat, &*long, &mut stat)));
    t.say("unlink", ok(sys!(unlink, &*long)));
    t.say("rename", ok(sys!(rename, c".", &*long)));
    t.say("symlink", ok(sys!(symlink, c"x", &*long)));
    t.say("inner part", ok(sys!(stat, &*c(&format!("{}/x", "n".repeat(256))), &mut stat)));
    t.say("whole path", ok(sys!(stat, &*c(&"x/".repeat(3000)), &mut stat)));
    t.say("deep", {
        let mut made = 0;
        while made < 100 && sys!(mkdir, c"a-directory-with-a-long-name-of-fifty-bytes-or-so", 0o755).is_ok() {
            made += usize::from(sys!(chdir, c"a-directory-with-a-long-name-of-fifty-bytes-or-so").is_ok());
        }
        (made, ok(sys!(getcwd, &mut [0_u8; 4096], 4096)))
    });
}

fn not_a_directory(t: Transcript) {
    file(c"file");
    must(sys!(mkdir, c"dir", 0o755));
    let mut stat = libc::stat::zeroed();
    t.say("stat", ok(sys!(stat, c"file/x", &mut stat)));
    t.say("stat with slash", ok(sys!(stat, c"file/", &mut stat)));
    t.say("stat with dot dot", ok(sys!(stat, c"file/..", &mut stat)));
    t.say("mkdir", mkdir(c"file/x"));
    t.say("unlink", ok(sys!(unlink, c"file/x")));
    t.say("rename from", ok(sys!(rename, c"file/x", c"y")));
    t.say("rename to", ok(sys!(rename, c"dir", c"file/x")));
    t.say("chdir", ok(sys!(chdir, c"file")));
    t.say("readlink", ok(sys!(readlink, c"file/x", &mut [0_u8; 8], 8)));
}

/// Descriptors of what is no directory, where one is needed.
fn not_a_place(t: Transcript) {
    let (fd, (reader, _)) = (file(c"file"), pipe(0));
    for (what, fd) in [("file", fd), ("pipe", reader), ("none", 99)] {
        t.say(&format!("{what}, open"), ok(sys!(openat, fd, c"x", O_RDONLY)));
        t.say(&format!("{what}, mkdir"), ok(sys!(mkdirat, fd, c"x", 0o755)));
        t.say(&format!("{what}, link"), ok(sys!(linkat, AT_FDCWD, c"file", fd, c"x", 0)));
        t.say(&format!("{what}, rename"), ok(sys!(renameat, fd, c"x", AT_FDCWD, c"y")));
        t.say(&format!("{what}, list"), getdents(fd, 4096).map(|names| names.len()));
    }
    t.say("below a pipe", ok(open(&c(&format!("/proc/self/fd/{reader}/x")), O_RDONLY)));
    t.say("below a text of the kernel", ok(open(c"/proc/uptime/x", O_RDONLY)));
    t.say("link that is a text of the kernel", ok(sys!(readlink, c"/proc/uptime", &mut [0_u8; 8], 8)));
}

/// Where a new name is needed, and `.` or `..` is none.
fn not_a_name(t: Transcript) {
    must(sys!(mkdir, c"dir", 0o755));
    file(c"file");
    t.say("link", ok(sys!(link, c"file", c".")));
    t.say("link, above", ok(sys!(link, c"file", c"dir/..")));
    t.say("symbolic link", ok(sys!(symlink, c"x", c".")));
    t.say("node", ok(sys!(mknod, c".", libc::S_IFREG | 0o644, 0)));
    t.say("new file", ok(open(c".", O_RDWR | O_CREAT)));
    t.say("new file of one's own", ok(open(c".", O_RDWR | O_CREAT | O_EXCL)));
    t.say("rename", ok(sys!(rename, c"dir", c".")));
    t.say("rename, from", ok(sys!(rename, c".", c"other")));
    t.say("node of no type", ok(sys!(mknod, c"other", 0o110_644, 0)));
}

/// The last part of the current directory's path: what is above depends on where the program runs.
fn here() -> Result<String, Errno> {
    let mut buffer = [0_u8; 4096];
    let length = sys!(getcwd, &mut buffer, 4096)?;
    let path = String::from_utf8_lossy(&buffer[..length - 1]).into_owned();
    Ok(match path.rsplit_once('/') {
        Some((_, last)) if !last.is_empty() => last.to_owned(),
        _ => path,
    })
}

fn current(t: Transcript) {
    must(sys!(mkdir, c"dir", 0o755));
    file(c"file");
    t.say("start", here());
    t.say("chdir", (ok(sys!(chdir, c"dir")), here()));
    t.say("back", (ok(sys!(chdir, c"..")), here()));
    t.say("missing", (ok(sys!(chdir, c"missing")), here()));
    t.say("fchdir", (ok(sys!(fchdir, must(open(c"dir", O_RDONLY)))), here()));
    t.say("fchdir to a file", ok(sys!(fchdir, must(open(c"../file", O_RDONLY)))));
    t.say("fchdir to a path descriptor", ok(sys!(fchdir, must(open(c"..", O_PATH)))));
    t.say("fchdir to a closed one", ok(sys!(fchdir, 99)));
    must(sys!(symlink, c"dir", c"link"));
    t.say("through a link", (ok(sys!(chdir, c"link")), here()));
    t.say("no room", ok(sys!(getcwd, &mut [0_u8; 2], 2)));
    t.say("wrong pointer", ok(sys!(getcwd, 1, 4096)));
    t.say("renamed meanwhile", (ok(sys!(rename, c"../dir", c"../other")), here()));
    t.say("child inherits", user_sys::child::in_child(|| i32::from(here() != Ok("other".to_owned()))));
    must(sys!(chdir, c"/"));
    t.say("root", here());
    t.say("above root", (ok(sys!(chdir, c"../..")), here()));
}

fn current_removed(t: Transcript) {
    must(sys!(mkdir, c"dir", 0o755));
    must(sys!(chdir, c"dir"));
    t.say("remove by path above", ok(sys!(rmdir, c"../dir")));
    t.say("getcwd", ok(sys!(getcwd, &mut [0_u8; 64], 64)));
    t.say("create", ok(open(c"x", libc::O_CREAT | libc::O_RDWR)));
    t.say("mkdir", mkdir(c"x"));
    t.say("open dot", ok(open(c".", O_RDONLY)));
    t.say("stat dot", ok(sys!(stat, c".", &mut libc::stat::zeroed())));
    t.say("dot dot still works", ok(sys!(chdir, c"..")));
}

fn descriptors(t: Transcript) {
    must(sys!(mkdir, c"dir", 0o755));
    let dir = must(open(c"dir", O_PATH | O_DIRECTORY));
    let plain = file(c"file");
    t.say("openat", ok(sys!(openat, dir, c"a", libc::O_CREAT | libc::O_RDWR, 0o644)));
    t.say("mkdirat", ok(sys!(mkdirat, dir, c"b", 0o755)));
    t.say("symlinkat", ok(sys!(symlinkat, c"a", dir, c"l")));
    t.say("linkat", ok(sys!(linkat, dir, c"a", dir, c"h", 0)));
    t.say("renameat", ok(sys!(renameat, dir, c"a", dir, c"r")));
    t.say("readlinkat", sys!(readlinkat, dir, c"l", &mut [0_u8; 8], 8));
    t.say("newfstatat", ok(sys!(newfstatat, dir, c"r", &mut libc::stat::zeroed(), 0)));
    t.say("faccessat", ok(sys!(faccessat, dir, c"r", 0)));
    t.say("listing", listing(c"dir"));
    t.say("unlinkat", ok(sys!(unlinkat, dir, c"r", 0)));
    t.say("in a file", ok(sys!(mkdirat, plain, c"x", 0o755)));
    t.say("in a closed one", ok(sys!(mkdirat, 99, c"x", 0o755)));
    must(sys!(rename, c"dir", c"moved"));
    t.say("follows a rename", ok(sys!(mkdirat, dir, c"late", 0o755)));
    t.say("listing then", listing(c"moved"));
}

fn dots(t: Transcript) {
    must(sys!(mkdir, c"a", 0o755));
    must(sys!(mkdir, c"a/b", 0o755));
    let inode = |path: &CStr| {
        let mut stat = libc::stat::zeroed();
        must(sys!(stat, path, &mut stat));
        (stat.st_dev, stat.st_ino)
    };
    t.say("dot", inode(c"a/b/.") == inode(c"a/b"));
    t.say("dot dot", inode(c"a/b/..") == inode(c"a"));
    t.say("dot dot of root", inode(c"/..") == inode(c"/"));
    t.say("slashes", inode(c"a///b//") == inode(c"a/b"));
    t.say("missing then dot dot", ok(sys!(stat, c"missing/../a", &mut libc::stat::zeroed())));
}

fn special_nodes(t: Transcript) {
    t.say("fifo", ok(sys!(mknod, c"fifo", libc::S_IFIFO | 0o644, 0)));
    t.say("regular", ok(sys!(mknod, c"plain", libc::S_IFREG | 0o600, 0)));
    t.say("no type is regular", ok(sys!(mknod, c"plain2", 0o600, 0)));
    t.say("socket", ok(sys!(mknod, c"socket", libc::S_IFSOCK | 0o600, 0)));
    t.say("directory", ok(sys!(mknod, c"dir", libc::S_IFDIR | 0o700, 0)));
    t.say("existing", ok(sys!(mknodat, AT_FDCWD, c"fifo", libc::S_IFIFO | 0o644, 0)));
    t.say("listing", listing(c"."));
    t.say("open a socket", ok(open(c"socket", O_RDONLY)));
    t.say("fifo for writing without reader", ok(open(c"fifo", libc::O_WRONLY | libc::O_NONBLOCK)));
    t.say("fifo for reading", ok(open(c"fifo", O_RDONLY | libc::O_NONBLOCK)));
    t.say("fifo for writing", ok(open(c"fifo", libc::O_WRONLY | libc::O_NONBLOCK)));
}
