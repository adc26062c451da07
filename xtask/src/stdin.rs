//! Standard input on its way into a guest, where it is not the terminal on which QEMU runs.
//!
//! A serial line knows no end of input, and loses what comes before the guest has set its UART up: at most what a UART holds, since QEMU
//! gives it no more. So the input travels as the transparent text of ISO 2111, which the kernel's `fs::standard` reads:
//! `SYN`s that may get lost, `DLE STX`, the input with each `DLE` doubled, `DLE ETX`.

use std::io::{ErrorKind, Read, Result, Write};
use std::process::ChildStdin;
use std::thread;

/// Goes before the text, and may get lost.
const SYN: u8 = 0x16;
/// Gives the next byte its meaning.
const DLE: u8 = 0x10;
const STX: u8 = 0x02;
const ETX: u8 = 0x03;
/// How many bytes may get lost: more than the 16 of a UART's FIFO and the one on its way there.
const MAY_BE_LOST: usize = 32;
/// Bytes that are read at a time.
const PIECE: usize = 16 << 10;

/// Sends all of `input`, and its end.
///
/// # Errors
/// Those of writing. Input that cannot be read further has ended.
pub fn send(mut input: impl Read, line: &mut impl Write) -> Result<()> {
    line.write_all(&[SYN; MAY_BE_LOST])?;
    line.write_all(&[DLE, STX])?;
    let mut piece = vec![0; PIECE];
    loop {
        match input.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
            Ok(length) => line.write_all(&doubled(&piece[..length]))?,
        }
    }
    line.write_all(&[DLE, ETX])?;
    line.flush()
}

/// `bytes` with each `DLE` doubled.
fn doubled(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|&byte| std::iter::repeat_n(byte, if byte == DLE { 2 } else { 1 })).collect()
}

/// Sends our standard input in the background, until it ends or QEMU does.
pub fn relay(mut to: ChildStdin) {
    thread::spawn(move || {
        // It fails when QEMU has ended, and then there is nobody to send to.
        let _ = send(std::io::stdin().lock(), &mut to);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(input: impl Read) -> Vec<u8> {
        let mut line = Vec::new();
        send(input, &mut line).unwrap();
        line
    }

    #[test]
    fn the_input_goes_between_its_start_and_its_end() {
        let line = sent(&b"a\x10\x03\x16"[..]);
        assert_eq!(line[..MAY_BE_LOST], [SYN; MAY_BE_LOST]);
        assert_eq!(line[MAY_BE_LOST..], *b"\x10\x02a\x10\x10\x03\x16\x10\x03");
    }

    #[test]
    fn input_that_cannot_be_read_has_ended() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
        }
        assert_eq!(sent(b"x".chain(Broken)), sent(&b"x"[..]));
    }
}
