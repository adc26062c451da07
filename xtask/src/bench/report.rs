//! Medians, ratios, a table, a CSV file and a drawing of what was measured.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use super::chart;
use super::system::{Kind, Shape};
use super::{Better, Row, Sample};

/// All measurements of a benchmark.
pub struct Report {
    name: String,
    rows: &'static [Row],
    shape: Shape,
    values: BTreeMap<(&'static str, Kind), Vec<(u32, f64)>>,
}

impl Report {
    /// An empty report.
    pub fn new(name: String, rows: &'static [Row], shape: Shape) -> Self {
        Self { name, rows, shape, values: BTreeMap::new() }
    }

    /// Adds what one round of one system yielded.
    pub fn add(&mut self, system: Kind, round: u32, samples: &[Sample]) {
        for sample in samples {
            self.values.entry((sample.row, system)).or_default().push((round, sample.value));
        }
    }

    /// Medians by row; with two systems also how fast nrk is, Linux being 1.
    pub fn table(&self) -> String {
        let kinds: Vec<Kind> =
            [Kind::Nrk, Kind::Linux].into_iter().filter(|kind| self.measured(*kind)).collect();
        let rounds = self.values.values().map(Vec::len).max().unwrap_or(0);
        let Shape { nic, cores, memory } = self.shape;
        let mut text =
            format!("{}: {nic}, {cores} core(s), {memory} MiB, medians of {rounds} round(s)\n", self.name);
        let _ = write!(text, "{:<28}{:<12}", "", "");
        kinds.iter().for_each(|kind| _ = write!(text, "{:>12}", kind.to_string()));
        text.push_str(if kinds.len() == 2 { "   nrk's speed, Linux = 1\n" } else { "\n" });
        for row in self.rows {
            let _ = write!(text, "{:<28}{:<12}", row.name, row.unit);
            for median in kinds.iter().filter_map(|kind| self.median(row, *kind)) {
                let _ = write!(text, "{:>12}", number(median));
            }
            match self.speed(row) {
                Some(speed) => _ = writeln!(text, "   {speed:.2}"),
                None => text.push('\n'),
            }
        }
        text
    }

    /// Every measurement, one a line.
    pub fn csv(&self) -> String {
        let mut text = String::from("benchmark,nic,cores,memory_mib,row,unit,system,round,value\n");
        let Shape { nic, cores, memory } = self.shape;
        for row in self.rows {
            for ((_, kind), values) in self.values.iter().filter(|((name, _), _)| *name == row.name) {
                for (round, value) in values {
                    let (name, row, unit) = (&self.name, row.name, row.unit);
                    let _ =
                        writeln!(text, "{name},{nic},{cores},{memory},{row},{unit},{kind},{round},{value}");
                }
            }
        }
        text
    }

    /// A bar for each row: nrk's speed, with a line at 1, which is Linux.
    pub fn plot(&self, path: &Path) -> Result<()> {
        let bars: Vec<(&str, f64)> =
            self.rows.iter().filter_map(|row| Some((row.name, self.speed(row)?))).collect();
        let Shape { nic, cores, .. } = self.shape;
        chart::draw(path, &format!("{}, {nic}, {cores} core(s): nrk beside Linux", self.name), &bars)
    }

    fn measured(&self, kind: Kind) -> bool {
        self.values.keys().any(|(_, measured)| *measured == kind)
    }

    fn median(&self, row: &Row, kind: Kind) -> Option<f64> {
        median(self.values.get(&(row.name, kind))?.iter().map(|(_, value)| *value).collect())
    }

    fn speed(&self, row: &Row) -> Option<f64> {
        let (nrk, linux) = (self.median(row, Kind::Nrk)?, self.median(row, Kind::Linux)?);
        Some(match row.better {
            Better::Higher => nrk / linux,
            Better::Lower => linux / nrk,
        })
    }
}

/// What one round yielded, for watching.
pub fn round_line(round: u32, kind: Kind, samples: &[Sample]) -> String {
    let values = samples.iter().map(|sample| format!("{} {}", sample.row, number(sample.value)));
    format!("round {round}, {kind}: {}", values.collect::<Vec<_>>().join(", "))
}

/// Large numbers whole, small ones with digits.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = if values.len().is_multiple_of(2) { values[values.len() / 2 - 1] } else { upper };
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::Nic;

    const ROWS: [Row; 2] = [
        Row { name: "rate", unit: "1/s", better: Better::Higher },
        Row { name: "time", unit: "ms", better: Better::Lower },
    ];

    fn report() -> Report {
        let mut report = Report::new("test".into(), &ROWS, Shape { nic: Nic::Virtio, cores: 1, memory: 64 });
        for (round, rate) in [(1, 300.0), (2, 100.0), (3, 200.0)] {
            report.add(
                Kind::Nrk,
                round,
                &[Sample { row: "rate", value: rate }, Sample { row: "time", value: 2.0 }],
            );
        }
        report.add(
            Kind::Linux,
            1,
            &[Sample { row: "rate", value: 100.0 }, Sample { row: "time", value: 1.0 }],
        );
        report
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn faster_is_above_one_whichever_way_is_better() {
        let table = report().table();
        let ratio =
            |name: &str| table.lines().find(|l| l.starts_with(name)).unwrap().rsplit(' ').next().unwrap();
        assert_eq!((ratio("rate"), ratio("time")), ("2.00", "0.50"), "{table}");
    }

    #[test]
    fn the_csv_file_has_every_measurement() {
        let csv = report().csv();
        assert_eq!(csv.lines().count(), 1 + 6 + 2);
        assert!(csv.contains("test,virtio,1,64,rate,1/s,nrk,2,100\n"), "{csv}");
    }

    #[test]
    fn the_drawing_has_a_bar_for_each_row() {
        let file = tempfile::NamedTempFile::new().unwrap();
        report().plot(file.path()).unwrap();
        let svg = std::fs::read_to_string(file.path()).unwrap();
        assert!(svg.contains("</svg>") && svg.contains("rate") && svg.contains("time"), "{svg}");
        assert_eq!(svg.matches("fill=\"#466EAA\"").count(), 2);
    }
}
