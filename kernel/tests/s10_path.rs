//! s10: path lengths, in instructions. `cargo xtask bench path` measures them; what is shown here is that they are no
//! matter of chance.

use anyhow::{Result, ensure};
use xtask::exit::Ending;
use xtask::guest::Setup;

/// An operation whose length depends on where memory was laid out by chance.
const OPERATION: &str = "fork_exit_wait";

#[test]
fn s10_path_same_on_every_run() -> Result<()> {
    let (first, again, other) = (figures(1)?, figures(1)?, figures(2)?);
    ensure!(first == again, "the same seed gave {first:?} and {again:?}");
    ensure!(first != other, "two seeds gave {first:?}: the guest does not take its random numbers from them");
    Ok(())
}

/// What the line of the operation says: ticks and nanoseconds.
fn figures(seed: u32) -> Result<Vec<u64>> {
    let console =
        Setup::user_program("torture", &["bench", OPERATION])?.counting(seed).run(Ending::Program(0))?;
    let line = console.lines().find_map(|line| line.strip_prefix(OPERATION)).unwrap_or_default();
    let figures: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(figures.len() == 2, "no figures in:\n{console}");
    Ok(figures)
}
