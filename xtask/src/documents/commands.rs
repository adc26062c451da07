//! The commands that the documents show, run as they are shown.
//!
//! A block of commands is marked `sh`, each line a command, or `console`, where `$ ` begins a command and the other lines are
//! what it prints; `...` stands for what differs. A comment before it tells what becomes of it, so that nothing is left out
//! by mistake:
//!
//! | Comment | Meaning |
//! |---|---|
//! | `run` | the commands succeed, and print what is shown, among other lines |
//! | `run: status 7` | the last command ends with this status |
//! | `run: makes a.txt b.txt` | they leave these files, which are removed |
//! | `not run: REASON` | they are not run |
//!
//! The commands of a block run in one shell, which begins in the workspace's folder.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Block, Page};
use crate::watched::Watched;
use crate::{process, toolchain, workspace};

/// What becomes of a block of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Treatment {
    /// It is run.
    Run {
        /// The status of the last command.
        status: i32,
        /// Files that are left.
        makes: Vec<String>,
    },
    /// It is not, for a reason.
    NotRun(String),
}

/// A command and what it prints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    command: String,
    output: Vec<String>,
}

/// Stands between the outputs of commands, with the status of the one before.
const MARK: &str = "--- status of the command before: ";
/// How long a block may take; generous, for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(600);

/// The blocks of commands of a page, each with what becomes of it; an error names a block that does not say.
pub fn blocks(page: &Page) -> Result<Vec<(&Block, Treatment)>> {
    let mut found = Vec::new();
    for block in &page.blocks {
        match block.language.as_str() {
            "" => bail!("{}: no language behind the fence: `text` if it is none", block.place),
            "console" | "sh" => found.push((block, treatment(block).with_context(|| block.place.clone())?)),
            _ => {}
        }
    }
    Ok(found)
}

fn treatment(block: &Block) -> Result<Treatment> {
    let comment = block.comment.as_deref().unwrap_or_default();
    if let Some(reason) = comment.strip_prefix("not run: ") {
        return Ok(Treatment::NotRun(reason.into()));
    }
    let Some(rest) = comment.strip_prefix("run") else {
        bail!("commands need a comment before them: `<!-- run -->` or `<!-- not run: REASON -->`");
    };
    let (mut status, mut makes) = (0, Vec::new());
    for part in rest.trim_start_matches(':').split(';').map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once(' ') {
            Some(("status", number)) => status = number.parse().context("the status is a number")?,
            Some(("makes", files)) => makes.extend(files.split(' ').map(String::from)),
            _ => bail!("`{part}` in a comment before commands: status N, or makes FILE..."),
        }
    }
    Ok(Treatment::Run { status, makes })
}

/// Runs a block if it is to be run.
pub fn run(block: &Block, treatment: &Treatment) -> Result<()> {
    let Treatment::Run { status, makes } = treatment else { return Ok(()) };
    let result = run_shown(&shown(block), *status);
    for file in makes {
        let removed = fs::remove_file(workspace::root().join(file));
        if result.is_ok() {
            removed.with_context(|| format!("{}: {file} was not made", block.place))?;
        }
    }
    result.with_context(|| block.place.clone())
}

/// The commands of a block. A `\` at the end of a line continues a command.
fn shown(block: &Block) -> Vec<Shown> {
    let mut commands: Vec<Shown> = Vec::new();
    let mut continued = false;
    for line in block.text.lines().filter(|line| !line.is_empty()) {
        let begins = if block.language == "sh" { Some(line) } else { line.strip_prefix("$ ") };
        match (commands.last_mut(), begins) {
            (Some(last), _) if continued => last.command = format!("{}\n{line}", last.command),
            (_, Some(command)) => commands.push(Shown { command: command.into(), output: Vec::new() }),
            (Some(last), None) => last.output.push(line.into()),
            (None, None) => {}
        }
        continued = line.ends_with('\\') && (continued || begins.is_some());
    }
    commands
}

/// Runs commands in one shell, and compares.
fn run_shown(commands: &[Shown], last: i32) -> Result<()> {
    let outputs = outputs(commands)?;
    for (number, (shown, (status, output))) in commands.iter().zip(outputs).enumerate() {
        let wanted = if number + 1 == commands.len() { last } else { 0 };
        let printed = output.join("\n");
        ensure!(status == wanted, "`{}` ended with status {status}, not {wanted}:\n{printed}", shown.command);
        if let Some(missing) = missing(&shown.output, &output) {
            bail!("`{}` did not print {missing:?} where it is shown, but:\n{printed}", shown.command);
        }
    }
    Ok(())
}

/// The status of each command, and what it printed on both outputs.
fn outputs(commands: &[Shown]) -> Result<Vec<(i32, Vec<String>)>> {
    let script = commands.iter().map(|shown| format!("{}\nprintf '\\n{MARK}%d\\n' $?\n", shown.command));
    let mut bash = process::dies_with_us("bash");
    bash.args(["-c", &format!("exec 2>&1\n{}", script.collect::<String>())]).current_dir(workspace::root());
    // What cargo set for the tests that it runs is not for a cargo that they start.
    for (variable, _) in toolchain::cargo().get_envs().filter(|(_, value)| value.is_none()) {
        bash.env_remove(variable);
    }
    let (ended, lines) = Watched::start(bash, false)?.finish(PATIENCE)?;
    let (mut outputs, mut output) = (Vec::new(), Vec::new());
    for line in &lines {
        match line.trim_end().strip_prefix(MARK) {
            Some(status) => outputs.push((status.parse()?, std::mem::take(&mut output))),
            None => output.push(line.trim_end().to_string()),
        }
    }
    ensure!(outputs.len() == commands.len(), "the shell ended early ({ended}):\n{}", lines.join("\n"));
    Ok(outputs)
}

/// The first of the shown lines that was not printed behind those before it.
fn missing<'a>(shown: &'a [String], printed: &[String]) -> Option<&'a String> {
    let mut printed = printed.iter();
    shown.iter().find(|shown| !printed.any(|line| fits(shown, line)))
}

/// Whether a line is as shown, where `...` stands for anything.
fn fits(shown: &str, line: &str) -> bool {
    let mut parts = shown.trim().split("...");
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut open = false;
    for part in parts {
        let Some(place) = rest.find(part) else { return false };
        rest = &rest[place + part.len()..];
        open = part.is_empty();
    }
    open || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(comment: &str, text: &str) -> Block {
        let language = if text.starts_with("$ ") { "console" } else { "sh" };
        let comment = Some(comment.to_string()).filter(|comment| !comment.is_empty());
        Block { place: "a.md:1".into(), language: language.into(), text: text.into(), comment }
    }

    fn outcome(comment: &str, text: &str) -> Result<(), String> {
        let block = block(comment, text);
        treatment(&block).and_then(|treatment| run(&block, &treatment)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_block_says_what_becomes_of_it() {
        let error = |comment| treatment(&block(comment, "true\n")).unwrap_err().to_string();
        assert!(error("").contains("commands need a comment"), "{}", error(""));
        assert!(error("run: sometimes").contains("sometimes"));
        assert_eq!(treatment(&block("not run: slow", "false\n")).unwrap(), Treatment::NotRun("slow".into()));
        assert_eq!(outcome("not run: slow", "false\n"), Ok(()));
    }

    #[test]
    fn commands_run_in_one_shell_and_print_what_is_shown() {
        assert_eq!(
            outcome("run", "$ cd docs; x=5   # remembered\n$ ls src; echo $x\n...\ntesting.md\n5\n"),
            Ok(())
        );
        assert_eq!(
            outcome("run", "$ echo a \\\n    b\na b\n$ echo the 17th line >&2\nthe ...th line\n"),
            Ok(())
        );
        assert_eq!(outcome("run: status 3", "true\nexit_with() { return $1; }\nexit_with 3\n"), Ok(()));
    }

    #[test]
    fn another_status_or_output_is_told() {
        let told = |comment, text, why: &str| {
            let error = outcome(comment, text).unwrap_err();
            assert!(error.contains(why) && error.starts_with("a.md:1"), "{error}");
        };
        told("run", "true\nfalse\n", "`false` ended with status 1, not 0");
        told("run: status 1", "false\nfalse\n", "`false` ended with status 1, not 0");
        told("run", "$ echo b; echo a\na\nb\n", "did not print \"b\"");
        told("run", "exit 0\n", "the shell ended early");
    }

    #[test]
    fn files_that_are_made_are_removed_and_must_have_been_made() {
        assert_eq!(outcome("run: makes target/made.txt", "echo >target/made.txt\n"), Ok(()));
        assert!(!workspace::target().join("made.txt").exists());
        assert!(outcome("run: makes target/made.txt", "true\n").unwrap_err().contains("was not made"));
    }

    #[test]
    fn three_dots_stand_for_anything() {
        for (shown, line) in [("a", "a"), ("...", ""), ("a...", "abc"), ("...c", "abc"), ("a...c...", "abcd")]
        {
            assert!(fits(shown, line), "{shown} {line}");
        }
        for (shown, line) in [("a", "ab"), ("...b", "abc"), ("b...", "abc"), ("a...x...c", "abc")] {
            assert!(!fits(shown, line), "{shown} {line}");
        }
    }
}
