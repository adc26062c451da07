//! s03: `cargo xtask run` in a pipe: input and output are what they would be of a program of this machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use xtask::guest::amount;
use xtask::random::Random;
use xtask::{process, workspace};

use crate::common::PATIENCE;

/// `cargo xtask run` of a program without a network. Who starts it holds the other ends of all three streams.
fn command(program: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    let time = PATIENCE.as_secs().to_string();
    command.args(["--quiet", "xtask", "run", "--nic", "none", "--timeout", &time, "--"]).args(program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.current_dir(workspace::root());
    command
}

/// Runs a program to its end with `input`.
fn run(program: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = command(program).spawn().context("cannot start cargo")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    thread::scope(|scope| {
        // A program may end before it has read everything.
        scope.spawn(move || drop(stdin.write_all(input)));
        Ok(child.wait_with_output()?)
    })
}

/// Insists on what a program writes, and on its status.
fn prints(program: &[&str], input: &[u8], text: &str, status: i32) -> Result<()> {
    let output = run(program, input)?;
    let got = (String::from_utf8_lossy(&output.stdout), output.status.code());
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(
        got == (text.into(), Some(status)),
        "{program:?} gave {got:?}, not {text:?} and {status}:\n{log}"
    );
    Ok(())
}

/// More than a pipe holds, for a program that keeps it waiting.
#[test]
fn s03_pipes_carry_any_bytes() -> Result<()> {
    let input = Random(1).bytes(amount(128 << 10, 1 << 20));
    let output = run(&["/bin/busybox", "sh", "-c", "sleep 1; exec cat"], &input)?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}:\n{log}", output.status);
    let same = output.stdout.iter().zip(&input).take_while(|(a, b)| a == b).count();
    let lengths = (output.stdout.len(), input.len());
    ensure!(
        output.stdout == input,
        "the first {same} bytes are the same, of (got, sent) {lengths:?}:\n{log}"
    );
    Ok(())
}

#[test]
fn s03_pipes_end_and_are_not_echoed() -> Result<()> {
    prints(&["/bin/busybox", "cat"], b"abcdef\n", "abcdef\n", 0)?;
    prints(&["/bin/busybox", "wc", "-c"], &[0; 5000], "5000\n", 0)?;
    prints(&["/bin/busybox", "cat"], b"", "", 0)
}

#[test]
fn s03_pipes_are_no_terminals() -> Result<()> {
    let script = b"for fd in 0 1 2; do [ -t $fd ] && echo $fd; done
        stat -Lc %F /dev/stdin /dev/stdout
        (: </dev/tty) 2>/dev/null || echo no terminal
        (echo x >&0) 2>/dev/null || echo not for writing
        echo to the same place >&2
        exit 7
        echo not this";
    let expected = "fifo\nfifo\nno terminal\nnot for writing\nto the same place\n";
    prints(&["/bin/busybox", "sh"], script, expected, 7)
}

/// One who types sees it where it is typed; what comes out is the program's alone, and the input is a terminal's.
#[test]
fn s03_pipes_for_output_alone() -> Result<()> {
    let folder = workspace::scratch()?;
    let file = folder.path().join("output");
    let run =
        process::shell_line(&command(&["/bin/busybox", "sh", "-c", "tty <&0; [ -t 1 ] || echo pipe; cat"]));
    let line = format!("{run} >{}", process::shell_word(file.as_os_str()));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(workspace::root());
    let mut child =
        script.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("cannot start script")?;
    child.stdin.take().context("no standard input")?.write_all(b"typed\n\x04")?;
    let status = process::wait(&mut child, Some(PATIENCE))?;
    process::end(&mut child);
    let output = fs::read_to_string(&file)?;
    ensure!(status.is_some_and(|status| status.success()), "{status:?} after {output:?}");
    ensure!(output == "/dev/console\npipe\ntyped\n", "{output:?}");
    Ok(())
}

/// Whoever ends `cargo xtask run` ends QEMU.
#[test]
fn s03_pipes_are_not_left_to_qemu() -> Result<()> {
    let ways: [fn(&mut Child) -> Result<()>; 2] =
        [|child| process::terminate(child, PATIENCE).map(drop), |child| Ok(child.kill()?)];
    for way in ways {
        let mut child = command(&["/bin/busybox", "sh", "-c", "echo ready; cat"]).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let ended = way(&mut child);
        process::end(&mut child);
        ended?;
        ensure!(line == "ready\n", "{line:?}");
        // QEMU has the output, too: it ends with the last of them.
        let (end, ended) = mpsc::channel();
        thread::spawn(move || end.send(stdout.read_to_end(&mut Vec::new())));
        ended.recv_timeout(PATIENCE).context("QEMU outlives cargo")??;
    }
    Ok(())
}
