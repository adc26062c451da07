//! s07: what README, CONTRIBUTING and the book say can be done, done. How they say so: `xtask::documents`.

use std::env;
use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::documents::commands::{self, Treatment};
use xtask::documents::{pages, recipes};
use xtask::guest;
use xtask::watched::Watched;

use crate::common::kernel_main_passes;
use crate::s03_userspace::agrees_with_linux;

/// Set for this program when it sees the copy of the tree in which the recipes were followed.
const IN_COPY: &str = "NRK_TEST_IN_COPY";
/// How long building the copy and two guests may take, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Each block of commands is run, or says why not.
#[test]
fn s07_commands() -> Result<()> {
    // Some commands name what was built.
    guest::user_program("torture")?;
    let (mut run, mut explained) = (0, 0);
    for page in pages()? {
        for (block, treatment) in commands::blocks(&page)? {
            match &treatment {
                Treatment::Run { .. } => run += 1,
                Treatment::NotRun(_) => explained += 1,
            }
            commands::run(block, &treatment)?;
        }
    }
    println!("{run} blocks of commands run, {explained} say why not");
    ensure!(run > 0, "no page shows commands that are run");
    Ok(())
}

/// Who does what CONTRIBUTING says has added a system call, a section of the conformance program and a test.
#[test]
fn s07_recipes() -> Result<()> {
    if env::var_os(IN_COPY).is_some() {
        agrees_with_linux(&["restart"])?;
        return kernel_main_passes("s01_uptime");
    }
    let copy = recipes::Copy::with_recipes()?;
    let mut itself = copy.command(&env::current_exe()?)?;
    itself
        .args(["--exact", "s07_documents::s07_recipes", "--nocapture"])
        .env(IN_COPY, "1")
        .env_remove(guest::RELEASE);
    let lines = Watched::start(itself, false)?.succeed(PATIENCE)?;
    ensure!(lines.iter().any(|line| line.contains("1 passed")), "it did not run:\n{}", lines.join("\n"));
    Ok(())
}
