//! Progress of long steps: a spinner on a terminal, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A step under way; its line vanishes when it is dropped.
pub struct Step {
    bar: ProgressBar,
    name: String,
}

impl Step {
    /// Begins a step. Its line shows once the step has lasted for a moment.
    pub fn new(name: impl Into<String>) -> Self {
        let (bar, name) = (ProgressBar::new_spinner(), name.into());
        bar.set_style(
            ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.set_message(name.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, name }
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
    }
}
