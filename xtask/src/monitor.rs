//! QEMU's monitor (QMP: one JSON object per line), for tests that pull the guest's network cable, and for whoever wants to know
//! what a guest that says nothing is doing.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a guest may take to print what it is doing.
const TIME_TO_PRINT: Duration = Duration::from_secs(3);

/// A connection to the monitor of a running guest.
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket of a QEMU that runs already.
    pub fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).context("QEMU has no monitor")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.execute("qmp_capabilities", "{}")?;
        Ok(monitor)
    }

    /// Has nrk print what it is doing, if the guest still runs, and gives it the time to do so.
    pub fn dump(path: &Path) {
        if Self::connect(path).and_then(|mut monitor| monitor.interrupt()).is_ok() {
            std::thread::sleep(TIME_TO_PRINT);
        }
    }

    /// Plugs or pulls the cable of the first network card.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.execute("set_link", &format!("{{\"name\": \"net0\", \"up\": {up}}}"))
    }

    /// Sends every core a non-maskable interrupt, at which nrk prints what it is doing.
    pub fn interrupt(&mut self) -> Result<()> {
        self.execute("inject-nmi", "{}")
    }

    fn execute(&mut self, command: &str, arguments: &str) -> Result<()> {
        writeln!(self.stream.get_mut(), "{{\"execute\": \"{command}\", \"arguments\": {arguments}}}")?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("QEMU closed its monitor");
            }
            // Greetings and events come in between.
            match line.trim_start() {
                line if line.starts_with("{\"return\"") => return Ok(()),
                line if line.starts_with("{\"error\"") => bail!("QEMU refuses {command}: {}", line.trim()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn answers_are_found_between_greetings_and_events() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("monitor");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut commands = Vec::new();
            for answer in [
                "{\"QMP\": {}}\n{\"return\": {}}",
                "{\"event\": \"X\"}\n{\"return\": {}}",
                "{\"error\": {\"desc\": \"no\"}}",
            ] {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                commands.push(line);
                writeln!(stream.get_mut(), "{answer}").unwrap();
            }
            commands
        });
        let mut monitor = Monitor::connect(&path).unwrap();
        monitor.set_link(false).unwrap();
        assert!(monitor.set_link(true).is_err());
        let commands = server.join().unwrap();
        assert_eq!(
            commands[1],
            "{\"execute\": \"set_link\", \"arguments\": {\"name\": \"net0\", \"up\": false}}\n"
        );
    }
}
