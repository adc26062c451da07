//! How many times as fast as Linux nrk is, as bars: each with its name at the left and its figure at its end, and a line for
//! Linux behind them.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels: the width of the picture, what the names take of it, what is left behind the longest bar for its figure, the height
/// of a bar with its gap, and of what is above and below the bars.
const WIDTH: u32 = 720;
const NAMES: i32 = 190;
const FIGURES: i32 = 50;
const BAR: i32 = 26;
const GAP: i32 = 6;
const HEAD: i32 = 40;
const FOOT: i32 = 44;
/// About as many marks along the axis.
const MARKS: f64 = 6.0;

/// Draws named ratios into a file.
pub fn draw(path: &Path, caption: &str, bars: &[(&str, f64)]) -> Result<()> {
    try_draw(path, caption, bars).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

fn try_draw(path: &Path, caption: &str, bars: &[(&str, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let bottom = HEAD + BAR * bars.len() as i32;
    let area = SVGBackend::new(path, (WIDTH, (bottom + FOOT) as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size, colour, horizontal, vertical| {
        ("sans-serif", size).into_font().color(colour).pos(Pos::new(horizontal, vertical))
    };
    let most = bars.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
    let scale = f64::from(WIDTH as i32 - NAMES - FIGURES) / most;
    let place = |ratio: f64| NAMES + (ratio * scale).round() as i32;
    let grey = RGBColor(205, 205, 205);
    let middle = text(13, &BLACK, HPos::Center, VPos::Top);

    area.draw(&Text::new(caption, (12, 12), text(17, &BLACK, HPos::Left, VPos::Top)))?;
    for mark in marks(most) {
        area.draw(&PathElement::new([(place(mark), HEAD), (place(mark), bottom)], grey))?;
        area.draw(&Text::new(format!("{mark}"), (place(mark), bottom + 5), middle.clone()))?;
    }
    let axis = "times as fast as Linux (the black line)";
    area.draw(&Text::new(axis, (place(most / 2.0), bottom + 23), middle.clone()))?;
    area.draw(&PathElement::new([(place(1.0), HEAD), (place(1.0), bottom)], BLACK.stroke_width(2)))?;
    for (number, (name, ratio)) in bars.iter().enumerate() {
        let top = HEAD + BAR * number as i32 + GAP / 2;
        let centre = top + (BAR - GAP) / 2;
        let corners = [(NAMES, top), (place(*ratio), top + BAR - GAP)];
        area.draw(&Rectangle::new(corners, RGBColor(70, 110, 170).filled()))?;
        let label = text(13, &BLACK, HPos::Right, VPos::Center);
        area.draw(&Text::new(*name, (NAMES - 8, centre), label))?;
        // On the line of Linux, its own ground.
        let figure = (place(*ratio) + 6, centre);
        let ground = [(figure.0 - 3, centre - 8), (figure.0 + 34, centre + 8)];
        area.draw(&Rectangle::new(ground, WHITE.filled()))?;
        area.draw(&Text::new(format!("{ratio:.2}"), figure, text(13, &BLACK, HPos::Left, VPos::Center)))?;
    }
    area.present()?;
    Ok(())
}

/// Round figures from 0 to `most`.
fn marks(most: f64) -> Vec<f64> {
    let steps = [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];
    let step = steps.into_iter().find(|step| most / step <= MARKS).unwrap_or(most);
    // Tenths, so that sums stay round.
    (0..)
        .map(|mark| (f64::from(mark) * step * 10.0).round() / 10.0)
        .take_while(|mark| *mark <= most)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_few() {
        assert_eq!(marks(1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(marks(4.4), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(marks(9.1), [0.0, 2.0, 4.0, 6.0, 8.0]);
    }

    #[test]
    fn a_bar_is_as_long_as_its_ratio_and_says_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        draw(file.path(), "caption", &[("slower", 0.5), ("faster", 2.0)]).unwrap();
        let svg = std::fs::read_to_string(file.path()).unwrap();
        let width = |line: &str| -> f64 {
            line.split("width=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().parse().unwrap()
        };
        let bars: Vec<f64> =
            svg.lines().filter(|line| line.contains("fill=\"#466EAA\"")).map(width).collect();
        assert_eq!(bars.len(), 2, "{svg}");
        assert!((bars[1] / bars[0] - 4.0).abs() < 0.05, "{bars:?}");
        for text in ["caption", "slower", "faster", "0.50", "2.00", "times as fast as Linux"] {
            assert!(svg.contains(text), "no {text} in {svg}");
        }
    }
}
