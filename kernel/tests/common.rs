//! What several groups of tests share.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};
use xtask::watched::Watched;

/// How long a client or a helper may take: see [`xtask::guest`] for why so long.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Runs a kernel-side main that prints `NAME: ok` and ends with status 0.
pub fn kernel_main_passes(name: &str) -> Result<()> {
    let console = Setup::kernel_test(name).run(Ending::Program(0))?;
    shows(&console, &[&format!("{name}: ok")])
}

/// Runs a kernel-side main that ends in a CPU exception: the report begins with `headline` and shows `details`, and its
/// backtrace names a function.
pub fn kernel_main_faults(name: &str, headline: &str, details: &[&str], function: &str) -> Result<()> {
    let console = Setup::kernel_test(name).run(Ending::Exception)?;
    let start = console.to_lowercase().find(headline);
    let report = &console[start.with_context(|| format!("no {headline:?} in:\n{console}"))?..];
    shows(report, details)?;
    shows(report, &["rip", "rsp", "rflags", "backtrace"])?;
    let backtrace = report.to_lowercase().find("backtrace").unwrap_or_default();
    shows(&report[backtrace..], &[function])
}

/// Runs a subcommand of user/torture, alone as init; it prints `NAME: ok`.
pub fn torture_passes(name: &str) -> Result<()> {
    let console = Setup::user_program("torture", &[name, "--in-guest"])?.run(Ending::Program(0))?;
    shows(&console, &[&format!("{name}: ok")])
}

/// Runs a command to its successful end and returns its lines.
pub fn lines_of(mut command: Command, arguments: &[&str]) -> Result<Vec<String>> {
    command.args(arguments);
    Watched::start(command, false)?.succeed(PATIENCE)
}
