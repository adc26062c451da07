//! redis-benchmark over the tap: SET and GET, one request at a time and with 29 in flight.

use anyhow::{Context, Result};

use super::system::System;
use super::{Better, Row, Sample};
use crate::namespace::GUEST_ADDRESS;

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
        let arguments = ["-h", GUEST_ADDRESS, "-t", "set,get", "-n", requests, "-P", pipeline, "--csv"];
        let lines = running.client("redis-benchmark", &arguments)?;
        for (test, row) in ["SET", "GET"].into_iter().zip(rows) {
            let value = requests_per_second(&lines, test);
            samples.push(Sample { row, value: value.with_context(|| format!("no {test} in {lines:?}"))? });
        }
    }
    Ok(samples)
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
