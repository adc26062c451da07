//! Scripts: a first line `#!INTERPRETER [ARGUMENT]`, execve(2).

use super::elf::NotExecutable;

/// How many bytes of a file are looked at.
pub const FIRST_BYTES: usize = 256;

/// The first line of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstLine<'a> {
    /// Path of the interpreter.
    pub interpreter: &'a [u8],
    /// Everything behind it, as one argument.
    pub argument: Option<&'a [u8]>,
}

/// Parses the beginning of a file. `None` when it is not a script.
///
/// # Errors
/// [`NotExecutable`] for a script without interpreter, or whose interpreter's name may go on beyond the first bytes.
pub fn parse(start: &[u8]) -> Result<Option<FirstLine<'_>>, NotExecutable> {
    let Some(line) = start.strip_prefix(b"#!") else { return Ok(None) };
    let end = line.iter().position(|&byte| byte == b'\n' || byte == 0);
    let whole = end.is_some() || start.len() < FIRST_BYTES;
    let line = trim(&line[..end.unwrap_or(line.len())]);
    let name_end = line.iter().position(|&byte| is_blank(byte));
    if line.is_empty() || (!whole && name_end.is_none()) {
        return Err(NotExecutable);
    }
    let (interpreter, rest) = line.split_at(name_end.unwrap_or(line.len()));
    let argument = trim(rest);
    Ok(Some(FirstLine { interpreter, argument: (!argument.is_empty()).then_some(argument) }))
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(
        interpreter: &'static str,
        argument: Option<&'static str>,
    ) -> Result<Option<FirstLine<'static>>, NotExecutable> {
        Ok(Some(FirstLine { interpreter: interpreter.as_bytes(), argument: argument.map(str::as_bytes) }))
    }

    #[test]
    fn interpreter_and_one_argument() {
        assert_eq!(parse(b"#!/bin/sh\necho"), line("/bin/sh", None));
        assert_eq!(parse(b"#! /usr/bin/env  python3 -u \nx"), line("/usr/bin/env", Some("python3 -u")));
        assert_eq!(parse(b"#!\t/bin/sh -e"), line("/bin/sh", Some("-e")));
        assert_eq!(parse(b"\x7fELF"), Ok(None));
    }

    #[test]
    fn a_line_without_interpreter_or_with_one_too_long_is_refused() {
        assert_eq!(parse(b"#!\n/bin/sh"), Err(NotExecutable));
        assert_eq!(parse(b"#!  "), Err(NotExecutable));
        let mut long = b"#!/".to_vec();
        long.resize(FIRST_BYTES, b'a');
        assert_eq!(parse(&long), Err(NotExecutable));
        // With the name whole, a cut argument is taken, as on Linux.
        long[100] = b' ';
        assert!(parse(&long).is_ok());
    }
}
