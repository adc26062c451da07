//! Files of /proc, /sys and /dev that programs read: their shapes, since their contents are the machine's.

use std::fs;

use libc::{O_RDONLY, O_RDWR, O_WRONLY};
use user_sys::child::in_child;
use user_sys::{Child, Errno, must, sys};

use crate::fixture::{close, file_with, lseek, open, pipe, read_text, status, write};
use crate::section;
use crate::transcript::{Transcript, ok};

section!("proc":
    own_stat, own_status, own_maps, own_smaps, own_command_line, own_exe, own_descriptors,
    own_directory_links, own_threads, other_processes, ended_processes, memory_information, processors,
    uptime, load, kernel_stat, version, mounts, limits, network_tables, settings, root_listing, positions,
    write_attempts, null, zero, full, random, standard_links, system_files,
);

/// The file, or the name of what went wrong.
fn text(path: &str) -> Result<String, Errno> {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|error| Errno::new(error.raw_os_error().unwrap_or(0)))
}

/// The first word of the line that begins with `key`.
fn value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.split([':', ' ', '\t']).next() == Some(key))?;
    line[key.len()..].trim_start_matches([':', ' ', '\t']).split_whitespace().next().map(str::to_owned)
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_decimal(word: &str) -> bool {
    word.split_once('.').is_some_and(|(whole, part)| is_number(whole) && is_number(part))
}

fn own_stat(t: Transcript) {
    let text = text("/proc/self/stat").unwrap_or_default();
    let (before, after) = text.rsplit_once(')').unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    t.say("begins with the number and the name", before == format!("{} (conformance", std::process::id()));
    t.say("fields after the name", fields.len());
    t.say("running", fields.first().copied());
    t.say(
        "parent and group",
        (
            fields.get(1).is_some_and(|ppid| sys!(getppid) == Ok(ppid.parse().unwrap_or(0))),
            fields.get(2).is_some_and(|group| sys!(getpgrp) == Ok(group.parse().unwrap_or(0))),
        ),
    );
    t.say("threads", fields.get(17).copied());
    t.say(
        "pages in memory",
        fields.get(21).is_some_and(|pages| pages.parse::<u64>().is_ok_and(|pages| pages > 0)),
    );
    t.say("one line", text.ends_with('\n') && text.lines().count() == 1);
}

fn own_status(t: Transcript) {
    let text = text("/proc/self/status").unwrap_or_default();
    for key in ["Name", "State", "Threads", "SigBlk", "SigCgt", "Umask"] {
        t.say(key, value(&text, key));
    }
    t.say("Pid", value(&text, "Pid") == Some(std::process::id().to_string()));
    t.say(
        "Uid",
        value(&text, "Uid").is_some_and(|uid| Ok(uid.parse().unwrap_or(usize::MAX)) == sys!(getuid)),
    );
    for key in ["VmSize", "VmRSS", "VmPeak", "VmHWM"] {
        t.say(key, value(&text, key).is_some_and(|size| is_number(&size) && size != "0"));
    }
}

fn own_maps(t: Transcript) {
    let map = user_sys::Map::new(3);
    must(sys!(mprotect, map.page(1), 4096, libc::PROT_READ));
    let text = text("/proc/self/maps").unwrap_or_default();
    let rights = |address: usize| {
        text.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
            (start..end).contains(&address).then(|| rest[..4].to_owned())
        })
    };
    t.say("pages", (rights(map.page(0)), rights(map.page(1)), rights(map.page(2)), rights(map.end())));
    t.say("code", rights(own_maps as *const () as usize));
    t.say("stack", text.lines().any(|line| line.ends_with("[stack]")));
    t.say("vdso", text.lines().any(|line| line.ends_with("[vdso]")));
    t.say("program's file", text.lines().any(|line| line.ends_with("/conformance")));
    t.say(
        "in order",
        text.lines()
            .map(|line| line.split('-').next().unwrap_or_default().to_owned())
            .map(|start| u64::from_str_radix(&start, 16).unwrap_or(0))
            .is_sorted(),
    );
}

fn own_smaps(t: Transcript) {
    let text = text("/proc/self/smaps").unwrap_or_default();
    for key in ["Size", "Rss", "Private_Dirty", "Private_Clean", "Shared_Dirty"] {
        t.say(key, value(&text, key).is_some_and(|size| is_number(&size)));
    }
}

fn own_command_line(t: Transcript) {
    let text = text("/proc/self/cmdline").unwrap_or_default();
    t.say("ends with a zero", text.ends_with('\0'));
    t.say(
        "is what we were called",
        text.trim_end_matches('\0') == std::env::args().collect::<Vec<_>>().join("\0"),
    );
    t.say("environ can be read", fs::read("/proc/self/environ").is_ok());
    t.say("comm", self::text("/proc/self/comm"));
    t.say("comm can be set", {
        let set = fs::write("/proc/self/comm", "renamed").is_ok();
        (set, self::text("/proc/self/comm"))
    });
}

fn own_exe(t: Transcript) {
    let target = fs::read_link("/proc/self/exe").unwrap_or_default();
    t.say("a link to this program", target.ends_with("conformance"));
    t.say("can be opened", ok(open(c"/proc/self/exe", O_RDONLY)));
    let mut magic = [0_u8; 4];
    must(sys!(read, must(open(c"/proc/self/exe", O_RDONLY)), &mut magic, 4));
    t.say("is an ELF file", magic == *b"\x7fELF");
    t.say("cannot be written", open(c"/proc/self/exe", O_WRONLY).is_err());
    t.say(
        "by number",
        fs::read_link(format!("/proc/{}/exe", std::process::id())).is_ok_and(|other| other == target),
    );
}

fn own_descriptors(t: Transcript) {
    let file = file_with(c"file", b"x");
    let (reader, _writer) = pipe(0);
    let link = |fd: i32| {
        fs::read_link(format!("/proc/self/fd/{fd}"))
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    t.say("a file", link(file).ends_with("/proc.own_descriptors/file"));
    t.say("a pipe", link(reader).starts_with("pipe:["));
    t.say("a socket", link(must(sys!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0))).starts_with("socket:["));
    t.say("an eventfd", link(must(sys!(eventfd2, 0, 0))).starts_with("anon_inode:[eventfd]"));
    t.say("an unlinked file", {
        must(sys!(unlink, c"file"));
        link(file).ends_with("/file (deleted)")
    });
    t.say("closed", ok(sys!(readlink, c"/proc/self/fd/99", &mut [0_u8; 8], 8)));
    let listed: Vec<String> = fs::read_dir("/proc/self/fd")
        .map(|all| all.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    t.say("listed", ["0", "1", "3"].iter().all(|fd| listed.iter().any(|name| name == fd)));
    t.say("numbers only", listed.iter().all(|name| is_number(name)));
    t.say("opened anew", {
        must(write(_writer, b"through"));
        let again = must(open(&crate::fixture::c(&format!("/proc/self/fd/{reader}")), O_RDONLY));
        read_text(again, 10)
    });
    t.say("/dev/fd", fs::read_dir("/dev/fd").is_ok());
}

fn own_directory_links(t: Transcript) {
    t.say("cwd", fs::read_link("/proc/self/cwd").ok() == std::env::current_dir().ok());
    t.say(
        "root",
        fs::read_link("/proc/self/root").map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
    );
    t.say(
        "self",
        fs::read_link("/proc/self")
            .is_ok_and(|path| path.to_string_lossy() == std::process::id().to_string()),
    );
}

fn own_threads(t: Transcript) {
    let (reader, writer) = pipe(0);
    let thread = std::thread::Builder::new().name("worker".to_owned()).spawn(move || {
        let tid = must(sys!(gettid));
        must(read_text(reader, 1).map(|_| 0));
        tid
    });
    let names = || {
        let tasks = fs::read_dir("/proc/self/task")
            .map(|all| all.flatten().map(|entry| entry.path()).collect::<Vec<_>>())
            .unwrap_or_default();
        let mut names: Vec<String> = tasks
            .iter()
            .map(|task| fs::read_to_string(task.join("comm")).unwrap_or_default().trim().to_owned())
            .collect();
        names.sort();
        names
    };
    while names().iter().all(|name| name != "worker") {
        must(sys!(sched_yield));
    }
    t.say("tasks", names());
    must(write(writer, b"x"));
    t.say("joined", thread.is_ok_and(|thread| thread.join().is_ok()));
}

fn other_processes(t: Transcript) {
    let child = Child::spawn(|| must(sys!(pause)));
    let stat = |pid: i32| {
        text(&format!("/proc/{pid}/stat")).map(|text| {
            text.rsplit_once(')').map_or(String::new(), |(_, rest)| rest.split_whitespace().take(1).collect())
        })
    };
    while stat(child.pid()) != Ok("S".to_owned()) {
        must(sys!(sched_yield));
    }
    t.say("a child that waits", stat(child.pid()));
    must(child.kill(libc::SIGSTOP));
    while stat(child.pid()) != Ok("T".to_owned()) {
        must(sys!(sched_yield));
    }
    t.say("a child that is stopped", stat(child.pid()));
    t.say(
        "listed",
        fs::read_dir("/proc").is_ok_and(|mut all| {
            all.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy() == child.pid().to_string())
            })
        }),
    );
    t.say("no such process", text("/proc/999999/stat").map(drop));
}

fn ended_processes(t: Transcript) {
    let child = Child::spawn(|| 0);
    must(sys!(waitid, libc::P_PID, child.pid(), 0, libc::WEXITED | libc::WNOWAIT, 0));
    let path = format!("/proc/{}/stat", child.pid());
    t.say("a zombie", text(&path).map(|text| text.contains(") Z ")));
    t.say("its command line", text(&format!("/proc/{}/cmdline", child.pid())));
    t.say("reaped", (child.wait(), text(&path).map(drop)));
}

fn memory_information(t: Transcript) {
    let text = text("/proc/meminfo").unwrap_or_default();
    for key in ["MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree"] {
        t.say(key, value(&text, key).is_some_and(|size| is_number(&size)));
    }
    t.say("unit", text.lines().next().is_some_and(|line| line.ends_with(" kB")));
    let number = |key: &str| value(&text, key).and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
    t.say("free is not more than all", number("MemFree") <= number("MemTotal") && number("MemTotal") > 0);
}

fn processors(t: Transcript) {
    let text = text("/proc/cpuinfo").unwrap_or_default();
    t.say("a line for each", text.lines().any(|line| line.starts_with("processor\t: 0")));
    t.say("flags", value(&text, "flags").is_some());
    let count = text.lines().filter(|line| line.starts_with("processor")).count();
    let mut mask = [0_u64; 16];
    must(sys!(sched_getaffinity, 0, 128, &mut mask));
    t.say(
        "at least as many as we may use",
        count >= mask.iter().map(|word| word.count_ones() as usize).sum(),
    );
}

fn uptime(t: Transcript) {
    let read = || text("/proc/uptime").unwrap_or_default();
    let first = read();
    t.say("two numbers", first.split_whitespace().count() == 2 && first.split_whitespace().all(is_decimal));
    let seconds =
        |text: &str| text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(-1.0);
    must(sys!(nanosleep, &user_sys::millis(60), 0));
    let second = read();
    t.say("goes on", seconds(&second) > seconds(&first));
}

fn load(t: Transcript) {
    let text = text("/proc/loadavg").unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    t.say("words", words.len());
    t.say("three averages", words.iter().take(3).all(|word| is_decimal(word)));
    t.say(
        "running and all",
        words
            .get(3)
            .and_then(|word| word.split_once('/'))
            .is_some_and(|(running, all)| is_number(running) && is_number(all)),
    );
}

fn kernel_stat(t: Transcript) {
    let text = text("/proc/stat").unwrap_or_default();
    t.say(
        "all cores",
        text.lines()
            .next()
            .is_some_and(|line| line.starts_with("cpu ") && line.split_whitespace().skip(1).all(is_number)),
    );
    t.say("first core", text.lines().any(|line| line.starts_with("cpu0 ")));
    for key in ["ctxt", "btime", "processes", "procs_running"] {
        t.say(key, value(&text, key).is_some_and(|count| is_number(&count)));
    }
}

fn version(t: Transcript) {
    let text = text("/proc/version").unwrap_or_default();
    t.say("begins with the system's name", text.starts_with("Linux version "));
    let mut name = <libc::utsname as user_sys::Zeroed>::zeroed();
    must(sys!(uname, &mut name));
    let release: String =
        name.release.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8 as char).collect();
    t.say("and its release", text.contains(&release));
    t.say(
        "release as a setting",
        self::text("/proc/sys/kernel/osrelease").is_ok_and(|text| text.trim() == release),
    );
}

fn mounts(t: Transcript) {
    let text = text("/proc/mounts").unwrap_or_default();
    t.say("six words each", text.lines().all(|line| line.split(' ').count() == 6));
    t.say("root", text.lines().any(|line| line.split(' ').nth(1) == Some("/")));
    t.say(
        "proc",
        text.lines()
            .any(|line| line.split(' ').nth(1) == Some("/proc") && line.split(' ').nth(2) == Some("proc")),
    );
    t.say(
        "file systems",
        self::text("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("\tproc"))),
    );
}

fn limits(t: Transcript) {
    let limit = libc::rlimit { rlim_cur: 77, rlim_max: 99 };
    must(sys!(prlimit64, 0, libc::RLIMIT_NOFILE, &limit, 0));
    let text = text("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    t.say("open files", line.split_whitespace().skip(3).take(3).collect::<Vec<_>>());
}

fn network_tables(t: Transcript) {
    t.say(
        "devices",
        text("/proc/net/dev").is_ok_and(|text| text.lines().count() > 2 && text.contains(" lo:")),
    );
    let (_listening, port) = crate::net::listener(1);
    let entry = format!("0100007F:{port:04X} 00000000:0000 0A");
    t.say("a listener", text("/proc/net/tcp").is_ok_and(|text| text.contains(&entry)));
    t.say(
        "heading",
        text("/proc/net/tcp")
            .is_ok_and(|text| text.trim_start().starts_with("sl  local_address rem_address   st")),
    );
    for name in ["udp", "unix", "route", "arp"] {
        t.say(name, text(&format!("/proc/net/{name}")).is_ok_and(|text| text.lines().count() >= 1));
    }
}

fn settings(t: Transcript) {
    let number = |path: &str| text(path).map(|text| is_number(text.trim()));
    for path in [
        "/proc/sys/net/core/somaxconn",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/ngroups_max",
        "/proc/sys/kernel/pid_max",
        "/proc/sys/fs/file-max",
        "/proc/sys/fs/nr_open",
    ] {
        t.say(path, number(path));
    }
    t.say("host name", text("/proc/sys/kernel/hostname").map(|text| text.ends_with('\n') && text.len() > 1));
    t.say("boot id", text("/proc/sys/kernel/random/boot_id").map(|text| text.trim().len()));
    t.say("system's name", text("/proc/sys/kernel/ostype"));
}

fn root_listing(t: Transcript) {
    let names: Vec<String> = fs::read_dir("/proc")
        .map(|all| all.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    for name in [
        "self",
        "meminfo",
        "cpuinfo",
        "stat",
        "uptime",
        "loadavg",
        "version",
        "mounts",
        "filesystems",
        "sys",
        "net",
    ] {
        t.say(name, names.iter().any(|found| found == name));
    }
    t.say("ourselves", names.iter().any(|found| *found == std::process::id().to_string()));
}

fn positions(t: Transcript) {
    let fd = must(open(c"/proc/self/status", O_RDONLY));
    let whole = text("/proc/self/status").unwrap_or_default();
    let begin = read_text(fd, 5);
    t.say("in parts", begin);
    t.say("at a position", sys!(pread64, fd, &mut [0_u8; 4], 4, 1));
    t.say("from the start", (lseek(fd, 0, 0), read_text(fd, 5)));
    t.say("past the end", sys!(pread64, fd, &mut [0_u8; 4], 4, whole.len() + 4096));
    let mut stat = <libc::stat as user_sys::Zeroed>::zeroed();
    must(sys!(fstat, fd, &mut stat));
    t.say("size is not told", (stat.st_size, format!("{:o}", stat.st_mode)));
    t.say("directory", {
        must(sys!(stat, c"/proc/self/fd", &mut stat));
        format!("{:o}", stat.st_mode & libc::S_IFMT)
    });
}

fn write_attempts(t: Transcript) {
    t.say("create", ok(open(c"/proc/new", O_RDWR | libc::O_CREAT)));
    t.say("mkdir", ok(sys!(mkdir, c"/proc/new", 0o755)));
    t.say("below a file", ok(open(c"/proc/uptime/x", O_RDONLY)));
    t.say("missing", ok(open(c"/proc/missing", O_RDONLY)));
    t.say("missing of ourselves", ok(open(c"/proc/self/missing", O_RDONLY)));
}

fn null(t: Transcript) {
    let fd = must(open(c"/dev/null", O_RDWR));
    t.say("read", read_text(fd, 10));
    t.say("write", write(fd, b"gone"));
    t.say("large write", write(fd, &vec![0; 1 << 20]));
    t.say("wrong pointer", sys!(write, fd, 8, 5));
    t.say("lseek", lseek(fd, 100, 0));
    t.say("pread", sys!(pread64, fd, &mut [0_u8; 4], 4, 50));
    t.say("truncate on open", ok(open(c"/dev/null", O_WRONLY | libc::O_TRUNC)));
    t.say("ftruncate", ok(sys!(ftruncate, fd, 0)));
    t.say("mmap", ok(sys!(mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0)));
}

fn zero(t: Transcript) {
    let fd = must(open(c"/dev/zero", O_RDWR));
    let mut bytes = [7_u8; 10_000];
    t.say("read", sys!(read, fd, &mut bytes, 10_000));
    t.say("zeros", bytes.iter().all(|&byte| byte == 0));
    t.say("write", write(fd, b"gone"));
    t.say("wrong pointer", sys!(read, fd, 8, 5));
}

fn full(t: Transcript) {
    let fd = must(open(c"/dev/full", O_RDWR));
    t.say("read", read_text(fd, 3));
    t.say("write", write(fd, b"x"));
    t.say("write of nothing", write(fd, b""));
}

fn random(t: Transcript) {
    for path in [c"/dev/random", c"/dev/urandom"] {
        let fd = must(open(path, O_RDONLY));
        let (mut first, mut second) = ([0_u8; 64], [0_u8; 64]);
        t.say(&path.to_string_lossy(), (sys!(read, fd, &mut first, 64), sys!(read, fd, &mut second, 64)));
        t.say(&format!("{}, not the same twice", path.to_string_lossy()), first != second);
        t.say(&format!("{}, large", path.to_string_lossy()), sys!(read, fd, &mut [0_u8; 1000], 1000));
        must(close(fd));
    }
}

fn standard_links(t: Transcript) {
    let (reader, writer) = pipe(0);
    let child = in_child(|| {
        must(sys!(dup2, writer, 1));
        let again = must(open(c"/dev/stdout", O_WRONLY));
        status(write(again, b"said") == Ok(4))
    });
    t.say("stdout", (child, read_text(reader, 10)));
    t.say(
        "tty without a terminal",
        in_child(|| {
            must(sys!(setsid));
            open(c"/dev/tty", O_RDWR).map_or_else(Errno::into_raw, |_| 0)
        }),
    );
}

fn system_files(t: Transcript) {
    let online = text("/sys/devices/system/cpu/online").unwrap_or_default();
    t.say("cores online", online.starts_with('0') && online.ends_with('\n'));
    t.say(
        "clock source",
        text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .map(|text| text.trim().len() > 1),
    );
    t.say(
        "large pages",
        text("/sys/kernel/mm/transparent_hugepage/enabled")
            .map_or(true, |text| text.contains("[") && text.contains("never")),
    );
    t.say("missing", text("/sys/missing").map(drop));
}
