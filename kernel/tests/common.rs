//! What several groups of tests share.

use std::fs;
use std::process::{ChildStdin, Command};
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::qemu::MAC;
use xtask::watched::Watched;
use xtask::workspace;

/// How long a client or a helper may take: see [`xtask::guest`] for why so long.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Makes a test for each network card of a function that takes one.
macro_rules! on_each_nic {
    ($function:ident: $virtio:ident, $e1000:ident, $vmxnet3:ident) => {
        #[test]
        fn $virtio() -> anyhow::Result<()> {
            $function(xtask::qemu::Nic::Virtio)
        }

        #[test]
        fn $e1000() -> anyhow::Result<()> {
            $function(xtask::qemu::Nic::E1000)
        }

        #[test]
        fn $vmxnet3() -> anyhow::Result<()> {
            $function(xtask::qemu::Nic::Vmxnet3)
        }
    };
}
pub(crate) use on_each_nic;

/// Runs a kernel-side main that prints `NAME: ok` and ends with status 0.
pub fn kernel_main_passes(name: &str) -> Result<()> {
    let console = Setup::kernel_test(name).run(Ending::Program(0))?;
    shows(&console, &[&format!("{name}: ok")])
}

/// Runs a kernel-side main that ends in a CPU exception: the report begins with `headline` and shows `details`, and the frame of
/// the main in its backtrace names the line with `statement`.
pub fn kernel_main_faults(name: &str, headline: &str, details: &[&str], statement: &str) -> Result<()> {
    let console = Setup::kernel_test(name).run(Ending::Exception)?;
    let start = console.to_lowercase().find(headline);
    let report = &console[start.with_context(|| format!("no {headline:?} in:\n{console}"))?..];
    shows(report, details)?;
    shows(report, &["on core 0", "rip", "rsp", "rflags", "backtrace"])?;
    shows(frame_of(report, name)?, &[&place(name, statement)?])
}

/// The line of a report for the frame of a kernel-side main.
pub fn frame_of<'a>(report: &'a str, name: &str) -> Result<&'a str> {
    let backtrace = report.find("backtrace:").map(|at| &report[at..]);
    let mut lines = backtrace.unwrap_or_default().lines();
    let function = format!(" nrk::integration_main::{name} + 0x");
    lines.find(|line| line.contains(&function)).with_context(|| format!("no frame of {name} in:\n{report}"))
}

/// Where a statement is in the source of a function among the kernel-side mains, as a backtrace shows it.
pub fn place(function: &str, statement: &str) -> Result<String> {
    const FILE: &str = "kernel/src/integration_main.rs";
    let source = fs::read_to_string(workspace::root().join(FILE))?;
    let mut lines = source.lines().zip(1..).skip_while(|(line, _)| *line != format!("fn {function}() {{"));
    let (_, number) = lines
        .find(|(line, _)| line.contains(statement))
        .with_context(|| format!("no {statement:?} in {function} of {FILE}"))?;
    Ok(format!("{FILE}:{number}"))
}

/// Runs a subcommand of user/torture, alone as init; it prints `NAME: ok`.
pub fn torture_passes(name: &str) -> Result<()> {
    let console = Setup::user_program("torture", &[name, "--in-guest"])?.run(Ending::Program(0))?;
    shows(&console, &[&format!("{name}: ok")])
}

/// Waits until the DHCP server has given the guest its address.
pub fn await_lease(namespace: &Namespace) -> Result<()> {
    let acknowledged = format!("DHCPACK on {GUEST_ADDRESS} to {MAC} via tap0");
    namespace.dhcp().context("no DHCP server")?.expect(&acknowledged, PATIENCE)?;
    Ok(())
}

/// A client in the background that is typed to.
pub fn client(namespace: &Namespace, program: &str, arguments: &[&str]) -> Result<(Watched, ChildStdin)> {
    let mut command = namespace.enter(program);
    command.args(arguments);
    let mut client = Watched::start(command, true)?;
    let stdin = client.child().stdin.take().context("no standard input")?;
    Ok((client, stdin))
}

/// Runs a command to its successful end and returns its lines.
pub fn lines_of(mut command: Command, arguments: &[&str]) -> Result<Vec<String>> {
    command.args(arguments);
    Watched::start(command, false)?.succeed(PATIENCE)
}
