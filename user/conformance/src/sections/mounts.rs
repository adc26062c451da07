//! mount(2), umount2(2), chroot(2): what they do, and what they say when they refuse.
//!
//! On Linux each case makes itself root of a user namespace with mounts of its own, so that it may mount whoever started it and
//! leaves the machine as it was. In nrk there is one tree of names, and who runs this may mount.

use std::ffi::CStr;
use std::fs;

use libc::{
    CLONE_NEWNS, CLONE_NEWUSER, MNT_DETACH, MNT_EXPIRE, MS_PRIVATE, MS_RDONLY, MS_SLAVE, O_CREAT, O_RDONLY,
    O_RDWR, UMOUNT_NOFOLLOW,
};
use user_sys::{Errno, must, sys};

use crate::fixture::{content, file, file_with, open};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("mounts":
    place, kind, privilege, unmount, busy, detach, stacked, propagation, nested, read_only, names, change_root, change_directory,
);

/// Makes the process one that may mount.
fn alone() {
    let (uid, gid) = (must(sys!(geteuid)), must(sys!(getegid)));
    if sys!(unshare, CLONE_NEWUSER | CLONE_NEWNS).is_ok() {
        // Who may not map its ids does not mount, which the transcript shows.
        let _ = fs::write("/proc/self/setgroups", "deny");
        let _ = fs::write("/proc/self/uid_map", format!("0 {uid} 1"));
        let _ = fs::write("/proc/self/gid_map", format!("0 {gid} 1"));
    }
}

fn mount_with(target: &CStr, flags: u64, options: &CStr) -> Result<(), Errno> {
    ok(sys!(mount, c"none", target, c"tmpfs", flags, options))
}

fn mount(target: &CStr) -> Result<(), Errno> {
    mount_with(target, 0, c"")
}

/// Mounts there, which must succeed.
#[track_caller]
fn mounted(target: &CStr) {
    must(mount(target).map(|()| 0));
}

fn umount_with(target: &CStr, flags: i32) -> Result<(), Errno> {
    ok(sys!(umount2, target, flags))
}

fn umount(target: &CStr) -> Result<(), Errno> {
    umount_with(target, 0)
}

/// Gives up all capabilities.
fn powerless() {
    let header = [0x2008_0522_u32, 0];
    must(sys!(capset, &header, &[0_u32; 6]));
}

#[track_caller]
fn mkdir(path: &CStr) {
    must(sys!(mkdir, path, 0o755));
}

fn place(t: Transcript) {
    alone();
    mkdir(c"dir");
    file(c"file");
    must(sys!(symlink, c"dir", c"link"));
    must(sys!(symlink, c"nowhere", c"dangling"));
    t.say("file", mount(c"file"));
    t.say("file with slash", mount(c"file/"));
    t.say("below a file", mount(c"file/x"));
    t.say("missing", mount(c"missing"));
    t.say("below what is missing", mount(c"missing/x"));
    t.say("dangling link", mount(c"dangling"));
    t.say("empty", mount(c""));
    t.say("wrong pointer", ok(sys!(mount, c"none", 1, c"tmpfs", 0, c"")));
    t.say("long name", mount(&crate::fixture::c(&"x".repeat(256))));
    t.say("through a link", mount(c"link"));
    t.say("is on the directory", umount(c"dir"));
    mkdir(c"gone");
    must(sys!(chdir, c"gone"));
    must(sys!(rmdir, c"../gone"));
    t.say("removed directory", mount(c"."));
}

fn kind(t: Transcript) {
    alone();
    mkdir(c"dir");
    file(c"file");
    t.say("unknown type", ok(sys!(mount, c"none", c"dir", c"nonesuch", 0, c"")));
    t.say("unknown type on a file", ok(sys!(mount, c"none", c"file", c"nonesuch", 0, c"")));
    t.say("unknown type nowhere", ok(sys!(mount, c"none", c"missing", c"nonesuch", 0, c"")));
    t.say("no type", ok(sys!(mount, c"none", c"dir", 0, 0, c"")));
    t.say("wrong pointer as type", ok(sys!(mount, c"none", c"dir", 1, 0, c"")));
    t.say("wrong pointer as source", ok(sys!(mount, 1, c"dir", c"tmpfs", 0, c"")));
    t.say("unknown option", mount_with(c"dir", 0, c"colour=red"));
    t.say("size without a number", mount_with(c"dir", 0, c"size=lots"));
    t.say("size with an unknown unit", mount_with(c"dir", 0, c"size=1x"));
    t.say("mode without a number", mount_with(c"dir", 0, c"mode=9"));
    t.say("unknown option on a file", mount_with(c"file", 0, c"colour=red"));
    t.say("no source, no options", ok(sys!(mount, 0, c"dir", c"tmpfs", 0, 0)));
    t.say("it is there", umount(c"dir"));
}

fn privilege(t: Transcript) {
    alone();
    mkdir(c"dir");
    file(c"file");
    mounted(c"dir");
    powerless();
    t.say("mount", mount(c"dir"));
    t.say("mount on a file", mount(c"file"));
    t.say("mount nowhere", mount(c"missing"));
    t.say("mount below a file", mount(c"file/x"));
    t.say("umount", umount(c"dir"));
    t.say("umount of no mount", umount(c"file"));
    t.say("umount nowhere", umount(c"missing"));
    t.say("umount with an unknown flag", umount_with(c"dir", 0x40));
    t.say("chroot", ok(sys!(chroot, c"dir")));
    t.say("chroot to a file", ok(sys!(chroot, c"file")));
    t.say("chroot nowhere", ok(sys!(chroot, c"missing")));
}

fn unmount_errors(t: Transcript) {
    t.say("directory", umount(c"dir"));
    t.say("file", umount(c"file"));
    t.say("below a file", umount(c"file/x"));
    t.say("missing", umount(c"missing"));
    t.say("empty", umount(c""));
    t.say("wrong pointer", ok(sys!(umount2, 1, 0)));
    t.say("unknown flag", umount_with(c"dir", 0x40));
    t.say("unknown flag nowhere", umount_with(c"missing", 0x40));
    t.say("expire and detach", umount_with(c"mnt", MNT_EXPIRE | MNT_DETACH));
}

fn unmount(t: Transcript) {
    alone();
    mkdir(c"dir");
    mkdir(c"mnt");
    file(c"file");
    must(sys!(symlink, c"mnt", c"link"));
    mounted(c"mnt");
    unmount_errors(t);
    mkdir(c"mnt/inner");
    t.say("directory in a mount", umount(c"mnt/inner"));
    t.say("link, not followed", umount_with(c"link", UMOUNT_NOFOLLOW));
    t.say("link", umount(c"link"));
    t.say("again", umount(c"mnt"));
}

fn busy(t: Transcript) {
    alone();
    mkdir(c"mnt");
    mounted(c"mnt");
    let fd = must(open(c"mnt/file", O_RDWR | O_CREAT));
    t.say("open file", umount(c"mnt"));
    t.say("removal of the place", ok(sys!(rmdir, c"mnt")));
    t.say("another name for the place", ok(sys!(rename, c"mnt", c"other")));
    must(sys!(close, fd));
    must(sys!(chdir, c"mnt"));
    t.say("current directory", umount(c"../mnt"));
    must(sys!(chdir, c".."));
    t.say("free", umount(c"mnt"));
    t.say("removal of the place then", ok(sys!(rmdir, c"mnt")));
}

fn detach(t: Transcript) {
    alone();
    mkdir(c"mnt");
    mounted(c"mnt");
    let fd = file_with(c"mnt/file", b"content");
    t.say("while a file is open", umount_with(c"mnt", MNT_DETACH));
    t.say("the name is gone", ok(open(c"mnt/file", O_RDONLY)));
    t.say("the file is not", sys!(write, fd, c"more", 4));
    t.say("again", umount_with(c"mnt", MNT_DETACH));
}

fn stacked(t: Transcript) {
    alone();
    mkdir(c"mnt");
    file_with(c"mnt/file", b"lowest");
    for text in [&b"middle"[..], b"top"] {
        mounted(c"mnt");
        must(sys!(close, file_with(c"mnt/file", text)));
    }
    for what in ["top", "middle"] {
        t.say(what, content(c"mnt/file"));
        t.say(&format!("{what} goes"), umount(c"mnt"));
    }
    t.say("what was there before", content(c"mnt/file"));
}

fn propagation(t: Transcript) {
    alone();
    mkdir(c"mnt");
    let private = |target| ok(sys!(mount, c"none", target, 0, MS_PRIVATE, 0));
    t.say("of no mount", private(c"mnt"));
    t.say("of what is missing", private(c"missing"));
    mounted(c"mnt");
    t.say("of a mount", private(c"mnt"));
    t.say("of two kinds", ok(sys!(mount, c"none", c"mnt", 0, MS_PRIVATE | MS_SLAVE, 0)));
    t.say("unmount", umount(c"mnt"));
}

fn nested(t: Transcript) {
    alone();
    mkdir(c"outer");
    mounted(c"outer");
    mkdir(c"outer/inner");
    mounted(c"outer/inner");
    t.say("outer first", umount(c"outer"));
    t.say("inner", umount(c"outer/inner"));
    t.say("then outer", umount(c"outer"));
}

fn read_only(t: Transcript) {
    alone();
    mkdir(c"mnt");
    t.say("mount", mount_with(c"mnt", MS_RDONLY, c""));
    t.say("new file", ok(open(c"mnt/file", O_RDWR | O_CREAT)));
    t.say("directory", ok(sys!(mkdir, c"mnt/dir", 0o755)));
    t.say("link", ok(sys!(symlink, c"x", c"mnt/link")));
    t.say("mode", ok(sys!(chmod, c"mnt", 0o700)));
    t.say("missing name", ok(sys!(unlink, c"mnt/missing")));
    t.say("unmount", umount(c"mnt"));
}

/// Links and renames do not cross mounts; directories and files do not take each other's place.
fn names(t: Transcript) {
    alone();
    mkdir(c"mnt");
    mkdir(c"dir");
    file(c"file");
    mounted(c"mnt");
    t.say("rename into a mount", ok(sys!(rename, c"file", c"mnt/file")));
    t.say("link into a mount", ok(sys!(link, c"file", c"mnt/file")));
    t.say("rename below a file", ok(sys!(rename, c"dir", c"file/x")));
    t.say("rename from below a file", ok(sys!(rename, c"file/x", c"other")));
    t.say("rename of a directory to a file", ok(sys!(rename, c"dir", c"file")));
    t.say("rename of a file to a directory", ok(sys!(rename, c"file", c"dir")));
    t.say("rename of a file with slash", ok(sys!(rename, c"file/", c"other")));
    t.say("link below a file", ok(sys!(link, c"file", c"file/x")));
    t.say("link from below a file", ok(sys!(link, c"file/x", c"other")));
    t.say("link of a file with slash", ok(sys!(link, c"file/", c"other")));
    t.say("link of a directory", ok(sys!(link, c"dir", c"other")));
    t.say("symbolic link below a file", ok(sys!(symlink, c"x", c"file/x")));
    t.say("node below a file", ok(sys!(mknod, c"file/x", libc::S_IFREG | 0o644, 0)));
    t.say("unmount", umount(c"mnt"));
}

fn change_root(t: Transcript) {
    alone();
    mkdir(c"dir");
    file(c"file");
    must(sys!(symlink, c"nowhere", c"dangling"));
    t.say("file", ok(sys!(chroot, c"file")));
    t.say("below a file", ok(sys!(chroot, c"file/x")));
    t.say("missing", ok(sys!(chroot, c"missing")));
    t.say("dangling link", ok(sys!(chroot, c"dangling")));
    t.say("empty", ok(sys!(chroot, c"")));
    t.say("wrong pointer", ok(sys!(chroot, 1)));
    t.say("directory", ok(sys!(chroot, c"dir")));
    t.say("what is outside", ok(open(c"/file", O_RDONLY)));
}

fn change_directory(t: Transcript) {
    mkdir(c"dir");
    let fd = file(c"file");
    t.say("file", ok(sys!(chdir, c"file")));
    t.say("below a file", ok(sys!(chdir, c"file/x")));
    t.say("missing", ok(sys!(chdir, c"missing")));
    t.say("empty", ok(sys!(chdir, c"")));
    t.say("wrong pointer", ok(sys!(chdir, 1)));
    t.say("file's descriptor", ok(sys!(fchdir, fd)));
    t.say("no descriptor", ok(sys!(fchdir, 99)));
    t.say("directory", ok(sys!(chdir, c"dir")));
}
