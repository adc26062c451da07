//! What is known about a file: stat(2), statx(2), chmod(2), chown(2), utimensat(2), umask(2), access(2),
//! statfs(2).

use std::ffi::CStr;

use libc::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_PATH, O_RDONLY, UTIME_NOW, UTIME_OMIT};
use user_sys::{Errno, Zeroed, must, sys, timespec};

use crate::fixture::{close, file, file_with, open, pipe, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("meta":
    stat_kinds, stat_calls, stat_errors, stat_special, statx, statx_errors, blocks, chmod, chmod_errors,
    chown, umask, access, set_times, set_times_errors, times_move, file_systems, getxattr,
);

fn stat(path: &CStr) -> Result<libc::stat, Errno> {
    let mut stat = libc::stat::zeroed();
    sys!(newfstatat, AT_FDCWD, path, &mut stat, AT_SYMLINK_NOFOLLOW)?;
    Ok(stat)
}

fn fstat(fd: i32) -> Result<libc::stat, Errno> {
    let mut stat = libc::stat::zeroed();
    sys!(fstat, fd, &mut stat)?;
    Ok(stat)
}

fn mode(path: &CStr) -> Result<String, Errno> {
    stat(path).map(|stat| format!("{:o}", stat.st_mode))
}

fn stat_kinds(t: Transcript) {
    file_with(c"file", b"12345");
    must(sys!(mkdir, c"dir", 0o755));
    must(sys!(symlink, c"file", c"link"));
    must(sys!(mknod, c"fifo", libc::S_IFIFO | 0o600, 0));
    for (name, path) in [
        ("file", c"file"),
        ("directory", c"dir"),
        ("link", c"link"),
        ("fifo", c"fifo"),
        ("null", c"/dev/null"),
    ] {
        t.say(name, mode(path));
    }
    t.say("size and links", stat(c"file").map(|stat| (stat.st_size, stat.st_nlink)));
    t.say("followed", {
        let mut stat = libc::stat::zeroed();
        must(sys!(stat, c"link", &mut stat));
        (format!("{:o}", stat.st_mode), stat.st_size)
    });
    t.say("device numbers of null", stat(c"/dev/null").map(|stat| stat.st_rdev));
    t.say("owner is us", stat(c"file").map(|stat| Ok(stat.st_uid as usize) == sys!(geteuid)));
    t.say("group is ours", stat(c"file").map(|stat| Ok(stat.st_gid as usize) == sys!(getegid)));
}

fn stat_calls(t: Transcript) {
    let fd = file_with(c"file", b"12345");
    let by_name = must_stat(c"file");
    let by_fd = fstat(fd).map(|stat| stat.st_ino == by_name.st_ino && stat.st_dev == by_name.st_dev);
    t.say("fstat agrees", by_fd);
    let at = |fd: i32, path: &CStr, flags: i32| {
        let mut stat = libc::stat::zeroed();
        sys!(newfstatat, fd, path, &mut stat, flags).map(|_| stat.st_ino == by_name.st_ino)
    };
    t.say("empty path", at(fd, c"", AT_EMPTY_PATH));
    t.say("empty path without the flag", at(fd, c"", 0));
    t.say("current directory by empty path", at(AT_FDCWD, c"", AT_EMPTY_PATH));
    t.say("by a path descriptor", at(must(open(c"file", O_PATH)), c"", AT_EMPTY_PATH));
    t.say("flag with a path", at(AT_FDCWD, c"file", AT_EMPTY_PATH));
    t.say("no automount flag", at(AT_FDCWD, c"file", libc::AT_NO_AUTOMOUNT));
    t.say("unknown flag", at(AT_FDCWD, c"file", 1));
    must(sys!(unlink, c"file"));
    file(c"file");
    t.say("new file, new inode", must_stat(c"file").st_ino != by_name.st_ino);
}

#[track_caller]
fn must_stat(path: &CStr) -> libc::stat {
    match stat(path) {
        Ok(stat) => stat,
        Err(errno) => panic!("stat: {}", user_sys::errno_name(errno)),
    }
}

fn stat_errors(t: Transcript) {
    let mut buffer = libc::stat::zeroed();
    file(c"file");
    t.say("missing", ok(sys!(stat, c"missing", &mut buffer)));
    t.say("empty", ok(sys!(stat, c"", &mut buffer)));
    t.say("wrong path", ok(sys!(stat, 1, &mut buffer)));
    t.say("wrong buffer", ok(sys!(stat, c"file", 1)));
    t.say("closed", ok(sys!(fstat, 99, &mut buffer)));
    t.say("wrong buffer, missing file", ok(sys!(stat, c"missing", 1)));
}

fn stat_special(t: Transcript) {
    let (reader, writer) = pipe(0);
    let kind = |fd: i32| fstat(fd).map(|stat| format!("{:o}", stat.st_mode & libc::S_IFMT));
    t.say("pipe", (kind(reader), kind(writer)));
    t.say("socket", kind(must(sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0))));
    t.say("eventfd", kind(must(sys!(eventfd2, 0, 0))));
    t.say("epoll", kind(must(sys!(epoll_create1, 0))));
    t.say("memfd", kind(must(sys!(memfd_create, c"x", 0))));
    t.say(
        "both ends are one file",
        fstat(reader).map(|end| Ok(end.st_ino) == fstat(writer).map(|end| end.st_ino)),
    );
    t.say("size of a pipe with bytes", {
        must(write(writer, b"12345"));
        fstat(reader).map(|stat| stat.st_size)
    });
}

fn call_statx(fd: i32, path: &CStr, flags: i32, mask: u32) -> Result<libc::statx, Errno> {
    let mut statx = libc::statx::zeroed();
    sys!(statx, fd, path, flags, mask, &mut statx)?;
    Ok(statx)
}

fn statx(t: Transcript) {
    let fd = file_with(c"file", b"12345");
    let basic = libc::STATX_BASIC_STATS;
    let by_name = call_statx(AT_FDCWD, c"file", 0, basic);
    t.say("mode, size, links", by_name.map(|x| (format!("{:o}", x.stx_mode), x.stx_size, x.stx_nlink)));
    t.say("basic bits granted", by_name.map(|x| x.stx_mask & basic == basic));
    t.say("by descriptor", call_statx(fd, c"", AT_EMPTY_PATH, basic).map(|x| x.stx_size));
    t.say("agrees with stat", by_name.map(|x| x.stx_ino == must_stat(c"file").st_ino));
    t.say("seconds agree", by_name.map(|x| x.stx_mtime.tv_sec == must_stat(c"file").st_mtime));
    t.say("empty mask still fills", call_statx(AT_FDCWD, c"file", 0, 0).map(|x| x.stx_size));
    t.say(
        "null device",
        call_statx(AT_FDCWD, c"/dev/null", 0, basic).map(|x| (x.stx_rdev_major, x.stx_rdev_minor)),
    );
    must(sys!(symlink, c"file", c"link"));
    t.say(
        "link",
        call_statx(AT_FDCWD, c"link", AT_SYMLINK_NOFOLLOW, basic).map(|x| format!("{:o}", x.stx_mode)),
    );
}

fn statx_errors(t: Transcript) {
    file(c"file");
    t.say("missing", call_statx(AT_FDCWD, c"missing", 0, 0).map(drop));
    t.say("reserved mask bit", call_statx(AT_FDCWD, c"file", 0, 1 << 31).map(drop));
    t.say("unknown flag", call_statx(AT_FDCWD, c"file", 1, 0).map(drop));
    t.say("both sync flags", call_statx(AT_FDCWD, c"file", 0x6000, 0).map(drop));
    t.say("wrong buffer", ok(sys!(statx, AT_FDCWD, c"file", 0, 0, 1)));
    t.say("wrong path", ok(sys!(statx, AT_FDCWD, 1, 0, 0, &mut libc::statx::zeroed())));
}

fn blocks(t: Transcript) {
    let fd = file(c"file");
    t.say("empty", fstat(fd).map(|stat| stat.st_blocks));
    must(sys!(ftruncate, fd, 1 << 30));
    t.say("a hole takes nothing", fstat(fd).map(|stat| stat.st_blocks < 64));
    must(sys!(fallocate, fd, 0, 0, 1 << 20));
    t.say("allocated", fstat(fd).map(|stat| stat.st_blocks >= 2048 && stat.st_blocks < 2200));
    t.say("block size is a power of two", fstat(fd).map(|stat| (stat.st_blksize as u64).is_power_of_two()));
}

fn chmod(t: Transcript) {
    let fd = file(c"file");
    must(sys!(mkdir, c"dir", 0o755));
    must(sys!(symlink, c"file", c"link"));
    t.say("chmod", (ok(sys!(chmod, c"file", 0o640)), mode(c"file")));
    t.say("extra bits are cut", (ok(sys!(chmod, c"file", 0o177_755)), mode(c"file")));
    t.say("fchmod", (ok(sys!(fchmod, fd, 0o600)), mode(c"file")));
    t.say("through a link", (ok(sys!(chmod, c"link", 0o644)), mode(c"file"), mode(c"link")));
    t.say("fchmodat", (ok(sys!(fchmodat, AT_FDCWD, c"file", 0o611)), mode(c"file")));
    t.say("directory", (ok(sys!(chmod, c"dir", 0o1777)), mode(c"dir")));
    t.say("umask plays no part", {
        must(sys!(umask, 0o777));
        (ok(sys!(chmod, c"file", 0o666)), mode(c"file"))
    });
    t.say("changes ctime only", {
        let before = must_stat(c"file");
        must(sys!(chmod, c"file", 0o600));
        must_stat(c"file").st_mtime_nsec == before.st_mtime_nsec
    });
}

fn chmod_errors(t: Transcript) {
    t.say("missing", ok(sys!(chmod, c"missing", 0o644)));
    t.say("closed", ok(sys!(fchmod, 99, 0o644)));
    t.say("empty", ok(sys!(chmod, c"", 0o644)));
    let (_reader, writer) = pipe(0);
    t.say("pipe", ok(sys!(fchmod, writer, 0o600)));
}

fn chown(t: Transcript) {
    let fd = file(c"file");
    let (uid, gid) = (must(sys!(getuid)), must(sys!(getgid)));
    t.say("to ourselves", ok(sys!(chown, c"file", uid, gid)));
    t.say("nothing to change", ok(sys!(chown, c"file", -1, -1)));
    t.say("fchown", ok(sys!(fchown, fd, uid, gid)));
    must(sys!(symlink, c"missing", c"dangling"));
    t.say("lchown of a dangling link", ok(sys!(lchown, c"dangling", uid, gid)));
    t.say("chown of a dangling link", ok(sys!(chown, c"dangling", uid, gid)));
    t.say("fchownat", ok(sys!(fchownat, AT_FDCWD, c"file", uid, gid, AT_SYMLINK_NOFOLLOW)));
    t.say("fchownat, empty path", ok(sys!(fchownat, fd, c"", uid, gid, AT_EMPTY_PATH)));
    t.say("unknown flag", ok(sys!(fchownat, AT_FDCWD, c"file", uid, gid, 1)));
    t.say("closed", ok(sys!(fchown, 99, uid, gid)));
}

fn umask(t: Transcript) {
    t.say("first", sys!(umask, 0o027));
    t.say("returns the old one", sys!(umask, 0o1777));
    t.say("keeps permission bits only", sys!(umask, 0o077));
    must(sys!(mkdir, c"dir", 0o777));
    must(sys!(mknod, c"fifo", libc::S_IFIFO | 0o666, 0));
    t.say("directory and fifo", (mode(c"dir"), mode(c"fifo")));
    let inherited = user_sys::child::in_child(|| must(sys!(umask, 0)));
    t.say("child inherits", inherited);
    t.say("child changes its own", sys!(umask, 0));
}

fn access(t: Transcript) {
    file(c"file");
    must(sys!(mkdir, c"dir", 0o755));
    must(sys!(symlink, c"missing", c"dangling"));
    t.say("exists", ok(sys!(access, c"file", libc::F_OK)));
    t.say("read and write", ok(sys!(access, c"file", libc::R_OK | libc::W_OK)));
    t.say("execute without any x bit", ok(sys!(access, c"file", libc::X_OK)));
    t.say("search a directory", ok(sys!(access, c"dir", libc::X_OK)));
    t.say("missing", ok(sys!(access, c"missing", libc::F_OK)));
    t.say("dangling", ok(sys!(access, c"dangling", libc::F_OK)));
    t.say("dangling itself", ok(sys!(faccessat2, AT_FDCWD, c"dangling", libc::F_OK, AT_SYMLINK_NOFOLLOW)));
    t.say("unknown mode", ok(sys!(access, c"file", 8)));
    t.say("unknown flag", ok(sys!(faccessat2, AT_FDCWD, c"file", libc::F_OK, 1)));
    t.say("effective ids", ok(sys!(faccessat2, AT_FDCWD, c"file", libc::R_OK, libc::AT_EACCESS)));
    must(sys!(chmod, c"file", 0o711));
    t.say("execute with x bits", ok(sys!(access, c"file", libc::X_OK)));
}

type Times = (i64, i64, i64, i64);

fn times(path: &CStr) -> Result<Times, Errno> {
    stat(path).map(|stat| (stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec))
}

fn set_times(t: Transcript) {
    let fd = file(c"file");
    let set = [timespec(1000, 5), timespec(2000, 999_999_999)];
    t.say(
        "both",
        (ok(sys!(utimensat, AT_FDCWD, c"file", &set, 0)), times(c"file").map(|x| format!("{x:?}"))),
    );
    let omit = [timespec(0, UTIME_OMIT), timespec(3000, 0)];
    t.say(
        "omit one",
        (ok(sys!(utimensat, AT_FDCWD, c"file", &omit, 0)), times(c"file").map(|x| format!("{x:?}"))),
    );
    let both = [timespec(0, UTIME_OMIT), timespec(0, UTIME_OMIT)];
    t.say(
        "omit both",
        (ok(sys!(utimensat, AT_FDCWD, c"file", &both, 0)), times(c"file").map(|x| format!("{x:?}"))),
    );
    t.say("by descriptor", ok(sys!(utimensat, fd, 0, &set, 0)));
    let now = [timespec(0, UTIME_NOW), timespec(7, 7)];
    must(sys!(utimensat, fd, 0, &now, 0));
    t.say("now", times(c"file").map(|x| x.0 > 1_000_000 && x.2 == 7));
    t.say(
        "null is now",
        (ok(sys!(utimensat, AT_FDCWD, c"file", 0, 0)), times(c"file").map(|x| x.2 > 1_000_000)),
    );
    must(sys!(symlink, c"file", c"link"));
    must(sys!(utimensat, AT_FDCWD, c"link", &set, AT_SYMLINK_NOFOLLOW));
    t.say("of a link", (times(c"link").map(|x| x.2), times(c"file").map(|x| x.2 > 1_000_000)));
    t.say("negative seconds", {
        let set = [timespec(-5, 0), timespec(-6, 0)];
        (ok(sys!(utimensat, AT_FDCWD, c"file", &set, 0)), times(c"file").map(|x| (x.0, x.2)))
    });
    t.say("utimes", ok(sys!(utimes, c"file", &[[11_i64, 12], [13, 14]])));
    t.say("microseconds", times(c"file").map(|x| format!("{x:?}")));
}

fn set_times_errors(t: Transcript) {
    file(c"file");
    let set = [timespec(1, 0), timespec(1, 0)];
    t.say("missing", ok(sys!(utimensat, AT_FDCWD, c"missing", &set, 0)));
    t.say(
        "nanoseconds out of range",
        ok(sys!(utimensat, AT_FDCWD, c"file", &[timespec(1, 1_000_000_000), timespec(1, 0)], 0)),
    );
    t.say("unknown flag", ok(sys!(utimensat, AT_FDCWD, c"file", &set, 1)));
    t.say("wrong pointer", ok(sys!(utimensat, AT_FDCWD, c"file", 1, 0)));
    t.say("no path, no descriptor", ok(sys!(utimensat, AT_FDCWD, 0, &set, 0)));
    t.say("closed", ok(sys!(utimensat, 99, 0, &set, 0)));
}

fn times_move(t: Transcript) {
    let old = [timespec(1000, 0), timespec(1000, 0)];
    let fd = file_with(c"file", b"data");
    must(sys!(mkdir, c"dir", 0o755));
    let aged = |path: &CStr| must(sys!(utimensat, AT_FDCWD, path, &old, 0));
    let fresh = |path: &CStr| times(path).map(|x| x.2 != 1000);
    aged(c"file");
    must(write(fd, b"x"));
    t.say("write", fresh(c"file"));
    aged(c"file");
    must(sys!(ftruncate, fd, 2));
    t.say("truncate", fresh(c"file"));
    aged(c"file");
    must(sys!(chmod, c"file", 0o600));
    t.say("chmod", fresh(c"file"));
    aged(c"file");
    must(sys!(pread64, fd, &mut [0_u8; 2], 2, 0));
    t.say("read", fresh(c"file"));
    aged(c"dir");
    must(close(file(c"dir/new")));
    t.say("directory gets a name", fresh(c"dir"));
    aged(c"dir");
    must(sys!(unlink, c"dir/new"));
    t.say("directory loses a name", fresh(c"dir"));
    aged(c"dir");
    must(sys!(rename, c"file", c"dir/file"));
    t.say("rename into it", (fresh(c"dir"), fresh(c"dir/file")));
}

fn file_systems(t: Transcript) {
    let mut statfs = libc::statfs::zeroed();
    t.say("statfs", ok(sys!(statfs, c".", &mut statfs)));
    t.say("fields", (statfs.f_bsize > 0, statfs.f_namelen, statfs.f_blocks >= statfs.f_bfree));
    t.say("fstatfs", ok(sys!(fstatfs, must(open(c".", O_RDONLY)), &mut statfs)));
    t.say("proc", (ok(sys!(statfs, c"/proc", &mut statfs)), format!("{:#x}", statfs.f_type)));
    let (reader, _writer) = pipe(0);
    t.say("pipe", (ok(sys!(fstatfs, reader, &mut statfs)), format!("{:#x}", statfs.f_type)));
    t.say("missing", ok(sys!(statfs, c"missing", &mut statfs)));
    t.say("closed", ok(sys!(fstatfs, 99, &mut statfs)));
    t.say("wrong pointer", ok(sys!(statfs, c".", 1)));
}

fn getxattr(t: Transcript) {
    file(c"file");
    t.say("missing file", ok(sys!(getxattr, c"missing", c"user.a", &mut [0_u8; 8], 8)));
    t.say("no such name space", ok(sys!(getxattr, c"file", c"nowhere.a", &mut [0_u8; 8], 8)));
    t.say("closed", ok(sys!(fgetxattr, 99, c"user.a", &mut [0_u8; 8], 8)));
    t.say("wrong name", ok(sys!(getxattr, c"file", 1, &mut [0_u8; 8], 8)));
    t.say("empty name", ok(sys!(getxattr, c"file", c"", &mut [0_u8; 8], 8)));
}
