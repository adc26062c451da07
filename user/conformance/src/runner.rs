//! Runs cases: one forked child each, in an empty directory of its own, under a watchdog.

use std::process::ExitCode;
use std::{env, fs, panic};

use user_sys::{Child, Ended, sys};

use crate::transcript::{Section, Transcript};

/// Runs the sections in a scratch directory under `dir`; fails only when there is no such directory.
pub fn run(dir: &str, sections: &[&Section]) -> ExitCode {
    settle();
    let scratch = format!("{dir}/conformance.{}", std::process::id());
    if let Err(error) = fs::create_dir_all(&scratch) {
        eprintln!("conformance: {scratch}: {error}");
        return ExitCode::FAILURE;
    }
    for section in sections {
        for &(name, case) in section.cases {
            let place = format!("{scratch}/{}.{name}", section.name);
            run_case(Transcript::new(section.name, name), &place, case);
        }
    }
    let _ = fs::remove_dir_all(&scratch);
    ExitCode::SUCCESS
}

/// Makes the process the same wherever it was started: signals, descriptors, umask, environment.
fn settle() {
    user_sys::signal::defaults();
    let _ = sys!(umask, 0o022);
    if sys!(close_range, 3, u32::MAX, 0).is_err() {
        for fd in 3..256 {
            let _ = sys!(close, fd);
        }
    }
    if let Ok(null) = sys!(open, c"/dev/null", libc::O_RDONLY) {
        let _ = sys!(dup2, null, 0);
        let _ = sys!(close, null);
    }
}

/// Runs one case and removes what it left: its processes and its files.
fn run_case(transcript: Transcript, place: &str, case: fn(Transcript)) {
    let child = Child::spawn(|| {
        let _ = sys!(setpgid, 0, 0);
        report_panics(transcript);
        if let Err(error) = fs::create_dir(place).and_then(|()| env::set_current_dir(place)) {
            panic!("{error}");
        }
        case(transcript);
        0
    });
    let group = child.pid();
    match child.wait_at_most(u64::from(2 * user_sys::child::LIMIT)) {
        Some(Ended::Exited(0 | user_sys::child::PANICKED)) => {}
        Some(ended) => transcript.close(&ended.to_string()),
        None => transcript.close("took too long"),
    }
    let _ = sys!(kill, -group, libc::SIGKILL);
    let _ = fs::remove_dir_all(place);
}

/// Writes what made a case give up into the transcript, without the place in the source.
fn report_panics(transcript: Transcript) {
    panic::set_hook(Box::new(move |info| {
        let message = info.payload_as_str().unwrap_or("a panic");
        let line = info.location().map_or(0, panic::Location::line);
        transcript.close(&format!("gave up: {message} (line {line})"));
    }));
}
