//! s02: ACPI tables, thread-local storage, the file system.

use anyhow::Result;

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
