//! `cargo xtask bench`: nrk side by side with a Linux guest; and [`nr`], node replication side by side with locks.
//!
//! Both kernels run in turn, round by round, on the same QEMU line, with the same programs and the same load from a
//! network namespace of this machine; speeds drift, so only what was measured side by side is compared. [`system`]
//! starts a guest of either kind ([`linux`] prepares Debian's kernel), [`boot`], [`redis`], [`ping`] and [`path`] measure,
//! [`report`] prints medians and ratios.

pub mod boot;
mod chart;
pub mod linux;
pub mod nr;
pub mod path;
pub mod ping;
pub mod pong;
pub mod redis;
pub mod report;
pub mod system;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::progress::Step;
use crate::qemu::Nic;
use crate::{setup, workspace};
use report::Report;
use system::{Kind, Program, Shape, System};

/// What is measured, and how.
#[derive(Debug, Clone, Subcommand)]
pub enum Bench {
    /// From QEMU's start to the program and to its first answer
    Boot(Options),
    /// redis-benchmark SET and GET, plain and with -P 29
    Redis {
        /// As for the others
        #[command(flatten)]
        options: Options,
        /// Count instructions per request by function, instead of measuring requests per second
        #[arg(long, conflicts_with_all = ["against", "rounds", "csv", "plot"])]
        profile: bool,
    },
    /// ping -A and ping -f, 10,000 packets
    Ping(Options),
    /// Instructions per system call and the like; a round has the same figures on every run
    Path(Options),
    /// Node replication beside locks and concurrent maps, on this machine
    Nr(nr::Options),
}

/// What is measured in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// [`boot`]
    Boot,
    /// [`redis`]
    Redis,
    /// [`ping`]
    Ping,
    /// [`path`]
    Path,
}

/// Whom nrk is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Against {
    /// Debian's packaged kernel
    Linux,
}

/// Measures nrk in a guest; prints medians, and ratios if there is something to compare with.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Network card
    #[arg(long, value_enum, default_value_t = Nic::Virtio)]
    pub nic: Nic,
    /// Cores of the guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cores: u32,
    /// Memory of the guest in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..))]
    pub memory: u32,
    /// Another system on the same QEMU line
    #[arg(long, value_enum)]
    pub against: Option<Against>,
    /// How often each system is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Write all measurements to a file
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Draw the ratios into a file
    #[arg(long, value_name = "FILE.svg", requires = "against")]
    pub plot: Option<PathBuf>,
    /// Measure only the system to compare with
    #[arg(long, requires = "against", conflicts_with = "plot", hide = true)]
    pub only_other: bool,
}

/// One measured value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Which of the benchmark's figures.
    pub row: &'static str,
    /// The value, in the row's unit.
    pub value: f64,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More per second.
    Higher,
    /// Less time.
    Lower,
}

/// A figure that a benchmark yields once per round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The unit.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
}

impl Name {
    fn rows(self) -> &'static [Row] {
        match self {
            Self::Boot => &boot::ROWS,
            Self::Redis => &redis::ROWS,
            Self::Ping => &ping::ROWS,
            Self::Path => &path::ROWS,
        }
    }

    fn measure(self, system: &System, round: u32) -> Result<Vec<Sample>> {
        match self {
            Self::Boot => boot::measure(system),
            Self::Redis => redis::measure(system),
            Self::Ping => ping::measure(system),
            Self::Path => path::measure(system, round),
        }
    }

    fn program(self) -> Result<Program> {
        match self {
            Self::Path => Program::user("torture", &["bench"]),
            _ => Ok(Program::redis()),
        }
    }

    /// The card that is asked for, if the benchmark uses one.
    fn nic(self, options: &Options) -> Result<Nic> {
        match (self, options.nic) {
            (Self::Path, _) => Ok(Nic::None),
            (_, Nic::None) => bail!("this benchmark needs a network card: --nic virtio, e1000 or vmxnet3"),
            (_, nic) => Ok(nic),
        }
    }
}

/// Runs a benchmark.
pub fn run(bench: &Bench) -> Result<u8> {
    // Two at a time would measure each other.
    let _alone = workspace::lock("bench")?;
    match bench {
        Bench::Boot(options) => run_in_guest(Name::Boot, options),
        Bench::Redis { options, profile: true } => profile_redis(options),
        Bench::Redis { options, profile: false } => run_in_guest(Name::Redis, options),
        Bench::Ping(options) => run_in_guest(Name::Ping, options),
        Bench::Path(options) => run_in_guest(Name::Path, options),
        Bench::Nr(options) => nr::run(options),
    }
}

fn profile_redis(options: &Options) -> Result<u8> {
    [setup::RUN, setup::REDIS, setup::NETWORK, setup::TEST].into_iter().try_for_each(setup::require)?;
    let nic = Name::Redis.nic(options)?;
    redis::profile(Shape { nic, cores: options.cores, memory: options.memory })?;
    Ok(0)
}

fn run_in_guest(name: Name, options: &Options) -> Result<u8> {
    [setup::RUN, setup::REDIS, setup::NETWORK, setup::TEST].into_iter().try_for_each(setup::require)?;
    if options.against.is_some() {
        setup::require(setup::BENCH)?;
    }
    let shape = Shape { nic: name.nic(options)?, cores: options.cores, memory: options.memory };
    let (program, mut systems) = (name.program()?, Vec::new());
    if !options.only_other {
        systems.push(System::new(Kind::Nrk, shape, &program)?);
    }
    if options.against == Some(Against::Linux) {
        systems.push(System::new(Kind::Linux, shape, &program)?);
    }
    let mut report = Report::new(format!("{name:?}").to_lowercase(), name.rows(), shape);
    for round in 1..=options.rounds {
        for system in &systems {
            let step = Step::new(format!("round {round} of {}: {}", options.rounds, system.kind));
            let samples = name.measure(system, round)?;
            step.say(&report::round_line(round, system.kind, &samples));
            report.add(system.kind, round, &samples);
        }
    }
    print!("{}", report.table());
    if let Some(path) = &options.csv {
        std::fs::write(path, report.csv())?;
    }
    if let Some(path) = &options.plot {
        report.plot(path)?;
    }
    Ok(0)
}
