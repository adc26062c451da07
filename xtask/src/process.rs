//! Running other programs: their output into the progress line, their failure into one clear error.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::progress::Step;

/// Runs a command to its end; its standard error feeds the step's line and is shown if it fails.
///
/// Returns what it wrote to its standard output.
pub fn run(command: &mut Command, step: &Step) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| text)
    });
    let mut stderr = String::new();
    for line in BufReader::new(child.stderr.take().context("no standard error")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        step.detail(&line);
        stderr.push_str(&line);
        stderr.push('\n');
    }
    let status = child.wait()?;
    let text = reader.join().map_err(|_| anyhow::anyhow!("the reader of {name} ended early"))??;
    if !status.success() {
        bail!("{name} failed ({status}):\n{}", stderr.trim_end());
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Runs a command quietly and says whether it ended with status 0 within the time.
pub fn succeeds(command: &mut Command, time: Duration) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = quiet.spawn() else { return false };
    match wait(&mut child, Some(time)) {
        Ok(Some(status)) => status.success(),
        _ => {
            end(&mut child);
            false
        }
    }
}

/// Waits for a child, for at most `time`; `None` when it still runs then.
pub fn wait(child: &mut Child, time: Option<Duration>) -> Result<Option<ExitStatus>> {
    let Some(time) = time else { return Ok(Some(child.wait()?)) };
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let end = Instant::now().checked_add(time).context("the time is too long")?;
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now()))?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            // A signal of ours is no news of the child.
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(child.try_wait()?),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends a child of ours for good.
pub fn end(child: &mut Child) {
    // Both fail only when the child is gone already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Asks a child of ours to end, and ends it for good if it does not within `time`. Its exit status, if it ended by itself.
pub fn terminate(child: &mut Child, time: Duration) -> Result<Option<ExitStatus>> {
    // It can only be gone already.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let ended = wait(child, Some(time))?;
    end(child);
    Ok(ended)
}

/// A command as one line that a POSIX shell reads back into the same words.
pub fn shell_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(shell_word)
        .collect::<Vec<_>>()
        .join(" ")
}

/// One word, quoted for a POSIX shell where it needs it.
pub fn shell_word(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A command that the kernel kills when the thread that started it is gone.
///
/// `setpriv` (util-linux) sets PR_SET_PDEATHSIG and becomes the program, so the process id is the program's.
pub fn dies_with_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_line_back() {
        let words = ["plain", "two words", "it's", "$HOME \"q\" \\", "", "*"];
        let mut command = Command::new("printf");
        command.arg("%s\\n").args(words);
        let output = Command::new("sh").arg("-c").arg(shell_line(&command)).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words.map(|w| format!("{w}\n")).concat());
    }

    #[test]
    fn a_failing_command_reports_what_it_wrote() {
        let error =
            run(Command::new("sh").args(["-c", "echo oops >&2; exit 3"]), &Step::new("t")).unwrap_err();
        assert!(error.to_string().contains("oops"), "{error}");
    }

    #[test]
    fn waiting_ends_when_the_time_is_over() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let start = Instant::now();
        assert!(wait(&mut child, Some(Duration::from_millis(50))).unwrap().is_none());
        assert!(start.elapsed() < Duration::from_secs(30));
        end(&mut child);
    }

    #[test]
    fn who_is_asked_to_end_may_do_its_last_work() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, done) = (folder.path().join("ready"), folder.path().join("done"));
        let script = "trap 'echo bye >\"$2\"; exit 3' TERM; echo >\"$1\"; while :; do sleep 0.01; done";
        let mut child = Command::new("sh").args(["-c", script, "sh"]).args([&ready, &done]).spawn().unwrap();
        while !ready.exists() {
            std::thread::yield_now();
        }
        let status = terminate(&mut child, Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!((status.code(), std::fs::read_to_string(done).unwrap().as_str()), (Some(3), "bye\n"));
    }

    #[test]
    fn success_within_the_time() {
        assert!(succeeds(&mut Command::new("true"), Duration::from_secs(20)));
        assert!(!succeeds(&mut Command::new("false"), Duration::from_secs(20)));
        assert!(!succeeds(Command::new("sleep").arg("60"), Duration::from_millis(50)));
        assert!(!succeeds(&mut Command::new("/does/not/exist"), Duration::from_secs(1)));
    }
}
