//! s01: traps, memory, time and the state of the CPU in a kernel that is set up.

use anyhow::{Result, ensure};
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};

use crate::common::{frame_of, kernel_main_faults, kernel_main_passes, place, torture_passes};

#[test]
fn s01_pfault() -> Result<()> {
    kernel_main_faults("s01_pfault", "page fault", &["0x4000deadbeef"], "faults::read")
}

#[test]
fn s01_gpfault() -> Result<()> {
    kernel_main_faults("s01_gpfault", "general protection fault", &[], "faults::general_protection")
}

/// A frame shows where its function was, and where in what was inlined into it.
#[test]
fn s01_panic() -> Result<()> {
    let console = Setup::kernel_test("s01_panic").run(Ending::Panic)?;
    let (called, failed) = (place("s01_panic", "fail_inlined")?, place("fail_inlined", "panic!")?);
    let frame = frame_of(&console, "s01_panic")?;
    ensure!(frame.ends_with(&format!(" ({called}, inlined {failed})")), "{frame}");
    // Code of others goes by the names of their packages, as far as they are known.
    let panicking = console.lines().find(|line| line.contains(" core::panicking::panic_fmt + 0x"));
    shows(panicking.unwrap_or_default(), &["(library/core/src/panicking.rs:"])
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
