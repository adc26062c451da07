//! Torture: programs that try to break a kernel, or at least to catch it out.
//!
//! Each subcommand prints `NAME: ok` and ends with status 0, or says what broke and ends with status 1. What
//! is tested is less what a call returns (that is `conformance`) than that state survives, that nothing
//! leaks, and that the machine is still there afterwards: so most subcommands end with [`aftermath::check`].
//!
//! Run in a guest, they may do anything that does not end the guest by design (`--in-guest`). Without that
//! option they hold back: limits on memory and processes, no calls that could harm a host.
//!
//! | state | hostile input | exhaustion | load | network |
//! |---|---|---|---|---|
//! | `sse` | `badptr` | `eatmem` | `threads` | `udpsend` `tcpecho` |
//! | `tls` | `fuzz` | `forkbomb` | `spin` | `tcprev` `tcpsource` |
//! | `deepstack` | `badelf` | `fds` | `pagefaults` | `tcpsink` |
//! | | | `circles` | `fair` | |
//! | | | `storm` | `bounded` | |
//!
//! `bench` measures.

mod aftermath;
mod allowed;
mod badelf;
mod badptr;
mod bench;
mod bounded;
mod circles;
mod deepstack;
mod eatmem;
mod fair;
mod fds;
mod forkbomb;
mod fuzz;
mod naps;
mod net;
mod options;
mod pagefaults;
mod scratch;
mod shared;
mod spin;
mod sse;
mod storm;
mod threads;
mod tls;

use std::process::ExitCode;

use options::Options;

/// How a subcommand ends: nothing more to say, or what broke.
pub type Verdict = Result<(), String>;

/// A subcommand: its name, its arguments, what it is for, and the function.
type Subcommand = (&'static str, &'static str, &'static str, fn(&Options) -> Verdict);

const SUBCOMMANDS: &[Subcommand] = &[
    ("sse", "", "vector registers of several threads survive switches, signals, calls and fork", sse::run),
    ("tls", "", "thread-local storage and the FS base belong to their thread", tls::run),
    ("badptr", "", "every system call with wrong pointers and extreme numbers", badptr::run),
    ("fuzz", "[SEED] [N]", "N random sequences of system calls", fuzz::run),
    ("eatmem", "[anonymous|files|pipes]", "takes memory until it is refused", eatmem::run),
    ("forkbomb", "", "forks until it is refused", forkbomb::run),
    ("badelf", "[SEED] [N]", "N damaged copies of this program are executed", badelf::run),
    ("fds", "", "opens until EMFILE", fds::run),
    ("circles", "", "descriptors sent into circles of sockets do not stay there", circles::run),
    ("storm", "", "timers that expire faster than anybody looks", storm::run),
    ("threads", "[N]", "N threads at once, several times", threads::run),
    ("spin", "[N]", "N busy threads all get time", spin::run),
    ("bounded", "[CASE...]", "a watcher beside calls that are made long", bounded::run),
    ("fair", "[HOGS] [LOOSE]", "a sleeper beside busy processes, and shares by nice value", fair::run),
    ("pagefaults", "", "faults of every kind, with the contents checked", pagefaults::run),
    ("deepstack", "", "deep stacks, and their ends", deepstack::run),
    ("udpsend", "HOST PORT N", "sends `pkt 1` to `pkt N`", net::udpsend),
    ("tcpecho", "PORT", "sends back what comes", net::tcpecho),
    ("tcprev", "PORT", "sends back each line reversed", net::tcprev),
    ("tcpsource", "[HOST:]PORT BYTES", "sends so many bytes over one connection", net::tcpsource),
    ("tcpsink", "[HOST:]PORT", "receives over one connection until its end", net::tcpsink),
    ("bench", "[NAME...]", "ticks and nanoseconds per operation", bench::run),
    ("noop", "", "does nothing: what the others execute", |_| Ok(())),
];

fn main() -> ExitCode {
    // Rust's runtime ignores it; a reader of our output that goes away is to end us as it ends any program.
    let _ = user_sys::Handler::install_function(libc::SIGPIPE, libc::SIG_DFL, 0, &[]);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let chosen = args.first().and_then(|name| SUBCOMMANDS.iter().find(|subcommand| subcommand.0 == name));
    let Some((name, _, _, run)) = chosen else {
        return usage();
    };
    let options = match Options::parse(&args[1..]) {
        Ok(options) => options,
        Err(message) => return complain(name, &message, 2),
    };
    match run(&options) {
        Ok(()) => {
            println!("{name}: ok");
            ExitCode::SUCCESS
        }
        Err(message) => complain(name, &message, 1),
    }
}

/// Says what is wrong, on both outputs' better one: a console shows either.
fn complain(name: &str, message: &str, status: u8) -> ExitCode {
    println!("{name}: {message}");
    ExitCode::from(status)
}

/// Prints the subcommands.
fn usage() -> ExitCode {
    println!("usage: torture SUBCOMMAND [ARGUMENTS] [--in-guest] [--limit N]");
    for (name, arguments, purpose, _) in SUBCOMMANDS {
        println!("  {:<34}{purpose}", format!("{name} {arguments}"));
    }
    ExitCode::from(2)
}
