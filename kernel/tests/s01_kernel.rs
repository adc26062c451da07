//! s01: traps, memory, time and the state of the CPU in a kernel that is set up.

use anyhow::Result;
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};

use crate::common::{kernel_main_faults, kernel_main_passes, torture_passes};

#[test]
fn s01_pfault() -> Result<()> {
    kernel_main_faults("s01_pfault", "page fault", &["0x4000deadbeef"], "s01_pfault")
}

#[test]
fn s01_gpfault() -> Result<()> {
    kernel_main_faults("s01_gpfault", "general protection fault", &[], "s01_gpfault")
}

#[test]
fn s01_double_fault() -> Result<()> {
    let console = Setup::kernel_test("s01_double_fault").run(Ending::Exception)?;
    shows(&console, &["double fault"])
}

#[test]
fn s01_alloc() -> Result<()> {
    kernel_main_passes("s01_alloc")
}

#[test]
fn s01_time() -> Result<()> {
    kernel_main_passes("s01_time")
}

#[test]
fn s01_timer() -> Result<()> {
    kernel_main_passes("s01_timer")
}

/// The vector state of user threads survives switches and signals.
#[test]
fn s01_sse() -> Result<()> {
    torture_passes("sse")
}
