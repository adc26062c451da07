//! A guest under test: started in a pseudo-terminal, read line by line, and asked for its exit status.
//!
//! [`Setup`] says what runs, [`Guest`] is the running thing. Every error carries the whole console, so a failed test
//! explains itself. The command line that starts the same guest by hand is printed (see it with `--nocapture`).
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

use crate::cmdline::Boot;
use crate::exit::Ending;
use crate::namespace::{Namespace, TAP};
use crate::qemu::{Console, Forward, Machine, Nic, tap_netdev, user_netdev};
use crate::{build, pack, setup, workspace};

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
    tap: bool,
    forwards: Vec<Forward>,
    cut: Option<fn(u64) -> u64>,
    patience: Duration,
    extra: Vec<OsString>,
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
            tap: false,
            forwards: Vec::new(),
            cut: None,
            patience: PATIENCE,
            extra: Vec::new(),
        }
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

    /// A network card on the tap of the namespace in which the guest is started.
    pub fn tap(mut self, nic: Nic) -> Self {
        (self.nic, self.tap) = (nic, true);
        self
    }

    /// A network card on QEMU's user-mode network.
    pub fn user_network(mut self, nic: Nic, forwards: &[Forward]) -> Self {
        (self.nic, self.forwards) = (nic, forwards.to_vec());
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
        install_once()?;
        let folder = workspace::scratch()?;
        let machine = self.machine(folder.path())?;
        println!("{}", self.by_hand(&machine));
        let options = Options::new().timeout_ms(Some(self.patience.as_millis() as u64));
        let session = spawn_with_options(machine.command(namespace), options).context("cannot start QEMU")?;
        Ok(Guest { session, machine, _folder: folder, ended: false })
    }

    /// Starts the guest and waits for its end; returns what it printed.
    pub fn run(&self, expected: Ending) -> Result<String> {
        self.start()?.finish(expected)
    }

    fn machine(&self, folder: &Path) -> Result<Machine> {
        let (mut initramfs, mut init) = (None, None);
        if self.contents.program.is_some() {
            let packed = pack::initramfs(&self.contents)?;
            (initramfs, init) = (Some(packed.path), Some(packed.init));
        }
        if let (Some(left), Some(whole)) = (self.cut, &initramfs) {
            initramfs = Some(cut_short(whole, left)?);
        }
        let machine = Machine {
            initramfs,
            cmdline: self.command_line(init.as_deref())?,
            cores: self.cores,
            nodes: self.nodes,
            memory: self.memory,
            nic: self.nic,
            netdev: Some(if self.tap { tap_netdev(TAP) } else { user_netdev(&self.forwards) }),
            console_log: Some(folder.join("console")),
            extra: self.extra.clone(),
            ..Machine::new(test_kernel()?, &folder.join("status"))?
        };
        machine.check()?;
        Ok(machine)
    }

    fn command_line(&self, init: Option<&Path>) -> Result<OsString> {
        let words = self.words.join(" ");
        let networked = self.nic != Nic::None;
        Boot {
            log: "warn",
            networked,
            tty: None,
            term: "dumb",
            words: &words,
            init,
            arguments: &self.arguments,
        }
        .line()
    }

    /// The same guest on a person's terminal, without what vanishes with the test.
    fn by_hand(&self, machine: &Machine) -> String {
        let status = workspace::target().join("exit-status");
        let line =
            Machine { console: Console::Terminal, console_log: None, status, ..machine.clone() }.by_hand();
        if self.tap { Namespace::line_around(&line) } else { line }
    }
}

/// A running guest.
pub struct Guest {
    session: PtySession,
    machine: Machine,
    ended: bool,
    _folder: TempDir,
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
        Ok(self.console())
    }

    /// Ends the guest, which must still be running; returns the whole console.
    pub fn stop(mut self) -> Result<String> {
        if let Some(ending) = self.session.process().status().and_then(|status| self.ending(status)) {
            self.ended = true;
            return Err(self.failure(format!("the guest ended too early: {ending}")));
        }
        self.kill();
        Ok(self.console())
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

    /// An error that shows the console.
    pub fn failure(&self, what: String) -> anyhow::Error {
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

/// The kernel with the tests' mains, built once per process.
pub fn test_kernel() -> Result<&'static Path> {
    static KERNEL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let features = build::Features { integration_test: true };
    once(&KERNEL, || build::kernel(features)).map(PathBuf::as_path)
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
