//! Reading and writing the stream.

use smoltcp::socket::tcp::State;

use super::{Cause, Connection, Inner, Role, TcpSocket};
use crate::errno::{Errno, SysResult};
use crate::net::counters::Counter;
use crate::sched::Events;
use crate::uaccess::{ReadBuf, WriteBuf};

impl TcpSocket {
    /// Reads what has come, up to the length of `buf`: recv(2) without waiting. With `peek` it stays; with `discard` it is
    /// thrown away instead of copied (`MSG_TRUNC`, tcp(7)).
    ///
    /// # Errors
    /// `EAGAIN` when nothing has come; `ENOTCONN`; the connection's error, once; `EFAULT` as for any file.
    pub fn read(&self, buf: &mut ReadBuf<'_>, peek: bool, discard: bool) -> SysResult {
        let mut inner = self.inner.lock();
        let Role::Connection(connection) = &mut inner.role else {
            return Err(inner.error.take().unwrap_or(Errno::ENOTCONN));
        };
        if connection.tcp().recv_queue() == 0 {
            return inner.nothing_to_read();
        }
        let was = connection.tcp().recv_queue();
        let read = if peek { connection.peek(buf)? } else { connection.read(buf, discard) };
        if read == 0 && buf.faulted() {
            return Err(Errno::EFAULT);
        }
        // The peer hears of the room with the next acknowledgment, unless it may be waiting for it.
        let capacity = connection.tcp().recv_capacity();
        if !peek && was >= capacity / 2 {
            let link = inner.link();
            let events = self.step(&mut inner, None, Cause::Call);
            drop(inner);
            self.leave(link, events);
        }
        Ok(read)
    }

    /// Takes bytes to send: send(2) without waiting.
    ///
    /// # Errors
    /// `EAGAIN` when there is no room; `EPIPE` when the writing half has ended or never began; the connection's error,
    /// once; `EFAULT` as for any file.
    pub fn write(&self, buf: &mut WriteBuf<'_>, more: bool) -> SysResult {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        let Inner { role, shut_write, options, .. } = &mut *inner;
        let Role::Connection(connection) = role else { return Err(Errno::EPIPE) };
        match connection.tcp().state() {
            State::SynSent | State::SynReceived => return Err(Errno::EAGAIN),
            State::Established | State::CloseWait if !*shut_write => {}
            _ => return Err(Errno::EPIPE),
        }
        if buf.remaining() == 0 {
            return Ok(0);
        }
        if connection.room() == 0 {
            return Err(Errno::EAGAIN);
        }
        let written = connection.write(options.cork || more, |space| buf.pull(space));
        if written == 0 {
            return Err(if buf.faulted() { Errno::EFAULT } else { Errno::EAGAIN });
        }
        let link = connection.path.link.clone();
        let events = self.step(&mut inner, None, Cause::Call);
        drop(inner);
        self.leave(Some(link), events);
        Ok(written)
    }

    /// The connection has been ended without smoltcp's doing.
    pub(super) fn step_closed(&self, inner: &mut Inner) -> Events {
        self.stack.counters.count(Counter::TcpAttemptFails);
        inner.release_flow(&self.stack);
        if inner.orphan {
            inner.role = Role::Idle;
        }
        super::EVERYTHING
    }
}

impl Inner {
    /// What recv(2) says when no bytes are there, in the order of Linux's `tcp_recvmsg`.
    fn nothing_to_read(&mut self) -> SysResult {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let Role::Connection(connection) = &self.role else { return Err(Errno::ENOTCONN) };
        if self.is_read_shut(connection.tcp().state()) { Ok(0) } else { Err(Errno::EAGAIN) }
    }
}

impl Connection {
    fn read(&mut self, buf: &mut ReadBuf<'_>, discard: bool) -> usize {
        let mut read = 0;
        // Twice, as the bytes in a ring may be in two pieces.
        for _ in 0..2 {
            let limit = buf.len() - read.min(buf.len());
            let taken = self.tcp_mut().recv(|bytes| {
                let taken = if discard { bytes.len().min(limit) } else { buf.push(bytes) };
                (taken, (taken, bytes.len()))
            });
            let Ok((taken, there)) = taken else { break };
            read += taken;
            if taken < there || there == 0 {
                break;
            }
        }
        read
    }

    fn peek(&mut self, buf: &mut ReadBuf<'_>) -> SysResult {
        // From where a copy that met a fault stopped.
        let done = buf.done();
        let end = buf.len().min(self.tcp().recv_queue());
        if end <= done {
            return Ok(0);
        }
        let first = self.tcp_mut().peek(end).map_err(|_| Errno::ENOTCONN)?;
        if first.len() == end {
            return Ok(buf.push(&first[done..]));
        }
        // The bytes wrap around in the ring: rare enough for a copy.
        let mut all = crate::net::link::zeroed(end).ok_or(Errno::ENOMEM)?;
        self.tcp_mut().peek_slice(&mut all).map_err(|_| Errno::ENOTCONN)?;
        Ok(buf.push(&all[done..]))
    }
}
