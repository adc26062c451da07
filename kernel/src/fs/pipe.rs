//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! A [`Pipe`] is a [`Content`] with counted readers and writers; a [`PipeEnd`] is the file by which one of them uses it. A FIFO keeps
//! its pipe in its inode while somebody has it open.

mod content;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use super::node::Node;
use super::{File, FileType, OpenFlags, Stat, anon};
use crate::errno::{Errno, SysResult};
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;
use crate::uaccess::{ReadBuf, UserPtr, WriteBuf};
use content::Content;

/// Writes of up to so many bytes are not interleaved with others (`PIPE_BUF`).
pub const ATOMIC_WRITE: usize = 4096;
/// Bytes that a new pipe holds.
pub const DEFAULT_SIZE: usize = 65_536;
/// The most that `F_SETPIPE_SZ` grants (/proc/sys/fs/pipe-max-size).
pub const MAX_SIZE: usize = 1 << 20;

struct State {
    content: Content,
    readers: usize,
    writers: usize,
    /// How often each end was opened: a blocking open of a FIFO waits for the other count to grow.
    reader_opens: u64,
    writer_opens: u64,
}

/// What the two ends share.
pub struct Pipe {
    state: SpinLock<State>,
    queue: WaitQueue,
}

/// One open end of a pipe, or both (a FIFO opened for reading and writing).
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// The other end's opens when this one was opened without a partner; `None` if it need not wait.
    waits_after: Option<u64>,
    /// What it writes are packets (`O_DIRECT`).
    packets: AtomicBool,
    stat: Stat,
}

impl Pipe {
    fn new() -> Arc<Self> {
        let content = Content::new();
        let state = State { content, readers: 0, writers: 0, reader_opens: 0, writer_opens: 0 };
        Arc::new(Self { state: SpinLock::new(state), queue: WaitQueue::new() })
    }

    fn open(self: &Arc<Self>, reads: bool, writes: bool, stat: Stat) -> PipeEnd {
        let mut state = self.state.lock();
        let waits_after = match (reads, writes) {
            (true, false) if state.writers == 0 => Some(state.writer_opens),
            (false, true) if state.readers == 0 => Some(state.reader_opens),
            _ => None,
        };
        state.readers += usize::from(reads);
        state.writers += usize::from(writes);
        state.reader_opens += u64::from(reads);
        state.writer_opens += u64::from(writes);
        drop(state);
        self.queue.wake(Events::IN | Events::OUT);
        PipeEnd { pipe: self.clone(), reads, writes, waits_after, packets: AtomicBool::new(false), stat }
    }
}

/// A new pipe: the end to read from and the end to write to.
pub fn create() -> [Arc<dyn File>; 2] {
    let pipe = Pipe::new();
    let stat = anon::for_current(FileType::Fifo);
    [Arc::new(pipe.open(true, false, stat)), Arc::new(pipe.open(false, true, stat))]
}

/// Opens the FIFO `node`: for [`special::register_fifo`](super::special::register_fifo).
///
/// # Errors
/// `ENXIO` for a non-blocking open for writing that nobody reads from; `EINVAL` for one with `O_DIRECT`, which only fcntl(2) can set.
pub fn open_fifo(node: &dyn Node, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
    if flags.contains(OpenFlags::DIRECT) {
        return Err(Errno::EINVAL);
    }
    let mut slot = node.slot().ok_or(Errno::ENXIO)?.lock();
    let kept = slot.clone().and_then(|any| any.downcast::<alloc::sync::Weak<Pipe>>().ok());
    let pipe = kept.and_then(|weak| weak.upgrade()).unwrap_or_else(|| {
        let pipe = Pipe::new();
        *slot = Some(Arc::new(Arc::downgrade(&pipe)));
        pipe
    });
    let (reads, writes) = (flags.readable(), flags.writable());
    if writes && !reads && flags.contains(OpenFlags::NONBLOCK) && pipe.state.lock().readers == 0 {
        return Err(Errno::ENXIO);
    }
    let mut end = pipe.open(reads, writes, node.stat());
    if flags.contains(OpenFlags::NONBLOCK) {
        end.waits_after = None;
    }
    Ok(Arc::new(end))
}

impl PipeEnd {
    /// Copies bytes of the pipe to `buf` and leaves them there: tee(2). `EAGAIN` while there are none; 0 at the end.
    pub fn peek(&self, buf: &mut ReadBuf<'_>) -> SysResult {
        let mut state = self.pipe.state.lock();
        if !self.reads {
            return Err(Errno::EBADF);
        }
        match state.content.is_empty() {
            true if state.writers == 0 => Ok(0),
            true => Err(Errno::EAGAIN),
            false => Ok(state.content.peek(buf)),
        }
    }

    /// As a read, but nothing is lost of a packet that `buf` has no room for: splice(2).
    pub fn take(&self, buf: &mut ReadBuf<'_>) -> SysResult {
        self.read_with(buf, Content::take)
    }

    fn read_with(
        &self,
        buf: &mut ReadBuf<'_>,
        read: impl FnOnce(&mut Content, &mut ReadBuf<'_>) -> SysResult,
    ) -> SysResult {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.content.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = state.content.room() < ATOMIC_WRITE;
        let moved = read(&mut state.content, buf)?;
        let writable = state.content.room() >= ATOMIC_WRITE;
        drop(state);
        // Room where there was some already is no event.
        if was_full && writable {
            self.pipe.queue.wake(Events::OUT | Events::WRNORM);
        }
        Ok(moved)
    }

    /// Puts back what was read last and could not be passed on. It may exceed the pipe's size for once.
    pub fn unread(&self, bytes: &[u8]) -> Result<(), Errno> {
        self.pipe.state.lock().content.unread(bytes)?;
        self.pipe.queue.wake(Events::IN | Events::RDNORM);
        Ok(())
    }

    /// Whether `other` is an end of the same pipe.
    pub fn is_same_pipe(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pipe, &other.pipe)
    }

    /// `EAGAIN` unless a write would move something, or fail.
    pub fn write_ready(&self) -> Result<(), Errno> {
        let state = self.pipe.state.lock();
        if state.readers > 0 && state.content.room() < ATOMIC_WRITE { Err(Errno::EAGAIN) } else { Ok(()) }
    }
}

impl File for PipeEnd {
    fn read(&self, _offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        self.read_with(buf, Content::read)
    }

    fn write(&self, _offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        // Nothing goes even into a pipe that nobody reads.
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let moved = if self.packets.load(Ordering::Relaxed) {
            state.content.write_packets(buf)?
        } else {
            let whole = buf.remaining() <= ATOMIC_WRITE && buf.done() == 0;
            state.content.write(buf, whole)?
        };
        drop(state);
        self.pipe.queue.wake(Events::IN | Events::RDNORM);
        Ok(moved)
    }

    fn reopen(&self, flags: OpenFlags) -> Result<Arc<dyn File>, Errno> {
        if flags.contains(OpenFlags::DIRECT) {
            return Err(Errno::EINVAL);
        }
        let mut end = self.pipe.open(flags.readable(), flags.writable(), self.stat);
        end.waits_after = None;
        Ok(Arc::new(end))
    }

    fn open_ready(&self) -> Result<(), Errno> {
        let Some(before) = self.waits_after else { return Ok(()) };
        let state = self.pipe.state.lock();
        let now = if self.reads { state.writer_opens } else { state.reader_opens };
        if now == before { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    fn poll(&self) -> Events {
        let state = self.pipe.state.lock();
        let mut events = Events::empty();
        if self.reads {
            events.set(Events::IN | Events::RDNORM, !state.content.is_empty());
            events.set(Events::HUP, state.writers == 0 && state.writer_opens > 0);
        }
        if self.writes {
            events.set(Events::OUT | Events::WRNORM, state.content.room() >= ATOMIC_WRITE);
            events.set(Events::ERR, state.readers == 0);
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn ioctl(&self, thread: &crate::process::Thread, request: u32, argument: u64) -> SysResult {
        match request {
            linux_raw_sys::ioctl::FIONREAD => {
                let len = self.pipe.state.lock().content.len() as i32;
                UserPtr::new(crate::memory::VirtAddr::new(argument)).write(&thread.space(), &len).map(|()| 0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn set_direct(&self, on: bool) -> Result<(), Errno> {
        self.packets.store(on, Ordering::Relaxed);
        Ok(())
    }

    fn pipe_size(&self) -> Option<usize> {
        Some(self.pipe.state.lock().content.capacity())
    }

    fn set_pipe_size(&self, bytes: usize) -> SysResult {
        if bytes > MAX_SIZE {
            return Err(Errno::EPERM);
        }
        let size = bytes.max(ATOMIC_WRITE).next_power_of_two();
        self.pipe.state.lock().content.set_capacity(size)?;
        self.pipe.queue.wake(Events::OUT);
        Ok(size)
    }

    fn class(&self) -> &'static str {
        "pipe"
    }

    fn stat(&self) -> Stat {
        self.stat
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.reads);
        state.writers -= usize::from(self.writes);
        drop(state);
        self.pipe.queue.wake(Events::IN | Events::OUT | Events::HUP | Events::ERR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::fixture::Waiter;

    fn waiter(file: &dyn File, events: Events) -> Waiter<'_> {
        Waiter::new(file.wait_queue().unwrap(), events)
    }

    fn waiter_for_nothing_else(file: &dyn File, events: Events) -> Waiter<'_> {
        Waiter::for_nothing_else(file.wait_queue().unwrap(), events)
    }

    fn write(file: &dyn File, data: &[u8]) -> SysResult {
        file.write(0, &mut WriteBuf::kernel(data))
    }

    fn read(file: &dyn File, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; len];
        let got = file.read(0, &mut ReadBuf::kernel(&mut bytes))?;
        bytes.truncate(got);
        Ok(bytes)
    }

    #[test]
    fn what_goes_in_comes_out_until_the_end() {
        let [reader, writer] = create();
        assert_eq!(read(&*reader, 10), Err(Errno::EAGAIN));
        assert_eq!(write(&*writer, b"hello"), Ok(5));
        assert_eq!(reader.poll(), Events::IN | Events::RDNORM);
        assert_eq!(read(&*reader, 3), Ok(b"hel".to_vec()));
        drop(writer);
        assert_eq!(reader.poll(), Events::IN | Events::RDNORM | Events::HUP);
        assert_eq!(read(&*reader, 10), Ok(b"lo".to_vec()));
        assert_eq!(read(&*reader, 10), Ok(vec![]));
    }

    #[test]
    fn a_pipe_without_readers_is_broken() {
        let [reader, writer] = create();
        drop(reader);
        assert_eq!(write(&*writer, b"x"), Err(Errno::EPIPE));
        assert_eq!(write(&*writer, b""), Ok(0));
        assert!(writer.poll().contains(Events::ERR));
    }

    #[test]
    fn small_writes_are_all_or_nothing_and_large_ones_are_not() {
        let [reader, writer] = create();
        assert_eq!(write(&*writer, &[1; DEFAULT_SIZE - 100]), Ok(DEFAULT_SIZE - 100));
        assert_eq!(write(&*writer, &[2; 101]), Err(Errno::EAGAIN));
        assert_eq!(write(&*writer, &[2; 100]), Ok(100));
        assert_eq!(read(&*reader, 100).unwrap().len(), 100);
        assert_eq!(write(&*writer, &[3; 5000]), Ok(100));
    }

    #[test]
    fn a_peek_leaves_and_an_unread_gives_back() {
        let pipe = Pipe::new();
        let end = pipe.open(true, true, Stat::default());
        assert_eq!(write(&end, b"abcdef"), Ok(6));
        let mut bytes = [0; 4];
        assert_eq!(end.peek(&mut ReadBuf::kernel(&mut bytes)), Ok(4));
        assert_eq!((&bytes, read(&end, 3)), (b"abcd", Ok(b"abc".to_vec())));
        assert_eq!(end.unread(b"bc"), Ok(()));
        assert_eq!(read(&end, 10), Ok(b"bcdef".to_vec()));
        assert_eq!(end.peek(&mut ReadBuf::kernel(&mut bytes)), Err(Errno::EAGAIN));
        assert_eq!(write(&end, &[0; DEFAULT_SIZE]), Ok(DEFAULT_SIZE));
        assert_eq!(end.unread(b"more"), Ok(()));
        assert_eq!(write(&end, b"x"), Err(Errno::EAGAIN));
        assert_eq!(read(&end, 4), Ok(b"more".to_vec()));
    }

    #[test]
    fn an_end_can_be_opened_again() {
        let [reader, writer] = create();
        let again = reader.reopen(OpenFlags::WRONLY).unwrap();
        drop(writer);
        assert_eq!(write(&*again, b"x"), Ok(1));
        assert_eq!(read(&*reader, 1), Ok(b"x".to_vec()));
        drop(again);
        assert_eq!(read(&*reader, 1), Ok(vec![]));
    }

    #[test]
    fn packets_are_what_the_writing_end_says() {
        let [reader, writer] = create();
        writer.set_direct(true).unwrap();
        write(&*writer, b"one").unwrap();
        write(&*writer, b"two").unwrap();
        assert_eq!((read(&*reader, 10), read(&*reader, 2)), (Ok(b"one".to_vec()), Ok(b"tw".to_vec())));
        assert_eq!(reader.poll(), Events::empty());
        writer.set_direct(false).unwrap();
        write(&*writer, b"one").unwrap();
        write(&*writer, b"two").unwrap();
        assert_eq!(read(&*reader, 10), Ok(b"onetwo".to_vec()));
        assert_eq!(reader.reopen(OpenFlags::DIRECT).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn the_size_can_be_set() {
        let [reader, writer] = create();
        assert_eq!(writer.set_pipe_size(5000), Ok(8192));
        assert_eq!(reader.pipe_size(), Some(8192));
        assert_eq!(write(&*writer, &[0; 10_000]), Ok(8192));
        assert_eq!(reader.set_pipe_size(4096), Err(Errno::EBUSY));
        assert_eq!(reader.set_pipe_size(MAX_SIZE + 1), Err(Errno::EPERM));
    }

    #[test]
    fn a_write_wakes_readers_and_a_read_wakes_writers_once_a_page_is_free() {
        let [reader, writer] = create();
        let (readable, writable) = (waiter(&*reader, Events::IN), waiter(&*writer, Events::OUT));
        write(&*writer, b"x").unwrap();
        assert_eq!((readable.was_woken(), writable.was_woken()), (true, false));
        write(&*writer, &[0; DEFAULT_SIZE]).unwrap();
        assert!(readable.was_woken());
        read(&*reader, ATOMIC_WRITE - 1).unwrap();
        assert_eq!((readable.was_woken(), writable.was_woken()), (false, false));
        read(&*reader, 1).unwrap();
        assert_eq!((readable.was_woken(), writable.was_woken()), (false, true));
    }

    #[test]
    fn those_who_wait_are_told_when_the_other_end_is_gone() {
        for events in [Events::IN, Events::HUP] {
            let [reader, writer] = create();
            let reading = waiter_for_nothing_else(&*reader, events);
            drop(writer);
            assert!(reading.was_woken(), "{events:?}");
        }
        for events in [Events::OUT, Events::ERR] {
            let [reader, writer] = create();
            let writing = waiter_for_nothing_else(&*writer, events);
            drop(reader);
            assert!(writing.was_woken(), "{events:?}");
        }
    }

    #[test]
    fn an_open_wakes_who_waits_for_the_other_end() {
        for reads in [true, false] {
            let pipe = Pipe::new();
            let first = pipe.open(reads, !reads, Stat::default());
            let opening = waiter(&first, if reads { Events::IN } else { Events::OUT });
            assert_eq!(first.open_ready(), Err(Errno::EAGAIN));
            let _second = pipe.open(!reads, reads, Stat::default());
            assert!(opening.was_woken());
            assert_eq!(first.open_ready(), Ok(()));
        }
    }

    #[test]
    fn what_is_put_back_wakes_readers_and_more_room_wakes_writers() {
        let pipe = Pipe::new();
        let end = pipe.open(true, true, Stat::default());
        write(&end, &[0; DEFAULT_SIZE]).unwrap();
        let (readable, writable) = (waiter(&end, Events::IN), waiter(&end, Events::OUT));
        read(&end, 1).unwrap();
        end.unread(b"x").unwrap();
        assert_eq!((readable.was_woken(), writable.was_woken()), (true, false));
        end.set_pipe_size(2 * DEFAULT_SIZE).unwrap();
        assert!(writable.was_woken());
    }
}
