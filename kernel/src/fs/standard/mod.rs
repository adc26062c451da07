//! The first process's standard input and output where they are no terminal: the command line says `stdin=pipe`, `stdout=pipe`.
//!
//! Input comes over the serial line in a text with an end ([`frames`]) and is fed into a [`pipe`]; while that is full, the rest waits in
//! the UART, and in whoever sends. [`Output`] writes bytes to the line as they are. There is one line for descriptors 1 and 2, and
//! for what the kernel says.

mod frames;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;

use self::frames::{Decoder, Item};
use super::pipe::{self, ATOMIC_WRITE};
use super::{File, FileType, OpenFlags, Stat, anon};
use crate::errno::{Errno, SysResult};
use crate::sched::Events;
use crate::uaccess::WriteBuf;

/// Bytes that a write hands to the line at a time.
const CHUNK: usize = 512;

/// The standard streams, in the order of their descriptors (stdin(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    /// Descriptor 0.
    Input,
    /// Descriptor 1.
    Output,
    /// Descriptor 2.
    Error,
}

impl Standard {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::Input, Self::Output, Self::Error];

    /// The access mode of a stream that is not the console.
    pub fn access(self) -> OpenFlags {
        if self == Self::Input { OpenFlags::empty() } else { OpenFlags::WRONLY }
    }
}

/// Takes the next byte that the line has received.
pub type Source = fn() -> Option<u8>;

/// Moves input from the line into a pipe.
pub struct Feeder {
    pipe: Arc<dyn File>,
    source: Source,
    decoder: Decoder,
    /// Input that is not in the pipe yet.
    pending: Vec<u8>,
    ended: bool,
}

/// A pipe to read the input from, and what feeds it.
pub fn input(source: Source) -> (Arc<dyn File>, Feeder) {
    let [reader, pipe] = pipe::create();
    (reader, Feeder { pipe, source, decoder: Decoder::default(), pending: Vec::new(), ended: false })
}

impl Feeder {
    /// Feeds the pipe until the input ends or nobody can read it any more. The task is to be woken when the line has received something.
    pub async fn run(mut self) {
        let pipe = self.pipe.clone();
        let mut registration = None;
        core::future::poll_fn(|context| {
            if registration.is_none() {
                let events = Events::OUT | Events::ERR;
                registration = pipe.wait_queue().map(|queue| queue.register(events, context.waker()));
            }
            if self.feed() { core::task::Poll::Ready(()) } else { core::task::Poll::Pending }
        })
        .await;
    }

    /// Moves what there is and what there is room for. Returns whether that was the last.
    fn feed(&mut self) -> bool {
        loop {
            self.receive();
            if self.pending.is_empty() {
                return self.ended;
            }
            match self.pipe.write(0, &mut WriteBuf::kernel(&self.pending)) {
                Ok(moved) => drop(self.pending.drain(..moved)),
                Err(Errno::EPIPE) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Takes as much from the line as the pipe takes at once.
    fn receive(&mut self) {
        while !self.ended && self.pending.len() < ATOMIC_WRITE {
            let Some(byte) = (self.source)() else { break };
            match self.decoder.take(byte) {
                Some(Item::Byte(byte)) => self.pending.push(byte),
                Some(Item::End) => self.ended = true,
                None => {}
            }
        }
    }
}

/// Moves input from the line to a keyboard: `type_byte` gets each byte, and `end` is called at the end.
#[cfg(target_os = "none")]
pub async fn type_text(source: Source, type_byte: impl Fn(u8), end: impl Fn()) {
    let mut decoder = Decoder::default();
    loop {
        while let Some(byte) = source() {
            match decoder.take(byte) {
                Some(Item::Byte(byte)) => type_byte(byte),
                Some(Item::End) => end(),
                None => {}
            }
        }
        crate::sched::wait_for_wake().await;
    }
}

/// Standard output that is no terminal: to programs, a pipe that always has room.
pub struct Output {
    line: fn(&[u8]),
    stat: Stat,
}

impl Output {
    /// Output to `line`, which returns when the bytes are sent.
    pub fn new(line: fn(&[u8])) -> Arc<Self> {
        Arc::new(Self { line, stat: anon::for_current(FileType::Fifo) })
    }
}

impl File for Output {
    fn write(&self, _offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        let (mut chunk, mut written) = ([0; CHUNK], 0);
        while buf.remaining() > 0 {
            let piece = buf.remaining().min(CHUNK);
            let taken = buf.pull(&mut chunk[..piece]);
            (self.line)(&chunk[..taken]);
            written += taken;
            if taken < piece {
                break;
            }
        }
        if written == 0 && buf.remaining() > 0 { Err(Errno::EFAULT) } else { Ok(written) }
    }

    fn reopen(&self, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
        // There is no other end to read from.
        if flags.readable() && !flags.writable() {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(Self { line: self.line, stat: self.stat }))
    }

    fn poll(&self) -> Events {
        Events::OUT | Events::WRNORM
    }

    fn class(&self) -> &'static str {
        "pipe"
    }

    fn stat(&self) -> Stat {
        self.stat
    }
}
