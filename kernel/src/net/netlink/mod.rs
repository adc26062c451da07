//! Netlink sockets of `NETLINK_ROUTE` (netlink(7)): requests are answered at once, the answers wait to be read.

mod message;
mod route;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use message::Writer;

use super::options::Options;
use super::scratch::Scratch;
use super::socket::{Inode, Kind, MessageFlags, Outgoing, Protocol, Received, SocketAddress};
use super::tcp::Shutdown;
use crate::errno::{Errno, SysResult};
use crate::process::Credentials;
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;
use crate::uaccess::{ReadBuf, WriteBuf};

const NETLINK_ROUTE: u32 = 0;
/// Bytes of answers that may wait.
const BUFFER: usize = 212_992;

struct Inner {
    answers: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The socket's number; 0 until it has one.
    port: u32,
    options: Options,
    error: Option<Errno>,
    scratch: Scratch,
}

/// A netlink socket.
pub struct NetlinkSocket {
    wait: WaitQueue,
    inner: SpinLock<Inner>,
}

impl NetlinkSocket {
    /// A fresh one.
    ///
    /// # Errors
    /// `EPROTONOSUPPORT` for anything but routes, `ESOCKTNOSUPPORT`.
    pub fn new(kind: Kind) -> Result<Self, Errno> {
        use linux_raw_sys::net::{SOCK_DGRAM, SOCK_RAW};
        if !matches!(kind.socket_type, SOCK_DGRAM | SOCK_RAW) {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if kind.protocol != NETLINK_ROUTE {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let inner = Inner {
            answers: VecDeque::new(),
            bytes: 0,
            port: 0,
            options: Options::default(),
            error: None,
            scratch: Scratch::default(),
        };
        Ok(Self { wait: WaitQueue::new(), inner: SpinLock::new(inner) })
    }
}

impl Inner {
    fn port(&mut self) -> u32 {
        // Beyond process numbers, which programs like to choose.
        static NEXT: AtomicU32 = AtomicU32::new(1 << 31);
        if self.port == 0 {
            self.port = NEXT.fetch_add(1, Ordering::Relaxed) | 1 << 31;
        }
        self.port
    }
}

impl Protocol for NetlinkSocket {
    fn bind(&self, to: &SocketAddress, _who: &Credentials) -> Result<(), Errno> {
        let SocketAddress::Netlink(port, groups) = *to else { return Err(Errno::EINVAL) };
        if groups != 0 {
            // There are no notifications.
            return Err(Errno::EOPNOTSUPP);
        }
        let mut inner = self.inner.lock();
        if inner.port != 0 && port != 0 && inner.port != port {
            return Err(Errno::EINVAL);
        }
        if port != 0 {
            inner.port = port;
        }
        inner.port();
        Ok(())
    }

    fn connect(&self, to: &SocketAddress, _who: &Credentials) -> Result<(), Errno> {
        match to {
            SocketAddress::Netlink(0, 0) | SocketAddress::Unspecified => {
                self.inner.lock().port();
                Ok(())
            }
            SocketAddress::Netlink(..) => Err(Errno::EPERM),
            _ => Err(Errno::EINVAL),
        }
    }

    fn local(&self) -> SocketAddress {
        SocketAddress::Netlink(self.inner.lock().port, 0)
    }

    fn remote(&self) -> Result<SocketAddress, Errno> {
        // The kernel.
        Ok(SocketAddress::Netlink(0, 0))
    }

    fn send(&self, buf: &mut WriteBuf<'_>, message: Outgoing<'_>) -> SysResult {
        match message.to {
            None | Some(SocketAddress::Netlink(0, 0)) => {}
            Some(SocketAddress::Netlink(..)) => return Err(Errno::EPERM),
            Some(_) => return Err(Errno::EINVAL),
        }
        if buf.len() > BUFFER {
            return Err(Errno::EMSGSIZE);
        }
        let mut inner = self.inner.lock();
        inner.scratch.gather(buf)?;
        let (bytes, port) = (inner.scratch.take(), inner.port());
        drop(inner);
        let privileged = crate::process::current().is_none_or(|thread| thread.credentials().is_privileged());
        let mut out = Writer::new(port);
        for request in message::requests(&bytes) {
            route::answer(super::stack(), &request, privileged, &mut out);
        }
        let mut inner = self.inner.lock();
        for answer in out.finish() {
            if inner.bytes + answer.len() > BUFFER || inner.answers.try_reserve(1).is_err() {
                inner.error = Some(Errno::ENOBUFS);
                break;
            }
            inner.bytes += answer.len();
            inner.answers.push_back(answer);
        }
        drop(inner);
        self.wait.wake(Events::IN | Events::RDNORM);
        Ok(bytes.len())
    }

    fn receive(&self, buf: &mut ReadBuf<'_>, flags: MessageFlags) -> Result<Received, Errno> {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        let first = inner.answers.front().ok_or(Errno::EAGAIN)?;
        let done = buf.done().min(first.len());
        let wanted = (first.len() - done).min(buf.remaining());
        if buf.push(&first[done..]) < wanted {
            return Err(Errno::EFAULT);
        }
        let length = first.len();
        if !flags.contains(MessageFlags::PEEK) {
            inner.answers.pop_front();
            inner.bytes -= length;
        }
        let cut = length > buf.len();
        let flags = if cut { MessageFlags::TRUNC } else { MessageFlags::empty() };
        Ok(Received { from: Some(SocketAddress::Netlink(0, 0)), flags, ..Received::bytes(length) })
    }

    fn shutdown(&self, _how: Shutdown) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn close(&self) {}

    fn poll(&self) -> Events {
        let inner = self.inner.lock();
        let mut events = Events::OUT | Events::WRNORM;
        if !inner.answers.is_empty() {
            events |= Events::IN | Events::RDNORM;
        }
        if inner.error.is_some() {
            events |= Events::ERR;
        }
        events
    }

    fn wait_queue(&self) -> &WaitQueue {
        &self.wait
    }

    fn options(&self) -> Options {
        self.inner.lock().options.clone()
    }

    fn change_options(&self, change: &mut dyn FnMut(&mut Options)) {
        change(&mut self.inner.lock().options);
    }

    fn set_inode(&self, _inode: Inode) {}

    fn take_error(&self) -> Option<Errno> {
        self.inner.lock().error.take()
    }

    fn readable_bytes(&self) -> usize {
        self.inner.lock().answers.front().map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::fixture::Waiter;

    #[test]
    fn a_request_is_answered_and_the_answer_waits() {
        let socket = NetlinkSocket::new(Kind { family: 16, socket_type: 3, protocol: 0 }).unwrap();
        socket.bind(&SocketAddress::Netlink(0, 0), &Credentials::root()).unwrap();
        let SocketAddress::Netlink(port, 0) = socket.local() else { panic!("not netlink") };
        let mut request = vec![0; 20];
        request[0] = 20;
        request[4] = 22;
        request[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
        request[8] = 77;
        let readable = Waiter::new(socket.wait_queue(), Events::IN);
        assert_eq!(socket.send(&mut WriteBuf::kernel(&request), Outgoing::PLAIN), Ok(20));
        assert!(readable.was_woken());
        let mut bytes = [0; 4096];
        let received = socket.receive(&mut ReadBuf::kernel(&mut bytes), MessageFlags::PEEK).unwrap();
        assert_eq!(received.length, socket.readable_bytes());
        assert_eq!((bytes[8], u32::from_ne_bytes(bytes[12..16].try_into().unwrap())), (77, port));
        socket.receive(&mut ReadBuf::kernel(&mut bytes), MessageFlags::empty()).unwrap();
        assert!(socket.receive(&mut ReadBuf::kernel(&mut bytes), MessageFlags::empty()).is_err());
    }
}
