//! Compares nr with what people use instead, on the machine at hand.
//!
//! Every structure is offered by several contenders ([`contender`]); each case (threads, nodes, share of writes, keys) is
//! measured for all of them in turn ([`mod@measure`]), and reported ([`report`], [`mod@plot`]); [`tables`] reads back what was.

mod contender;
mod data;
mod keys;
mod measure;
mod plot;
mod report;
mod tables;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::contender::{Contender, Dash, Nr, Old, Parking, ParkingRw, Skip, SkipQueue, StdMutex, StdRwLock};
use crate::data::{Data, Hash, Ordered, Queue};
use crate::keys::Pattern;
use crate::measure::{Case, Effort, Measurable, measure};
use crate::report::Line;

/// Keys of every structure.
pub const KEYS: u64 = 10_000;

/// Benchmarks of node replication.
#[derive(Parser, Debug)]
#[command(name = "nr-bench")]
struct Options {
    /// Numbers of threads [default: 1 to twice the number of processors, in powers of two]
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Numbers of simulated nodes, for what is replicated
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    nodes: Vec<usize>,
    /// Shares of writes, in percent
    #[arg(long, value_delimiter = ',', default_value = "0,1,10,50,100", value_parser = clap::value_parser!(u64).range(..=100))]
    writes: Vec<u64>,
    /// Structures
    #[arg(long, value_delimiter = ',', default_value = "hash,ordered,queue")]
    structures: Vec<Structure>,
    /// Distributions of the keys
    #[arg(long, value_delimiter = ',', default_value = "uniform,zipf")]
    keys: Vec<Pattern>,
    /// Contenders, by parts of their names [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of which the median is taken
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Length of a round in milliseconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    millis: u64,
    /// Times that a round is repeated when a thread did not have its processor for itself
    #[arg(long, default_value_t = 20)]
    patience: usize,
    /// Compare with the goals (hash map, uniform keys; 1 and 2 threads, 1 and 2 nodes), and fail if one is missed
    #[arg(long)]
    goals: bool,
    /// Take the results from the tables in this file, which --table wrote, instead of measuring
    #[arg(long, conflicts_with_all = ["goals", "csv"])]
    from: Option<PathBuf>,
    /// Write the results to this file
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write the results to this file as tables in Markdown
    #[arg(long)]
    table: Option<PathBuf>,
    /// Draw the results into this file, as SVG: six contenders at most (--only chooses others)
    #[arg(long)]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Structure {
    Hash,
    Ordered,
    Queue,
}

/// Makes a contender for a case.
type Make = fn(&Case) -> Box<dyn Measurable>;

fn make<C: Contender + 'static>(case: &Case) -> Box<dyn Measurable> {
    Box::new(C::new(KEYS, case.threads, case.nodes))
}

impl Structure {
    fn name(self) -> &'static str {
        match self {
            Structure::Hash => "hash",
            Structure::Ordered => "ordered",
            Structure::Queue => "queue",
        }
    }

    /// Who offers it. The first two are replicated.
    fn contenders(self) -> Vec<(&'static str, Make)> {
        fn common<D: Data>() -> Vec<(&'static str, Make)> {
            vec![
                ("nr", make::<Nr<D>>),
                ("node-replication", make::<Old<D>>),
                ("parking_lot-mutex", make::<Parking<D>>),
                ("parking_lot-rwlock", make::<ParkingRw<D>>),
                ("std-mutex", make::<StdMutex<D>>),
                ("std-rwlock", make::<StdRwLock<D>>),
            ]
        }
        match self {
            Structure::Hash => [common::<Hash>(), vec![("dashmap", make::<Dash>)]].concat(),
            Structure::Ordered => [common::<Ordered>(), vec![("skiplist", make::<Skip>)]].concat(),
            Structure::Queue => [common::<Queue>(), vec![("skiplist", make::<SkipQueue>)]].concat(),
        }
    }
}

/// Contenders that have replicas; the others are measured as on one node.
const REPLICATED: [&str; 2] = ["nr", "node-replication"];

impl Options {
    /// The cases of one structure in the order in which they are run, those together that are run side by side.
    ///
    /// The goals compare numbers of threads with one another too.
    fn groups(&self) -> Vec<Vec<Case>> {
        let mut cases = self.cases();
        cases.sort_by_key(|case| if self.goals { case.writes } else { 0 });
        let together = |a: &Case, b: &Case| self.goals && a.writes == b.writes;
        cases.chunk_by(together).map(<[Case]>::to_vec).collect()
    }

    /// All cases of one structure.
    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for &pattern in &self.keys {
            for &threads in &self.threads {
                for &nodes in self.nodes.iter().filter(|&&nodes| nodes <= threads) {
                    cases.extend(self.writes.iter().map(|&writes| Case { threads, nodes, writes, pattern }));
                }
            }
        }
        cases
    }

    fn wants(&self, contender: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| contender.contains(part))
    }

    fn complete(&mut self) -> Result<()> {
        if self.goals {
            (self.threads, self.nodes) = (vec![1, 2], vec![1, 2]);
            (self.structures, self.keys) = (vec![Structure::Hash], vec![Pattern::Uniform]);
            self.only = ["nr", "node-replication", "parking_lot-mutex"].map(String::from).into();
        }
        if self.threads.is_empty() {
            let processors = measure::processors();
            self.threads = std::iter::successors(Some(1), |threads| Some(threads * 2))
                .take_while(|&threads| threads <= 2 * processors)
                .collect();
        }
        ensure!(self.threads.iter().all(|threads| (1..=64).contains(threads)), "--threads: from 1 to 64");
        ensure!(self.nodes.iter().all(|nodes| (1..=64).contains(nodes)), "--nodes: from 1 to 64");
        Ok(())
    }
}

fn main() -> ExitCode {
    match measure_and_report(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nr-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure_and_report(mut options: Options) -> Result<()> {
    options.complete()?;
    let lines = match &options.from {
        Some(path) => kept(&options, path)?,
        None => run(&options),
    };
    for (path, text) in [(&options.csv, report::csv(&lines)), (&options.table, report::table(&lines))] {
        if let Some(path) = path {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if let Some(path) = &options.plot {
        plot::plot(&lines, path)?;
    }
    if options.goals {
        let goals = report::goals(&lines);
        print!("\n{goals}");
        ensure!(!goals.contains("MISSED"), "a goal was missed");
    }
    Ok(())
}

/// What was measured before, of the structures, keys, shares of writes and contenders that are asked for.
fn kept(options: &Options, path: &Path) -> Result<Vec<Line>> {
    let page = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = tables::read(&page).with_context(|| format!("cannot read {}", path.display()))?;
    lines.retain(|line| {
        options.structures.iter().any(|structure| structure.name() == line.structure)
            && options.keys.contains(&line.case.pattern)
            && options.writes.contains(&line.case.writes)
            && options.wants(line.contender)
    });
    ensure!(!lines.is_empty(), "{} has no such figures", path.display());
    Ok(lines)
}

/// Measures everything, saying how far it is.
fn run(options: &Options) -> Vec<Line> {
    let effort = Effort {
        rounds: options.rounds.into(),
        length: Duration::from_millis(options.millis),
        patience: options.patience,
    };
    let groups = options.groups();
    let total = options.structures.len() * groups.iter().map(Vec::len).sum::<usize>();
    let mut lines: Vec<Line> = Vec::new();
    let mut done = 0;
    for &structure in &options.structures {
        for group in &groups {
            let results = measure_group(options, structure, group, &effort);
            for row in results.chunk_by(|a, b| a.case == b.case) {
                done += 1;
                println!("[{done:3}/{total}] {}", progress(row));
            }
            let _ = std::io::stdout().flush();
            lines.extend(results);
        }
    }
    lines
}

/// Measures everybody in all cases of a group, side by side.
fn measure_group(options: &Options, structure: Structure, group: &[Case], effort: &Effort) -> Vec<Line> {
    let mut subjects = Vec::new();
    let mut names = Vec::new();
    for case in group {
        for (name, make) in structure.contenders() {
            if options.wants(name) && (case.nodes == 1 || REPLICATED.contains(&name)) {
                subjects.push((*case, make(case)));
                names.push(name);
            }
        }
    }
    let results = measure(&subjects, effort);
    let line =
        |((contender, (case, _)), result)| Line { structure: structure.name(), contender, case, result };
    names.into_iter().zip(subjects).zip(results).map(line).collect()
}

/// The results of a case in one line.
fn progress(row: &[Line]) -> String {
    let Line { structure, case: Case { threads, nodes, writes, pattern }, .. } = row[0];
    let mut text = format!("{structure:7} {pattern:?} {threads} threads {nodes} nodes {writes:3} %:");
    for Line { contender, result, .. } in row {
        // Disturbed in every round, though there were processors for all.
        let mark = if result.calm == 0 && threads <= measure::processors() { "?" } else { "" };
        let _ = write!(text, "  {contender} {:.1}{mark}", result.mops);
    }
    text
}
