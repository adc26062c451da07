//! Round trips: `ping -A` (the next as soon as the last is back) and `ping -f` (a flood), without a loss.

use anyhow::{Context, Result, ensure};

use super::system::System;
use super::{Better, Row, Sample};
use crate::namespace::GUEST_ADDRESS;

const fn row(name: &'static str) -> Row {
    Row { name, unit: "ms", better: Better::Lower }
}

/// The figures.
pub const ROWS: [Row; 2] = [row("ping -A average"), row("ping -f average")];

/// Packets of one run.
const PACKETS: &str = "10000";

/// Starts a guest and pings it.
pub fn measure(system: &System) -> Result<Vec<Sample>> {
    let running = system.start()?;
    let mut samples = Vec::new();
    for (option, row) in ["-A", "-f"].into_iter().zip(ROWS) {
        let lines = running.client("ping", &[option, "-q", "-c", PACKETS, GUEST_ADDRESS])?;
        let summary = lines.join("\n");
        ensure!(summary.contains(" 0% packet loss"), "ping {option} lost packets:\n{summary}");
        let value = average(&summary).with_context(|| format!("no times in:\n{summary}"))?;
        samples.push(Sample { row: row.name, value });
    }
    Ok(samples)
}

/// The second number of `rtt min/avg/max/mdev = 0.1/0.2/0.3/0.0 ms`.
fn average(summary: &str) -> Option<f64> {
    let times = summary.lines().find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "))?;
    times.split('/').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_the_second_number() {
        let summary =
            "10 packets transmitted\nrtt min/avg/max/mdev = 0.070/0.126/4.105/0.1 ms, ipg/ewma 0.1/0.2 ms";
        assert_eq!(average(summary), Some(0.126));
        assert_eq!(average("nothing"), None);
    }
}
