//! Several names, other names: rename(2), link(2), symlink(2), readlink(2).

use std::ffi::CStr;

use libc::{AT_FDCWD, AT_SYMLINK_FOLLOW, O_PATH, O_RDONLY, RENAME_EXCHANGE, RENAME_NOREPLACE};
use user_sys::{Errno, Zeroed, must, sys};

use super::dirs::{listing, nlink};
use crate::fixture::{c, content, file, file_with, open};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("links":
    rename_files, rename_directories, rename_same, rename_flags, links, hard_link_errors, symlinks,
    readlink, loops, link_counts,
);

fn rename(from: &CStr, to: &CStr) -> Result<(), Errno> {
    ok(sys!(rename, from, to))
}

fn rename_files(t: Transcript) {
    file_with(c"a", b"A");
    file_with(c"b", b"B");
    t.say("to a new name", rename(c"a", c"c"));
    t.say("old is gone", ok(open(c"a", O_RDONLY)));
    t.say("replaces", rename(c"c", c"b"));
    t.say("content", content(c"b"));
    t.say("missing", rename(c"missing", c"x"));
    t.say("missing parent", rename(c"b", c"no/x"));
    must(sys!(mkdir, c"dir", 0o755));
    t.say("into a directory", rename(c"b", c"dir/b"));
    t.say("over a directory", rename(c"dir/b", c"dir"));
    file(c"f");
    t.say("file over a directory", rename(c"f", c"dir"));
    t.say("directory over a file", rename(c"dir", c"f"));
    t.say("with a slash", rename(c"f", c"g/"));
    t.say("empty", rename(c"f", c""));
    must(sys!(symlink, c"f", c"link"));
    t.say("a link itself", rename(c"link", c"link2"));
    t.say("over a link", rename(c"f", c"link2"));
    t.say("names", listing(c"."));
}

fn rename_directories(t: Transcript) {
    for path in [c"a", c"a/b", c"a/b/c", c"empty", c"full", c"full/x"] {
        must(sys!(mkdir, path, 0o755));
    }
    t.say("into itself", rename(c"a", c"a/b/inside"));
    t.say("onto its parent", rename(c"a/b", c"a"));
    t.say("over an empty one", rename(c"a", c"empty"));
    t.say("over a full one", rename(c"empty", c"full"));
    t.say("tree moved", listing(c"empty/b"));
    t.say("dot", rename(c".", c"x"));
    t.say("dot dot", rename(c"empty/..", c"x"));
    t.say("to dot", rename(c"empty", c"."));
    t.say("with slashes", rename(c"empty/", c"moved/"));
    t.say("dot dot follows", {
        let inner = must(open(c"moved/b", O_RDONLY));
        must(rename(c"moved/b", c"full/b2").map(|()| 0));
        must(sys!(fchdir, inner));
        listing(c"..")
    });
}

fn rename_same(t: Transcript) {
    file_with(c"a", b"A");
    must(sys!(link, c"a", c"b"));
    t.say("same name", rename(c"a", c"a"));
    t.say("two names of one file", rename(c"a", c"b"));
    t.say("both stay", listing(c"."));
    must(sys!(mkdir, c"d", 0o755));
    t.say("directory to itself", rename(c"d", c"d"));
}

fn rename_flags(t: Transcript) {
    let renameat2 =
        |from: &CStr, to: &CStr, flags: u32| ok(sys!(renameat2, AT_FDCWD, from, AT_FDCWD, to, flags));
    file_with(c"a", b"A");
    file_with(c"b", b"B");
    must(sys!(mkdir, c"d", 0o755));
    must(sys!(mkdir, c"d/e", 0o755));
    t.say("noreplace on existing", renameat2(c"a", c"b", RENAME_NOREPLACE));
    t.say("noreplace on new", renameat2(c"a", c"n", RENAME_NOREPLACE));
    t.say("exchange", renameat2(c"n", c"b", RENAME_EXCHANGE));
    t.say("contents", (content(c"n"), content(c"b")));
    t.say("exchange file and directory", renameat2(c"n", c"d", RENAME_EXCHANGE));
    t.say("kinds", listing(c"."));
    t.say("exchange with missing", renameat2(c"n", c"missing", RENAME_EXCHANGE));
    t.say("exchange with its own inside", renameat2(c"n", c"n/e", RENAME_EXCHANGE));
    t.say("both flags", renameat2(c"n", c"b", RENAME_EXCHANGE | RENAME_NOREPLACE));
    t.say("unknown flag", renameat2(c"n", c"b", 0x100));
    let inside = must(open(c"n", O_RDONLY));
    t.say("at", ok(sys!(renameat, AT_FDCWD, c"b", inside, c"b")));
    t.say("at, listing", listing(c"n"));
}

fn links(t: Transcript) {
    file_with(c"a", b"A");
    t.say("link", ok(sys!(link, c"a", c"b")));
    t.say("count", nlink(c"a"));
    let fd = must(open(c"b", libc::O_WRONLY));
    must(crate::fixture::write(fd, b"changed"));
    t.say("one content", content(c"a"));
    t.say("unlink one", (ok(sys!(unlink, c"a")), nlink(c"b")));
    must(sys!(symlink, c"b", c"soft"));
    t.say("to a symlink", ok(sys!(link, c"soft", c"soft2")));
    t.say("is a link itself", listing(c"."));
    t.say("following", ok(sys!(linkat, AT_FDCWD, c"soft", AT_FDCWD, c"hard", AT_SYMLINK_FOLLOW)));
    t.say("count then", nlink(c"b"));
    t.say("by empty path", ok(sys!(linkat, fd, c"", AT_FDCWD, c"hard2", 0)));
}

fn hard_link_errors(t: Transcript) {
    file(c"a");
    file(c"b");
    must(sys!(mkdir, c"dir", 0o755));
    t.say("existing", ok(sys!(link, c"a", c"b")));
    t.say("directory", ok(sys!(link, c"dir", c"dir2")));
    t.say("missing", ok(sys!(link, c"missing", c"x")));
    t.say("missing parent", ok(sys!(link, c"a", c"no/x")));
    t.say("with a slash", ok(sys!(link, c"a", c"x/")));
    t.say("onto a directory", ok(sys!(link, c"a", c"dir")));
    t.say("unknown flag", ok(sys!(linkat, AT_FDCWD, c"a", AT_FDCWD, c"x", 1)));
}

fn symlinks(t: Transcript) {
    t.say("make", ok(sys!(symlink, c"target", c"link")));
    t.say("existing", ok(sys!(symlink, c"other", c"link")));
    t.say("empty target", ok(sys!(symlink, c"", c"empty")));
    t.say("empty name", ok(sys!(symlink, c"target", c"")));
    t.say("missing parent", ok(sys!(symlink, c"target", c"no/x")));
    t.say("with a slash", ok(sys!(symlink, c"target", c"x/")));
    t.say("at", ok(sys!(symlinkat, c"target", AT_FDCWD, c"link2")));
    must(sys!(mkdir, c"dir", 0o755));
    file_with(c"dir/file", b"inside");
    must(sys!(symlink, c"dir", c"to-dir"));
    must(sys!(symlink, c"../dir/file", c"dir/up"));
    t.say("through a directory link", content(c"to-dir/file"));
    t.say("relative to its own place", content(c"to-dir/up"));
    t.say("link with slash and rest", content(c"to-dir//./file"));
    t.say("dot dot after a link", content(c"to-dir/../dir/file"));
    t.say("long target", ok(sys!(symlink, &*c(&"t".repeat(4095)), c"long")));
    t.say("too long target", ok(sys!(symlink, &*c(&"t".repeat(4096)), c"longer")));
}

fn readlink(t: Transcript) {
    must(sys!(symlink, c"target", c"link"));
    file(c"file");
    let read = |path: &CStr, size: usize| {
        let mut buffer = [b'-'; 32];
        let count = sys!(readlink, path, &mut buffer, size)?;
        Ok::<_, Errno>(format!("{count} {}", buffer[..8].escape_ascii()))
    };
    t.say("whole", read(c"link", 32));
    t.say("cut, no terminator", read(c"link", 3));
    t.say("no room", read(c"link", 0));
    t.say("negative room", ok(sys!(readlink, c"link", &mut [0_u8; 8], -1)));
    t.say("file", read(c"file", 32));
    t.say("missing", read(c"missing", 32));
    t.say("with a slash", read(c"link/", 32));
    t.say("wrong buffer", ok(sys!(readlink, c"link", 1, 32)));
    t.say("size of a link", {
        let mut stat = libc::stat::zeroed();
        must(sys!(lstat, c"link", &mut stat));
        stat.st_size
    });
}

fn loops(t: Transcript) {
    must(sys!(symlink, c"self", c"self"));
    t.say("self", ok(open(c"self", O_RDONLY)));
    t.say("self as directory", ok(open(c"self/x", O_RDONLY)));
    t.say("self, not followed", ok(open(c"self", O_PATH | libc::O_NOFOLLOW)));
    file(c"link-0");
    for index in 1..=41 {
        must(sys!(symlink, &*c(&format!("link-{}", index - 1)), &*c(&format!("link-{index}"))));
    }
    t.say("40 links", ok(open(c"link-40", O_RDONLY)));
    t.say("41 links", ok(open(c"link-41", O_RDONLY)));
    t.say("stat", ok(sys!(stat, c"self", &mut libc::stat::zeroed())));
    t.say("rename is of the link", ok(sys!(rename, c"self", c"self2")));
}

fn link_counts(t: Transcript) {
    must(sys!(mkdir, c"d", 0o755));
    t.say("empty directory", nlink(c"d"));
    must(sys!(mkdir, c"d/e", 0o755));
    t.say("with a directory", nlink(c"d"));
    file(c"d/f");
    t.say("with a file", nlink(c"d"));
    must(sys!(rmdir, c"d/e"));
    t.say("after rmdir", nlink(c"d"));
    must(sys!(symlink, c"x", c"s"));
    t.say("symlink", nlink(c"s"));
}
