//! Moving bytes between files and user memory: the loop under read, write and their kin.
//!
//! A file moves what it can without waiting and without resolving faults. Around that, here: faults are resolved and the move
//! continued; a stream that is not ready is waited for; a long move goes at a [`Pace`] from piece to piece.

use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::fs::OpenFile;
use crate::memory::{AddressSpace, VirtAddr};
use crate::process::Thread;
use crate::process::block::block_on;
use crate::process::pace::Pace;
use crate::process::signal::{SI_USER, Signal, SignalInfo};
use crate::sched::Events;
use crate::uaccess::{IoVec, ReadBuf, WriteBuf, is_user_range};

/// Most bytes that one call moves, as on Linux.
pub const COUNT_MAX: usize = 0x7fff_f000;

/// Most segments of readv(2) and writev(2).
pub const SEGMENTS_MAX: usize = 1024;

/// `len`, cut to [`COUNT_MAX`]; `EFAULT` unless the range is in the user half.
pub fn check_range(address: VirtAddr, len: usize) -> Result<usize, Errno> {
    if is_user_range(address, len) { Ok(len.min(COUNT_MAX)) } else { Err(Errno::EFAULT) }
}

/// `EINVAL` or `EFAULT` unless the segments are what readv(2) takes; cuts them to [`COUNT_MAX`] bytes in all.
pub fn check_segments(segments: &mut [IoVec]) -> Result<(), Errno> {
    let mut total = 0;
    for segment in segments {
        if segment.len > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        if !is_user_range(VirtAddr::new(segment.base), segment.len as usize) {
            return Err(Errno::EFAULT);
        }
        segment.len = segment.len.min((COUNT_MAX - total) as u64);
        total += segment.len as usize;
    }
    Ok(())
}

/// A buffer of either direction.
trait Buffer {
    /// For what a waiting move waits.
    const EVENTS: Events;
    const WRITE: bool;
    fn done(&self) -> usize;
    fn remaining(&self) -> usize;
    fn faulted(&self) -> bool;
    fn resolve_fault(&mut self, space: &AddressSpace) -> Result<(), Errno>;
}

macro_rules! buffer {
    ($type:ident, $events:expr, $write:literal) => {
        impl Buffer for $type<'_> {
            const EVENTS: Events = $events;
            const WRITE: bool = $write;
            fn done(&self) -> usize {
                $type::done(self)
            }
            fn remaining(&self) -> usize {
                $type::remaining(self)
            }
            fn faulted(&self) -> bool {
                $type::faulted(self)
            }
            fn resolve_fault(&mut self, space: &AddressSpace) -> Result<(), Errno> {
                $type::resolve_fault(self, space)
            }
        }
    };
}
buffer!(ReadBuf, Events::IN.union(Events::RDNORM).union(Events::RDHUP), false);
buffer!(WriteBuf, Events::OUT.union(Events::WRNORM), true);

/// What to do after a step.
enum Next {
    Done(SysResult),
    /// The next piece.
    Again,
    /// As [`Again`](Self::Again), unless there is a signal to be looked at.
    Continue,
    Wait,
}

fn decide<B: Buffer>(
    thread: &Thread,
    file: &OpenFile,
    buf: &mut B,
    result: SysResult,
    moved: usize,
    wait: bool,
) -> Next {
    match result {
        Ok(_) if buf.remaining() == 0 => Next::Done(Ok(buf.done())),
        Ok(_) | Err(Errno::EFAULT) if buf.faulted() => match buf.resolve_fault(&thread.space()) {
            Ok(()) => Next::Again,
            Err(error) => Next::Done(moved_or(moved, error)),
        },
        Ok(moved) if file.is_seekable() && moved >= file.file.piece() => Next::Continue,
        Err(Errno::ERESTARTNOINTR) => Next::Again,
        Ok(moved) if B::WRITE && wait && moved > 0 && !file.is_seekable() => Next::Again,
        Ok(_) => Next::Done(Ok(buf.done())),
        Err(Errno::EAGAIN) if wait && file.file.wait_queue().is_some() => Next::Wait,
        Err(error) => Next::Done(moved_or(moved, error)),
    }
}

/// An error after something was moved is for the next call. Moved is what a step said: what a failed step took out of
/// the buffer, to pass it on whole or not at all, went nowhere.
fn moved_or(moved: usize, error: Errno) -> SysResult {
    if moved > 0 { Ok(moved) } else { Err(error) }
}

async fn run<B: Buffer>(
    thread: &Thread,
    file: &OpenFile,
    buf: &mut B,
    wait: bool,
    mut step: impl FnMut(&mut B) -> SysResult,
) -> SysResult {
    let mut result = step(buf);
    let (mut moved, mut pace) = (0, Pace::new(thread));
    loop {
        moved += result.unwrap_or(0);
        match decide(thread, file, buf, result, moved, wait) {
            Next::Done(result) => return result,
            next @ (Next::Again | Next::Continue) => {
                if let Err(error) = pace.pause().await {
                    return moved_or(moved, error);
                }
                if matches!(next, Next::Continue) && thread.interrupted() {
                    return Ok(buf.done());
                }
                result = step(buf);
            }
            Next::Wait => {
                let Some(queue) = file.file.wait_queue() else { return moved_or(moved, Errno::EAGAIN) };
                let deadline = file.file.timeout(B::WRITE).map(|time| arch::now().saturating_add(time));
                result = block_on(thread, queue, B::EVENTS, deadline, || step(buf)).await;
                if matches!(result, Err(Errno::EAGAIN | Errno::ERESTARTSYS | Errno::EINTR)) {
                    return result.or_else(|error| moved_or(moved, error));
                }
            }
        }
    }
}

/// Fills `buf` from `file` by `step`; waits as the file's flags say.
pub async fn read(
    thread: &Thread,
    file: &OpenFile,
    buf: &mut ReadBuf<'_>,
    step: impl FnMut(&mut ReadBuf<'_>) -> SysResult,
) -> SysResult {
    run(thread, file, buf, !file.is_nonblocking(), step).await
}

/// Empties `buf` into `file` by `step`; waits as the file's flags say. A broken pipe raises `SIGPIPE`.
pub async fn write(
    thread: &Thread,
    file: &OpenFile,
    buf: &mut WriteBuf<'_>,
    step: impl FnMut(&mut WriteBuf<'_>) -> SysResult,
) -> SysResult {
    let result = run(thread, file, buf, !file.is_nonblocking(), step).await;
    raise_broken_pipe(thread, result)
}

/// Empties `buf`, the kernel's own, into `file` at its position as far as that goes without waiting.
pub fn write_once(thread: &Thread, file: &OpenFile, buf: &mut WriteBuf<'_>) -> SysResult {
    raise_broken_pipe(thread, file.write(buf))
}

fn raise_broken_pipe(thread: &Thread, result: SysResult) -> SysResult {
    if result == Err(Errno::EPIPE) {
        send_broken_pipe(thread);
    }
    result
}

/// `SIGPIPE`, which says that the thread has sent it itself.
pub(super) fn send_broken_pipe(thread: &Thread) {
    let info = SignalInfo::user(Signal::PIPE, SI_USER, thread.process().pid(), thread.credentials().uid);
    // A standard signal is never refused.
    let _ = thread.send_signal(info);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::fixture::{Fixture, rest};
    use crate::fs::memfs::TRANSFER_MAX;
    use crate::fs::{File, OpenFlags, Stat};
    use crate::process::tests::{process, run_as_thread};
    use crate::sched::WaitQueue;
    use alloc::sync::Arc;
    use alloc::vec;
    use core::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn segments_are_checked_and_cut_to_the_most_that_one_call_moves() {
        let segment = |base, len| IoVec { base, len };
        let mut good = [segment(0x1000, 5), segment(0, 0), segment(0x2000, COUNT_MAX as u64)];
        assert_eq!(check_segments(&mut good), Ok(()));
        assert_eq!(good[2].len, COUNT_MAX as u64 - 5);
        assert_eq!(check_segments(&mut [segment(0, u64::MAX)]), Err(Errno::EINVAL));
        assert_eq!(check_segments(&mut [segment(1 << 63, 1)]), Err(Errno::EFAULT));
        assert_eq!(check_range(VirtAddr::new(0), usize::MAX), Err(Errno::EFAULT));
    }

    #[test]
    fn a_long_write_goes_on_in_pieces() {
        const LEN: usize = 2 * TRANSFER_MAX + 100;
        let (thread, files) = (process().leader().unwrap(), Fixture::new());
        let file = files.open("/file", OpenFlags::CREAT | OpenFlags::RDWR).unwrap();
        let (writer, to) = (thread.clone(), file.clone());
        let running = run_as_thread(thread, async move {
            let bytes = vec![7; LEN];
            write(&writer, &to, &mut WriteBuf::kernel(&bytes), |buf| to.write(buf)).await
        });
        assert_eq!(running.result(), Some(Ok(LEN)));
        file.with_position(|position| *position = 0);
        assert_eq!(rest(&file).len(), LEN);
    }

    /// A stream of which each read moves one byte, as long as `ready` lasts.
    struct Trickle {
        ready: AtomicU64,
        queue: WaitQueue,
    }

    impl File for Trickle {
        fn read(&self, _offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
            if self.ready.load(Ordering::Relaxed) == 0 {
                return Err(Errno::EAGAIN);
            }
            self.ready.fetch_sub(1, Ordering::Relaxed);
            Ok(buf.push(b"x"))
        }

        fn wait_queue(&self) -> Option<&WaitQueue> {
            Some(&self.queue)
        }

        fn stat(&self) -> Stat {
            Stat::default()
        }
    }

    /// Takes what is written whole and refuses it: a full datagram socket, a setting that does not take the value.
    struct Refuses(Errno, WaitQueue);

    impl File for Refuses {
        fn write(&self, _offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
            buf.pull(&mut [0; 64]);
            Err(self.0)
        }

        fn wait_queue(&self) -> Option<&WaitQueue> {
            Some(&self.1)
        }

        fn stat(&self) -> Stat {
            Stat::default()
        }
    }

    #[test]
    fn what_a_file_refuses_is_not_written_though_it_was_looked_at() {
        for error in [Errno::EAGAIN, Errno::EINVAL] {
            let thread = process().leader().unwrap();
            let file = OpenFile::new(Arc::new(Refuses(error, WaitQueue::new())), OpenFlags::RDWR);
            file.set_flags(OpenFlags::NONBLOCK);
            let running = run_as_thread(thread.clone(), async move {
                write(&thread, &file, &mut WriteBuf::kernel(b"abc"), |buf| file.write(buf)).await
            });
            assert_eq!(running.result(), Some(Err(error)));
        }
    }

    #[test]
    fn a_stream_is_waited_for_and_gives_what_it_has() {
        let stream = Arc::new(Trickle { ready: AtomicU64::new(0), queue: WaitQueue::new() });
        let file = OpenFile::new(stream.clone(), OpenFlags::empty());
        let start_read = || {
            let (thread, file) = (process().leader().unwrap(), file.clone());
            run_as_thread(thread.clone(), async move {
                let mut out = [0; 8];
                read(&thread, &file, &mut ReadBuf::kernel(&mut out), |buf| file.read(buf)).await
            })
        };
        let waiting = start_read();
        assert_eq!(waiting.result(), None);
        stream.ready.store(2, Ordering::Relaxed);
        stream.queue.wake(Events::IN);
        assert_eq!(waiting.result(), Some(Ok(1)));
        assert_eq!(start_read().result(), Some(Ok(1)));
        file.set_flags(OpenFlags::NONBLOCK);
        assert_eq!(start_read().result(), Some(Err(Errno::EAGAIN)));
    }
}
