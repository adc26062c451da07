//! Raw sockets (raw(7)): packets of one protocol, as `ping` wants them.
//!
//! Each gets a copy of every packet of its protocol, IP header included; what it sends gets an IP header.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicUsize, Ordering};

use hw::pool::Frame;

use super::link::{Link, SendError};
use super::options::Options;
use super::scratch::Scratch;
use super::socket::Inode;
use super::stack::Stack;
use super::timers::Expires;
use super::wire::{IPV4_HEADER, Ipv4, Ipv4Template, protocol};
use crate::errno::{Errno, SysResult};
use crate::sched::{Events, WaitQueue};
use crate::sync::{RwSpinLock, SpinLock};
use crate::uaccess::{ReadBuf, WriteBuf};

const RECEIVE_BUFFER: usize = super::udp::RECEIVE_BUFFER;
const OVERHEAD: usize = 512;

struct Packet {
    frame: Frame,
    from: Ipv4Addr,
    /// When it came, in nanoseconds since boot.
    at: u64,
}

struct Inner {
    options: Options,
    local: Ipv4Addr,
    remote: Option<Ipv4Addr>,
    /// Types of ICMP messages that are not wanted (`ICMP_FILTER`).
    filter: u32,
    received: VecDeque<Packet>,
    charged: usize,
    inode: Inode,
    error: Option<Errno>,
    scratch: Scratch,
}

/// A raw socket.
pub struct RawSocket {
    /// Its protocol number.
    pub protocol: u8,
    stack: Arc<Stack>,
    me: Weak<Self>,
    /// Who waits for it.
    pub queue: WaitQueue,
    inner: SpinLock<Inner>,
}

/// The raw sockets of a stack.
#[derive(Default)]
pub struct RawTable {
    /// How many there are: mostly none, and then packets are not held up.
    count: AtomicUsize,
    sockets: RwSpinLock<Vec<Arc<RawSocket>>>,
}

impl RawTable {
    /// Gives a packet to the sockets that want it; whether there was one.
    pub fn deliver(&self, link: &Link, frame: &Frame, ip: &Ipv4) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let sockets = self.sockets.read();
        sockets.iter().filter(|socket| socket.deliver(link, frame, ip)).count() > 0
    }

    /// All sockets at this moment.
    pub fn sockets(&self) -> Vec<Arc<RawSocket>> {
        self.sockets.read().clone()
    }
}

impl RawSocket {
    /// A fresh socket, which receives from now on.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(stack: &Arc<Stack>, protocol: u8) -> Result<Arc<Self>, Errno> {
        let socket = Arc::new_cyclic(|me| Self {
            protocol,
            stack: stack.clone(),
            me: me.clone(),
            queue: WaitQueue::new(),
            inner: SpinLock::new(Inner {
                options: Options::default(),
                local: Ipv4Addr::UNSPECIFIED,
                remote: None,
                filter: 0,
                received: VecDeque::new(),
                charged: 0,
                inode: Inode::default(),
                error: None,
                scratch: Scratch::default(),
            }),
        });
        let mut sockets = stack.raw.sockets.write();
        sockets.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        sockets.push(socket.clone());
        stack.raw.count.store(sockets.len(), Ordering::Relaxed);
        Ok(socket)
    }

    fn deliver(&self, link: &Link, frame: &Frame, ip: &Ipv4) -> bool {
        if ip.protocol != self.protocol {
            return false;
        }
        let mut inner = self.inner.lock();
        let filtered = self.protocol == protocol::ICMP
            && frame[ip.payload()].first().is_some_and(|&kind| kind < 32 && inner.filter & (1 << kind) != 0);
        let addressed = (inner.local.is_unspecified() || inner.local == ip.destination)
            && inner.remote.is_none_or(|remote| remote == ip.source)
            && inner.options.device.is_none_or(|device| device == link.index);
        if filtered || !addressed {
            return false;
        }
        let limit = inner.options.receive_buffer.unwrap_or(RECEIVE_BUFFER);
        let cost = ip.total + OVERHEAD;
        if inner.charged + cost > limit || inner.received.try_reserve(1).is_err() {
            return true;
        }
        if let Some(copy) = Frame::copy_from([&frame[ip.packet()]].into_iter(), frame.checksum()) {
            inner.charged += cost;
            inner.received.push_back(Packet { frame: copy, from: ip.source, at: self.stack.now() });
            drop(inner);
            self.queue.wake(Events::IN | Events::RDNORM);
        }
        true
    }

    /// bind(2): only packets to this address.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`.
    pub fn bind(&self, address: Ipv4Addr) -> Result<(), Errno> {
        if !address.is_unspecified() && !self.stack.is_local(address) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        self.inner.lock().local = address;
        Ok(())
    }

    /// connect(2): only packets from this peer; `None` ends that.
    pub fn connect(&self, to: Option<Ipv4Addr>) {
        self.inner.lock().remote = to;
    }

    /// Sends a packet: sendto(2) without waiting.
    ///
    /// # Errors
    /// As for UDP.
    pub fn send(&self, buf: &mut WriteBuf<'_>, to: Option<Ipv4Addr>) -> SysResult {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        if buf.len() + IPV4_HEADER > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        let to = to.or(inner.remote).ok_or(Errno::EDESTADDRREQ)?;
        let to = if to.is_unspecified() { Ipv4Addr::LOCALHOST } else { to };
        if self.stack.is_broadcast(to) && !inner.options.broadcast {
            return Err(Errno::EACCES);
        }
        let bound = Some(inner.local).filter(|own| !own.is_unspecified());
        let mut path = self.stack.path(to, bound, inner.options.device)?;
        let Inner { scratch, options, .. } = &mut *inner;
        let data = scratch.gather(buf)?;
        let template = Ipv4Template {
            ttl: if to.is_multicast() { options.multicast_ttl } else { options.ttl },
            tos: options.tos,
            fragment: (self.stack.next_identification(), 0),
            ..Ipv4Template::new(path.source, to, self.protocol)
        };
        let fill = &mut |payload: &mut [u8]| payload.copy_from_slice(data);
        let sent = self.stack.send_fragmented(&mut path, &template, data.len(), fill);
        let length = data.len();
        drop(inner);
        self.stack.finish(&path.link);
        match sent {
            Ok(()) => Ok(length),
            Err(SendError::Full) => {
                let me: Weak<Self> = self.me.clone();
                self.stack.timers.add(self.stack.now() + 1_000_000, me);
                Err(Errno::EAGAIN)
            }
            Err(SendError::NoMemory) => Err(Errno::ENOBUFS),
            Err(SendError::Refused) => Err(Errno::EMSGSIZE),
            Err(SendError::Down) => Err(Errno::ENETDOWN),
        }
    }

    /// Receives a packet, IP header included. Returns its sender, its length, however much of it was read, and when it came.
    ///
    /// # Errors
    /// As for UDP.
    pub fn receive(&self, buf: &mut ReadBuf<'_>, peek: bool) -> Result<(Ipv4Addr, usize, u64), Errno> {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        let first = inner.received.front().ok_or(Errno::EAGAIN)?;
        let (bytes, done) = (&first.frame[..], buf.done());
        let wanted = bytes.len().saturating_sub(done).min(buf.remaining());
        if buf.push(&bytes[done.min(bytes.len())..]) < wanted {
            return Err(Errno::EFAULT);
        }
        let answer = (first.from, bytes.len(), first.at);
        if !peek {
            let taken = inner.received.pop_front();
            inner.charged -= answer.1 + OVERHEAD;
            drop(inner);
            drop(taken);
        }
        Ok(answer)
    }

    /// The last descriptor is gone.
    pub fn close(&self) {
        let mut sockets = self.stack.raw.sockets.write();
        sockets.retain(|socket| !core::ptr::eq(&**socket, self));
        self.stack.raw.count.store(sockets.len(), Ordering::Relaxed);
    }

    /// What poll(2) reports.
    pub fn poll(&self) -> Events {
        let inner = self.inner.lock();
        let mut events = Events::OUT | Events::WRNORM;
        if !inner.received.is_empty() {
            events |= Events::IN | Events::RDNORM;
        }
        if inner.error.is_some() {
            events |= Events::ERR;
        }
        events
    }

    /// Length of the next packet (`FIONREAD`), 0 when there is none.
    pub fn next_length(&self) -> usize {
        self.inner.lock().received.front().map_or(0, |packet| packet.frame.len())
    }

    /// Bytes that wait to be read, for /proc/net/raw.
    pub fn queued(&self) -> usize {
        self.inner.lock().charged
    }

    /// Sets which types of ICMP messages are not wanted.
    pub fn set_filter(&self, filter: u32) {
        self.inner.lock().filter = filter;
    }

    /// Takes the pending error (`SO_ERROR`).
    pub fn take_error(&self) -> Option<Errno> {
        self.inner.lock().error.take()
    }

    /// The own address.
    pub fn local(&self) -> Ipv4Addr {
        self.inner.lock().local
    }

    /// The peer's address.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn remote(&self) -> Result<Ipv4Addr, Errno> {
        self.inner.lock().remote.ok_or(Errno::ENOTCONN)
    }

    /// Notes the inode of its descriptor.
    pub fn set_inode(&self, inode: Inode) {
        self.inner.lock().inode = inode;
    }

    /// The inode of its descriptor.
    pub fn inode(&self) -> Inode {
        self.inner.lock().inode
    }

    /// A copy of the options.
    pub fn options(&self) -> Options {
        self.inner.lock().options.clone()
    }

    /// Changes the options.
    pub fn set_options<R>(&self, change: impl FnOnce(&mut Options) -> R) -> R {
        change(&mut self.inner.lock().options)
    }
}

impl Expires for RawSocket {
    /// The device's queue was full: who waits may try again.
    fn expired(self: Arc<Self>, _now: u64) {
        self.queue.wake(Events::OUT | Events::WRNORM);
    }

    fn awaits(&self, _deadline: u64) -> bool {
        true
    }

    fn forgotten(&self) {
        self.queue.wake(Events::OUT | Events::WRNORM);
    }
}
