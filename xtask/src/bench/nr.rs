//! `cargo xtask bench nr`: node replication beside what people use instead, on this machine and without a guest.
//!
//! The program that measures is `crates/nr-bench`; here it is built, and started with the arguments as they are.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::progress::Step;
use crate::{process, toolchain, workspace};

/// The arguments of nr-bench.
#[derive(Debug, Clone, Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Options of nr-bench; --help shows them
    #[arg(allow_hyphen_values = true, trailing_var_arg = true, value_name = "OPTIONS")]
    arguments: Vec<OsString>,
}

/// Measures; the status is nr-bench's own.
pub fn run(options: &Options) -> Result<u8> {
    let step = Step::new("building nr-bench");
    process::run(toolchain::cargo().args(["build", "--release", "--package", "nr-bench"]), &step)?;
    drop(step);
    // In the caller's folder, which the names of files are relative to.
    let mut bench = Command::new(workspace::target().join("release/nr-bench"));
    let status = bench.args(&options.arguments).status().context("cannot start nr-bench")?;
    status.code().and_then(|code| code.try_into().ok()).context("nr-bench was killed")
}
