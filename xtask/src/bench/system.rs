//! A guest to measure: nrk or Linux, on the same QEMU line and with the same program: redis-server on a tap, or one that
//! measures by itself and ends.

use std::ffi::OsString;
use std::fmt;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::linux::LinuxKernel;
use super::pong;
use crate::cmdline::Boot;
use crate::monitor::Monitor;
use crate::namespace::{Namespace, TAP};
use crate::profile::plugin::Plugin;
use crate::qemu::{Machine, Nic, tap_netdev};
use crate::run::{REDIS_ARGUMENTS, default_program};
use crate::watched::Watched;
use crate::{build, pack, process, workspace};

/// How long a guest may take until it answers.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a client may take: many times what it needs on a slow machine.
const CLIENT_PATIENCE: Duration = Duration::from_secs(300);
/// The first thing that redis-server prints.
const FIRST_LINE: &str = "Redis is starting";

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Ours.
    Nrk,
    /// Debian's.
    Linux,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nrk => "nrk",
            Self::Linux => "linux",
        })
    }
}

/// What the guest's machine looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The network card.
    pub nic: Nic,
    /// Cores.
    pub cores: u32,
    /// Memory in MiB.
    pub memory: u32,
}

/// What runs in the guest.
#[derive(Debug, Clone)]
pub struct Program {
    contents: pack::Contents,
    arguments: Vec<OsString>,
}

impl Program {
    /// The machine's own redis-server.
    pub fn redis() -> Self {
        let contents = pack::Contents { program: Some(default_program()), ..pack::Contents::default() };
        Self { contents, arguments: REDIS_ARGUMENTS.map(Into::into).into() }
    }

    /// A program of user/.
    pub fn user(name: &str, arguments: &[&str]) -> Result<Self> {
        let path = Path::new("/bin").join(name);
        let files = vec![(build::user_programs()?.join(name), path.clone())];
        let contents = pack::Contents { program: Some(path), files, ..pack::Contents::default() };
        Ok(Self { contents, arguments: arguments.iter().map(Into::into).collect() })
    }

    /// In words for a shell, under the path that it has in the guest.
    fn line(&self, path: &Path) -> String {
        let words =
            std::iter::once(path.as_os_str()).chain(self.arguments.iter().map(|word| word.as_os_str()));
        words.map(process::shell_word).collect::<Vec<_>>().join(" ")
    }
}

/// A kernel and an initramfs, ready to be started again and again.
pub struct System {
    /// Which kernel.
    pub kind: Kind,
    shape: Shape,
    machine: Machine,
    folder: TempDir,
}

impl System {
    /// Builds or fetches what the guest needs.
    pub fn new(kind: Kind, shape: Shape, program: &Program) -> Result<Self> {
        let folder = workspace::scratch()?;
        let (kernel, initramfs, cmdline) = match kind {
            Kind::Nrk => nrk(shape.nic, program)?,
            Kind::Linux => linux(shape.nic, program)?,
        };
        let machine = Machine {
            initramfs: Some(initramfs),
            cmdline,
            cores: shape.cores,
            memory: shape.memory,
            nic: shape.nic,
            netdev: (shape.nic != Nic::None).then(|| tap_netdev(TAP)),
            monitor: Some(folder.path().join("monitor")),
            ..Machine::new(&kernel, &folder.path().join("status"))?
        };
        machine.check()?;
        Ok(Self { kind, shape, machine, folder })
    }

    /// Has the guest's instructions counted.
    pub fn profiled(mut self, plugin: &Plugin) -> Self {
        self.machine = plugin.watch(self.machine);
        self
    }

    /// The kernel's image.
    pub fn kernel(&self) -> &Path {
        &self.machine.kernel
    }

    /// Runs the guest until `last` appears in a line, with a clock that counts instructions. Returns the lines, which are the same
    /// on every run with the same `seed`.
    pub fn count_instructions(&self, last: &str, seed: u32) -> Result<Vec<String>> {
        let machine = self.machine.clone().counting(seed);
        let guest = Watched::start(machine.command(None), false)?;
        guest.expect(last, PATIENCE)?;
        Ok(guest.lines())
    }

    /// Starts the guest in a namespace of its own, and waits until redis answers.
    pub fn start(&self) -> Result<Running> {
        let namespace = Namespace::with_dhcp()?;
        let pong = Watched::start(pong::command(&namespace)?, false)?;
        pong.expect(pong::KNOCKING, PATIENCE)?;
        let started = Instant::now();
        let guest = Watched::start(self.machine.command(Some(&namespace)), false)?;
        let describe = || format!("{} with {} does not answer", self.kind, self.shape.nic);
        guest.expect(FIRST_LINE, PATIENCE).with_context(describe)?;
        let to_program = started.elapsed();
        let answered = pong.expect(pong::ANSWERED, PATIENCE);
        let to_answer = started.elapsed();
        answered.with_context(|| format!("{}; its console:\n{}", describe(), guest.lines().join("\n")))?;
        let monitor = self.folder.path().join("monitor");
        Ok(Running { namespace, guest, monitor, to_program, to_answer })
    }
}

/// A guest that answers. It ends when this is dropped.
pub struct Running {
    /// Where clients are started.
    pub namespace: Namespace,
    guest: Watched,
    monitor: PathBuf,
    /// From QEMU's start to the program's first line.
    pub to_program: Duration,
    /// From QEMU's start to the first PONG.
    pub to_answer: Duration,
}

impl Running {
    /// Ends the guest such that QEMU does its last work.
    pub fn quit(mut self) -> Result<()> {
        process::terminate(self.guest.child(), PATIENCE)?.context("QEMU does not end")?;
        Ok(())
    }

    /// Runs a client against the guest and returns its lines. If it fails, or does not end, the error has what both sides know
    /// of their connections.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Result<Vec<String>> {
        let mut command = self.namespace.enter(program);
        command.args(arguments);
        let mut client = Watched::start(command, false)?;
        let sides = if client.ends_within(CLIENT_PATIENCE)? { String::new() } else { self.both_sides() };
        client
            .succeed(Duration::ZERO)
            .with_context(|| format!("{sides}the guest's console:\n{}", self.guest.lines().join("\n")))
    }

    /// This machine's connections to the guest; the guest's appear on its console.
    fn both_sides(&self) -> String {
        Monitor::dump(&self.monitor);
        let connections = self.namespace.enter("ss").arg("-tnoi").output();
        let connections = connections.map_or_else(
            |error| format!("{error}"),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        format!("this machine's connections:\n{connections}\n")
    }
}

/// Kernel, initramfs and command line of a system.
type Parts = (PathBuf, PathBuf, OsString);

fn nrk(nic: Nic, program: &Program) -> Result<Parts> {
    let kernel = build::kernel(build::Profile::Release)?;
    let packed = pack::initramfs(&program.contents)?;
    let boot = Boot {
        log: "warn",
        networked: nic != Nic::None,
        term: "dumb",
        init: Some(packed.init.as_path()),
        arguments: &program.arguments,
        ..Boot::default()
    };
    Ok((kernel, packed.path, boot.line()?))
}

fn linux(nic: Nic, program: &Program) -> Result<Parts> {
    let kernel = LinuxKernel::obtain(nic)?;
    let (mut image, path) = pack::tree(&program.contents)?;
    kernel.add_to(&mut image, nic, &program.line(&path))?;
    let path = workspace::target().join(format!("initramfs/linux-{nic}.cpio"));
    workspace::write_atomically(&path, |file| image.write(BufWriter::new(file)))?;
    let words = format!("console=ttyS0 quiet mitigations=off rdinit={}", super::linux::INIT);
    Ok((kernel.image, path, words.into()))
}
