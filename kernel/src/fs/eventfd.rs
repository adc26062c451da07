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
        // A fault in the middle of the eight bytes takes nothing.
        if buf.push(&taken.to_ne_bytes()) < 8 {
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
        let mut count = self.count.lock();
        if *count == u64::MAX - 1 {
            return Err(Errno::EAGAIN);
        }
        let mut bytes = [0; 8];
        if buf.pull(&mut bytes) < 8 {
            return Err(Errno::EFAULT);
        }
        let added = u64::from_ne_bytes(bytes);
        if added == u64::MAX {
            return Err(Errno::EINVAL);
        }
        match count.checked_add(added).filter(|&sum| sum < u64::MAX) {
            Some(sum) => *count = sum,
            None => return Err(Errno::EAGAIN),
        }
        drop(count);
        self.queue.wake(Events::IN);
        Ok(8)
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
}
