//! The results as a picture: small panels, each with few lines, whose names stand at their ends.
//!
//! A row per share of writes and a column per kind of keys; [`series`] chooses who is drawn, for lines that cannot be told
//! apart tell nothing. All panels of a picture show the same contenders in the same colours.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::keys::Pattern;
use crate::report::Line;

/// As many lines as an eye follows.
const MOST: usize = 6;
/// The size of a panel in pixels, and what of it is left to the names at the right.
const PANEL: (u32, u32) = (410, 230);
const NAMES: u32 = 112;
/// Names stand at least so many pixels below one another.
const SPACING: i32 = 13;
/// Who is drawn first: what is replicated, once on one node and once with a node for each thread, then who stands for the others.
const CHOSEN: &[Series] = &[
    Series { contender: "nr", node_each: false },
    Series { contender: "nr", node_each: true },
    Series { contender: "node-replication", node_each: false },
    Series { contender: "parking_lot-mutex", node_each: false },
    Series { contender: "std-rwlock", node_each: false },
    Series { contender: "dashmap", node_each: false },
    Series { contender: "skiplist", node_each: false },
];
/// Told apart also by who does not see all colours (Okabe and Ito, "Color Universal Design"), dark enough for text.
const COLOURS: [RGBColor; MOST] = [
    RGBColor(0, 90, 160),
    RGBColor(50, 150, 210),
    RGBColor(200, 80, 0),
    RGBColor(0, 130, 95),
    RGBColor(180, 90, 140),
    RGBColor(90, 90, 90),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line in the panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Series {
    contender: &'static str,
    /// With as many nodes as threads; else with one.
    node_each: bool,
}

impl Series {
    fn has(self, line: &Line) -> bool {
        let nodes = if self.node_each { line.case.threads } else { 1 };
        line.contender == self.contender && line.case.nodes == nodes
    }

    fn name(self) -> String {
        if self.node_each { format!("{}, a node each", self.contender) } else { self.contender.into() }
    }
}

/// The series of a structure: the chosen ones that were measured, then others while there is room.
fn series(lines: &[&Line]) -> Vec<Series> {
    let measured = |series: &Series| {
        lines.iter().any(|line| series.has(line) && (!series.node_each || line.case.nodes > 1))
    };
    let others = lines.iter().map(|line| Series { contender: line.contender, node_each: false });
    let mut found: Vec<Series> = Vec::new();
    for candidate in CHOSEN.iter().copied().filter(measured).chain(others.filter(measured)) {
        if found.len() < MOST && !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// The distinct values of a property, in their order.
fn distinct<T: Ord>(lines: &[Line], property: impl Fn(&Line) -> T) -> Vec<T> {
    let mut values: Vec<T> = lines.iter().map(property).collect();
    values.sort_unstable();
    values.dedup();
    values
}

/// Draws throughput over threads.
pub fn plot(lines: &[Line], path: &Path) -> Result<()> {
    let rows: Vec<(&str, u64)> = distinct(lines, |line| (line.structure, line.case.writes));
    let uniform = [Pattern::Uniform, Pattern::Zipf];
    let columns: Vec<Pattern> =
        uniform.into_iter().filter(|keys| lines.iter().any(|line| line.case.pattern == *keys)).collect();
    let size = (PANEL.0 * columns.len().max(1) as u32, PANEL.1 * rows.len().max(1) as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE).context("cannot draw")?;
    let mut areas = root.split_evenly((rows.len(), columns.len())).into_iter();
    for &(structure, writes) in &rows {
        let all: Vec<&Line> = lines.iter().filter(|line| line.structure == structure).collect();
        for (&keys, area) in columns.iter().zip(&mut areas) {
            let shown = |line: &&&Line| line.case.writes == writes && line.case.pattern == keys;
            let panel: Vec<&Line> = all.iter().filter(shown).copied().collect();
            let caption =
                format!("{structure}, {} keys, {writes} % writes", format!("{keys:?}").to_lowercase());
            draw_panel(&area, &panel, &series(&all), &caption).map_err(anyhow::Error::msg)?;
        }
    }
    root.present().with_context(|| format!("cannot write {}", path.display()))
}

fn draw_panel(area: &Area<'_>, lines: &[&Line], series: &[Series], caption: &str) -> Result<(), String> {
    let mut threads: Vec<usize> = lines.iter().map(|line| line.case.threads).collect();
    threads.sort_unstable();
    threads.dedup();
    let drawn = lines.iter().filter(|line| series.iter().any(|series| series.has(line)));
    let most = drawn.map(|line| line.result.mops).fold(1.0, f64::max) * 1.08;
    let last = threads.len().saturating_sub(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16))
        .margin(6)
        .margin_right(NAMES)
        .x_label_area_size(34)
        .y_label_area_size(48)
        .build_cartesian_2d(-0.15..last + 0.1, 0.0..most)
        .map_err(|error| error.to_string())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .x_labels(threads.len())
        .y_labels(5)
        .x_desc("threads")
        .y_desc("million operations/s")
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 13))
        .x_label_formatter(&|x| threads.get(x.round() as usize).map_or(String::new(), usize::to_string))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()
        .map_err(|error| error.to_string())?;
    let mut ends = Vec::new();
    for (series, colour) in series.iter().zip(COLOURS) {
        let place = |line: &&Line| threads.iter().position(|threads| *threads == line.case.threads);
        let points: Vec<(f64, f64)> = lines
            .iter()
            .filter(|line| series.has(line))
            .filter_map(|line| Some((place(line)? as f64, line.result.mops)))
            .collect();
        ends.extend(points.last().map(|end| (chart.backend_coord(end), series.name(), colour)));
        let line = LineSeries::new(points, colour.stroke_width(2)).point_size(3);
        chart.draw_series(line).map_err(|error| error.to_string())?;
    }
    let bottom = chart.plotting_area().get_pixel_range().1.end;
    name_lines(area, ends, bottom)
}

/// Writes the names to the right of where the lines end, each in its line's colour.
fn name_lines(
    area: &Area<'_>,
    mut ends: Vec<((i32, i32), String, RGBColor)>,
    bottom: i32,
) -> Result<(), String> {
    ends.sort_by_key(|((_, y), ..)| *y);
    let heights = spread(&ends.iter().map(|((_, y), ..)| *y).collect::<Vec<_>>(), bottom);
    let (left, top) = area.get_base_pixel();
    for (((x, y), name, colour), height) in ends.into_iter().zip(heights) {
        let (x, y, height) = (x - left, y - top, height - top);
        let pointer = PathElement::new([(x + 5, y), (x + 16, height)], colour.stroke_width(1));
        let style = ("sans-serif", 12).into_font().color(&colour).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&pointer).map_err(|error| error.to_string())?;
        area.draw(&Text::new(name, (x + 19, height), style)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Ascending heights moved apart, as little as is needed and not below `bottom`.
fn spread(heights: &[i32], bottom: i32) -> Vec<i32> {
    let mut apart: Vec<i32> = Vec::new();
    for &height in heights {
        apart.push(apart.last().map_or(height, |above| height.max(above + SPACING)));
    }
    let mut lowest = bottom;
    for height in apart.iter_mut().rev() {
        *height = (*height).min(lowest);
        lowest = *height - SPACING;
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables;

    #[test]
    fn names_are_apart_and_stay_within_the_panel() {
        assert_eq!(spread(&[10, 50, 90], 100), [10, 50, 90]);
        assert_eq!(spread(&[10, 12, 13], 100), [10, 23, 36]);
        assert_eq!(spread(&[90, 98, 99], 100), [74, 87, 100]);
    }

    #[test]
    fn the_pictures_of_the_book_show_its_figures() {
        let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src");
        let page = std::fs::read_to_string(book.join("node-replication-figures.md")).unwrap();
        let lines = tables::read(&page).unwrap();
        for structure in ["hash", "ordered", "queue"] {
            let of_it: Vec<Line> = lines.iter().filter(|line| line.structure == structure).cloned().collect();
            assert!(series(&of_it.iter().collect::<Vec<_>>()).len() <= MOST);
            let name = format!("nr-{structure}.svg");
            let drawn = std::env::temp_dir().join(format!("{}-{name}", std::process::id()));
            plot(&of_it, &drawn).unwrap();
            let (drawn, kept) = (std::fs::read_to_string(&drawn), std::fs::read_to_string(book.join(&name)));
            assert!(
                drawn.unwrap() == kept.unwrap(),
                "{name} is not what the page says; draw it again: cargo xtask bench nr \
                 --from docs/src/node-replication-figures.md --structures {structure} --plot docs/src/{name}"
            );
        }
    }
}
