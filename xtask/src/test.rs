//! `cargo xtask test`: all tests, and a count at the end.

use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{guest, setup, toolchain, workspace};

/// Which tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Tests on this machine: crates, tools, and the kernel as a process.
    Unit,
    /// Tests of the kernel in QEMU.
    Integration,
    /// Both.
    All,
}

/// Runs the tests; the last line counts them.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Which tests
    #[arg(value_enum, default_value_t = Kind::All)]
    pub kind: Kind,
    /// Only tests whose name contains this
    pub filter: Option<String>,
    /// Run the kernel that benchmarks measure in QEMU
    #[arg(long)]
    pub release: bool,
    /// More of everything that finds faults by its amount: before a release, and when a fault is rare
    #[arg(long)]
    pub long: bool,
}

/// How many tests passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
}

impl Count {
    /// Adds what a line of the test harness says, such as `test result: ok. 3 passed; 0 failed; ...`.
    fn add_line(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<&str> = result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
        let before = |name: &str| {
            let place = words.iter().position(|word| *word == name)?;
            words.get(place.checked_sub(1)?)?.parse::<u64>().ok()
        };
        self.passed += before("passed").unwrap_or(0);
        self.failed += before("failed").unwrap_or(0);
    }
}

/// Runs tests; returns the exit status for the shell.
pub fn run(options: &Options) -> Result<u8> {
    let unit = options.kind != Kind::Integration;
    let integration = options.kind != Kind::Unit;
    [setup::RUN, setup::REDIS, setup::NETWORK, setup::TEST].into_iter().try_for_each(setup::require)?;
    let (mut count, mut sound) = (Count::default(), true);
    let mut go = |arguments: &[&str], folder: &str| -> Result<()> {
        sound &= cargo_test(arguments, folder, options, &mut count)?;
        Ok(())
    };
    if unit {
        // Apart, as they are built to be used: together they would be compiled anew with all features that one of them needs.
        go(&["--package", "xtask"], ".")?;
        go(&["--workspace", "--exclude", "nrk", "--exclude", "xtask"], ".")?;
        go(&["--bin", "nrk"], "kernel")?;
    }
    if integration {
        go(&["--test", "integration-test"], "kernel")?;
    }
    if count.failed == 0 && !sound {
        eprintln!("xtask: a test program does not build, or ended before it counted its tests (see above)");
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(if sound && count.failed == 0 { 0 } else { 1 })
}

/// Runs `cargo test` in a folder of the workspace, passes its output on, and counts; whether cargo was content.
fn cargo_test(arguments: &[&str], folder: &str, options: &Options, count: &mut Count) -> Result<bool> {
    let mut command: Command = toolchain::cargo();
    command.current_dir(workspace::root().join(folder)).arg("test").args(["--no-fail-fast"]).args(arguments);
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    command.arg("--").args(&options.filter);
    for (chosen, variable) in [(options.release, guest::RELEASE), (options.long, guest::LONG)] {
        if chosen {
            command.env(variable, "1");
        }
    }
    if std::io::stdout().is_terminal() {
        command.arg("--color=always");
    }
    eprintln!("cargo test {}", arguments.join(" "));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        count.add_line(&without_colour(&line));
        println!("{line}");
    }
    Ok(child.wait()?.success())
}

/// The line without what colours it (ECMA-48, "select graphic rendition").
fn without_colour(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_string();
    first + &parts.map(|part| part.split_once('m').map_or(part, |(_, text)| text)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut count = Count::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.05s",
            "test result: \u{1b}[31mFAILED\u{1b}[m. 10 passed; 2 failed; 1 ignored; 0 measured; 5 filtered out",
            "test tests::result: ok ... ok",
        ] {
            count.add_line(&without_colour(line));
        }
        assert_eq!(count, Count { passed: 13, failed: 2 });
    }
}
