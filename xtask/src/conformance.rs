//! `cargo xtask conformance`: what programs see of nrk, beside what they see of this machine's Linux.
//!
//! `user/conformance` runs here and in a guest. [`Comparison`] is what came of it, section by section; the integration
//! tests use it as well. What is no line of the program (a panic of the kernel, an end that is none of the program's)
//! counts to the section in which it comes, so that it shows up as a difference.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use similar::TextDiff;

use crate::exit::Ending;
use crate::guest::{self, Setup};
use crate::progress::Step;
use crate::watched::Watched;

/// The program.
const PROGRAM: &str = "conformance";
/// How long it may take on this machine. Generous: each case has a watchdog of its own.
const PATIENCE: Duration = Duration::from_secs(300);
/// Equal lines that a difference shows around each change.
const CONTEXT: usize = 3;
/// The status when the transcripts differ.
const DIFFERENT: u8 = 1;

/// One of the two transcripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    /// Of this machine.
    Linux,
    /// Of a guest.
    Nrk,
}

/// Runs the conformance program on this machine's Linux and in nrk, and shows what differs; the status is 1 if anything does.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Only these sections, such as epoll (an unknown one is answered with their names); without: all
    #[arg(value_name = "SECTION")]
    pub sections: Vec<String>,
    /// Print one of the two transcripts instead
    #[arg(long, value_enum, value_name = "SIDE")]
    pub show: Option<Side>,
}

/// Runs the command; returns the exit status for the shell.
pub fn run(options: &Options) -> Result<u8> {
    check(&options.sections, &known()?)?;
    match options.show {
        Some(side) => {
            transcript(side, &options.sections, Setup::for_a_command)?
                .iter()
                .for_each(|line| println!("{line}"));
            Ok(0)
        }
        None => {
            let comparison = compare(&options.sections, Setup::for_a_command)?;
            print!("{comparison}");
            Ok(if comparison.is_equal() { 0 } else { DIFFERENT })
        }
    }
}

/// Runs sections (all, if none is named) here and in a guest, which `adjust` has the last word on.
pub fn compare(sections: &[String], adjust: fn(Setup) -> Setup) -> Result<Comparison> {
    let linux = transcript(Side::Linux, sections, adjust)?;
    if linux.is_empty() {
        bail!("the conformance program printed nothing on this machine");
    }
    Ok(Comparison::of(&linux, &transcript(Side::Nrk, sections, adjust)?))
}

fn transcript(side: Side, sections: &[String], adjust: fn(Setup) -> Setup) -> Result<Vec<String>> {
    let what = if sections.is_empty() { "all sections".into() } else { sections.join(" ") };
    let lines = match side {
        Side::Linux => {
            // Before the step: the build shows one of its own.
            let program = guest::user_program(PROGRAM)?;
            let _step = Step::new(format!("conformance ({what}) on this machine's Linux"));
            let mut command = std::process::Command::new(program);
            command.args(sections);
            Watched::start(command, false)?.succeed(PATIENCE)?
        }
        Side::Nrk => {
            // The transcript is all that the console shows: the kernel's own messages are off.
            let mut guest = adjust(Setup::user_program(PROGRAM, sections)?.cmdline("log=off")).start()?;
            let _step = Step::new(format!("conformance ({what}) in nrk"));
            let ending = guest.wait()?;
            let told = (ending != Ending::Program(0)).then(|| ending.to_string());
            guest.console().lines().map(str::to_string).chain(told).collect()
        }
    };
    Ok(lines.into_iter().filter(|line| !line.is_empty()).collect())
}

/// The names of all sections.
fn known() -> Result<Vec<String>> {
    let mut command = guest::user_command(PROGRAM)?;
    command.arg("--list");
    Watched::start(command, false)?.succeed(PATIENCE)
}

fn check(sections: &[String], known: &[String]) -> Result<()> {
    match sections.iter().find(|section| !known.contains(section)) {
        None => Ok(()),
        Some(section) => bail!("there is no section {section}; there are: {}", known.join(" ")),
    }
}

/// Two transcripts, section by section.
#[derive(Debug)]
pub struct Comparison {
    sections: Vec<Section>,
}

/// The lines of a section on both sides.
#[derive(Debug, Default)]
struct Section {
    name: String,
    linux: String,
    nrk: String,
}

impl Comparison {
    /// Compares lines of Linux with lines of nrk.
    pub fn of(linux: &[String], nrk: &[String]) -> Self {
        let mut this = Self { sections: Vec::new() };
        this.sort(linux, |section| &mut section.linux);
        this.sort(nrk, |section| &mut section.nrk);
        this
    }

    /// Gives each line to its section: the one before the first slash, else that of the line before.
    fn sort(&mut self, lines: &[String], side: fn(&mut Section) -> &mut String) {
        let mut at = 0;
        for line in lines {
            if let Some(name) = section_of(line) {
                at = self.place(name);
            } else if self.sections.is_empty() {
                at = self.place("");
            }
            let text = side(&mut self.sections[at]);
            text.push_str(line);
            text.push('\n');
        }
    }

    fn place(&mut self, name: &str) -> usize {
        self.sections.iter().position(|section| section.name == name).unwrap_or_else(|| {
            self.sections.push(Section { name: name.into(), ..Section::default() });
            self.sections.len() - 1
        })
    }

    /// Whether nrk answered as Linux did.
    pub fn is_equal(&self) -> bool {
        self.sections.iter().all(Section::is_equal)
    }

    /// How many lines Linux wrote.
    fn lines(&self) -> usize {
        self.sections.iter().map(|section| section.linux.lines().count()).sum()
    }
}

/// The section that a line names, as in `section/case.what: outcome`.
fn section_of(line: &str) -> Option<&str> {
    let (place, _) = line.split_once(": ")?;
    let (section, case) = place.split_once('/')?;
    let is_name =
        |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (is_name(section) && !case.is_empty()).then_some(section)
}

impl Section {
    fn is_equal(&self) -> bool {
        self.linux == self.nrk
    }
}

/// The differences as unified diffs, each under the name of its section, and a last line that counts.
impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let different: Vec<&Section> = self.sections.iter().filter(|section| !section.is_equal()).collect();
        for section in &different {
            let diff = TextDiff::from_lines(&section.linux, &section.nrk);
            writeln!(f, "== {}", section.name)?;
            writeln!(f, "{}", diff.unified_diff().context_radius(CONTEXT).header("linux", "nrk"))?;
        }
        let compared = format!("{}, {}", count(self.sections.len(), "section"), count(self.lines(), "line"));
        if different.is_empty() {
            return writeln!(f, "{compared}: the same on Linux and in nrk");
        }
        let names: Vec<&str> = different.iter().map(|section| section.name.as_str()).collect();
        writeln!(f, "{compared}; nrk differs in {}", names.join(", "))
    }
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_string).collect()
    }

    fn compared(linux: &str, nrk: &str) -> Comparison {
        Comparison::of(&lines(linux), &lines(nrk))
    }

    #[test]
    fn equal_transcripts_are_counted() {
        let comparison = compared("fd/a.x: ok\nfd/b.y: 1\npoll/c: ok", "fd/a.x: ok\nfd/b.y: 1\npoll/c: ok");
        assert!(comparison.is_equal());
        assert_eq!(comparison.to_string(), "2 sections, 3 lines: the same on Linux and in nrk\n");
        let alone = compared("fd/a.x: ok", "fd/a.x: ok").to_string();
        assert_eq!(alone, "1 section, 1 line: the same on Linux and in nrk\n");
    }

    #[test]
    fn what_differs_is_a_unified_diff_below_its_section() {
        let comparison =
            compared("fd/a.x: ok\npoll/c.y: ok\npoll/d.z: 1", "fd/a.x: ok\npoll/c.y: ok\npoll/d.z: 2");
        assert!(!comparison.is_equal());
        assert_eq!(
            comparison.to_string(),
            "== poll\n--- linux\n+++ nrk\n@@ -1,2 +1,2 @@\n poll/c.y: ok\n-poll/d.z: 1\n+poll/d.z: 2\n\n\
             2 sections, 3 lines; nrk differs in poll\n"
        );
    }

    #[test]
    fn order_and_repetition_count() {
        assert!(!compared("fd/a: 1\nfd/b: 2", "fd/b: 2\nfd/a: 1").is_equal());
        assert!(!compared("fd/a: 1", "fd/a: 1\nfd/a: 1").is_equal());
    }

    #[test]
    fn what_the_kernel_says_is_a_difference_where_it_comes() {
        let panicked = compared("fd/a: 1\npoll/b: 2", "fd/a: 1\npanicked at a/b.rs:1\nthe kernel panicked");
        assert_eq!(panicked.sections.len(), 2);
        assert!(panicked.sections[0].nrk.ends_with("the kernel panicked\n"));
        assert_eq!(panicked.sections[1].nrk, "");
        assert!(!compared("fd/a: 1", "Booting\nfd/a: 1").is_equal());
    }

    #[test]
    fn a_case_that_failed_is_a_line_of_its_section() {
        assert_eq!(section_of("fd/close_range: took too long"), Some("fd"));
        assert_eq!(section_of("fd/open.of /a/b: ENOENT"), Some("fd"));
        for other in ["/bin/x: no", "a b/c: d", "fd: 1", "fd/a", ""] {
            assert_eq!(section_of(other), None, "{other}");
        }
    }

    #[test]
    fn an_unknown_section_is_answered_with_their_names() {
        let known = lines("fd\npoll");
        assert!(check(&lines("poll\nfd"), &known).is_ok());
        let error = check(&lines("fd\nepol"), &known).unwrap_err().to_string();
        assert_eq!(error, "there is no section epol; there are: fd poll");
    }
}
