//! UDP sockets (udp(7), RFC 768).
//!
//! A received datagram stays in the frame in which it came until it is read: the one copy is that into the program's
//! memory. Sockets are found by port; among those of a port the one that fits best gets a datagram, and all
//! get one that is for all.

mod table;

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::net::Ipv4Addr;
use core::ops::Range;

use hw::pool::Frame;
use table::Entry;
pub use table::UdpTable;

use super::counters::Counter;
use super::icmp::Unreachable;
use super::link::{Link, SendError};
use super::options::Options;
use super::ports::{Binding, Claim};
use super::scratch::Scratch;
use super::socket::Inode;
use super::stack::{Path, Stack};
use super::tcp::{FlowKey, Shutdown};
use super::timers::Expires;
use super::wire::{
    Endpoint, IPV4_HEADER, Ipv4, Ipv4Template, UDP_HEADER, Udp, checksum_add, protocol, pseudo_header_sum,
};
use crate::errno::{Errno, SysResult};
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;
use crate::uaccess::{ReadBuf, WriteBuf};

/// Bytes that may wait in a socket (Linux: `rmem_default`).
pub const RECEIVE_BUFFER: usize = 212_992;
/// What a datagram costs beside its bytes.
const OVERHEAD: usize = 512;
/// The largest datagram.
pub const LARGEST: usize = 65535 - IPV4_HEADER - UDP_HEADER;
/// When to try again after the device's queue was full, in nanoseconds.
const QUEUE_FULL: u64 = 1_000_000;

/// Where a datagram came from, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The sender.
    pub from: Endpoint,
    /// The address it was sent to.
    pub to: Ipv4Addr,
    /// Index of the link it came over.
    pub link: u32,
    /// Hops it could still have travelled.
    pub ttl: u8,
    /// When it came, in nanoseconds since boot.
    pub at: u64,
    /// Its length, however much of it was read.
    pub length: usize,
}

struct Datagram {
    frame: Frame,
    data: Range<usize>,
    arrival: Arrival,
}

struct Inner {
    options: Options,
    local: Endpoint,
    /// The own address is what connect(2) chose.
    address_chosen: bool,
    remote: Option<Endpoint>,
    binding: Option<Binding>,
    received: VecDeque<Datagram>,
    /// Cost of what is in `received`.
    charged: usize,
    inode: Inode,
    error: Option<Errno>,
    shut_read: bool,
    shut_write: bool,
    /// The way to the last destination.
    path: Option<Path>,
    scratch: Scratch,
}

/// A UDP socket.
pub struct UdpSocket {
    stack: Arc<Stack>,
    me: Weak<Self>,
    /// Who waits for it.
    pub queue: WaitQueue,
    inner: SpinLock<Inner>,
}

impl Stack {
    /// Takes in a datagram.
    pub fn receive_udp(self: &Arc<Self>, link: &Arc<Link>, frame: Frame, ip: &Ipv4, to_all: bool) {
        let Ok(udp) = Udp::parse(&frame[ip.payload()]) else {
            return self.counters.count(Counter::UdpInErrors);
        };
        if udp.has_checksum && !self.checksum_is_right(&frame, ip, Counter::UdpInCsumErrors) {
            return self.counters.count(Counter::UdpInErrors);
        }
        let start = ip.payload().start;
        let data = start + UDP_HEADER..start + udp.length;
        let arrival = Arrival {
            from: Endpoint::new(ip.source, udp.source_port),
            to: ip.destination,
            link: link.index,
            ttl: ip.ttl,
            at: self.now(),
            length: data.len(),
        };
        if to_all {
            for socket in self.udp.find_all(udp.destination_port, &arrival) {
                if let Some(copy) = Frame::copy_from([&frame[..]].into_iter(), frame.checksum()) {
                    socket.deliver(Datagram { frame: copy, data: data.clone(), arrival });
                }
            }
            return;
        }
        let local = Endpoint::new(ip.destination, udp.destination_port);
        let hash = || self.tcp.hash(&FlowKey { local, remote: arrival.from });
        match self.udp.find(udp.destination_port, &arrival, hash) {
            Some(socket) => socket.deliver(Datagram { frame, data, arrival }),
            None => {
                self.counters.count(Counter::UdpNoPorts);
                self.send_unreachable(link, &frame, ip, Unreachable::Port);
            }
        }
    }
}

impl UdpSocket {
    /// A fresh socket.
    pub fn new(stack: &Arc<Stack>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            stack: stack.clone(),
            me: me.clone(),
            queue: WaitQueue::new(),
            inner: SpinLock::new(Inner {
                options: Options::default(),
                local: Endpoint::UNSPECIFIED,
                address_chosen: false,
                remote: None,
                binding: None,
                received: VecDeque::new(),
                charged: 0,
                inode: Inode::default(),
                error: None,
                shut_read: false,
                shut_write: false,
                path: None,
                scratch: Scratch::default(),
            }),
        })
    }

    fn deliver(&self, datagram: Datagram) {
        let mut inner = self.inner.lock();
        let cost = datagram.data.len() + OVERHEAD;
        let limit = inner.options.receive_buffer.unwrap_or(RECEIVE_BUFFER);
        if inner.shut_read || inner.charged + cost > limit || inner.received.try_reserve(1).is_err() {
            return self.stack.counters.count(Counter::UdpRcvbufErrors);
        }
        inner.charged += cost;
        inner.received.push_back(datagram);
        drop(inner);
        self.stack.counters.count(Counter::UdpInDatagrams);
        self.queue.wake(Events::IN | Events::RDNORM);
    }

    /// bind(2).
    ///
    /// # Errors
    /// `EINVAL` when it is bound, `EADDRNOTAVAIL`, `EADDRINUSE`.
    pub fn bind(&self, to: Endpoint, uid: u32) -> Result<(), Errno> {
        let ours = to.address.is_unspecified()
            || to.address.is_multicast()
            || self.stack.is_local(to.address)
            || self.stack.is_broadcast(to.address);
        if !ours {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let mut inner = self.inner.lock();
        if inner.binding.is_some() {
            return Err(Errno::EINVAL);
        }
        self.take_port(&mut inner, to, uid)
    }

    fn take_port(&self, inner: &mut Inner, to: Endpoint, uid: u32) -> Result<(), Errno> {
        let claim = Claim {
            address: to.address,
            reuse_address: inner.options.reuse_address,
            reuse_port: inner.options.reuse_port,
            uid,
        };
        let socket = self.me.upgrade().ok_or(Errno::EINVAL)?;
        let binding = self.stack.udp.ports.bind(to.port, claim)?;
        let entry = Entry { local: to.address, remote: inner.remote, device: inner.options.device, socket };
        if let Err(error) = self.stack.udp.add(binding.port, entry) {
            self.stack.udp.ports.release(&binding);
            return Err(error);
        }
        inner.local = Endpoint::new(to.address, binding.port);
        inner.binding = Some(binding);
        Ok(())
    }

    /// connect(2): the only peer from now on; `None` ends that.
    ///
    /// # Errors
    /// `EACCES` for an address of all without `SO_BROADCAST`, `ENETUNREACH`.
    pub fn connect(&self, to: Option<Endpoint>, uid: u32) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        inner.path = None;
        if let Some(to) = to {
            let to =
                if to.address.is_unspecified() { Endpoint::new(Ipv4Addr::LOCALHOST, to.port) } else { to };
            let path = self.path(&inner, to)?;
            let local = Endpoint::new(path.source, inner.local.port);
            inner.remote = Some(to);
            inner.path = Some(path);
            if inner.binding.is_none() {
                let any = Endpoint::new(Ipv4Addr::UNSPECIFIED, local.port);
                self.take_port(&mut inner, any, uid)?;
            }
            inner.address_chosen |= inner.local.address.is_unspecified();
            inner.local.address = local.address;
        } else {
            inner.remote = None;
            if core::mem::take(&mut inner.address_chosen) {
                inner.local.address = Ipv4Addr::UNSPECIFIED;
            }
        }
        let (local, remote) = (inner.local, inner.remote);
        self.stack
            .udp
            .update(local.port, self, |entry| (entry.local, entry.remote) = (local.address, remote));
        Ok(())
    }

    fn path(&self, inner: &Inner, to: Endpoint) -> Result<Path, Errno> {
        if !inner.options.broadcast && self.stack.is_broadcast(to.address) {
            return Err(Errno::EACCES);
        }
        let bound = Some(inner.local.address).filter(|own| !own.is_unspecified() && !own.is_multicast());
        self.stack.path(to.address, bound, inner.options.device)
    }

    /// Sends a datagram: sendto(2) without waiting. `uid` says who does, if the socket has to take a port.
    ///
    /// # Errors
    /// `EDESTADDRREQ` without a destination; `EMSGSIZE`; `EAGAIN` when the device's queue is full; a pending error;
    /// `EPIPE` after shutdown; `EFAULT` as for any file.
    pub fn send(&self, buf: &mut WriteBuf<'_>, to: Option<Endpoint>, uid: impl FnOnce() -> u32) -> SysResult {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        if inner.shut_write {
            return Err(Errno::EPIPE);
        }
        if buf.len() > LARGEST {
            return Err(Errno::EMSGSIZE);
        }
        let to = to.or(inner.remote).ok_or(Errno::EDESTADDRREQ)?;
        if to.port == 0 {
            return Err(Errno::EINVAL);
        }
        let to = if to.address.is_unspecified() { Endpoint::new(Ipv4Addr::LOCALHOST, to.port) } else { to };
        if inner.binding.is_none() {
            let any = Endpoint::UNSPECIFIED;
            self.take_port(&mut inner, any, uid())?;
        }
        let cached = inner.path.take().filter(|path| path.destination == to.address);
        let mut path = match cached {
            Some(path) => path,
            None => self.path(&inner, to)?,
        };
        let Inner { scratch, options, local, path: kept, .. } = &mut *inner;
        let data = scratch.gather(buf)?;
        let sent = self.send_datagram(&mut path, options, local.port, to, data);
        let (link, length) = (path.link.clone(), data.len());
        *kept = Some(path);
        drop(inner);
        self.stack.finish(&link);
        match sent {
            Ok(()) => {
                self.stack.counters.count(Counter::UdpOutDatagrams);
                Ok(length)
            }
            Err(SendError::Full) => {
                let me: Weak<Self> = self.me.clone();
                self.stack.timers.add(self.stack.now() + QUEUE_FULL, me);
                Err(Errno::EAGAIN)
            }
            Err(SendError::NoMemory) => Err(Errno::ENOBUFS),
            Err(SendError::Refused) => Err(Errno::EMSGSIZE),
            Err(SendError::Down) => Err(Errno::ENETDOWN),
        }
    }

    fn send_datagram(
        &self,
        path: &mut Path,
        options: &Options,
        port: u16,
        to: Endpoint,
        data: &[u8],
    ) -> Result<(), SendError> {
        let length = UDP_HEADER + data.len();
        let ttl = if to.address.is_multicast() { options.multicast_ttl } else { options.ttl };
        let template = Ipv4Template {
            ttl,
            tos: options.tos,
            fragment: (self.stack.next_identification(), 0),
            ..Ipv4Template::new(path.source, to.address, protocol::UDP)
        };
        let pseudo = pseudo_header_sum(template.source, template.destination, protocol::UDP, length);
        let offloaded = path.link.tx_checksum && IPV4_HEADER + length <= path.link.mtu;
        let fill = &mut |datagram: &mut [u8]| {
            datagram[..2].copy_from_slice(&port.to_be_bytes());
            datagram[2..4].copy_from_slice(&to.port.to_be_bytes());
            datagram[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            datagram[6..8].copy_from_slice(&[0, 0]);
            datagram[UDP_HEADER..].copy_from_slice(data);
            let sum = match offloaded {
                true => pseudo,
                // Zero would mean that there is none.
                false => match !checksum_add(pseudo, datagram) {
                    0 => 0xffff,
                    sum => sum,
                },
            };
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        };
        if offloaded {
            self.stack.send_ip(path, &template, length, Some((0, 6)), fill)
        } else {
            self.stack.send_fragmented(path, &template, length, fill)
        }
    }

    /// Receives a datagram: recvfrom(2) without waiting. What does not fit into `buf` is lost.
    ///
    /// # Errors
    /// `EAGAIN` when none has come; a pending error; `EFAULT` as for any file, and then the datagram stays.
    pub fn receive(&self, buf: &mut ReadBuf<'_>, peek: bool) -> Result<Option<Arrival>, Errno> {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        let Some(first) = inner.received.front() else {
            return if inner.shut_read { Ok(None) } else { Err(Errno::EAGAIN) };
        };
        let (bytes, done) = (&first.frame[first.data.clone()], buf.done());
        let wanted = bytes.len().saturating_sub(done).min(buf.remaining());
        if buf.push(&bytes[done.min(bytes.len())..]) < wanted {
            return Err(Errno::EFAULT);
        }
        let arrival = first.arrival;
        if !peek {
            let taken = inner.received.pop_front();
            inner.charged -= arrival.length + OVERHEAD;
            drop(inner);
            drop(taken);
        }
        Ok(Some(arrival))
    }

    /// shutdown(2).
    ///
    /// # Errors
    /// `ENOTCONN`; it takes effect all the same, as on Linux.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        if inner.remote.is_none() {
            return Err(Errno::ENOTCONN);
        }
        inner.shut_read |= how.reads();
        inner.shut_write |= how.writes();
        drop(inner);
        self.queue.wake(Events::all());
        Ok(())
    }

    /// The last descriptor is gone.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        let binding = inner.binding.take();
        let received = core::mem::take(&mut inner.received);
        drop(inner);
        drop(received);
        if let Some(binding) = binding {
            self.stack.udp.remove(binding.port, self);
            self.stack.udp.ports.release(&binding);
        }
    }

    /// What poll(2) reports.
    pub fn poll(&self) -> Events {
        let inner = self.inner.lock();
        let mut events = Events::OUT | Events::WRNORM;
        if !inner.received.is_empty() || inner.shut_read {
            events |= Events::IN | Events::RDNORM;
        }
        if inner.error.is_some() {
            events |= Events::ERR;
        }
        if inner.shut_read {
            events |= Events::RDHUP;
        }
        if inner.shut_read && inner.shut_write {
            events |= Events::HUP;
        }
        events
    }

    /// Length of the next datagram (`FIONREAD`), 0 when there is none.
    pub fn next_length(&self) -> usize {
        self.inner.lock().received.front().map_or(0, |datagram| datagram.data.len())
    }

    /// Bytes that wait to be read, for /proc/net/udp.
    pub fn queued(&self) -> usize {
        self.inner.lock().charged
    }

    /// Takes the pending error (`SO_ERROR`).
    pub fn take_error(&self) -> Option<Errno> {
        self.inner.lock().error.take()
    }

    /// The own end.
    pub fn local(&self) -> Endpoint {
        self.inner.lock().local
    }

    /// The peer's end.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn remote(&self) -> Result<Endpoint, Errno> {
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
        let mut inner = self.inner.lock();
        let result = change(&mut inner.options);
        inner.path = None;
        let (port, device) = (inner.local.port, inner.options.device);
        if inner.binding.is_some() {
            self.stack.udp.update(port, self, |entry| entry.device = device);
        }
        result
    }
}

impl Expires for UdpSocket {
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
