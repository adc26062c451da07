//! Standard input and output as programs see them.

use std::sync::Mutex;

use super::*;
use crate::uaccess::ReadBuf;

/// What the line brings. One test uses it.
static LINE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn next() -> Option<u8> {
    let mut line = LINE.lock().unwrap();
    if line.is_empty() { None } else { Some(line.remove(0)) }
}

fn read(file: &dyn File, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = std::vec![0; len];
    let got = file.read(0, &mut ReadBuf::kernel(&mut bytes))?;
    bytes.truncate(got);
    Ok(bytes)
}

#[test]
fn a_full_pipe_leaves_the_rest_on_the_line_and_the_end_comes_last() {
    let input: Vec<u8> = (0..70_000u32).map(|n| n as u8).collect();
    xtask::stdin::send(&input[..], &mut *LINE.lock().unwrap()).unwrap();
    let (reader, mut feeder) = super::input(next);
    assert!(!feeder.feed());
    assert!(LINE.lock().unwrap().len() > 100);
    let mut got = read(&*reader, pipe::DEFAULT_SIZE).unwrap();
    assert!(feeder.feed());
    drop(feeder);
    got.extend(read(&*reader, input.len()).unwrap());
    assert_eq!(got, input);
    assert_eq!(read(&*reader, 1), Ok(Vec::new()));
}

#[test]
fn input_that_nobody_can_read_is_not_waited_for() {
    let (reader, mut feeder) = super::input(|| None);
    assert_eq!(read(&*reader, 1), Err(Errno::EAGAIN));
    drop(reader);
    feeder.pending.push(b'x');
    assert!(feeder.feed());
}

#[test]
fn output_is_a_pipe_that_changes_nothing() {
    static SENT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let output = Output::new(|bytes| SENT.lock().unwrap().extend(bytes));
    let bytes: Vec<u8> = (0..=255).cycle().take(3 * CHUNK + 1).collect();
    assert_eq!(output.write(0, &mut WriteBuf::kernel(&bytes)), Ok(bytes.len()));
    assert_eq!(*SENT.lock().unwrap(), bytes);
    assert_eq!(output.stat().file_type(), FileType::Fifo);
    assert!(output.reopen(OpenFlags::empty()).is_err());
    assert!(output.reopen(OpenFlags::WRONLY).is_ok());
}
