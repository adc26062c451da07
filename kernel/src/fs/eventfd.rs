//! Event counters (eventfd(2)).

use super::{File, FileType, Stat, anon};
use crate::errno::{Errno, SysResult};
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;
use crate::uaccess::{ReadBuf, WriteBuf};

/// A counter that can be waited for.
pub struct EventFd {
    count: SpinLock<u64>,
    /// `EFD_SEMAPHORE`: a read takes one, not all.
    semaphore: bool,
    queue: WaitQueue,
}

impl EventFd {
    /// A counter at `initial`.
    pub fn new(initial: u32, semaphore: bool) -> Self {
        Self { count: SpinLock::new(u64::from(initial)), semaphore, queue: WaitQueue::new() }
    }
}

impl EventFd {
    /// Adds what the next eight bytes of `buf` say.
    fn add(&self, buf: &mut WriteBuf<'_>) -> SysResult {
        let mut bytes = [0; 8];
        if buf.pull(&mut bytes) < bytes.len() {
            return Err(Errno::EFAULT);
        }
        let added = u64::from_ne_bytes(bytes);
        if added == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        *count = count.checked_add(added).filter(|&sum| sum < u64::MAX).ok_or(Errno::EAGAIN)?;
        drop(count);
        self.queue.wake(Events::IN);
        Ok(bytes.len())
    }
}

impl File for EventFd {
    fn read(&self, _offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        if buf.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut count = self.count.lock();
        if *count == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = if self.semaphore { 1 } else { *count };
        if !buf.push_whole(&taken.to_ne_bytes()) {
            return Err(Errno::EFAULT);
        }
        *count -= taken;
        drop(count);
        self.queue.wake(Events::OUT);
        Ok(8)
    }

    fn write(&self, _offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        if buf.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        // What is not added counts as not written: the bytes may have to be taken again.
        let start = buf.position();
        let result = self.add(buf);
        if result.is_err() {
            buf.rewind(start);
        }
        result
    }

    fn poll(&self) -> Events {
        let count = *self.count.lock();
        let mut events = Events::empty();
        events.set(Events::IN | Events::RDNORM, count > 0);
        events.set(Events::OUT | Events::WRNORM, count < u64::MAX - 1);
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn class(&self) -> &'static str {
        "[eventfd]"
    }

    fn stat(&self) -> Stat {
        anon::for_current(FileType::Anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::fixture::Waiter;

    fn read(event: &EventFd) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        event.read(0, &mut ReadBuf::kernel(&mut bytes)).map(|_| u64::from_ne_bytes(bytes))
    }

    fn write(event: &EventFd, value: u64) -> SysResult {
        event.write(0, &mut WriteBuf::kernel(&value.to_ne_bytes()))
    }

    #[test]
    fn a_counter_is_read_whole_and_a_semaphore_one_by_one() {
        let counter = EventFd::new(2, false);
        write(&counter, 3).unwrap();
        assert_eq!((read(&counter), read(&counter)), (Ok(5), Err(Errno::EAGAIN)));
        let semaphore = EventFd::new(2, true);
        assert_eq!(
            (read(&semaphore), read(&semaphore), read(&semaphore)),
            (Ok(1), Ok(1), Err(Errno::EAGAIN))
        );
    }

    #[test]
    fn a_full_counter_refuses() {
        let counter = EventFd::new(0, false);
        assert_eq!(write(&counter, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(write(&counter, u64::MAX - 1), Ok(8));
        assert_eq!(write(&counter, 1), Err(Errno::EAGAIN));
        assert_eq!(counter.poll(), Events::IN | Events::RDNORM);
        assert_eq!(counter.write(0, &mut WriteBuf::kernel(&[0; 7])), Err(Errno::EINVAL));
    }

    #[test]
    fn what_is_refused_counts_as_not_written() {
        let counter = EventFd::new(3, false);
        for (value, error) in [(u64::MAX, Errno::EINVAL), (u64::MAX - 2, Errno::EAGAIN)] {
            let bytes = value.to_ne_bytes();
            let mut buf = WriteBuf::kernel(&bytes);
            assert_eq!((counter.write(0, &mut buf), buf.done()), (Err(error), 0));
        }
        assert_eq!(read(&counter), Ok(3));
    }

    #[test]
    fn adding_wakes_readers_and_reading_wakes_writers() {
        let counter = EventFd::new(0, false);
        let waiting = |events| Waiter::new(counter.wait_queue().unwrap(), events);
        let (readable, writable) = (waiting(Events::IN), waiting(Events::OUT));
        write(&counter, u64::MAX - 1).unwrap();
        assert_eq!((readable.was_woken(), writable.was_woken()), (true, false));
        read(&counter).unwrap();
        assert_eq!((readable.was_woken(), writable.was_woken()), (false, true));
    }
}
