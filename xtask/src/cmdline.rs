//! The kernel's command line: words separated by blanks, `"..."` to keep blanks inside a word.
//!
//! Quotes may stand anywhere in a word; inside them `\"` and `\\` are escapes. Outside, a backslash is itself.
//! The kernel's parser undoes what [`Cmdline`] does. Everything after the word `--` is the init program's
//! argument vector from `argv[1]` on.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use anyhow::{Result, bail};

/// The environment of the init program, but for TERM.
const ENVIRONMENT: [&str; 2] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"];

/// The word that has programs loaded at the same addresses each time.
pub const FIXED_ADDRESSES: &str = "norandmaps";

/// A kernel command line under construction.
#[derive(Debug, Default, Clone)]
pub struct Cmdline {
    text: Vec<u8>,
}

impl Cmdline {
    /// An empty line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `key=value`.
    pub fn set(&mut self, key: &str, value: impl AsRef<OsStr>) -> Result<&mut Self> {
        let mut word = key.as_bytes().to_vec();
        word.push(b'=');
        word.extend_from_slice(value.as_ref().as_bytes());
        self.word(&word)
    }

    /// Adds text as it is, quotes and all: what the user gave to `--cmdline`.
    pub fn raw(&mut self, text: &str) -> &mut Self {
        if !text.is_empty() {
            self.separate();
            self.text.extend_from_slice(text.as_bytes());
        }
        self
    }

    /// Ends the keys: `-- ARGS...`.
    pub fn args<S: AsRef<OsStr>>(&mut self, args: &[S]) -> Result<&mut Self> {
        self.word(b"--")?;
        for arg in args {
            self.word(arg.as_ref().as_bytes())?;
        }
        Ok(self)
    }

    /// The finished line.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.text)
    }

    fn separate(&mut self) {
        if !self.text.is_empty() {
            self.text.push(b' ');
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<&mut Self> {
        if word.contains(&0) {
            bail!("a NUL byte cannot stand on the kernel's command line");
        }
        self.separate();
        if word.is_empty() || word.iter().any(|b| b.is_ascii_whitespace() || *b == b'"' || *b == 0x0b) {
            self.text.push(b'"');
            for &byte in word {
                if matches!(byte, b'"' | b'\\') {
                    self.text.push(b'\\');
                }
                self.text.push(byte);
            }
            self.text.push(b'"');
        } else {
            self.text.extend_from_slice(word);
        }
        Ok(self)
    }
}

/// Which of our standard streams are terminals, and so those of the program in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminals {
    /// Standard input.
    pub input: bool,
    /// Standard output, and in the guest standard error with it.
    pub output: bool,
}

impl Terminals {
    /// What the guest's console is by itself: a terminal for both.
    pub const BOTH: Self = Self { input: true, output: true };

    /// Ours.
    pub fn of_ours() -> Self {
        Self { input: std::io::stdin().is_terminal(), output: std::io::stdout().is_terminal() }
    }
}

impl Default for Terminals {
    fn default() -> Self {
        Self::BOTH
    }
}

/// What a guest is told at boot, by `cargo xtask run`, the tests and the benchmarks alike.
#[derive(Debug, Clone, Default)]
pub struct Boot<'a> {
    /// The log level, unless `words` name one.
    pub log: &'a str,
    /// Whether there is a network card to ask for an address (`ip=off` otherwise, unless `words` say more).
    pub networked: bool,
    /// The terminal's rows and columns.
    pub tty: Option<(u16, u16)>,
    /// Which of standard input and output are terminals.
    pub terminals: Terminals,
    /// The terminal's type.
    pub term: &'a str,
    /// Whether programs are loaded at known addresses.
    pub fixed_addresses: bool,
    /// More words as they are; they come late, and win.
    pub words: &'a str,
    /// The init program, unless `words` name one.
    pub init: Option<&'a Path>,
    /// Its arguments from `argv[1]` on.
    pub arguments: &'a [OsString],
}

impl Boot<'_> {
    /// The command line.
    pub fn line(&self) -> Result<OsString> {
        let mut line = Cmdline::new();
        let open = |key: &str| !has_key(self.words, key);
        if open("log") {
            line.set("log", self.log)?;
        }
        if let Some(init) = self.init.filter(|_| open("init")) {
            line.set("init", init)?;
        }
        if !self.networked && open("ip") {
            line.set("ip", "off")?;
        }
        if let Some((rows, columns)) = self.tty.filter(|_| open("tty")) {
            line.set("tty", format!("{rows}x{columns}"))?;
        }
        if !self.terminals.input {
            line.set("stdin", "pipe")?;
        }
        if !self.terminals.output {
            line.set("stdout", "pipe")?;
        }
        if self.fixed_addresses {
            line.raw(FIXED_ADDRESSES);
        }
        for variable in ENVIRONMENT {
            line.set("env", variable)?;
        }
        line.set("env", format!("TERM={}", self.term))?;
        line.raw(self.words);
        if !self.arguments.is_empty() {
            line.args(self.arguments)?;
        }
        Ok(OsString::from_vec(line.text))
    }
}

/// Whether `text` has a word that begins with `key=`.
pub fn has_key(text: &str, key: &str) -> bool {
    text.split_ascii_whitespace().any(|word| word.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rules of the module's documentation, read the other way round.
    fn split(line: &[u8]) -> Vec<Vec<u8>> {
        let (mut words, mut word, mut inside, mut started) = (Vec::new(), Vec::new(), false, false);
        let mut bytes = line.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' => (inside, started) = (!inside, true),
                b'\\' if inside && matches!(bytes.peek(), Some(b'"' | b'\\')) => word.extend(bytes.next()),
                b if !inside && (b.is_ascii_whitespace() || b == 0x0b) => {
                    if started {
                        words.push(std::mem::take(&mut word));
                    }
                    started = false;
                }
                b => {
                    word.push(b);
                    started = true;
                }
            }
        }
        if started {
            words.push(word);
        }
        words
    }

    #[test]
    fn a_line_reads_as_the_protocol_says() {
        let mut line = Cmdline::new();
        line.set("init", "/bin/sh").unwrap().set("env", "A=b c").unwrap().raw("log=info");
        line.args(&["-c", "echo \"a\\b\"", ""]).unwrap();
        assert_eq!(
            line.as_os_str(),
            "init=/bin/sh \"env=A=b c\" log=info -- -c \"echo \\\"a\\\\b\\\"\" \"\""
        );
    }

    #[test]
    fn the_users_words_win_and_arguments_come_last() {
        let arguments = ["-c".into(), "a b".into()];
        let init = Some(Path::new("/bin/sh"));
        let boot = Boot { log: "warn", words: "log=trace", init, arguments: &arguments, ..Boot::default() };
        let line = boot.line().unwrap().into_string().unwrap();
        assert!(!line.contains("log=warn") && line.ends_with(" log=trace -- -c \"a b\""), "{line}");
        assert!(line.starts_with("init=/bin/sh ip=off "), "{line}");
        let boot = Boot { log: "warn", words: "init=/x ip=dhcp", init, fixed_addresses: true, ..boot };
        let line = boot.line().unwrap();
        assert!(line.to_str().unwrap().contains(" norandmaps "), "{line:?}");
        assert!(!line.to_str().unwrap().contains("/bin/sh ") && !line.to_str().unwrap().contains("ip=off"));
    }

    #[test]
    fn the_guest_is_told_what_is_no_terminal() {
        let line = |input, output| {
            let boot = Boot { terminals: Terminals { input, output }, ..Boot::default() };
            boot.line().unwrap().into_string().unwrap()
        };
        assert!(!line(true, true).contains("=pipe"));
        assert!(line(false, true).contains(" stdin=pipe ") && !line(false, true).contains("stdout="));
        assert!(line(true, false).contains(" stdout=pipe ") && !line(true, false).contains("stdin="));
    }

    #[test]
    fn nul_is_refused() {
        assert!(Cmdline::new().args(&["a\0b"]).is_err());
    }

    #[test]
    fn keys_are_found_only_as_whole_words() {
        assert!(has_key("a=1 log=info", "log"));
        assert!(!has_key("prolog=1 logs=2", "log"));
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(args in proptest::collection::vec("[ -~\\n\\t]{0,12}", 0..6)) {
            let mut line = Cmdline::new();
            line.args(&args).unwrap();
            let words = split(line.as_os_str().as_bytes());
            prop_assert_eq!(words[0].as_slice(), b"--");
            let read: Vec<String> = words[1..].iter().map(|w| String::from_utf8(w.clone()).unwrap()).collect();
            prop_assert_eq!(read, args);
        }
    }
}
