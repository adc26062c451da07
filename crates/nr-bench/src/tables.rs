//! Results read back from the tables that [`crate::report::table`] writes, so that pictures can be drawn of kept figures.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::Structure;
use crate::keys::Pattern;
use crate::measure::{self, Case};
use crate::report::Line;

/// Columns before those of the contenders.
const CASE_COLUMNS: usize = 3;

/// Reads the tables of a page of Markdown. Each stands below a heading such as `## hash, uniform keys`; what else there is
/// is passed over. A table has medians only: of the rounds nothing is known.
pub fn read(page: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let mut about = None;
    let mut names: Vec<&'static str> = Vec::new();
    for (number, text) in page.lines().enumerate() {
        if text.starts_with('#') {
            (about, names) = (heading(text.trim_start_matches(['#', ' '])), Vec::new());
        }
        let (Some((structure, pattern)), Some(row)) = (about, text.strip_prefix('|')) else { continue };
        let cells: Vec<&str> = row.trim_end().trim_end_matches('|').split('|').map(str::trim).collect();
        let place = || format!("line {}", number + 1);
        if names.is_empty() {
            names = header(structure, &cells).with_context(place)?;
        } else if !row.starts_with("--") {
            lines.extend(results(structure, pattern, &names, &cells).with_context(place)?);
        }
    }
    Ok(lines)
}

/// Of what a heading says that figures follow.
fn heading(text: &str) -> Option<(Structure, Pattern)> {
    let (structure, pattern) = text.strip_suffix(" keys")?.split_once(", ")?;
    Some((Structure::from_str(structure, false).ok()?, Pattern::from_str(pattern, false).ok()?))
}

/// The contenders that a table has columns for.
fn header(structure: Structure, cells: &[&str]) -> Result<Vec<&'static str>> {
    let known = structure.contenders();
    let find = |name: &&str| known.iter().map(|(known, _)| *known).find(|known| known == name);
    cells
        .iter()
        .skip(CASE_COLUMNS)
        .map(|name| find(name).with_context(|| format!("nobody is called {name:?}")))
        .collect()
}

/// The results of a row; an empty cell is one that was not measured.
fn results(
    structure: Structure,
    pattern: Pattern,
    names: &[&'static str],
    cells: &[&str],
) -> Result<Vec<Line>> {
    let [threads, nodes, writes, figures @ ..] = cells else { bail!("too few columns") };
    let case = Case {
        threads: threads.parse().context("threads")?,
        nodes: nodes.parse().context("nodes")?,
        writes: writes.trim_end_matches([' ', '%']).parse().context("writes")?,
        pattern,
    };
    let line = |(contender, figure): (&&'static str, &&str)| {
        let mops = figure.parse().with_context(|| format!("{contender}: {figure:?}"))?;
        let result = measure::Result { mops, slowest: f64::NAN, calm: 0, rounds: Vec::new() };
        Ok(Line { structure: structure.name(), contender, case, result })
    };
    names.iter().zip(figures).filter(|(_, figure)| !figure.is_empty()).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    const PAGE: &str = "# Figures\n\n| not | a | table | of ours |\n\n### hash, zipf keys\n\nWords.\n\n\
        | threads | nodes | writes | nr | dashmap |\n|---:|---:|---:|---:|---:|\n\
        | 1 | 1 | 10 % | 7.5 | 5.0 |\n| 2 | 2 | 10 % | 9.0 | |\n\n";

    #[test]
    fn what_was_written_is_read_back() {
        let lines = read(PAGE).unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2].case, Case { threads: 2, nodes: 2, writes: 10, pattern: Pattern::Zipf });
        let table = PAGE.find("| threads").unwrap();
        assert!(report::table(&lines).ends_with(&PAGE[table..]), "{}", report::table(&lines));
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let error = |from, to| format!("{:#}", read(&PAGE.replace(from, to)).unwrap_err());
        assert_eq!(error("dashmap", "mapdash"), "line 9: nobody is called \"mapdash\"");
        assert!(error("7.5", "fast").starts_with("line 11: nr: \"fast\""));
        assert!(error("| 2 | 2 |", "| 2 |").starts_with("line 12: "), "{}", error("| 2 | 2 |", "| 2 |"));
    }
}
