//! Files of which the text is made row by row, as it is read: it may be long, and making it at once would take too long.
//!
//! Rows are read one after the other. Who reads from elsewhere has them made again from the first one on, a piece at a time. Each row is
//! as things are when it is made.

use alloc::sync::Arc;

use super::{Entry, Subject, Text};
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::fs::{File, Stat};
use crate::sync::SpinLock;
use crate::uaccess::ReadBuf;

/// Bytes of text after which a piece ends.
const PIECE: usize = 2048;
/// Nanoseconds after which it ends, too.
const STRETCH: u64 = 20_000;

/// How far the making of rows has come.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// Where the next row begins; what that means is up to who makes them.
    pub at: u64,
    /// How far the next row is finished, if it takes several steps.
    pub within: u64,
    /// What the steps have added up.
    pub sums: [usize; 4],
}

/// Makes the next row, or a part of what it needs, in some dozens of microseconds. False at the end.
pub type NextRow<S> = fn(&S, &mut Cursor, &mut Text) -> Result<bool, Errno>;

/// An open file of rows.
pub(super) struct RowsFile<S: 'static> {
    entry: Arc<Entry<S>>,
    next: NextRow<S>,
    made: SpinLock<Made>,
}

/// The rows that were made last.
#[derive(Default)]
struct Made {
    /// The offset of their first byte.
    start: u64,
    text: Text,
    cursor: Cursor,
    is_end: bool,
}

impl<S: Subject> RowsFile<S> {
    pub(super) fn new(entry: Arc<Entry<S>>, next: NextRow<S>) -> Self {
        Self { entry, next, made: SpinLock::default() }
    }

    /// Makes the next piece of text, in place of the one that is there.
    fn make(&self, made: &mut Made) -> Result<(), Errno> {
        made.start += made.text.len() as u64;
        made.text.clear();
        let end = arch::now() + STRETCH;
        while !made.is_end && made.text.len() < PIECE {
            made.is_end = !(self.next)(&self.entry.subject, &mut made.cursor, &mut made.text)?;
            if arch::now() >= end {
                break;
            }
        }
        Ok(())
    }
}

impl<S: Subject> File for RowsFile<S> {
    /// `ERESTARTNOINTR` when what is at `offset` is not made yet, though a piece of what lies before it is now.
    fn read(&self, offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        let mut made = self.made.lock();
        let is_fresh = made.text.len() == 0 && !made.is_end;
        if offset < made.start || offset == 0 && !is_fresh {
            *made = Made::default();
        }
        let end = |made: &Made| made.start + made.text.len() as u64;
        if offset >= end(&made) && !made.is_end {
            self.make(&mut made)?;
        }
        if offset >= end(&made) {
            return if made.is_end { Ok(0) } else { Err(Errno::ERESTARTNOINTR) };
        }
        let rest = &made.text.bytes()[(offset - made.start) as usize..];
        let wanted = rest.len().min(buf.remaining());
        match buf.push(&rest[..wanted]) {
            0 if wanted > 0 => Err(Errno::EFAULT),
            moved => Ok(moved),
        }
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn stat(&self) -> Stat {
        crate::fs::Node::stat(&*self.entry)
    }
}
