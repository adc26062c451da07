//! Progress of long steps, on standard error: a spinner on a terminal, a line elsewhere; and, when a step has taken a while, how
//! long it took.
//!
//! Written past `eprintln!`, which the test harness would keep to itself: who waits for a test sees that a kernel is built.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Steps that are shorter leave no line.
const WORTH_A_LINE: Duration = Duration::from_millis(700);

/// A step under way. When it is dropped, its spinner vanishes.
pub struct Step {
    bar: ProgressBar,
    name: String,
    started: Instant,
    /// Who says that a step has begun where no spinner does; it stops when its sender is gone.
    announcer: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Step {
    /// Begins a step.
    pub fn new(name: impl Into<String>) -> Self {
        let (bar, name) = (ProgressBar::new_spinner(), name.into());
        let announcer =
            (!std::io::stderr().is_terminal()).then(|| announce(format!("{name} ..."), write_line));
        bar.set_style(
            ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.set_message(name.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, name, started: Instant::now(), announcer }
    }

    /// Shows what the step is at.
    pub fn detail(&self, detail: &str) {
        self.bar.set_message(format!("{}: {}", self.name, detail.trim()));
    }

    /// Prints a line above the spinner.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some((sender, announcer)) = self.announcer.take() {
            drop(sender);
            // It ends at once, and has nothing to report.
            let _ = announcer.join();
        }
        if let Some(line) = summary(&self.name, self.started.elapsed()) {
            write_line(&line);
        }
    }
}

/// What is left to read of a step.
fn summary(name: &str, took: Duration) -> Option<String> {
    (took >= WORTH_A_LINE).then(|| format!("{name}: {:.1} s", took.as_secs_f64()))
}

/// Has `line` written as soon as the step has lasted long enough, unless what is returned is dropped before.
fn announce(line: String, write: impl FnOnce(&str) + Send + 'static) -> (Sender<()>, JoinHandle<()>) {
    let (sender, ended) = mpsc::channel::<()>();
    let announcer = thread::spawn(move || {
        if ended.recv_timeout(WORTH_A_LINE) == Err(RecvTimeoutError::Timeout) {
            write(&line);
        }
    });
    (sender, announcer)
}

fn write_line(line: &str) {
    // Nobody is told that standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_took_a_while_is_summed_up() {
        assert_eq!(summary("building", Duration::from_millis(200)), None);
        assert_eq!(summary("building", Duration::from_millis(6_240)).as_deref(), Some("building: 6.2 s"));
    }

    #[test]
    fn a_step_is_announced_only_once_it_has_lasted() {
        let (written, lines) = mpsc::channel();
        let announce = |name: &'static str| {
            let written = written.clone();
            announce(name.into(), move |line| written.send(line.to_string()).unwrap())
        };
        let (short, ended) = announce("short");
        drop(short);
        ended.join().unwrap();
        let long = announce("long");
        assert_eq!(lines.recv().unwrap(), "long");
        drop(long);
    }
}
