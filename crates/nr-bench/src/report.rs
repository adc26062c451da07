//! What becomes of the results: tables, CSV, and the comparison with the goals.

use std::fmt::Write as _;

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
    let mut text = String::from(
        "structure,contender,keys,threads,nodes,writes_percent,mops,slowest_thread,calm_rounds\n",
    );
    for Line { structure, contender, case, result } in lines {
        let pattern = format!("{:?}", case.pattern).to_lowercase();
        let _ = writeln!(
            text,
            "{structure},{contender},{pattern},{},{},{},{:.2},{:.2},{}",
            case.threads, case.nodes, case.writes, result.mops, result.slowest, result.calm
        );
    }
    text
}

fn find<'a>(
    lines: &'a [Line],
    contender: &str,
    threads: usize,
    nodes: usize,
    writes: u64,
) -> Option<&'a measure::Result> {
    let fits = |line: &&Line| {
        line.structure == "hash"
            && line.contender == contender
            && line.case == Case { threads, nodes, writes, pattern: crate::keys::Pattern::Uniform }
    };
    lines.iter().find(fits).map(|line| &line.result)
}

/// How the hash map with uniform keys compares with its goals, by rounds that took turns: a line per goal, as far as it was
/// measured.
pub fn goals(lines: &[Line]) -> String {
    let mut text = String::new();
    type Found<'a> = Option<&'a measure::Result>;
    let mut goal = |what: String, ours: Found<'_>, theirs: Found<'_>, least: f64| {
        let (Some(ours), Some(theirs)) = (ours, theirs) else { return };
        let (verdict, ratio) = match ours.times(theirs) {
            Some(ratio) if ratio >= least => ("met", ratio),
            Some(ratio) => ("MISSED", ratio),
            None => ("MISSED", f64::NAN),
        };
        let (ours, theirs) = (ours.mops, theirs.mops);
        let _ = writeln!(
            text,
            "{verdict:6} {what:58} {ratio:5.2}, at least {least:.2} (medians {ours:.1} and {theirs:.1} Mops/s)"
        );
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
        match writes {
            0 => goal("2 threads, 0 % writes, of 1 thread".into(), ours(2, 1), ours(1, 1), 1.9),
            // Where cores share no cache, each of them is a node of its own.
            1 => goal("2 threads on 2 nodes, 1 % writes, of 1 thread".into(), ours(2, 2), ours(1, 1), 1.5),
            _ => {}
        }
    }
    text
}

/// The results as Markdown: a table per structure and kind of keys, a row per case, a column per contender.
pub fn table(lines: &[Line]) -> String {
    let mut text = String::new();
    for group in lines.chunk_by(|a, b| a.structure == b.structure && a.case.pattern == b.case.pattern) {
        let mut names: Vec<&str> = Vec::new();
        for line in group {
            if !names.contains(&line.contender) {
                names.push(line.contender);
            }
        }
        let pattern = format!("{:?}", group[0].case.pattern).to_lowercase();
        let _ = writeln!(text, "### {}, {pattern} keys\n", group[0].structure);
        let _ = writeln!(text, "| threads | nodes | writes | {} |", names.join(" | "));
        let _ = writeln!(text, "|---:|---:|---:|{}", "---:|".repeat(names.len()));
        for row in group.chunk_by(|a, b| a.case == b.case) {
            let Case { threads, nodes, writes, .. } = row[0].case;
            let _ = write!(text, "| {threads} | {nodes} | {writes} % |");
            for name in &names {
                let found = row.iter().find(|line| line.contender == *name);
                let _ = match found {
                    Some(line) => write!(text, " {:.1} |", line.result.mops),
                    None => write!(text, " |"),
                };
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Pattern;

    fn line(contender: &'static str, threads: usize, mops: f64) -> Line {
        let case = Case { threads, nodes: 1, writes: 0, pattern: Pattern::Uniform };
        Line {
            structure: "hash",
            contender,
            case,
            result: measure::Result { mops, slowest: 0.75, calm: 1, rounds: vec![Some(mops)] },
        }
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
    fn a_table_has_a_row_per_case_and_a_column_per_contender() {
        let text = table(&[line("nr", 1, 7.5), line("dashmap", 1, 5.0), line("nr", 2, 9.0)]);
        assert!(text.contains("### hash, uniform keys"), "{text}");
        assert!(text.contains("| threads | nodes | writes | nr | dashmap |"), "{text}");
        assert!(text.contains("| 1 | 1 | 0 % | 7.5 | 5.0 |"), "{text}");
        assert!(text.contains("| 2 | 1 | 0 % | 9.0 | |"), "{text}");
    }

    #[test]
    fn csv_has_a_line_per_result() {
        assert!(csv(&[line("nr", 2, 1.5)]).ends_with("\nhash,nr,uniform,2,1,0,1.50,0.75,1\n"));
    }
}
