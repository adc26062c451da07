//! s03: programs see what Linux shows them.

use anyhow::{Result, bail, ensure};
use xtask::exit::Ending;
use xtask::guest::{self, Setup, shows};

use crate::common::lines_of;

/// As many lines of difference as an error shows.
const SHOWN: usize = 40;

/// Runs sections of the conformance program (all, if none is named) here and in a guest: line by line the same.
pub fn agrees_with_linux(sections: &[&str]) -> Result<()> {
    let expected = lines_of(guest::user_command("conformance")?, sections)?;
    ensure!(!expected.is_empty(), "the conformance program printed nothing on this machine");
    // The transcript is all that the console shows: the kernel's own messages are off.
    let setup = Setup::user_program("conformance", sections)?.cmdline("log=off");
    let console = setup.run(Ending::Program(0))?;
    let seen: Vec<&str> = console.lines().filter(|line| !line.is_empty()).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
    let differences = differences(&expected, &seen);
    if !differences.is_empty() {
        let shown = differences[..differences.len().min(SHOWN)].join("\n");
        bail!("{} lines differ (- Linux, + nrk):\n{shown}", differences.len());
    }
    Ok(())
}

/// Lines of one transcript that the other lacks, `-` and `+` as in a diff; then lines out of place.
fn differences(expected: &[&str], seen: &[&str]) -> Vec<String> {
    let lacks = |lines: &[&str], line: &str| !lines.contains(&line);
    let missing = expected.iter().filter(|line| lacks(seen, line)).map(|line| format!("-{line}"));
    let extra = seen.iter().filter(|line| lacks(expected, line)).map(|line| format!("+{line}"));
    let differences: Vec<String> = missing.chain(extra).collect();
    if differences.is_empty() && expected != seen {
        let place = expected.iter().zip(seen).position(|(expected, seen)| expected != seen);
        let place = place.unwrap_or(expected.len().min(seen.len()));
        return vec![format!("line {place} is out of place or repeated")];
    }
    differences
}

/// The whole conformance program.
#[test]
fn s03_userspace_smoke() -> Result<()> {
    agrees_with_linux(&[])
}

/// What the README promises of a shell command: both outputs, and the status.
#[test]
fn s03_shell_command() -> Result<()> {
    let script = "ls -l / && cat /proc/uptime && exit 7";
    let console = Setup::program("busybox", &["sh", "-c", script]).run(Ending::Program(7))?;
    shows(&console, &["bin", "etc", "proc", "tmp"])?;
    let uptime = console.lines().filter(|line| line.split(' ').all(|word| word.parse::<f64>().is_ok()));
    ensure!(uptime.count() == 1, "no line of /proc/uptime in:\n{console}");
    Ok(())
}

/// With `norandmaps`, a relocatable program lies where Linux puts it when it is told not to choose at random.
#[test]
fn s03_fixed_addresses() -> Result<()> {
    let files = ["/proc/sys/kernel/randomize_va_space", "/proc/self/maps"];
    let console = Setup::program("cat", &files).cmdline("norandmaps").run(Ending::Program(0))?;
    ensure!(console.starts_with("0\n555555554000-"), "{console}");
    Ok(())
}

/// A status of its own for a program that dies of a signal.
#[test]
fn s03_killed_by_a_signal() -> Result<()> {
    // Process 1 itself is safe from signals that it has no handler for, as on Linux; its children are not.
    let script = "sh -c 'kill -SEGV $$'; exit $?";
    Setup::program("busybox", &["sh", "-c", script]).run(Ending::Program(128 + 11))?;
    Ok(())
}

/// A person at the console: pipes, redirection, line editing, ^C, ^Z, fg.
#[test]
fn s03_interactive_shell() -> Result<()> {
    let mut guest = Setup::program("busybox", &["sh"]).cmdline("tty=24x80 env=PS1=prompt-$").start()?;
    guest.expect("prompt-$")?;
    guest.type_line("echo one two | tr a-z A-Z > /tmp/file; cat /tmp/file")?;
    guest.expect("ONE TWO")?;
    // Line editing: the last two characters are taken back.
    guest.type_line("echo edit=$((40+2))xx\u{7f}\u{7f}")?;
    guest.expect("edit=42")?;
    guest.type_line("echo begin-$((1+1)); sleep 1000")?;
    guest.expect("begin-2")?;
    guest.type_text("\u{3}")?;
    guest.expect("prompt-$")?;
    guest.type_line("echo status=$?")?;
    guest.expect("status=130")?;
    guest.type_line("echo again-$((1+1)); cat -n")?;
    guest.expect("again-2")?;
    guest.type_text("\u{1a}")?;
    guest.expect("Stopped")?;
    guest.type_line("fg")?;
    // A line that the job answers shows that it is in the foreground again; only then ^C is for it.
    guest.type_line("still here")?;
    guest.expect("1\tstill here")?;
    guest.type_text("\u{3}")?;
    guest.expect("prompt-$")?;
    guest.type_line("exit 5")?;
    guest.finish(Ending::Program(5))?;
    Ok(())
}
