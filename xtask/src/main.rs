//! The commands of the nrk workspace: `cargo xtask --help`.
#![deny(unsafe_code)]

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{bench, build, check, conformance, profile, run, setup, test};

/// The status when a command itself fails, as opposed to the program in the guest.
const FAILED: u8 = 125;

/// The commands of the nrk workspace
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on this machine (the other commands do it by themselves)
    Setup,
    /// Build the kernel, the user programs and the initramfs
    Build {
        /// Build the kernel that --debug runs, for gdb, and nothing else
        #[arg(long)]
        debug: bool,
    },
    /// Start a program of this machine in a guest; without PROGRAM: redis-server
    Run(Box<run::Options>),
    /// Run the tests
    Test(test::Options),
    /// Compare what programs see of nrk with this machine's Linux
    Conformance(conformance::Options),
    /// Measure nrk, side by side with Linux, or its parts
    Bench {
        /// What is measured
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Count a guest's instructions by function, and draw who calls whom
    Profile(Box<profile::Options>),
    /// Check format, lints, documentation and spelling
    Check {
        /// Only these checks
        #[arg(value_enum)]
        checks: Vec<check::Check>,
    },
    /// Wait until a redis-server answers (the benchmarks start this in a namespace)
    #[command(hide = true)]
    AwaitPong {
        /// The server
        address: SocketAddr,
    },
}

fn main() -> ExitCode {
    match execute(Line::parse().command) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn execute(command: Command) -> Result<u8> {
    match command {
        Command::Setup => setup::all().map(|()| 0),
        Command::Build { debug } => if debug { build::for_gdb() } else { build::all() }.map(|()| 0),
        Command::Run(options) => run::run(*options),
        Command::Test(options) => test::run(&options),
        Command::Conformance(options) => conformance::run(&options),
        Command::Bench { bench } => bench::run(&bench),
        Command::Profile(options) => profile::run(*options),
        Command::Check { checks } => check::run(&checks),
        Command::AwaitPong { address } => bench::pong::wait(address).map(|()| 0),
    }
}
