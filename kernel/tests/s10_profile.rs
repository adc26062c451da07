//! s10: instructions counted by function, with `cargo xtask profile`'s parts.

use anyhow::{Context, Result, ensure};
use xtask::exit::Ending;
use xtask::guest::{Setup, test_kernel};
use xtask::profile::plugin::{Plugin, WHOLE};
use xtask::profile::symbols::Names;
use xtask::profile::tally::Tally;
use xtask::workspace;

/// Calls of getpid that `torture bench getpid` makes: five rounds of 10,000.
const CALLS: u64 = 50_000;

/// Every call is found in the system call's own function, under the thread that made it, and two runs count the same.
#[test]
fn s10_profile() -> Result<()> {
    let (first, second) = (profile()?, profile()?);
    let per_call = first.kernel() / CALLS;
    ensure!(
        (100..2000).contains(&per_call),
        "{per_call} instructions of the kernel per call\n{}",
        first.table(CALLS, 20)
    );
    ensure!(first.user() / CALLS > 5, "{} instructions of the program", first.user());
    let difference = first.kernel().abs_diff(second.kernel());
    ensure!(
        difference < first.kernel() / 100,
        "{} and {} instructions of the kernel",
        first.kernel(),
        second.kernel()
    );
    let stacks = first.folded(CALLS, str::to_string);
    let calls = stacks.lines().filter(|line| line.contains("nrk::syscall::"));
    let deepest =
        calls.max_by_key(|line| line.matches(';').count()).context("no system call is in the profile")?;
    let callers = ["kernel;", "nrk::sched::executor::", "nrk::process::run::", "nrk::syscall::"];
    let places: Option<Vec<usize>> = callers.iter().map(|caller| deepest.find(caller)).collect();
    ensure!(places.is_some_and(|places| places.is_sorted()), "not called by {callers:?}: {deepest}");
    Ok(())
}

fn profile() -> Result<Tally> {
    let folder = workspace::scratch()?;
    let plugin = Plugin::prepare(folder.path())?;
    plugin.count_from_user_mode()?;
    Setup::user_program("torture", &["bench", "getpid"])?.profiled(&plugin).run(Ending::Program(0))?;
    let names = Names::read(test_kernel()?, "/bin/torture".as_ref(), false)?;
    Ok(Tally::new(&plugin.counts()?, WHOLE, &names))
}
