//! s06: many busy programs, and many timers, leave the others their share. The clock counts instructions, so that the host's load does not matter.

use std::time::Duration;

use anyhow::Result;
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};

/// The program says nothing while it makes a thousand processes.
const SILENCE: Duration = Duration::from_secs(600);

#[test]
fn s06_fair_sleepers_shares_and_classes_beside_busy_processes() -> Result<()> {
    let setup = Setup::user_program("torture", &["fair", "--in-guest"])?.counting(1).patience(SILENCE);
    shows(&setup.run(Ending::Program(0))?, &["fair: ok"])
}

#[test]
fn s06_fair_sleepers_beside_timers_that_nobody_heeds() -> Result<()> {
    let setup = Setup::user_program("torture", &["storm", "--in-guest"])?.counting(1).patience(SILENCE);
    shows(&setup.run(Ending::Program(0))?, &["storm: ok"])
}
