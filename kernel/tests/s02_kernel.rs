//! s02: ACPI tables, thread-local storage, the file system.

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use xtask::guest::{Guest, Setup};

use crate::common::{kernel_main_passes, torture_passes};
use crate::s03_userspace::agrees_with_linux;

#[test]
fn s02_acpi_smoke() -> Result<()> {
    kernel_main_passes("s02_acpi_smoke")
}

#[test]
fn s02_tls() -> Result<()> {
    torture_passes("tls")
}

/// The sections of the conformance program that have to do with files.
#[test]
fn s02_test_fs() -> Result<()> {
    agrees_with_linux(&["files", "transfer", "dirs", "meta", "fd"])
}

/// What everybody does is in /proc, and a non-maskable interrupt shows it, on a core that is idle and on one that is not; and all
/// goes on.
#[test]
fn s02_dump() -> Result<()> {
    let script = "sleep 1000 & until grep -q 'sleep: waits' /proc/nrk/dump; do :; done
        echo begin; read line; echo got $line; while :; do :; done";
    let mut guest = Setup::program("busybox", &["sh", "-c", script]).start()?;
    let result = dumps(&mut guest);
    guest.stop_after(result)
}

fn dumps(guest: &mut Guest) -> Result<()> {
    guest.expect("begin")?;
    await_dump(
        guest,
        &["interrupt, in the kernel", "backtrace:", "1 of 1, busybox: waits", "waits in clock_nanosleep"],
    )?;
    guest.type_line("it")?;
    guest.expect("got it")?;
    let program = "on core 0, in process 1 (busybox), thread 1, in no system call";
    await_dump(
        guest,
        &["interrupt, in a program", program, "1 of 1, busybox: runs", "waits in clock_nanosleep"],
    )
}

/// A report of what the kernel does says for whom, and in which call.
#[test]
fn s02_report_names_the_call() -> Result<()> {
    let script = "echo begin; exec dd if=/dev/urandom of=/dev/null bs=64k";
    let mut guest = Setup::program("busybox", &["sh", "-c", script]).start()?;
    let report =
        ["on core 0, in process 1 (", "thread 1, in read (system call 0)", "in the kernel", "backtrace:"];
    let result = guest.expect("begin").and_then(|_| await_dump(&mut guest, &report));
    guest.stop_after(result)
}

/// Interrupts until a dump shows all of this: what is to be seen may be a moment away.
fn await_dump(guest: &mut Guest, texts: &[&str]) -> Result<()> {
    let mut monitor = guest.monitor()?;
    for _ in 0..100 {
        monitor.interrupt()?;
        let dump = guest.expect("net: first deadline")?;
        if texts.iter().all(|text| dump.contains(text)) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("no dump shows all of {texts:?}")
}
