//! s06: what a hostile program or image does. The kernel stays up, and the next program works.

use std::time::Duration;

use anyhow::{Context, Result};
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};
use xtask::host;

/// The torture program says nothing until it is done.
const SILENCE: Duration = Duration::from_secs(600);

/// A shell starts `torture ARGUMENTS`, and then the next programs.
fn survives(arguments: &str, memory: u32) -> Result<()> {
    let script =
        format!("torture {arguments} --in-guest; echo next: $(cat /proc/uptime | wc -l) $(ls -d /etc)");
    let setup =
        Setup::program("busybox", &["sh", "-c", &script]).with_user_program("torture")?.memory(memory);
    let console = setup.patience(SILENCE).run(Ending::Program(0))?;
    let name = arguments.split(' ').next().unwrap_or_default();
    shows(&console, &[&format!("{name}: ok"), "next: 1 /etc"])
}

#[test]
fn s06_robust_wrong_pointers() -> Result<()> {
    survives("badptr", 512)
}

#[test]
fn s06_robust_random_calls() -> Result<()> {
    survives("fuzz 1 40", 512)
}

#[test]
fn s06_robust_out_of_memory() -> Result<()> {
    survives("eatmem", 128)
}

#[test]
fn s06_robust_fork_bomb() -> Result<()> {
    survives("forkbomb", 256)
}

#[test]
fn s06_robust_damaged_programs() -> Result<()> {
    survives("badelf 1 500", 512)
}

#[test]
fn s06_robust_descriptors() -> Result<()> {
    survives("fds", 512)
}

/// What is sent into circles of sockets comes back: more than the machine has, in all.
#[test]
fn s06_robust_circles_of_sockets() -> Result<()> {
    survives("circles", 256)
}

/// Whatever a program makes long, interrupts are taken and others run. The clock counts instructions, so that the host's load does
/// not matter.
#[test]
fn s06_robust_long_calls() -> Result<()> {
    let setup = Setup::user_program("torture", &["bounded", "--in-guest"])?.cmdline("latency").counting(1);
    shows(&setup.patience(SILENCE).run(Ending::Program(0))?, &["bounded: ok"])
}

/// A program, and a large file behind it in the archive.
fn with_a_last_file() -> Result<Setup> {
    let busybox = host::find_program("busybox").context("no busybox")?;
    Ok(Setup::program("busybox", &["echo", "still alive"]).with_file(busybox, "/zzz/last"))
}

/// Cut behind the program, it runs: in the trailer, in the padding, in the last file's content.
#[test]
fn s06_robust_initramfs_cut_behind_init() -> Result<()> {
    for left in [|size| size - 1, |size| size - 100, |size| size - 126, |size| size - 100_001] {
        let console = with_a_last_file()?.cut_initramfs(left).run(Ending::Program(0))?;
        shows(&console, &["still alive"])?;
    }
    Ok(())
}

/// Cut before the program, or in it, there is no init: the guest says so and ends.
#[test]
fn s06_robust_initramfs_cut_before_init() -> Result<()> {
    for left in [|_| 0, |_| 50, |_| 1000, |size| size / 4] {
        ends_without_init(&with_a_last_file()?.cut_initramfs(left))?;
    }
    Ok(())
}

#[test]
fn s06_robust_missing_init() -> Result<()> {
    ends_without_init(&with_a_last_file()?.cmdline("init=/no/such/program"))
}

fn ends_without_init(setup: &Setup) -> Result<()> {
    let mut guest = setup.start()?;
    match guest.wait()? {
        Ending::Program(status) if status != 0 => shows(&guest.console(), &["init"]),
        ending => Err(guest.failure(format!("expected a status other than 0, but {ending}"))),
    }
}
