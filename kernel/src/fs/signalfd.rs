//! Signals read from descriptors (signalfd(2)).
//!
//! The signals are those of whoever reads or polls, not of the process that made the descriptor. A [`SignalFd`] is told of the signals
//! of every process in which somebody has waited for it, through its wait queue.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{File, FileType, Stat, anon};
use crate::errno::{Errno, SysResult};
use crate::process::SignalInfo;
use crate::process::current;
use crate::process::signal::{SIGNALFD_INFO_SIZE, SignalSet};
use crate::sched::{Events, WaitQueue};
use crate::uaccess::ReadBuf;

/// A set of signals that can be read.
pub struct SignalFd {
    signals: AtomicU64,
    queue: Arc<WaitQueue>,
}

impl SignalFd {
    /// For the signals of `set`.
    pub fn new(set: SignalSet) -> Self {
        Self { signals: AtomicU64::new(set.bits()), queue: Arc::new(WaitQueue::new()) }
    }

    /// From now on for those of `set`.
    pub fn set_signals(&self, set: SignalSet) {
        self.signals.store(set.bits(), Ordering::Relaxed);
        self.queue.wake(Events::IN | Events::RDNORM);
    }

    fn signals(&self) -> SignalSet {
        SignalSet::from_bits(self.signals.load(Ordering::Relaxed))
    }
}

impl File for SignalFd {
    /// As many pending signals as there is room for: each a `struct signalfd_siginfo`, as a whole.
    fn read(&self, _offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        let (before, wanted) = (buf.done(), self.signals());
        // Those who read again after a fault have begun with enough room.
        if before == 0 && buf.remaining() < SIGNALFD_INFO_SIZE {
            return Err(Errno::EINVAL);
        }
        let thread = current().ok_or(Errno::EAGAIN)?;
        let mut faulted = false;
        while buf.remaining() >= SIGNALFD_INFO_SIZE && !faulted {
            let put = |info: &SignalInfo| buf.push_whole(&info.to_signalfd());
            match thread.offer_signal(wanted, put) {
                Some(taken) => faulted = !taken,
                None => break,
            }
        }
        match buf.done() - before {
            0 if faulted => Err(Errno::EFAULT),
            0 if before == 0 => Err(Errno::EAGAIN),
            moved => Ok(moved),
        }
    }

    fn poll(&self) -> Events {
        let pending = current().map_or(SignalSet::EMPTY, |thread| thread.pending());
        let ready = !pending.intersection(self.signals()).is_empty();
        if ready { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    /// Who asks is about to wait: from now on the queue is told of the signals of its process.
    fn wait_queue(&self) -> Option<&WaitQueue> {
        if let Some(thread) = current() {
            thread.process().listen_for_signals(&self.queue);
        }
        Some(&self.queue)
    }

    fn class(&self) -> &'static str {
        "[signalfd]"
    }

    fn stat(&self) -> Stat {
        anon::for_current(FileType::Anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{OpenFile, OpenFlags};
    use crate::process::Signal;
    use crate::process::block::block_on;
    use crate::process::signal::MaskChange;
    use crate::process::tests::{Running, child_of, process, run_as_thread};
    use crate::process::{Process, Thread};
    use crate::sched::fixture::Waiter;

    const SET: SignalSet = SignalSet::of(&[Signal::USR1, Signal::USR2]);

    fn blocking(process: &Arc<Process>) -> Arc<Thread> {
        let thread = process.leader().unwrap();
        thread.change_mask(MaskChange::Block, SET);
        thread
    }

    /// Reads as `thread`; the signals' numbers.
    fn read(thread: &Arc<Thread>, file: &Arc<SignalFd>, len: usize) -> Running<Result<Vec<u32>, Errno>> {
        let (reader, file) = (thread.clone(), file.clone());
        run_as_thread(thread.clone(), async move {
            let mut bytes = vec![0; len];
            let queue = file.wait_queue().unwrap();
            let mut attempt = || file.read(0, &mut ReadBuf::kernel(&mut bytes));
            let moved = block_on(&reader, queue, Events::IN, None, &mut attempt).await?;
            let records = bytes[..moved].chunks(SIGNALFD_INFO_SIZE);
            Ok(records.map(|record| u32::from_ne_bytes(record[..4].try_into().unwrap())).collect())
        })
    }

    fn send(process: &Process, signal: Signal) {
        process.send_signal(SignalInfo::kernel(signal)).unwrap();
    }

    #[test]
    fn pending_signals_are_read_lowest_first_as_many_as_fit() {
        let process = process();
        let thread = blocking(&process);
        let file = Arc::new(SignalFd::new(SET));
        assert_eq!(read(&thread, &file, 127).result(), Some(Err(Errno::EINVAL)));
        send(&process, Signal::USR2);
        send(&process, Signal::USR1);
        assert_eq!(read(&thread, &file, 3 * 128).result(), Some(Ok(vec![10, 12])));
        assert!(thread.pending().is_empty());
        send(&process, Signal::USR2);
        send(&process, Signal::USR1);
        assert_eq!(read(&thread, &file, 255).result(), Some(Ok(vec![10])));
    }

    #[test]
    fn a_reader_waits_for_signals_of_its_own_process_and_set() {
        let parent = process();
        let child = child_of(&parent);
        let (thread, _) = (blocking(&child), blocking(&parent));
        let file = Arc::new(SignalFd::new(SET));
        let running = read(&thread, &file, 128);
        assert_eq!(running.result(), None);
        send(&parent, Signal::USR1);
        assert_eq!(running.result(), None);
        file.set_signals(SignalSet::of(&[Signal::USR2]));
        send(&child, Signal::USR1);
        assert_eq!(running.result(), None);
        file.set_signals(SET);
        assert_eq!(running.result(), Some(Ok(vec![10])));
        // Blocked as it is, the signal itself does not interrupt the reader: the queue is told.
        let running = read(&thread, &file, 128);
        assert_eq!(running.result(), None);
        let waiter = Waiter::new(&file.queue, Events::IN);
        send(&child, Signal::USR2);
        assert!(waiter.was_woken());
        assert_eq!(running.result(), Some(Ok(vec![12])));
    }

    #[test]
    fn a_closed_one_is_forgotten() {
        let process = process();
        let thread = blocking(&process);
        let file = Arc::new(SignalFd::new(SET));
        let queue = Arc::downgrade(&file.queue);
        let running = read(&thread, &file, 128);
        send(&process, Signal::USR1);
        assert_eq!(running.result(), Some(Ok(vec![10])));
        drop((running, OpenFile::new(file, OpenFlags::RDWR)));
        assert!(queue.upgrade().is_none());
        send(&process, Signal::USR1);
    }
}
