//! `cargo xtask check`: what is checked besides the tests: format, clippy for this machine and for the kernel's
//! target, spelling.

use std::io::IsTerminal;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::setup::{self, Need};
use crate::toolchain::{self, Toolchain};
use crate::{host, workspace};

/// The spell checker; its settings are in .codespellrc.
const SPELLING: Need = Need { program: "codespell", package: "codespell" };

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// rustfmt
    Format,
    /// clippy for this machine, warnings denied
    Clippy,
    /// clippy for the kernel's target, of the kernel and of what is to run in it
    ClippyKernel,
    /// codespell
    Spelling,
}

/// Runs the named checks, or all; the status is 1 if one failed.
pub fn run(checks: &[Check]) -> Result<u8> {
    let checks = if checks.is_empty() { Check::value_variants() } else { checks };
    let mut failed = Vec::new();
    for check in checks {
        let name = check.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default();
        eprintln!("check: {name}");
        if !check
            .commands()?
            .iter_mut()
            .map(passes)
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .all(|passed| passed)
        {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        println!("all checks passed");
        return Ok(0);
    }
    println!("failed: {}", failed.join(", "));
    Ok(1)
}

impl Check {
    fn commands(self) -> Result<Vec<Command>> {
        Ok(match self {
            Self::Format => vec![cargo(toolchain::cargo(), &["fmt", "--all", "--check"])],
            Self::Clippy => {
                let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
                vec![cargo(toolchain::cargo(), &arguments)]
            }
            Self::ClippyKernel => {
                let kernel = ["--package", "nrk", "--bin", "nrk"];
                vec![kernel_clippy(&kernel)?, kernel_clippy(&["--package", "nr"])?]
            }
            Self::Spelling => vec![spelling()?],
        })
    }
}

fn cargo(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    if !std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_QUIET", "true");
    }
    command
}

fn kernel_clippy(what: &[&str]) -> Result<Command> {
    let toolchain = Toolchain::obtain()?;
    if toolchain == Toolchain::Debian && !host::is_program("/usr/bin/cargo-clippy".as_ref()) {
        setup::install("clippy of Debian's compiler is not installed", &["rust-web-clippy"])?;
    }
    let mut command = toolchain.cargo("clippy");
    command
        .args(what)
        .arg("--target-dir")
        .arg(workspace::target().join("kernel"))
        .args(["--", "-D", "warnings"]);
    Ok(command)
}

fn spelling() -> Result<Command> {
    setup::require(&[SPELLING])?;
    let tracked = Command::new("git").args(["ls-files"]).current_dir(workspace::root()).output();
    let tracked = tracked.context("cannot start git")?;
    if !tracked.status.success() {
        bail!("git does not list the files: {}", String::from_utf8_lossy(&tracked.stderr).trim());
    }
    let mut command = Command::new("codespell");
    command.current_dir(workspace::root()).args(String::from_utf8_lossy(&tracked.stdout).lines());
    Ok(command)
}

fn passes(command: &mut Command) -> Result<bool> {
    let status =
        command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(status.success())
}
