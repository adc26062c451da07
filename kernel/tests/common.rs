//! What several groups of tests share.

use std::process::{ChildStdin, Command};
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::qemu::MAC;
use xtask::watched::Watched;

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

/// Runs a kernel-side main that ends in a CPU exception: the report begins with `headline` and shows `details`, and its
/// backtrace names a function.
pub fn kernel_main_faults(name: &str, headline: &str, details: &[&str], function: &str) -> Result<()> {
    let console = Setup::kernel_test(name).run(Ending::Exception)?;
    let start = console.to_lowercase().find(headline);
    let report = &console[start.with_context(|| format!("no {headline:?} in:\n{console}"))?..];
    shows(report, details)?;
    shows(report, &["on core 0", "rip", "rsp", "rflags", "backtrace"])?;
    let backtrace = report.to_lowercase().find("backtrace").unwrap_or_default();
    shows(&report[backtrace..], &[function])
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
