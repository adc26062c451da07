//! `cargo xtask profile`: how many instructions a guest executes in which function, called by whom.
//!
//! QEMU's translator counts (the plugin in `crates/qemu-profile`), so the counts depend little on what else this machine does, and
//! a change of one per cent shows. What is profiled is the kernel that benchmarks measure, with programs at fixed addresses.
//! [`plugin`] has QEMU load the plugin and reads what it counted, [`symbols`] names addresses, [`tally`] adds up,
//! [`flame`] draws. `cargo xtask bench redis --profile` uses the same parts.

pub mod flame;
pub mod plugin;
pub mod symbols;
pub mod tally;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build::Profile;
use crate::{run, setup, workspace};
use plugin::Plugin;
use symbols::Names;
use tally::Tally;

/// Counts instructions by function, from the program's start to the guest's end.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Options {
    /// Divide all counts by this: what the program did so often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub per: u64,
    /// Show the functions of the program, too
    #[arg(long)]
    pub user: bool,
    /// How many functions the table shows
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub top: usize,
    /// The flame graph; without this, target/profile.svg
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Also write the stacks as text, a line each, for other tools
    #[arg(long, value_name = "FILE")]
    pub folded: Option<PathBuf>,
    /// As for `cargo xtask run`
    #[command(flatten)]
    pub run: run::Options,
}

/// Runs a guest and shows where its instructions went; returns the exit status for the shell.
pub fn run(options: Options) -> Result<u8> {
    let mut guest = options.run.clone();
    if guest.debug || guest.dry_run {
        bail!("a profile is that of a guest that runs freely: without --debug and --dry-run");
    }
    setup::require(setup::RUN)?;
    let folder = workspace::scratch()?;
    let plugin = Plugin::prepare(folder.path())?;
    plugin.count_from_user_mode()?;
    guest.plugin = Some(plugin.clone());
    guest.release = true;
    let program = guest.program.first().map_or_else(run::default_program, PathBuf::from);
    let status = run::run(guest)?;
    let names = Names::read(&Profile::Release.image(), &program, options.user)?;
    let tally = Tally::new(&plugin.counts()?, plugin::WHOLE, &names);
    if tally.total() == 0 {
        bail!("nothing was counted: the guest ended before a program ran, or QEMU was killed");
    }
    print!("{}", tally.table(options.per, options.top));
    let svg = options.svg.unwrap_or_else(|| workspace::target().join("profile.svg"));
    let title = format!("{}: instructions, kernel and program", names.program());
    flame::draw(&tally, options.per, &title, &svg)?;
    eprintln!("the flame graph: {}", svg.display());
    if let Some(path) = &options.folded {
        std::fs::write(path, tally.folded(1, str::to_string))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(status)
}
