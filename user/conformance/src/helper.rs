//! What the program does when a case executes it: small programs chosen by their first argument.
//!
//! Each prints what it found in one or more lines; the case that executed it writes them into the transcript.

use std::process::ExitCode;

use user_sys::{Zeroed, sys};

/// The first argument that makes this a helper; the second names which.
pub const FLAG: &str = "--helper";

/// The helper's arguments, when the program was started as one.
///
/// A script's first line passes everything after the interpreter as one argument, which is split here.
pub fn arguments(args: &[String]) -> Option<Vec<String>> {
    let (first, rest) = args.split_first()?;
    let mut words = first.split_whitespace().map(str::to_owned);
    (words.next()? == FLAG).then(|| words.chain(rest.iter().cloned()).collect())
}

/// Runs the helper that `args` names; 2 when there is none of that name.
pub fn run(args: &[String]) -> ExitCode {
    let Some((name, rest)) = args.split_first() else { return ExitCode::from(2) };
    let number = || rest.first().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    match name.as_str() {
        "status" => return ExitCode::from(number() as u8),
        "args" => rest.iter().for_each(|arg| println!("{arg:?}")),
        "count" => println!("{}", rest.len()),
        "name" => println!("{:?}", std::env::args().next()),
        "env" => std::env::vars().for_each(|(key, value)| println!("{key}={value}")),
        "auxv" => auxiliary_vector(),
        "descriptors" => {
            println!("{:?}", (3..64).filter(|&fd| crate::fixture::is_open(fd)).collect::<Vec<_>>())
        }
        "offset" => println!("{:?}", crate::fixture::lseek(number() as i32, 0, libc::SEEK_CUR)),
        "signals" => signals(),
        "pending" => println!("{:#x}", user_sys::signal::pending()),
        "altstack" => alternate_stack(),
        "pid-is" => println!("{}", Ok(number() as usize) == sys!(getpid) && sys!(getpid) == sys!(gettid)),
        "mapped" => println!("{}", sys!(msync, number(), 4096, libc::MS_ASYNC).is_ok()),
        "comm" => print!("{}", proc_file("comm")),
        "cmdline" => println!("{}", proc_file("cmdline").replace('\0', ",")),
        "wait" => wait(),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

/// A file of /proc/self.
fn proc_file(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_else(|error| format!("{error}\n"))
}

/// Says that it runs, then waits for a signal.
fn wait() {
    let _ = sys!(write, 1, b"x", 1);
    let _ = sys!(pause);
}

/// Which of the signals that a case prepared are ignored, handled, default; and the mask.
///
/// Rust's runtime ignores SIGPIPE and handles SIGSEGV and SIGBUS: those three are left out.
fn signals() {
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM] {
        let mut action = libc::sigaction::zeroed();
        // SAFETY: only asks.
        unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
        let state = match action.sa_sigaction {
            libc::SIG_DFL => "default",
            libc::SIG_IGN => "ignored",
            _ => "handled",
        };
        println!("{} {state}", user_sys::signal_name(signal));
    }
    println!("mask {:#x}", user_sys::signal::mask(libc::SIG_BLOCK, &[]).unwrap_or(u64::MAX));
}

/// Whether an alternate stack is in use that Rust's runtime did not set up: none can be, its own is.
fn alternate_stack() {
    let mut stack = libc::stack_t::zeroed();
    println!("{:?}", sys!(sigaltstack, 0, &mut stack).map(|_| stack.ss_flags & libc::SS_ONSTACK));
}

/// Facts of the auxiliary vector that do not depend on the machine, one `name=outcome` a line.
fn auxiliary_vector() {
    // SAFETY: getauxval only reads what the kernel left on the stack.
    let value = |kind: u64| unsafe { libc::getauxval(kind) };
    let text = |kind: u64| {
        let at = std::ptr::with_exposed_provenance(value(kind) as usize);
        if value(kind) == 0 {
            return "none".into();
        }
        // SAFETY: what is not zero points to a string that the kernel left on the stack.
        unsafe { std::ffi::CStr::from_ptr(at) }.to_string_lossy()
    };
    println!("page size={}", value(libc::AT_PAGESZ));
    println!("clock ticks={}", value(libc::AT_CLKTCK));
    println!("program header size={}", value(libc::AT_PHENT));
    println!("program headers={}", value(libc::AT_PHNUM) > 2 && value(libc::AT_PHDR) != 0);
    println!("entry={}", value(libc::AT_ENTRY) != 0);
    println!("no interpreter={}", value(libc::AT_BASE));
    println!("flags={}", value(libc::AT_FLAGS));
    println!(
        "user={}",
        Ok(value(libc::AT_UID) as usize) == sys!(getuid)
            && Ok(value(libc::AT_EUID) as usize) == sys!(geteuid)
    );
    println!(
        "group={}",
        Ok(value(libc::AT_GID) as usize) == sys!(getgid)
            && Ok(value(libc::AT_EGID) as usize) == sys!(getegid)
    );
    println!("secure={}", value(libc::AT_SECURE));
    println!("random bytes={}", value(libc::AT_RANDOM) != 0);
    println!("vdso={}", value(libc::AT_SYSINFO_EHDR) != 0 && value(libc::AT_SYSINFO_EHDR) % 4096 == 0);
    println!("platform={}", text(libc::AT_PLATFORM));
    println!("file name={}", text(libc::AT_EXECFN));
    println!("capabilities={}", value(libc::AT_HWCAP) != 0);
}
