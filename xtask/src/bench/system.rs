//! A guest to measure: nrk or Linux, with redis-server on a tap, on the same QEMU line.

use std::fmt;
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::linux::LinuxKernel;
use super::pong;
use crate::cmdline::Boot;
use crate::namespace::{Namespace, TAP};
use crate::qemu::{Machine, Nic, tap_netdev};
use crate::run::{REDIS_ARGUMENTS, default_program};
use crate::watched::Watched;
use crate::{build, pack, workspace};

/// How long a guest may take until it answers.
const PATIENCE: Duration = Duration::from_secs(120);
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

/// A kernel and an initramfs, ready to be started again and again.
pub struct System {
    /// Which kernel.
    pub kind: Kind,
    shape: Shape,
    machine: Machine,
    _folder: TempDir,
}

impl System {
    /// Builds or fetches what the guest needs.
    pub fn new(kind: Kind, shape: Shape) -> Result<Self> {
        let folder = workspace::scratch()?;
        let (kernel, initramfs, cmdline) = match kind {
            Kind::Nrk => nrk()?,
            Kind::Linux => linux(shape.nic)?,
        };
        let machine = Machine {
            initramfs: Some(initramfs),
            cmdline,
            cores: shape.cores,
            memory: shape.memory,
            nic: shape.nic,
            netdev: Some(tap_netdev(TAP)),
            ..Machine::new(&kernel, &folder.path().join("status"))?
        };
        machine.check()?;
        Ok(Self { kind, shape, machine, _folder: folder })
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
        Ok(Running { namespace, guest, to_program, to_answer })
    }
}

/// A guest that answers. It ends when this is dropped.
pub struct Running {
    /// Where clients are started.
    pub namespace: Namespace,
    guest: Watched,
    /// From QEMU's start to the program's first line.
    pub to_program: Duration,
    /// From QEMU's start to the first PONG.
    pub to_answer: Duration,
}

impl Running {
    /// Runs a client against the guest and returns its lines.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Result<Vec<String>> {
        let mut command = self.namespace.enter(program);
        command.args(arguments);
        let lines = Watched::start(command, false)?.succeed(Duration::from_secs(900));
        lines.with_context(|| format!("the guest's console:\n{}", self.guest.lines().join("\n")))
    }
}

/// Kernel, initramfs and command line of a system.
type Parts = (PathBuf, PathBuf, std::ffi::OsString);

fn nrk() -> Result<Parts> {
    let kernel = build::kernel(build::Features::default())?;
    let packed = pack::initramfs(&contents())?;
    let arguments = REDIS_ARGUMENTS.map(Into::into);
    let init = Some(packed.init.as_path());
    let boot =
        Boot { log: "warn", networked: true, term: "dumb", init, arguments: &arguments, ..Boot::default() };
    Ok((kernel, packed.path, boot.line()?))
}

fn linux(nic: Nic) -> Result<Parts> {
    let kernel = LinuxKernel::obtain(nic)?;
    let (mut image, redis) = pack::tree(&contents())?;
    kernel.add_to(&mut image, nic, &redis)?;
    let path = workspace::target().join(format!("initramfs/linux-{nic}.cpio"));
    workspace::write_atomically(&path, |file| image.write(BufWriter::new(file)))?;
    let words = format!("console=ttyS0 quiet mitigations=off rdinit={}", super::linux::INIT);
    Ok((kernel.image, path, words.into()))
}

fn contents() -> pack::Contents {
    pack::Contents { program: Some(default_program()), ..pack::Contents::default() }
}
