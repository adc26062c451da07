//! What becomes of the results: a table, CSV, a plot, and the comparison with the goals.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::measure::{self, Case};

/// One line of the results.
#[derive(Clone, Debug)]
pub struct Line {
    /// Which structure.
    pub structure: &'static str,
    /// Who.
    pub contender: &'static str,
    /// What was measured.
    pub case: Case,
    /// The median.
    pub result: measure::Result,
}

/// The results as CSV.
pub fn csv(lines: &[Line]) -> String {
    let mut text = String::from("structure,contender,keys,threads,nodes,writes_percent,mops,calm_rounds\n");
    for Line { structure, contender, case, result } in lines {
        let pattern = format!("{:?}", case.pattern).to_lowercase();
        let _ = writeln!(
            text,
            "{structure},{contender},{pattern},{},{},{},{:.2},{}",
            case.threads, case.nodes, case.writes, result.mops, result.calm
        );
    }
    text
}

fn find(lines: &[Line], contender: &str, threads: usize, nodes: usize, writes: u64) -> Option<f64> {
    let fits = |line: &&Line| {
        line.structure == "hash"
            && line.contender == contender
            && line.case == Case { threads, nodes, writes, pattern: crate::keys::Pattern::Uniform }
    };
    lines.iter().find(fits).map(|line| line.result.mops)
}

/// How the hash map with uniform keys compares with its goals: a line per goal, as far as it was measured.
pub fn goals(lines: &[Line]) -> String {
    let mut text = String::new();
    let mut goal = |what: String, ours: Option<f64>, theirs: Option<f64>, least: f64| {
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            let ratio = ours / theirs;
            let verdict = if ratio >= least { "met" } else { "MISSED" };
            let _ = writeln!(
                text,
                "{verdict:6} {what:52} {ours:7.1} / {theirs:7.1} = {ratio:5.2}, at least {least:.2}"
            );
        }
    };
    for writes in [0, 1, 10, 50, 100] {
        let ours = |threads, nodes| find(lines, "nr", threads, nodes, writes);
        let theirs = |contender, threads, nodes| find(lines, contender, threads, nodes, writes);
        let old = "node-replication";
        let least = if writes >= 10 { 2.0 } else { 1.0 };
        goal(format!("2 threads, {writes} % writes, of {old}"), ours(2, 1), theirs(old, 2, 1), least);
        if writes >= 10 {
            goal(
                format!("2 threads, {writes} % writes, of the mutex"),
                ours(2, 1),
                theirs("parking_lot-mutex", 2, 1),
                0.9,
            );
        }
        goal(
            format!("1 thread, {writes} % writes, of the mutex"),
            ours(1, 1),
            theirs("parking_lot-mutex", 1, 1),
            1.0 / 1.2,
        );
        goal(
            format!("2 threads on 2 nodes, {writes} % writes, of {old}"),
            ours(2, 2),
            theirs(old, 2, 2),
            1.0,
        );
        if writes <= 1 {
            let least = if writes == 0 { 1.9 } else { 1.5 };
            goal(format!("2 threads, {writes} % writes, of 1 thread"), ours(2, 1), ours(1, 1), least);
        }
    }
    text
}

/// Draws, for the first structure and key pattern in `lines`, throughput over threads at each share of writes.
pub fn plot(lines: &[Line], path: &Path) -> Result<()> {
    let Some(first) = lines.first() else { return Ok(()) };
    let shown: Vec<&Line> = lines
        .iter()
        .filter(|line| line.structure == first.structure && line.case.pattern == first.case.pattern)
        .collect();
    let mut shares: Vec<u64> = shown.iter().map(|line| line.case.writes).collect();
    shares.dedup();
    shares.sort_unstable();
    shares.dedup();
    let root = SVGBackend::new(path, (380 * shares.len() as u32, 360)).into_drawing_area();
    root.fill(&WHITE).context("cannot draw")?;
    for (area, &share) in root.split_evenly((1, shares.len())).iter().zip(&shares) {
        let panel: Vec<&Line> = shown.iter().copied().filter(|line| line.case.writes == share).collect();
        draw_panel(area, &panel, &format!("{}, {share} % writes", first.structure))
            .map_err(anyhow::Error::msg)?;
    }
    root.present().with_context(|| format!("cannot write {}", path.display()))
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    lines: &[&Line],
    caption: &str,
) -> std::result::Result<(), String> {
    let most = lines.iter().map(|line| line.result.mops).fold(1.0, f64::max) * 1.1;
    let threads = lines.iter().map(|line| line.case.threads).max().unwrap_or(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(40)
        .build_cartesian_2d(0.8..threads + 0.2, 0.0..most)
        .map_err(|error| error.to_string())?;
    let mesh = chart
        .configure_mesh()
        .x_desc("threads")
        .y_desc("Mops/s")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw();
    mesh.map_err(|error| error.to_string())?;
    let mut series: Vec<(&str, usize)> = lines.iter().map(|line| (line.contender, line.case.nodes)).collect();
    series.sort_unstable();
    series.dedup();
    for (index, (contender, nodes)) in series.into_iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = lines
            .iter()
            .filter(|line| (line.contender, line.case.nodes) == (contender, nodes))
            .map(|line| (line.case.threads as f64, line.result.mops));
        let drawn = chart.draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3));
        let label = if nodes > 1 { format!("{contender}, {nodes} nodes") } else { contender.into() };
        let legend = move |(x, y)| PathElement::new([(x, y), (x + 14, y)], color);
        drawn.map_err(|error| error.to_string())?.label(label).legend(legend);
    }
    let labels = chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 10))
        .draw();
    labels.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Pattern;

    fn line(contender: &'static str, threads: usize, mops: f64) -> Line {
        let case = Case { threads, nodes: 1, writes: 0, pattern: Pattern::Uniform };
        Line { structure: "hash", contender, case, result: measure::Result { mops, calm: 1 } }
    }

    #[test]
    fn goals_are_met_or_missed() {
        let lines = [line("nr", 2, 100.0), line("nr", 1, 60.0), line("node-replication", 2, 90.0)];
        let text = goals(&lines);
        assert!(text.contains("met    2 threads, 0 % writes, of node-replication"), "{text}");
        assert!(text.contains("MISSED 2 threads, 0 % writes, of 1 thread"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn csv_has_a_line_per_result() {
        assert!(csv(&[line("nr", 2, 1.5)]).ends_with("\nhash,nr,uniform,2,1,0,1.50,1\n"));
    }
}
