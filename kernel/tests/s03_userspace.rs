//! s03: programs see what Linux shows them.

use anyhow::{Result, bail, ensure};
use xtask::conformance;
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};

/// As many lines of difference as an error shows.
const SHOWN: usize = 100;

/// Runs sections of the conformance program (all, if none is named) here and in a guest: line by line the same.
pub fn agrees_with_linux(sections: &[&str]) -> Result<()> {
    let sections: Vec<String> = sections.iter().map(|&section| section.into()).collect();
    let comparison = conformance::compare(&sections, |setup| setup)?;
    if comparison.is_equal() {
        return Ok(());
    }
    let text = comparison.to_string();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.drain(SHOWN.min(lines.len() - 1)..lines.len() - 1);
    bail!("{}", lines.join("\n"));
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
