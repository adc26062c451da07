//! `cargo xtask check`: what is checked besides the tests: format, clippy for this machine and for the kernel's target, the
//! documentation of the code, the book and the links of the documents, spelling.
//!
//! A check that fails names the command that repeats it, and what mends it if something does.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::build::{self, Profile};
use crate::documents::links;
use crate::progress::Step;
use crate::setup::{self, Need};
use crate::toolchain::{self, Toolchain};
use crate::{host, process, workspace};

/// The spell checker; its settings are in .codespellrc.
const SPELLING: Need = Need { program: "codespell", package: "codespell" };
/// What builds the book where there is no mdbook, from the workspace's folder.
const BOOK_BUILDER: &str = "docs/builder/Cargo.toml";

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// rustfmt
    Format,
    /// clippy for this machine, warnings denied
    Clippy,
    /// clippy for the kernel's target, of the kernel and of what is to run in it
    ClippyKernel,
    /// rustdoc, warnings denied, of everything for this machine and of the kernel for its target
    Doc,
    /// the book, with mdBook
    Book,
    /// links and names of files in the documents
    Links,
    /// codespell
    Spelling,
}

/// Runs the named checks, or all; the status is 1 if one failed.
pub fn run(checks: &[Check]) -> Result<u8> {
    let checks = if checks.is_empty() { Check::value_variants() } else { checks };
    let mut failed = Vec::new();
    for check in checks {
        eprintln!("check: {}", check.name());
        if !check.passes()? {
            failed.push(*check);
        }
    }
    if failed.is_empty() {
        println!("all checks passed");
        return Ok(0);
    }
    // At the end, below what they printed.
    failed.iter().for_each(|check| println!("{}", check.advice()));
    Ok(1)
}

impl Check {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }

    fn passes(self) -> Result<bool> {
        if self == Self::Links {
            let broken = links::broken()?;
            broken.iter().for_each(|line| eprintln!("{line}"));
            return Ok(broken.is_empty());
        }
        // All of them: what one finds is no reason not to look further.
        let passed = self.commands()?.iter_mut().map(passes).collect::<Result<Vec<_>>>()?;
        Ok(passed.into_iter().all(|passed| passed))
    }

    /// What to do about a failure.
    fn advice(self) -> String {
        let name = self.name();
        let mended = if self == Self::Format { " `cargo fmt --all` mends it." } else { "" };
        let hand = match self {
            Self::Clippy => " (cargo clippy --workspace --all-targets -- -D warnings)",
            Self::Doc => {
                " (RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items)"
            }
            Self::Book => " (mdbook build docs)",
            Self::Spelling => " (codespell $(git ls-files))",
            Self::Format | Self::ClippyKernel | Self::Links => "",
        };
        format!("failed: {name}.{mended} Again: cargo xtask check {name}{hand}")
    }

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
            Self::Doc => vec![doc(), kernel_doc()?],
            Self::Book => vec![book()?],
            Self::Links => Vec::new(),
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
    command.args(build::kernel_options(Profile::Daily)).args(what).args(["--", "-D", "warnings"]);
    Ok(command)
}

fn doc() -> Command {
    let arguments = ["doc", "--workspace", "--no-deps", "--document-private-items"];
    let mut command = cargo(toolchain::cargo(), &arguments);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

fn kernel_doc() -> Result<Command> {
    let mut command = cargo(Toolchain::obtain()?.cargo("doc"), &["--package", "nrk", "--no-deps"]);
    command.args(build::kernel_options(Profile::Daily)).env("RUSTDOCFLAGS", "-D warnings");
    Ok(command)
}

/// mdbook if it is installed; else mdBook as a library, which is compiled first, in a minute.
fn book() -> Result<Command> {
    let mut command = match host::find_program("mdbook") {
        Some(mdbook) => {
            let mut command = Command::new(mdbook);
            command.arg("build");
            command
        }
        None => Command::new(book_builder()?),
    };
    command.arg("docs").current_dir(workspace::root());
    Ok(command)
}

fn book_builder() -> Result<PathBuf> {
    let step = Step::new("building mdBook");
    let mut cargo = toolchain::cargo();
    cargo.args(["build", "--locked", "--manifest-path", BOOK_BUILDER]);
    cargo.arg("--target-dir").arg(workspace::target());
    process::run(&mut cargo, &step).context("mdBook does not build")?;
    Ok(workspace::target().join("debug/book-builder"))
}

fn spelling() -> Result<Command> {
    setup::require(&[SPELLING])?;
    let mut command = Command::new("codespell");
    command.current_dir(workspace::root()).args(workspace::files()?);
    Ok(command)
}

fn passes(command: &mut Command) -> Result<bool> {
    let status =
        command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_says_how_to_go_on() {
        let format = Check::Format.advice();
        assert!(format.contains("`cargo fmt --all` mends it"), "{format}");
        for check in Check::value_variants() {
            let again = format!("cargo xtask check {}", check.name());
            assert!(check.advice().contains(&again), "{}", check.advice());
        }
    }

    #[test]
    fn a_check_passes_with_its_commands() {
        assert!(passes(&mut Command::new("true")).unwrap());
        assert!(!passes(&mut Command::new("false")).unwrap());
        assert!(passes(&mut Command::new("/does/not/exist")).is_err());
    }
}
