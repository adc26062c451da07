//! A helper program in the background, whose lines are collected and can be waited for.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

/// How long the last lines of a program that has ended may take.
const LAST_LINES: Duration = Duration::from_secs(5);

/// Lines that reader threads append to.
#[derive(Default)]
struct Lines {
    text: Mutex<(Vec<String>, usize)>,
    grown: Condvar,
}

/// A program in the background. It is killed when this is dropped.
pub struct Watched {
    name: String,
    child: Child,
    lines: Arc<Lines>,
}

impl Watched {
    /// Starts a command; its standard input stays a pipe if `input`, else it is empty.
    pub fn start(mut command: Command, input: bool) -> Result<Self> {
        let name = process::shell_line(&command);
        command.stdin(if input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let lines = Arc::new(Lines::default());
        lines.text.lock().unwrap_or_else(PoisonError::into_inner).1 = 2;
        collect(child.stdout.take().context("no standard output")?, lines.clone());
        collect(child.stderr.take().context("no standard error")?, lines.clone());
        Ok(Self { name, child, lines })
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `wanted`, from the start of the output on, and returns it.
    pub fn expect(&self, wanted: &str, time: Duration) -> Result<String> {
        let end = Instant::now() + time;
        let mut text = self.lines.text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = text.0.iter().find(|line| line.contains(wanted)) {
                return Ok(line.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if text.1 == 0 || left.is_zero() {
                let why = if text.1 == 0 { "it ended" } else { "the time is over" };
                bail!("{} did not print {wanted:?} ({why}); it printed:\n{}", self.name, text.0.join("\n"));
            }
            text = self.lines.grown.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What was printed so far, by line.
    pub fn lines(&self) -> Vec<String> {
        self.lines.text.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Whether the program ends within `time`; waits no longer than necessary.
    pub fn ends_within(&mut self, time: Duration) -> Result<bool> {
        Ok(process::wait(&mut self.child, Some(time))?.is_some())
    }

    /// Waits for at most `time` for the end of the program, and then for that of its output; returns its status and all its lines.
    pub fn finish(mut self, time: Duration) -> Result<(ExitStatus, Vec<String>)> {
        drop(self.child.stdin.take());
        let Some(status) = process::wait(&mut self.child, Some(time))? else {
            bail!("{} did not end in {time:?}; it printed:\n{}", self.name, self.lines().join("\n"));
        };
        let end = Instant::now() + LAST_LINES;
        let mut text = self.lines.text.lock().unwrap_or_else(PoisonError::into_inner);
        while text.1 > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let name = &self.name;
                bail!(
                    "{name} ended, but what it started keeps its output; it printed:\n{}",
                    text.0.join("\n")
                );
            }
            text = self.lines.grown.wait_timeout(text, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok((status, std::mem::take(&mut text.0)))
    }

    /// Waits for the end and insists on status 0; returns all lines.
    pub fn succeed(self, time: Duration) -> Result<Vec<String>> {
        let name = self.name.clone();
        let (status, lines) = self.finish(time)?;
        if !status.success() {
            bail!("{name} failed ({status}); it printed:\n{}", lines.join("\n"));
        }
        Ok(lines)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

fn collect(from: impl Read + Send + 'static, lines: Arc<Lines>) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_string();
            lines.text.lock().unwrap_or_else(PoisonError::into_inner).0.push(line);
            lines.grown.notify_all();
        }
        lines.text.lock().unwrap_or_else(PoisonError::into_inner).1 -= 1;
        lines.grown.notify_all();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Watched {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Watched::start(command, true).unwrap()
    }

    #[test]
    fn a_line_is_awaited_while_the_program_runs() {
        let shell = shell("echo one; echo two >&2; sleep 60");
        assert_eq!(shell.expect("two", LONG).unwrap(), "two");
        assert_eq!(shell.expect("on", LONG).unwrap(), "one");
        assert!(shell.expect("three", Duration::from_millis(20)).is_err());
    }

    #[test]
    fn a_program_that_ends_early_is_an_error_at_once() {
        let error = shell("echo why").expect("x", LONG).unwrap_err().to_string();
        assert!(error.contains("it ended") && error.contains("why"), "{error}");
    }

    #[test]
    fn all_lines_are_there_at_the_end() {
        let (status, lines) = shell("cat; seq 1000; exit 3").finish(LONG).unwrap();
        assert_eq!((status.code(), lines.len(), lines[999].as_str()), (Some(3), 1000, "1000"));
        assert!(shell("exit 1").succeed(LONG).is_err());
    }

    #[test]
    fn output_that_stays_open_is_an_error_in_time() {
        let error = shell("sleep 60 & echo $!").finish(LONG).unwrap_err().to_string();
        let sleeper =
            error.lines().last().and_then(|pid| pid.parse().ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(sleeper.unwrap(), rustix::process::Signal::KILL).unwrap();
        assert!(error.contains("keeps its output"), "{error}");
    }

    #[test]
    fn one_can_look_whether_a_program_ends() {
        let mut ends = shell("exit 0");
        assert!(ends.ends_within(LONG).unwrap());
        assert!(ends.succeed(LONG).is_ok());
        let mut stays = shell("sleep 60");
        assert!(!stays.ends_within(Duration::from_millis(20)).unwrap());
    }
}
