//! A guest under test: started in a pseudo-terminal, read line by line, and asked for its exit status.
//!
//! [`Setup`] says what runs, [`Guest`] is the running thing. Every error carries the whole console, so a failed test
//! explains itself; a guest that still runs is first asked for its [dump](Monitor::dump). The command line that starts the same guest by hand is printed (see it with `--nocapture`).
//! What a guest sends over a tap is recorded, and judged at its end, see [`crate::capture`].
//! QEMU is killed by its id when the guest is dropped, and by the kernel when the test's thread is gone.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rexpect::process::{Signal, WaitStatus};
use rexpect::reader::Options;
use rexpect::session::{PtySession, spawn_with_options};
use tempfile::TempDir;

use crate::accel::Accelerator;
use crate::build::{self, Profile};
use crate::capture::{self, Network};
use crate::cmdline::{Boot, Terminals};
use crate::exit::Ending;
use crate::monitor::Monitor;
use crate::namespace::{Namespace, TAP};
use crate::profile::plugin::Plugin;
use crate::qemu::{self, Console, Forward, Gdb, MAC, Machine, Nic, tap_netdev, user_netdev};
use crate::relay::Relay;
use crate::{gdb, pack, setup, workspace};

/// How long a guest may be silent before a test gives up. Generous: without KVM, and with a guest per core, a step that
/// takes a moment alone can take many times that.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a guest that does not end may be given that time again because it goes on printing.
const MAX_EXTENSIONS: usize = 10;
/// What the programs of user/ are called in a guest.
const USER_PROGRAMS: &str = "/bin";

/// What to start.
#[derive(Debug, Clone)]
pub struct Setup {
    contents: pack::Contents,
    arguments: Vec<OsString>,
    words: Vec<String>,
    cores: u32,
    nodes: u32,
    memory: u32,
    nic: Nic,
    /// QEMU's `-netdev`.
    netdev: String,
    /// What is expected of the frames that the guest sends, if they are recorded.
    judged: Option<Network>,
    cut: Option<fn(u64) -> u64>,
    patience: Duration,
    /// The seed of a machine that counts instructions, see [`Machine::counting`].
    seed: Option<u32>,
    debugged: bool,
    plugin: Option<Plugin>,
    extra: Vec<OsString>,
    /// For a test, which prints how to start its guest and needs more than a guest.
    for_test: bool,
}

impl Setup {
    /// A kernel-side main of the integration tests.
    pub fn kernel_test(name: &str) -> Self {
        let mut setup = Self::bare();
        setup.words.push(format!("test={name}"));
        setup
    }

    /// A program of this machine, as init.
    pub fn program<A: AsRef<str>>(program: impl AsRef<Path>, arguments: &[A]) -> Self {
        let mut setup = Self::bare();
        setup.contents.program = Some(program.as_ref().to_path_buf());
        setup.arguments = arguments.iter().map(|argument| argument.as_ref().into()).collect();
        setup
    }

    /// A program of user/, as init.
    pub fn user_program<A: AsRef<str>>(name: &str, arguments: &[A]) -> Result<Self> {
        Self::program(Path::new(USER_PROGRAMS).join(name), arguments).with_user_program(name)
    }

    fn bare() -> Self {
        Self {
            contents: pack::Contents::default(),
            arguments: Vec::new(),
            words: Vec::new(),
            cores: 1,
            nodes: 1,
            memory: 512,
            nic: Nic::None,
            netdev: user_netdev(&[]),
            judged: None,
            cut: None,
            patience: PATIENCE,
            seed: None,
            debugged: false,
            plugin: None,
            extra: Vec::new(),
            for_test: true,
        }
    }

    /// For a command instead of a test: it prints nothing, and installs only what starts a guest.
    pub fn for_a_command(mut self) -> Self {
        self.for_test = false;
        self
    }

    /// Packs a program of user/ besides init.
    pub fn with_user_program(mut self, name: &str) -> Result<Self> {
        self.contents.files.push((user_program(name)?, Path::new(USER_PROGRAMS).join(name)));
        Ok(self)
    }

    /// Packs a file of this machine under a path of the guest.
    pub fn with_file(mut self, host: impl Into<PathBuf>, guest: impl Into<PathBuf>) -> Self {
        self.contents.files.push((host.into(), guest.into()));
        self
    }

    /// More words for the kernel's command line.
    pub fn cmdline(mut self, words: &str) -> Self {
        self.words.push(words.to_string());
        self
    }

    /// Cores and NUMA nodes.
    pub fn cores(mut self, cores: u32, nodes: u32) -> Self {
        (self.cores, self.nodes) = (cores, nodes);
        self
    }

    /// Memory in MiB.
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// A network card on the tap of the namespace in which the guest is started. What it sends must be sound, and
    /// nothing in vain.
    pub fn tap(mut self, nic: Nic) -> Self {
        (self.nic, self.netdev) = (nic, tap_netdev(TAP));
        self.judge(Some(Network::Clean))
    }

    /// A network card on a relay of the namespace in which the guest is started. What it sends must be sound.
    pub fn relay(mut self, nic: Nic, relay: &Relay) -> Self {
        (self.nic, self.netdev) = (nic, relay.netdev());
        self.judge(Some(Network::Bad))
    }

    /// A network card on QEMU's user-mode network.
    pub fn user_network(mut self, nic: Nic, forwards: &[Forward]) -> Self {
        (self.nic, self.netdev) = (nic, user_netdev(forwards));
        self
    }

    /// What is expected of the frames that the guest sends; `None`: they are not recorded.
    pub fn judge(mut self, network: Option<Network>) -> Self {
        self.judged = network;
        self
    }

    /// Cuts the initramfs short: from its length to the one that is left.
    pub fn cut_initramfs(mut self, left: fn(u64) -> u64) -> Self {
        self.cut = Some(left);
        self
    }

    /// How long the guest may be silent.
    pub fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// A clock that counts instructions, and the same course of events on every run with the same `seed`.
    pub fn counting(mut self, seed: u32) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Runs the kernel for gdb, which waits for [`Guest::gdb`] before its first instruction.
    pub fn debugged(mut self) -> Self {
        self.debugged = true;
        self
    }

    /// Has the guest's instructions counted.
    pub fn profiled(mut self, plugin: &Plugin) -> Self {
        self.plugin = Some(plugin.clone());
        self
    }

    /// More options for QEMU.
    pub fn qemu<A: Into<OsString>>(mut self, options: impl IntoIterator<Item = A>) -> Self {
        self.extra.extend(options.into_iter().map(Into::into));
        self
    }

    /// Starts the guest.
    pub fn start(&self) -> Result<Guest> {
        self.start_in(None)
    }

    /// Starts the guest in a namespace, on its tap.
    pub fn start_in(&self, namespace: Option<&Namespace>) -> Result<Guest> {
        if self.for_test { install_once() } else { setup::require(setup::RUN) }?;
        let folder = workspace::scratch()?;
        let (machine, code) = self.machine(folder.path())?;
        if self.for_test {
            println!("{}", self.by_hand(&machine));
        }
        let options = Options::new().timeout_ms(Some(self.patience.as_millis() as u64));
        let session = spawn_with_options(machine.command(namespace), options).context("cannot start QEMU")?;
        Ok(Guest { session, machine, code, judged: self.judged, folder, ended: false })
    }

    /// Starts the guest and waits for its end; returns what it printed.
    pub fn run(&self, expected: Ending) -> Result<String> {
        self.start()?.finish(expected)
    }

    /// The guest, and the file of this machine with the code that runs in it.
    fn machine(&self, folder: &Path) -> Result<(Machine, Option<PathBuf>)> {
        let (mut initramfs, mut init, mut code) = (None, None, None);
        if self.contents.program.is_some() {
            let packed = pack::initramfs(&self.contents)?;
            (initramfs, init, code) = (Some(packed.path), Some(packed.init), packed.code);
        }
        if let (Some(left), Some(whole)) = (self.cut, &initramfs) {
            initramfs = Some(cut_short(whole, left)?);
        }
        let kernel = if self.debugged { debugged_kernel()? } else { test_kernel()? };
        let mut machine = Machine {
            initramfs,
            cmdline: self.command_line(init.as_deref())?,
            cores: self.cores,
            nodes: self.nodes,
            memory: self.memory,
            nic: self.nic,
            netdev: Some(self.netdev.clone()),
            pcap: self.judged.map(|_| folder.join("frames.pcap")),
            monitor: Some(monitor_of(folder)),
            console_log: Some(folder.join("console")),
            gdb: self.debugged.then(|| Gdb::Socket(folder.join("gdb"))),
            extra: self.extra.clone(),
            ..Machine::new(kernel, &folder.join("status"))?
        };
        machine.check()?;
        if self.debugged {
            machine.accelerator = Accelerator::for_debugging()?;
        }
        let machine = match (self.seed, &self.plugin) {
            (Some(seed), _) => machine.counting(seed),
            (None, Some(plugin)) => plugin.watch(machine),
            (None, None) => machine,
        };
        Ok((machine, code))
    }

    fn command_line(&self, init: Option<&Path>) -> Result<OsString> {
        let words = self.words.join(" ");
        let networked = self.nic != Nic::None;
        Boot {
            log: "warn",
            networked,
            tty: None,
            terminals: Terminals::BOTH,
            term: "dumb",
            fixed_addresses: self.debugged,
            words: &words,
            init,
            arguments: &self.arguments,
        }
        .line()
    }

    /// The same guest on a person's terminal, without what vanishes with the test.
    fn by_hand(&self, machine: &Machine) -> String {
        let status = workspace::target().join("exit-status");
        let line = Machine {
            console: Console::Terminal,
            console_log: None,
            pcap: None,
            monitor: None,
            gdb: machine.gdb.as_ref().map(|_| Gdb::Port(gdb::PORT)),
            status,
            ..machine.clone()
        };
        let line = line.by_hand();
        if self.netdev == tap_netdev(TAP) { Namespace::line_around(&line) } else { line }
    }
}

/// A running guest.
pub struct Guest {
    session: PtySession,
    machine: Machine,
    /// See [`pack::Packed::code`].
    code: Option<PathBuf>,
    judged: Option<Network>,
    ended: bool,
    folder: TempDir,
}

impl Guest {
    /// Waits until the console shows a text; returns what came before it.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        let seen = self.session.exp_string(text);
        seen.map_err(|error| self.failure(format!("waiting for {text:?}: {}", reason(&error))))
    }

    /// Waits until the console shows a match of a regular expression; returns the match.
    pub fn expect_match(&mut self, pattern: &str) -> Result<String> {
        let seen = self.session.exp_regex(pattern);
        let seen =
            seen.map_err(|error| self.failure(format!("waiting for /{pattern}/: {}", reason(&error))))?;
        Ok(seen.1)
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.type_text(&format!("{line}\n"))
    }

    /// Types characters, control characters among them.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.session.send(text).context("the console is closed")?;
        self.session.flush().context("the console is closed")
    }

    /// Waits for the end and insists on how the guest ended; returns the whole console.
    pub fn finish(mut self, expected: Ending) -> Result<String> {
        let ending = self.wait()?;
        if ending != expected {
            return Err(self.failure(format!("expected that {expected}, but {ending}")));
        }
        self.judge()?;
        Ok(self.console())
    }

    /// Ends the guest, which must still be running; returns the whole console.
    pub fn stop(mut self) -> Result<String> {
        if let Some(ending) = self.session.process().status().and_then(|status| self.ending(status)) {
            self.ended = true;
            return Err(self.failure(format!("the guest ended too early: {ending}")));
        }
        self.kill();
        self.judge()?;
        Ok(self.console())
    }

    /// Ends the guest, which must still be running, after something was done with it; an error shows the console.
    pub fn stop_after<T>(self, result: Result<T>) -> Result<T> {
        match result {
            Ok(value) => self.stop().map(|_| value),
            Err(error) => Err(self.failure(format!("{error:#}"))),
        }
    }

    /// What the guest has sent so far to a UDP port, in this order; it is on a tap.
    pub fn sent_datagrams(&self, port: u16) -> Result<Vec<Vec<u8>>> {
        let record = self.machine.pcap.as_ref().context("what the guest sends is not recorded")?;
        capture::datagrams(record, MAC, port)
    }

    /// Has gdb execute commands in a guest that waits for it; returns what gdb wrote. When gdb leaves, the guest goes on.
    pub fn gdb(&self, commands: &[&str]) -> Result<String> {
        let server = self.machine.gdb.as_ref().context("the guest is not to be debugged")?;
        let session = gdb::Session { kernel: &self.machine.kernel, program: self.code.as_deref(), server };
        session.execute(commands, self.folder.path()).map_err(|error| self.failure(format!("{error:#}")))
    }

    /// QEMU's monitor.
    pub fn monitor(&self) -> Result<Monitor> {
        let path = monitor_of(self.folder.path());
        qemu::await_socket(&path)?;
        Monitor::connect(&path)
    }

    /// An error if the guest, which has ended, sent what it should not have.
    fn judge(&self) -> Result<()> {
        let (Some(file), Some(network)) = (&self.machine.pcap, self.judged) else { return Ok(()) };
        let Err(error) = capture::check(file, MAC, network) else { return Ok(()) };
        let kept = workspace::target().join("frames.pcap");
        std::fs::copy(file, &kept)?;
        Err(self.failure(format!("{error:#}\nthe record: {}", kept.display())))
    }

    /// Waits for the end of the guest, as long as it goes on printing.
    pub fn wait(&mut self) -> Result<Ending> {
        let mut seen = 0;
        for _ in 0..MAX_EXTENSIONS {
            let printed = match self.session.exp_eof() {
                Err(rexpect::error::Error::Timeout { got, .. }) => got.len(),
                Err(error) => return Err(self.failure(format!("the end of the guest: {}", reason(&error)))),
                Ok(_) => {
                    let status = self.session.process().wait().context("QEMU's exit status is lost")?;
                    self.ended = true;
                    return self.ending(status).context("QEMU is stopped");
                }
            };
            if printed == seen {
                break;
            }
            seen = printed;
        }
        Err(self.failure("the guest does not end".into()))
    }

    /// Everything that the console showed so far.
    pub fn console(&self) -> String {
        let log =
            self.machine.console_log.as_ref().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        String::from_utf8_lossy(&log).replace('\r', "")
    }

    /// An error that shows the console, and there what a guest that still runs is doing.
    pub fn failure(&self, what: String) -> anyhow::Error {
        if !self.ended {
            Monitor::dump(&monitor_of(self.folder.path()));
        }
        anyhow!("{what}\n--- console ---\n{}\n--- end of console ---", self.console().trim_end())
    }

    /// How the guest ended, `None` if it has not.
    fn ending(&self, status: WaitStatus) -> Option<Ending> {
        let raw = match status {
            WaitStatus::Exited(_, code) => code << 8,
            WaitStatus::Signaled(_, signal, _) => signal as i32,
            _ => return None,
        };
        Some(Ending::read(ExitStatus::from_raw(raw), &self.machine.status))
    }

    fn kill(&mut self) {
        if !self.ended {
            // It can only have ended by itself.
            let _ = self.session.process_mut().signal(Signal::SIGKILL);
            let _ = self.session.process().wait();
            self.ended = true;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the monitor of a guest listens.
fn monitor_of(folder: &Path) -> PathBuf {
    folder.join("monitor")
}

/// The short form of rexpect's error; the console is shown anyway.
fn reason(error: &rexpect::error::Error) -> &'static str {
    match error {
        rexpect::error::Error::EOF { .. } => "the guest ended",
        rexpect::error::Error::Timeout { .. } => "the time is over",
        _ => "the console cannot be read",
    }
}

/// An error unless the console shows all texts (in any order, in either case).
pub fn shows(console: &str, texts: &[&str]) -> Result<()> {
    let lower = console.to_lowercase();
    match texts.iter().find(|text| !lower.contains(&text.to_lowercase())) {
        None => Ok(()),
        Some(text) => bail!("the console does not show {text:?}:\n{console}"),
    }
}

/// Set for the tests: they run the kernel that is measured, not the one of every day.
pub const RELEASE: &str = "NRK_TEST_RELEASE";
/// Set for the tests: they take the amounts that find more, and longer.
pub const LONG: &str = "NRK_TEST_LONG";

/// How much of something a test takes: the first from day to day, the second with `cargo xtask test --long`.
pub fn amount<T>(daily: T, long: T) -> T {
    if is_set(LONG) { long } else { daily }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// The kernel, built once per process.
pub fn test_kernel() -> Result<&'static Path> {
    static KERNEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&KERNEL, || build::kernel(Profile::released(is_set(RELEASE)))).map(PathBuf::as_path)
}

/// The kernel for gdb, built once per process.
fn debugged_kernel() -> Result<&'static Path> {
    static KERNEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&KERNEL, || build::kernel(Profile::Debugging)).map(PathBuf::as_path)
}

/// The path of a program of user/ on this machine; all are built once per process.
pub fn user_program(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let path = once(&FOLDER, build::user_programs)?.join(name);
    if path.is_file() { Ok(path) } else { bail!("user/ has no program {name}") }
}

/// A command for a program of user/ on this machine.
pub fn user_command(name: &str) -> Result<Command> {
    user_program(name).map(Command::new)
}

fn install_once() -> Result<()> {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    once(&INSTALLED, || {
        let _lock = workspace::lock("setup")?;
        [setup::RUN, setup::REDIS, setup::NETWORK, setup::TEST].into_iter().try_for_each(setup::require)
    })
    .copied()
}

fn once<T>(
    cell: &'static OnceLock<Result<T, String>>,
    make: impl FnOnce() -> Result<T>,
) -> Result<&'static T> {
    cell.get_or_init(|| make().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

/// A copy of a file that ends early.
fn cut_short(whole: &Path, left: fn(u64) -> u64) -> Result<PathBuf> {
    let from = std::fs::File::open(whole)?;
    let length = left(from.metadata()?.len());
    let path = whole.with_extension(format!("{length}.cpio"));
    workspace::write_atomically(&path, |file| Ok(std::io::copy(&mut from.take(length), file).map(|_| ())?))?;
    Ok(path)
}
