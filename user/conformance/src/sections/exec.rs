//! Running programs: execve(2), its arguments, environment, auxiliary vector, scripts, what survives and what
//! does not.

use std::ffi::{CStr, CString};
use std::os::unix::process::ExitStatusExt;

use libc::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_CLOEXEC, O_PATH, O_RDONLY, O_WRONLY, SIGTERM, SIGUSR1,
    SIGUSR2,
};
use user_sys::child::in_child;
use user_sys::{Child, Ended, Errno, Handler, Res, must, sys};

use crate::fixture::{c, close, file_with, open, pipe};
use crate::helper::FLAG;
use crate::section;
use crate::transcript::{Transcript, ok};

section!("exec":
    statuses, arguments, environment, auxiliary_vector, errors, not_programs, damaged_programs, scripts,
    script_errors, too_big, many_arguments, descriptors, signals, group_after_exec, by_descriptor,
    from_thread, vfork, spawn, memory_is_new, name_and_exe, busy,
);

/// This program, as a case's child executes it.
const SELF: &CStr = c"/proc/self/exe";

/// Null-terminated array of pointers as execve(2) takes it.
fn pointers(strings: &[CString]) -> Vec<usize> {
    strings.iter().map(|string| string.as_ptr() as usize).chain([0]).collect()
}

fn strings(texts: &[&str]) -> Vec<CString> {
    texts.iter().map(|text| c(text)).collect()
}

/// execve(2): returns only with an error.
fn execve(path: &CStr, arguments: &[&str], environment: &[&str]) -> Res {
    let (arguments, environment) = (strings(arguments), strings(environment));
    sys!(execve, path, &pointers(&arguments)[..], &pointers(&environment)[..])
}

/// The errno of an execve that must fail, from a child in case it does not.
fn refused(path: &CStr) -> String {
    match in_child(|| execve(path, &["x", FLAG, "status"], &[]).map_or_else(Errno::into_raw, |_| 0)) {
        Ended::Exited(0) => "ran".to_owned(),
        Ended::Exited(errno) => user_sys::errno_name(Errno::new(errno)),
        other => other.to_string(),
    }
}

/// Runs `prepare` in a child with standard output in a pipe; what it printed, without the last newline, and
/// how it ended.
fn output_of(prepare: impl FnOnce() -> i32) -> (String, Ended) {
    let (reader, writer) = pipe(O_CLOEXEC);
    let child = Child::spawn(|| {
        must(sys!(dup2, writer, 1));
        prepare()
    });
    must(close(writer));
    let mut output = Vec::new();
    let mut buffer = [0_u8; 4096];
    while let Ok(count @ 1..) = sys!(read, reader, &mut buffer, 4096) {
        output.extend_from_slice(&buffer[..count]);
    }
    must(close(reader));
    (String::from_utf8_lossy(&output).trim_end().replace('\n', " | "), child.wait())
}

/// Runs this program as the helper with these arguments and environment.
fn helper(arguments: &[&str], environment: &[&str]) -> (String, Ended) {
    let all: Vec<&str> = ["name", FLAG].iter().chain(arguments).copied().collect();
    output_of(|| execve(SELF, &all, environment).map_or_else(Errno::into_raw, |_| 0))
}

fn statuses(t: Transcript) {
    t.say("0", helper(&["status", "0"], &[]).1);
    t.say("7", helper(&["status", "7"], &[]).1);
    t.say("unknown helper", helper(&["unknown"], &[]).1);
}

fn arguments(t: Transcript) {
    t.say("plain", helper(&["args", "one", "two three", ""], &[]));
    t.say("odd bytes", helper(&["args", "\u{e9}\t\"'"], &[]));
    t.say(
        "name is what was given",
        output_of(|| execve(SELF, &["any name", FLAG, "name"], &[]).map_or(1, |_| 0)),
    );
    t.say("empty name", output_of(|| execve(SELF, &["", FLAG, "name"], &[]).map_or(1, |_| 0)));
}

fn environment(t: Transcript) {
    t.say("none", helper(&["env"], &[]));
    t.say("some", helper(&["env"], &["A=1", "B=two words", "EMPTY="]));
    t.say(
        "null",
        output_of(|| {
            let arguments = strings(&["x", FLAG, "env"]);
            sys!(execve, SELF, &pointers(&arguments)[..], 0).map_or(1, |_| 0)
        }),
    );
    t.say("null arguments with a file that is none", ok(sys!(execve, c"missing", 0, 0)));
}

fn auxiliary_vector(t: Transcript) {
    for line in helper(&["auxv"], &[]).0.split(" | ") {
        let (name, outcome) = line.split_once('=').unwrap_or((line, ""));
        t.say(name, outcome);
    }
}

fn errors(t: Transcript) {
    must(close(file_with(c"plain", b"#!/bin/true\n")));
    must(sys!(mkdir, c"dir", 0o755));
    must(sys!(symlink, c"loop", c"loop"));
    t.say("missing", refused(c"missing"));
    t.say("empty path", refused(c""));
    t.say("not executable", refused(c"plain"));
    t.say("directory", refused(c"dir"));
    t.say("below a file", refused(c"plain/x"));
    t.say("loop", refused(c"loop"));
    t.say("device", refused(c"/dev/null"));
    t.say("name too long", refused(&c(&"n".repeat(300))));
    t.say("wrong path", ok(sys!(execve, 1, 0, 0)));
    t.say("wrong arguments", ok(sys!(execve, SELF, 1, 0)));
    t.say("wrong argument", ok(sys!(execve, SELF, &[1_usize, 0], 0)));
    t.say("wrong environment", ok(sys!(execve, SELF, &[0_usize], 1)));
}

/// An executable file with this content.
fn program(path: &CStr, content: &[u8]) {
    must(close(file_with(path, content)));
    must(sys!(chmod, path, 0o755));
}

fn not_programs(t: Transcript) {
    for (name, content) in [
        ("empty", b"" as &[u8]),
        ("text", b"just some text\n"),
        ("zeros", &[0; 200]),
        ("magic only", b"\x7fELF"),
        ("script of blanks", b"#!   \n"),
    ] {
        program(c"file", content);
        t.say(name, refused(c"file"));
    }
}

/// The first page of this program: its ELF header and program headers.
fn own_header() -> Vec<u8> {
    let fd = must(open(SELF, O_RDONLY));
    let header = crate::fixture::read(fd, 4096).unwrap_or_default();
    must(close(fd));
    header
}

fn damaged_programs(t: Transcript) {
    let with = |at: usize, bytes: &[u8]| {
        let mut header = own_header();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        program(c"file", &header);
        refused(c"file")
    };
    t.say("relocatable type", with(16, &[1, 0]));
    t.say("another machine", with(18, &[0xb7, 0]));
    t.say("no program headers", with(56, &[0, 0]));
    t.say("program headers of odd size", with(54, &[55, 0]));
    t.say("too many program headers", with(56, &[0xff, 0xff]));
    t.say("program headers beyond the file", with(32, &(1_u64 << 40).to_ne_bytes()));
    t.say("header cut", {
        program(c"file", &own_header()[..40]);
        refused(c"file")
    });
}

/// The path of this program: a script's first line needs one that is not /proc.
fn own_path() -> String {
    std::fs::read_link("/proc/self/exe").map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

fn scripts(t: Transcript) {
    program(c"script", format!("#!{} {FLAG} args\nrest\n", own_path()).as_bytes());
    let run = |path: &CStr, arguments: &[&str]| {
        output_of(|| execve(path, arguments, &[]).map_or_else(Errno::into_raw, |_| 0))
    };
    t.say("script's name and the arguments", run(c"script", &["lost", "one", "two"]));
    t.say("path as given", run(c"./script", &["lost"]));
    program(c"blanks", format!("#! \t{}  {FLAG} args  inner  \t \n", own_path()).as_bytes());
    t.say("blanks around one argument", run(c"blanks", &["lost", "one"]));
    program(c"second", b"#!./script\n");
    t.say("script of a script", run(c"second", &["lost", "one"]));
    program(c"unended", format!("#!{} {FLAG} args", own_path()).as_bytes());
    t.say("no newline", run(c"unended", &["lost"]));
}

fn script_errors(t: Transcript) {
    program(c"script", b"#!/missing/interpreter\n");
    t.say("interpreter missing", refused(c"script"));
    program(c"script", b"#!.\n");
    t.say("interpreter is a directory", refused(c"script"));
    program(c"script", b"#!./script\n");
    t.say("its own interpreter", refused(c"script"));
    must(close(file_with(c"plain", b"text")));
    program(c"script", b"#!./plain\n");
    t.say("interpreter not executable", refused(c"script"));
    program(c"script", format!("#!{}\n", "x".repeat(300)).as_bytes());
    t.say("line too long", refused(c"script"));
    must(sys!(chmod, c"plain", 0o755));
    program(c"script", b"#!./plain\n");
    t.say("interpreter is no program", refused(c"script"));
}

fn too_big(t: Transcript) {
    let stack = libc::rlimit { rlim_cur: 8 << 20, rlim_max: 8 << 20 };
    let run = |arguments: &[&str]| {
        in_child(|| {
            must(sys!(prlimit64, 0, libc::RLIMIT_STACK, &stack, 0));
            execve(SELF, arguments, &[]).map_or_else(Errno::into_raw, |_| 0)
        })
    };
    let long = "x".repeat(131_071);
    t.say("longest argument", run(&["x", FLAG, "status", "3", &long]));
    t.say("one byte more", run(&["x", FLAG, "status", "3", &format!("{long}x")]));
    let many: Vec<&str> = ["x", FLAG, "status", "4"].into_iter().chain([long.as_str(); 20]).collect();
    t.say("more than a quarter of the stack", run(&many));
    t.say("less", run(&many[..14]));
}

fn many_arguments(t: Transcript) {
    let texts: Vec<String> = (0..2000).map(|index| format!("argument-{index}")).collect();
    let all: Vec<&str> = ["count"].into_iter().chain(texts.iter().map(String::as_str)).collect();
    t.say("2000", helper(&all, &[]));
}

fn descriptors(t: Transcript) {
    let fd = file_with(c"file", b"0123456789");
    must(sys!(dup3, fd, 40, O_CLOEXEC));
    must(sys!(dup2, fd, 41));
    t.say("open after exec", helper(&["descriptors"], &[]));
    t.say("offset is kept", helper(&["offset", "41"], &[]));
    t.say("a failed exec closes nothing", {
        let _ = execve(c"missing", &["x"], &[]);
        crate::fixture::is_open(40)
    });
}

fn signals(t: Transcript) {
    must(Handler::install(SIGUSR1, 0, &[]));
    must(Handler::install_function(SIGUSR2, libc::SIG_IGN, 0, &[]));
    must(user_sys::signal::mask(libc::SIG_BLOCK, &[SIGTERM]).map(|_| 0));
    t.say("handlers go, ignoring and mask stay", helper(&["signals"], &[]));
    t.say(
        "pending stays",
        output_of(|| {
            must(sys!(kill, must(sys!(getpid)), SIGTERM));
            execve(SELF, &["x", FLAG, "pending"], &[]).map_or(1, |_| 0)
        }),
    );
    t.say("alternate stack goes", helper(&["altstack"], &[]));
}

fn group_after_exec(t: Transcript) {
    let (reader, writer) = pipe(0);
    let child = Child::spawn(|| {
        must(sys!(dup2, writer, 1));
        execve(SELF, &["x", FLAG, "wait"], &[]).map_or(1, |_| 0)
    });
    t.say("running", crate::fixture::read_text(reader, 1));
    t.say("setpgid of a child that has run exec", ok(sys!(setpgid, child.pid(), 0)));
    must(child.kill(SIGTERM));
    t.say("ended", child.wait());
}

fn by_descriptor(t: Transcript) {
    let exec_at = |dir: i32, path: &CStr, flags: i32| {
        let arguments = strings(&["x", FLAG, "status", "77"]);
        in_child(|| {
            sys!(execveat, dir, path, &pointers(&arguments)[..], 0, flags).map_or_else(Errno::into_raw, |_| 0)
        })
    };
    let own = must(open(SELF, O_PATH));
    t.say("empty path", exec_at(own, c"", AT_EMPTY_PATH));
    t.say("empty path without the flag", exec_at(own, c"", 0));
    t.say("absolute path", exec_at(99, SELF, 0));
    t.say("closed", exec_at(99, c"x", 0));
    must(sys!(symlink, SELF, c"link"));
    t.say("link", exec_at(AT_FDCWD, c"link", 0));
    t.say("link, not followed", exec_at(AT_FDCWD, c"link", AT_SYMLINK_NOFOLLOW));
    t.say("unknown flag", exec_at(own, c"", 1));
}

fn from_thread(t: Transcript) {
    t.say(
        "becomes the process",
        output_of(|| {
            let pid = must(sys!(getpid)).to_string();
            for _ in 0..3 {
                std::thread::spawn(|| must(sys!(pause)));
            }
            std::thread::spawn(move || execve(SELF, &["x", FLAG, "pid-is", &pid], &[]));
            must(sys!(pause))
        }),
    );
}

/// What the child of [`vfork`] does on the parent's memory.
extern "C" fn set_and_exit(value: *mut libc::c_void) -> i32 {
    // SAFETY: the parent passed a pointer to an i32 of its own, and waits.
    unsafe { value.cast::<i32>().write_volatile(77) };
    21
}

fn vfork(t: Transcript) {
    let stack = user_sys::Map::new(16);
    let mut value = 0_i32;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let top = std::ptr::with_exposed_provenance_mut(stack.end());
    // SAFETY: the stack is fresh; the parent is suspended until the child has left, so `value` outlives it.
    let pid = unsafe { libc::clone(set_and_exit, top, flags, (&raw mut value).cast()) };
    // SAFETY: `value` is ours; read as memory because the child wrote it.
    let seen = unsafe { (&raw const value).read_volatile() };
    t.say("child writes the parent's memory before it goes on", seen);
    t.say("child", Child::adopt(pid).wait());
}

fn spawn(t: Transcript) {
    let run = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).env_clear().env("K", "V").output();
        match output {
            Err(error) => user_sys::errno_name(Errno::new(error.raw_os_error().unwrap_or(0))),
            Ok(output) => format!(
                "{}, {:?}",
                Ended::of(output.status.into_raw()),
                String::from_utf8_lossy(&output.stdout)
            ),
        }
    };
    t.say("posix_spawn", run("/proc/self/exe", &[FLAG, "env"]));
    t.say("status", run("/proc/self/exe", &[FLAG, "status", "6"]));
    t.say("missing", run("./missing", &[]));
}

fn memory_is_new(t: Transcript) {
    let map = user_sys::Map::new(1);
    must(sys!(
        mmap,
        0x1000_0000,
        4096,
        libc::PROT_READ,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
        -1,
        0
    ));
    t.say("mapped before", sys!(msync, 0x1000_0000, 4096, libc::MS_ASYNC).is_ok());
    t.say("not after", helper(&["mapped", &0x1000_0000.to_string()], &[]));
    drop(map);
}

fn name_and_exe(t: Transcript) {
    t.say("comm is the file's name", helper(&["comm"], &[]));
    must(sys!(symlink, SELF, c"a-link-with-a-long-name"));
    t.say(
        "of a link",
        output_of(|| execve(c"./a-link-with-a-long-name", &["other", FLAG, "comm"], &[]).map_or(1, |_| 0)),
    );
    t.say("cmdline", helper(&["cmdline"], &[]));
}

fn busy(t: Transcript) {
    program(c"file", b"text");
    let writer = must(open(c"file", O_WRONLY));
    t.say("open for writing", refused(c"file"));
    must(close(writer));
    t.say("closed", refused(c"file"));
}
