//! s00: the kernel starts, ends with a status, and reports what goes wrong before it is set up.

use anyhow::Result;
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};

use crate::common::kernel_main_faults;

#[test]
fn s00_exit() -> Result<()> {
    let console = Setup::kernel_test("s00_exit").run(Ending::Program(9))?;
    shows(&console, &["s00_exit: ok"])
}

#[test]
fn s00_pfault_early() -> Result<()> {
    kernel_main_faults("s00_pfault_early", "page fault", &["0x4000deadbeef"], "faults::read")
}

#[test]
fn s00_gpfault_early() -> Result<()> {
    kernel_main_faults("s00_gpfault_early", "general protection fault", &[], "faults::general_protection")
}
