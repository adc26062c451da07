//! The results as a picture.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use crate::report::Line;

/// Draws throughput over threads: a row of panels per structure and kind of keys, a column per share of writes.
pub fn plot(lines: &[Line], path: &Path) -> Result<()> {
    let mut shares: Vec<u64> = lines.iter().map(|line| line.case.writes).collect();
    shares.sort_unstable();
    shares.dedup();
    let rows: Vec<&[Line]> =
        lines.chunk_by(|a, b| a.structure == b.structure && a.case.pattern == b.case.pattern).collect();
    let size = (380 * shares.len().max(1) as u32, 360 * rows.len().max(1) as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE).context("cannot draw")?;
    let mut areas = root.split_evenly((rows.len(), shares.len())).into_iter();
    for row in rows {
        for (&share, area) in shares.iter().zip(&mut areas) {
            let panel: Vec<&Line> = row.iter().filter(|line| line.case.writes == share).collect();
            let keys = format!("{:?}", row[0].case.pattern).to_lowercase();
            let caption = format!("{}, {keys} keys, {share} % writes", row[0].structure);
            draw_panel(&area, &panel, &caption).map_err(anyhow::Error::msg)?;
        }
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
        .max_light_lines(1)
        .x_labels(threads as usize)
        .y_labels(6)
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
