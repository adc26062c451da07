//! The kernel command line.
//!
//! Words are separated by blanks; `"..."` groups blanks anywhere in a word, and inside of quotes `\"` and `\\` stand for the
//! characters. Everything after the word `--` is an argument of the init program. Keys:
//!
//! | Key | Meaning |
//! |---|---|
//! | `log=LEVEL[,MODULE=LEVEL...]` | what is logged: `off`, `error`, `warn`, `info`, `debug`, `trace` |
//! | `init=PATH` | the program that runs as process 1 |
//! | `env=NAME=VALUE` | a variable of its environment; repeatable |
//! | `ip=dhcp`, `ip=off`, `ip=A.B.C.D/N[,GATEWAY]` | the address of the first interface |
//! | `tty=ROWSxCOLUMNS` | the size of the console's terminal |
//! | `stdin=pipe` | the init program's input is no terminal, see [`standard`](crate::fs::standard) |
//! | `stdout=pipe` | neither is its output; with either, input comes as a text with an end |
//! | `norandmaps` | programs are loaded at the same addresses each time, as on Linux; for debuggers |
//! | `latency` | how long interrupts wait is measured, and told by /proc/nrk/latency |
//! | `test=NAME` | the test that runs instead of the init program |
//!
//! An unknown key is reported and ignored.

use alloc::string::String;
use alloc::vec::Vec;

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `log`, unparsed: the logger understands it.
    pub log: Option<String>,
    /// `init`.
    pub init: Option<String>,
    /// The init program's arguments, its name not among them.
    pub arguments: Vec<Vec<u8>>,
    /// `env`, each as `NAME=VALUE`.
    pub environment: Vec<Vec<u8>>,
    /// `ip`.
    pub ip: Option<String>,
    /// `tty`: rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// `stdin=pipe`.
    pub input_is_pipe: bool,
    /// `stdout=pipe`.
    pub output_is_pipe: bool,
    /// `norandmaps`.
    pub fixed_addresses: bool,
    /// `latency`.
    pub latency: bool,
    /// `test`.
    pub test: Option<String>,
    /// Words that nobody understands.
    pub unknown: Vec<String>,
}

impl CommandLine {
    /// Reads `line`. Nothing is refused: what is not understood ends in [`unknown`](Self::unknown).
    pub fn parse(line: &[u8]) -> Self {
        let mut this = Self::default();
        let mut words = words(line).into_iter();
        while let Some(word) = words.next() {
            if word == b"--" {
                this.arguments = words.collect();
                break;
            }
            this.take(&word);
        }
        this
    }

    fn take(&mut self, word: &[u8]) {
        let text = String::from_utf8_lossy(word).into_owned();
        match text.split_once('=') {
            Some(("log", value)) => self.log = Some(value.into()),
            Some(("init", value)) => self.init = Some(value.into()),
            Some(("env", value)) if value.contains('=') => self.environment.push(word[4..].to_vec()),
            Some(("ip", value)) => self.ip = Some(value.into()),
            Some(("tty", value)) if parse_size(value).is_some() => self.terminal = parse_size(value),
            Some(("stdin", "pipe")) => self.input_is_pipe = true,
            Some(("stdout", "pipe")) => self.output_is_pipe = true,
            Some(("test", value)) => self.test = Some(value.into()),
            None if text == "norandmaps" => self.fixed_addresses = true,
            None if text == "latency" => self.latency = true,
            _ => self.unknown.push(text),
        }
    }
}

fn parse_size(text: &str) -> Option<(u16, u16)> {
    let (rows, columns) = text.split_once('x')?;
    Some((rows.parse().ok()?, columns.parse().ok()?))
}

fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<Vec<u8>>, false);
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                quoted = !quoted;
                // Quotes make a word, be it empty.
                word.get_or_insert_default();
            }
            b'\\' if quoted => word.get_or_insert_default().extend(bytes.next()),
            b' ' | b'\t' | b'\n' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_and_arguments_are_told_apart() {
        let line = CommandLine::parse(
            br#"log=info,net=trace init=/bin/sh env=A=b tty=24x80 odd norandmaps latency -- -c "ls -l \"x\" && exit 7" "" log=1"#,
        );
        assert_eq!(line.log.as_deref(), Some("info,net=trace"));
        assert_eq!(line.init.as_deref(), Some("/bin/sh"));
        assert_eq!(line.environment, [b"A=b"]);
        assert_eq!(line.terminal, Some((24, 80)));
        assert!(line.fixed_addresses && line.latency);
        assert_eq!(line.unknown, ["odd"]);
        assert_eq!(line.arguments, [&b"-c"[..], br#"ls -l "x" && exit 7"#, b"", b"log=1"]);
    }

    #[test]
    fn input_and_output_are_pipes_each_by_itself() {
        let pipes = |line: &[u8]| {
            let line = CommandLine::parse(line);
            (line.input_is_pipe, line.output_is_pipe)
        };
        assert_eq!(pipes(b"stdin=pipe"), (true, false));
        assert_eq!(pipes(b"stdout=pipe"), (false, true));
        assert_eq!(pipes(b"init=/x -- stdin=pipe"), (false, false));
    }

    #[test]
    fn malformed_values_are_unknown_words() {
        let line = CommandLine::parse(b"tty=24 tty=ax3 env=A =x norandmaps=1 stdin=tty");
        assert_eq!(line.unknown, ["tty=24", "tty=ax3", "env=A", "=x", "norandmaps=1", "stdin=tty"]);
        assert!(!line.fixed_addresses);
    }

    proptest! {
        #[test]
        fn quoted_arguments_come_back_as_they_were(arguments in prop::collection::vec("[ -~]{0,12}", 0..6)) {
            let mut line = String::from("init=/x --");
            for argument in &arguments {
                let escaped = argument.replace('\\', "\\\\").replace('"', "\\\"");
                line += &format!(" \"{escaped}\"");
            }
            let parsed = CommandLine::parse(line.as_bytes());
            let expected: Vec<Vec<u8>> = arguments.iter().map(|a| a.clone().into_bytes()).collect();
            prop_assert_eq!(parsed.arguments, expected);
        }

        #[test]
        fn any_bytes_are_parsed(line: Vec<u8>) {
            CommandLine::parse(&line);
        }
    }
}
