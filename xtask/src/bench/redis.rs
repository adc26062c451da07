//! redis-benchmark over the tap: SET and GET, one request at a time and with 29 in flight.

use anyhow::{Context, Result};

use super::system::{Kind, Program, Running, Shape, System};
use super::{Better, Row, Sample};
use crate::namespace::GUEST_ADDRESS;
use crate::profile::flame;
use crate::profile::plugin::Plugin;
use crate::profile::symbols::Names;
use crate::profile::tally::Tally;
use crate::progress::Step;
use crate::{run, workspace};

const fn row(name: &'static str) -> Row {
    Row { name, unit: "requests/s", better: Better::Higher }
}

/// The figures.
pub const ROWS: [Row; 4] = [row("SET"), row("GET"), row("SET -P 29"), row("GET -P 29")];

/// Pipeline depth, number of requests (a few seconds each), and where the figures go.
const RUNS: [(&str, &str, [&str; 2]); 2] =
    [("1", "50000", ["SET", "GET"]), ("29", "300000", ["SET -P 29", "GET -P 29"])];

/// Starts a guest and loads it.
pub fn measure(system: &System) -> Result<Vec<Sample>> {
    let running = system.start()?;
    let mut samples = Vec::new();
    for (pipeline, requests, rows) in RUNS {
        let lines = load(&running, "set,get", requests, pipeline)?;
        for (test, row) in ["SET", "GET"].into_iter().zip(rows) {
            let value = requests_per_second(&lines, test);
            samples.push(Sample { row, value: value.with_context(|| format!("no {test} in {lines:?}"))? });
        }
    }
    Ok(samples)
}

fn load(running: &Running, tests: &str, requests: &str, pipeline: &str) -> Result<Vec<String>> {
    let arguments = ["-h", GUEST_ADDRESS, "-t", tests, "-n", requests, "-P", pipeline, "--csv"];
    running.client("redis-benchmark", &arguments)
}

/// Requests that are counted, after as many that warm up: enough to leave the 50 connections out of account.
const COUNTED: u64 = 20_000;
/// Functions that are shown of each.
const TOP: usize = 12;

/// Counts instructions per request, shows where they go, and draws it into target/profile-redis-*.svg.
pub fn profile(shape: Shape) -> Result<()> {
    let folder = workspace::scratch()?;
    let plugin = Plugin::prepare(folder.path())?;
    let system = System::new(Kind::Nrk, shape, &Program::redis())?.profiled(&plugin);
    let runs: Vec<_> = RUNS
        .iter()
        .flat_map(|(pipeline, _, rows)| {
            ["set", "get"].into_iter().zip(*rows).map(|(test, row)| (*pipeline, test, row))
        })
        .collect();
    let step = Step::new("counting");
    let running = system.start()?;
    for (profile, (pipeline, test, row)) in (1..).zip(&runs) {
        step.detail(row);
        load(&running, test, &COUNTED.to_string(), pipeline)?;
        plugin.count_into(profile)?;
        load(&running, test, &COUNTED.to_string(), pipeline)?;
        plugin.stop_counting()?;
    }
    running.quit()?;
    drop(step);
    let (counts, names) = (plugin.counts()?, Names::read(system.kernel(), &run::default_program(), true)?);
    for (profile, (_, _, row)) in (1..).zip(&runs) {
        let tally = Tally::new(&counts, profile, &names);
        println!("{row}: {}", tally.table(COUNTED, TOP));
        let file = format!("profile-redis-{}.svg", row.to_lowercase().replace(" -", "-").replace(' ', ""));
        let file = workspace::target().join(file);
        flame::draw(&tally, COUNTED, &format!("redis {row}: instructions per request"), &file)?;
        eprintln!("the flame graph: {}", file.display());
    }
    Ok(())
}

/// The second column of a test's line: `"SET","10416.67",...`.
fn requests_per_second(lines: &[String], test: &str) -> Option<f64> {
    let fields =
        lines.iter().map(|line| line.split(',').map(|field| field.trim_matches('"')).collect::<Vec<_>>());
    let line = fields.into_iter().find(|fields| fields.first() == Some(&test))?;
    line.get(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_the_tests_own_line() {
        let lines =
            ["\"test\",\"rps\",\"avg_latency_ms\"", "\"SET\",\"10416.67\",\"4.7\"", "\"GET\",\"9.5\",\"1\""];
        let lines = lines.map(String::from);
        assert_eq!(requests_per_second(&lines, "SET"), Some(10416.67));
        assert_eq!(requests_per_second(&lines, "GET"), Some(9.5));
        assert_eq!(requests_per_second(&lines, "MSET"), None);
    }
}
