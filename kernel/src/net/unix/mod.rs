//! Unix-domain sockets (unix(7)): streams, datagrams and sequenced packets within the machine, which carry descriptors and tell
//! who is at the other end.
//!
//! What is sent goes straight into the queue of the receiver ([`queue`]). The two ends of a connection know each
//! other weakly, so that each lives exactly as long as its descriptors. // Lock order: no two sockets are locked at once.
//!
//! Whether more may be sent is a question to the receiver's queue ([`has_space`]), asked alike by poll(2) and by who
//! takes something out and wakes the senders: the peer of a connection, and of datagrams those who were told "no".

mod garbage;
mod in_flight;
mod name;
mod protocol;
mod queue;

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

pub use in_flight::collect_forever;
use in_flight::{Files, Place};
pub use protocol::UnixProtocol;
use queue::{Queue, Taken};

use super::options::Options;
use super::scratch::Scratch;
use super::socket::Inode;
use super::socket::address::UnixName;
use super::socket::message::PeerCredentials;
use super::tcp::Shutdown;
use crate::errno::{Errno, SysResult};
use crate::sched::{Events, WaitQueue};
use crate::sync::{RwSpinLock, SpinLock, SpinLockGuard};
use crate::uaccess::{ReadBuf, WriteBuf};

/// Bytes that may wait for a receiver (Linux: `wmem_default` of the sender).
const BUFFER: usize = 212_992;
/// Datagrams that may wait for a receiver (Linux: `max_dgram_qlen`).
const MESSAGES: usize = 512;
const READABLE: Events = Events::IN.union(Events::RDNORM);
const WRITABLE: Events = Events::OUT.union(Events::WRNORM);

/// The three types of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A connection without bounds between messages.
    Stream,
    /// Messages without a connection.
    Datagram,
    /// Messages over a connection.
    SequencedPacket,
}

enum Role {
    Idle,
    Listener {
        backlog: usize,
        ready: VecDeque<Arc<UnixSocket>>,
    },
    /// Has a peer, or had one.
    Connected(Weak<UnixSocket>),
}

struct Inner {
    role: Role,
    queue: Queue,
    options: Options,
    own_name: UnixName,
    peer_name: UnixName,
    /// Who was at the other end when the connection was made.
    peer: Option<PeerCredentials>,
    /// Who listens here.
    owner: Option<PeerCredentials>,
    inode: Inode,
    error: Option<Errno>,
    shut_read: bool,
    shut_write: bool,
    scratch: Scratch,
    /// Those who found no space in the queue, or no place in the backlog, to be told when there is.
    starved: Vec<Starved>,
}

/// Who found no space, and its limit (`SO_SNDBUF`).
struct Starved {
    socket: Weak<UnixSocket>,
    limit: usize,
}

/// A unix-domain socket.
pub struct UnixSocket {
    socket_type: Type,
    me: Weak<Self>,
    wait: WaitQueue,
    /// What its queue is to descriptors under way.
    place: Arc<Place>,
    /// No descriptor refers to it any more. Changes under the lock.
    closed: AtomicBool,
    inner: SpinLock<Inner>,
}

/// All sockets, for /proc/net/unix.
static ALL: RwSpinLock<Vec<Weak<UnixSocket>>> = RwSpinLock::new(Vec::new());

impl UnixSocket {
    /// A fresh socket.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(socket_type: Type) -> Result<Arc<Self>, Errno> {
        let socket = Arc::new_cyclic(|me| Self {
            socket_type,
            me: me.clone(),
            wait: WaitQueue::new(),
            place: Arc::new(Place::new(me.clone())),
            closed: AtomicBool::new(false),
            inner: SpinLock::new(Inner {
                role: Role::Idle,
                queue: Queue::default(),
                options: Options::default(),
                own_name: UnixName::Unnamed,
                peer_name: UnixName::Unnamed,
                peer: None,
                owner: None,
                inode: Inode::default(),
                error: None,
                shut_read: false,
                shut_write: false,
                scratch: Scratch::default(),
                starved: Vec::new(),
            }),
        });
        let mut all = ALL.write();
        if all.len() == all.capacity() {
            all.retain(|socket| socket.strong_count() > 0);
        }
        all.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        all.push(Arc::downgrade(&socket));
        Ok(socket)
    }

    /// Two sockets that are each other's peer: socketpair(2).
    pub fn pair(socket_type: Type, who: PeerCredentials) -> Result<[Arc<Self>; 2], Errno> {
        let pair = [Self::new(socket_type)?, Self::new(socket_type)?];
        for (one, other) in [(0, 1), (1, 0)] {
            let mut inner = pair[one].inner.lock();
            inner.role = Role::Connected(Arc::downgrade(&pair[other]));
            inner.peer = Some(who);
        }
        Ok(pair)
    }

    /// Calls `visit` for every socket with: type, whether it listens, whether it has a peer, inode, name.
    pub fn for_each(mut visit: impl FnMut(Type, bool, bool, Inode, &UnixName)) {
        let all: Vec<_> = ALL.read().iter().filter_map(Weak::upgrade).collect();
        for socket in all.iter().filter(|socket| !socket.is_closed()) {
            let inner = socket.inner.lock();
            let (listens, connected) =
                (matches!(inner.role, Role::Listener { .. }), matches!(inner.role, Role::Connected(_)));
            let (inode, name) = (inner.inode, inner.own_name.clone());
            drop(inner);
            visit(socket.socket_type, listens, connected, inode, &name);
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn is_connection(&self) -> bool {
        self.socket_type != Type::Datagram
    }

    /// Gives it a name.
    fn bind(&self, name: &UnixName) -> Result<(), Errno> {
        let me = self.me.upgrade().ok_or(Errno::EINVAL)?;
        if self.inner.lock().own_name != UnixName::Unnamed {
            return if *name == UnixName::Unnamed { Ok(()) } else { Err(Errno::EINVAL) };
        }
        let bound = name::bind(name, &me)?;
        self.inner.lock().own_name = bound;
        Ok(())
    }

    fn listen(&self, backlog: i32, who: PeerCredentials) -> Result<(), Errno> {
        if !self.is_connection() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut inner = self.inner.lock();
        if inner.own_name == UnixName::Unnamed {
            return Err(Errno::EINVAL);
        }
        let wanted = usize::try_from(backlog).map_or(4096, |backlog| backlog.min(4096));
        match &mut inner.role {
            Role::Connected(_) => return Err(Errno::EINVAL),
            Role::Listener { backlog, .. } => *backlog = wanted,
            Role::Idle => {
                inner.role = Role::Listener { backlog: wanted, ready: VecDeque::new() };
                inner.owner = Some(who);
            }
        }
        Ok(())
    }

    fn accept(&self) -> Result<Arc<Self>, Errno> {
        let mut inner = self.inner.lock();
        if !self.is_connection() {
            return Err(Errno::EOPNOTSUPP);
        }
        let Role::Listener { ready, .. } = &mut inner.role else { return Err(Errno::EINVAL) };
        let accepted = ready.pop_front().ok_or(Errno::EAGAIN)?;
        let starved = core::mem::take(&mut inner.starved);
        drop(inner);
        accepted.place.accepted();
        feed(starved);
        Ok(accepted)
    }

    fn connect(&self, name: &UnixName, who: PeerCredentials) -> Result<(), Errno> {
        let target = name::find(name)?;
        if target.socket_type != self.socket_type {
            return Err(Errno::EPROTOTYPE);
        }
        if self.is_connection() { self.connect_stream(&target, who) } else { self.connect_to(&target) }
    }

    /// A datagram socket gets a peer.
    fn connect_to(&self, target: &Arc<Self>) -> Result<(), Errno> {
        if !target.accepts_from(self) {
            return Err(Errno::EPERM);
        }
        let peer_name = target.inner.lock().own_name.clone();
        let mut inner = self.inner.lock();
        inner.role = Role::Connected(Arc::downgrade(target));
        inner.peer_name = peer_name;
        drop(inner);
        self.wait.wake(WRITABLE);
        Ok(())
    }

    /// A datagram socket loses its peer.
    fn disconnect(&self) {
        self.inner.lock().role = Role::Idle;
        self.wait.wake(WRITABLE);
    }

    fn connect_stream(&self, listener: &Arc<Self>, who: PeerCredentials) -> Result<(), Errno> {
        let inner = self.inner.lock();
        match inner.role {
            Role::Idle => {}
            Role::Listener { .. } => return Err(Errno::EINVAL),
            Role::Connected(_) => return Err(Errno::EISCONN),
        }
        let own_name = inner.own_name.clone();
        drop(inner);
        let server = Self::new(self.socket_type)?;
        let mut server_inner = server.inner.lock();
        server_inner.role = Role::Connected(self.me.clone());
        server_inner.peer = Some(who);
        server_inner.peer_name = own_name;
        drop(server_inner);

        let mut there = listener.inner.lock();
        let (name, owner, options) = (there.own_name.clone(), there.owner, there.options.clone());
        let Role::Listener { backlog, ready } = &mut there.role else { return Err(Errno::ECONNREFUSED) };
        if ready.len() > *backlog || ready.try_reserve(1).is_err() {
            there.note_starved(&self.me, 0);
            return Err(Errno::EAGAIN);
        }
        server.place.wait_at(listener);
        ready.push_back(server.clone());
        drop(there);
        let mut server_inner = server.inner.lock();
        server_inner.own_name = name.clone();
        server_inner.options = options;
        drop(server_inner);
        let mut inner = self.inner.lock();
        inner.role = Role::Connected(Arc::downgrade(&server));
        (inner.peer, inner.peer_name) = (owner, name);
        drop(inner);
        listener.wait.wake(READABLE);
        self.wait.wake(WRITABLE);
        Ok(())
    }

    /// Whether a datagram from `sender` is welcome: a socket with a peer hears only that.
    fn accepts_from(&self, sender: &Self) -> bool {
        match &self.inner.lock().role {
            Role::Connected(peer) => core::ptr::eq(peer.as_ptr(), sender),
            _ => true,
        }
    }

    /// The other end of the connection, or where a datagram goes by default.
    fn peer(&self) -> Result<Arc<Self>, Errno> {
        match &self.inner.lock().role {
            Role::Connected(peer) => peer
                .upgrade()
                .filter(|peer| !peer.is_closed())
                .ok_or(if self.is_connection() { Errno::EPIPE } else { Errno::ECONNREFUSED }),
            _ => Err(Errno::ENOTCONN),
        }
    }

    fn send(
        &self,
        buf: &mut WriteBuf<'_>,
        to: Option<&UnixName>,
        sender: PeerCredentials,
        files: Vec<Arc<crate::fs::OpenFile>>,
    ) -> SysResult {
        let mut inner = self.inner.lock();
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        if inner.shut_write {
            return Err(Errno::EPIPE);
        }
        drop(inner);
        let target = match to {
            Some(_) if self.is_connection() => {
                return Err(if self.peer().is_ok() { Errno::EISCONN } else { Errno::EOPNOTSUPP });
            }
            Some(name) => {
                let target = name::find(name)?;
                if target.socket_type != Type::Datagram {
                    return Err(Errno::EPROTOTYPE);
                }
                target
            }
            None => self.peer()?,
        };
        match self.socket_type {
            Type::Stream => self.send_stream(&target, buf, sender, files),
            _ => self.send_message(&target, buf, sender, files),
        }
    }

    fn send_stream(
        &self,
        peer: &Arc<Self>,
        buf: &mut WriteBuf<'_>,
        sender: PeerCredentials,
        files: Vec<Arc<crate::fs::OpenFile>>,
    ) -> SysResult {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let limit = self.limit();
        let mut there = peer.inner.lock();
        if peer.is_closed() || there.shut_read {
            return Err(Errno::EPIPE);
        }
        let room = limit.saturating_sub(there.queue.bytes());
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let written = there.queue.write(buf, room, sender, Files::new(files, &peer.place)?)?;
        drop(there);
        peer.wait.wake(READABLE);
        Ok(written)
    }

    fn send_message(
        &self,
        target: &Arc<Self>,
        buf: &mut WriteBuf<'_>,
        sender: PeerCredentials,
        files: Vec<Arc<crate::fs::OpenFile>>,
    ) -> SysResult {
        if buf.len() > self.limit() {
            return Err(Errno::EMSGSIZE);
        }
        if !target.accepts_from(self) {
            return Err(Errno::EPERM);
        }
        let mut inner = self.inner.lock();
        inner.scratch.gather(buf)?;
        let (data, from) = (inner.scratch.take(), inner.own_name.clone());
        drop(inner);
        let (length, limit) = (data.len(), self.limit());
        let mut there = target.inner.lock();
        if target.is_closed() || there.shut_read {
            return Err(if self.is_connection() { Errno::EPIPE } else { Errno::ECONNREFUSED });
        }
        let fits = there.queue.messages() == 0 || there.queue.bytes() + length <= BUFFER;
        let takes = fits && there.queue.messages() < MESSAGES || has_space(target.load(&there), limit);
        if !takes {
            there.note_starved(&self.me, limit);
            drop(there);
            self.inner.lock().scratch.put_back(data);
            return Err(Errno::EAGAIN);
        }
        there.queue.push(data, sender, from, Files::new(files, &target.place)?)?;
        drop(there);
        target.wait.wake(READABLE);
        Ok(length)
    }

    fn limit(&self) -> usize {
        self.inner.lock().options.send_buffer.unwrap_or(BUFFER)
    }

    /// Reads; `None` at the end of the connection.
    fn receive(&self, buf: &mut ReadBuf<'_>, peek: bool) -> Result<Option<Taken>, Errno> {
        let mut inner = self.inner.lock();
        if self.is_connection() && matches!(inner.role, Role::Idle | Role::Listener { .. }) {
            return Err(if self.socket_type == Type::Stream { Errno::EINVAL } else { Errno::ENOTCONN });
        }
        let taken = match self.socket_type {
            Type::Stream if buf.remaining() == 0 => {
                let (sender, from) = (PeerCredentials { pid: 0, uid: 0, gid: 0 }, UnixName::Unnamed);
                Some(Taken { length: 0, files: Vec::new(), sender, from })
            }
            Type::Stream => inner.queue.read(buf, peek)?,
            _ => inner.queue.pop(buf, peek)?,
        };
        if let Some(taken) = taken {
            if !peek {
                self.tell_senders(inner);
            }
            return Ok(Some(taken));
        }
        if let Some(error) = inner.error.take() {
            return Err(error);
        }
        let ended = inner.shut_read || (self.is_connection() && inner.peer_is_gone());
        if ended { Ok(None) } else { Err(Errno::EAGAIN) }
    }

    /// How full the queue is: its bytes, or more than any limit when there are too many messages (`unix_recvq_full`).
    fn load(&self, inner: &Inner) -> usize {
        let full = self.socket_type != Type::Stream && inner.queue.messages() >= MESSAGES;
        if full { usize::MAX } else { inner.queue.bytes() }
    }

    /// After something was taken out of the queue: wakes those who now find space.
    fn tell_senders(&self, mut inner: SpinLockGuard<'_, Inner>) {
        let load = self.load(&inner);
        match &inner.role {
            Role::Connected(peer) if self.is_connection() => {
                let peer = peer.upgrade();
                drop(inner);
                if let Some(peer) = peer.filter(|peer| has_space(load, peer.limit())) {
                    peer.wait.wake(WRITABLE);
                }
            }
            _ => {
                let fed = inner.starved.extract_if(.., |entry| has_space(load, entry.limit)).collect();
                drop(inner);
                feed(fed);
            }
        }
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        if let (true, Role::Idle | Role::Listener { .. }) = (self.is_connection(), &inner.role) {
            return Err(Errno::ENOTCONN);
        }
        inner.shut_read |= how.reads();
        inner.shut_write |= how.writes();
        let starved = core::mem::take(&mut inner.starved);
        drop(inner);
        feed(starved);
        if self.is_connection()
            && let Ok(peer) = self.peer()
        {
            let mut there = peer.inner.lock();
            there.shut_read |= how.writes();
            there.shut_write |= how.reads();
            drop(there);
            peer.wait.wake(Events::all());
        }
        self.wait.wake(Events::all());
        Ok(())
    }

    fn close(&self) {
        let peer = self.peer().ok();
        let mut inner = self.inner.lock();
        self.closed.store(true, Ordering::Release);
        let unread = inner.queue.bytes() > 0;
        let queue = core::mem::take(&mut inner.queue);
        let role = core::mem::replace(&mut inner.role, Role::Idle);
        let starved = core::mem::take(&mut inner.starved);
        let own_name = inner.own_name.clone();
        drop(inner);
        drop(queue);
        if let Role::Listener { ready, .. } = role {
            ready.into_iter().for_each(|socket| socket.close_unaccepted());
        } else {
            // An accepted connection has its listener's name, which is not its own to give up.
            self.release_name(&own_name);
        }
        feed(starved);
        if let Some(peer) = peer.filter(|_| self.is_connection()) {
            if unread {
                peer.inner.lock().error = Some(Errno::ECONNRESET);
            }
            peer.wait.wake(Events::all());
        }
        in_flight::socket_closed();
    }

    /// Nobody can receive what waits here any more, nor the socket itself: lets all of it go.
    fn forget_messages(&self) {
        let queue = core::mem::take(&mut self.inner.lock().queue);
        drop(queue);
    }

    /// The listener goes, and with it a connection that nobody will accept.
    fn close_unaccepted(&self) {
        if let Ok(peer) = self.peer() {
            peer.inner.lock().error = Some(Errno::ECONNRESET);
        }
        self.close();
    }

    fn release_name(&self, own_name: &UnixName) {
        // The name is ours only if it leads to us.
        if matches!(own_name, UnixName::Abstract(_))
            && name::find(own_name).is_ok_and(|found| core::ptr::eq(&*found, self))
        {
            name::release(own_name);
        }
    }

    /// Whether poll(2) says that more may be sent to `peer`. Who is told "no" hears of it when that changes.
    fn may_send_to(&self, peer: &Arc<Self>, limit: usize) -> bool {
        let mut there = peer.inner.lock();
        let space = has_space(peer.load(&there), limit);
        if !space && !self.is_connection() {
            there.note_starved(&self.me, limit);
        }
        space
    }

    fn poll(&self) -> Events {
        let (peer, limit) = (self.peer(), self.limit());
        let writable = peer.as_ref().map_or(true, |peer| self.may_send_to(peer, limit));
        let inner = self.inner.lock();
        let mut events = if inner.error.is_some() { Events::ERR } else { Events::empty() };
        if let Role::Listener { ready, .. } = &inner.role {
            return events | if ready.is_empty() { Events::empty() } else { READABLE };
        }
        let connected = matches!(inner.role, Role::Connected(_));
        let gone = connected && self.is_connection() && peer.is_err();
        let (read_shut, write_shut) = (inner.shut_read || gone, inner.shut_write || gone);
        if read_shut {
            events |= Events::RDHUP | READABLE;
        }
        if (read_shut && write_shut) || (self.is_connection() && !connected) {
            events |= Events::HUP;
        }
        if inner.queue.messages() > 0 {
            events |= READABLE;
        }
        if writable {
            events |= WRITABLE;
        }
        events
    }
}

impl Inner {
    fn peer_is_gone(&self) -> bool {
        match &self.role {
            Role::Connected(peer) => peer.upgrade().is_none_or(|peer| peer.is_closed()),
            _ => false,
        }
    }

    fn note_starved(&mut self, socket: &Weak<UnixSocket>, limit: usize) {
        if let Some(known) = self.starved.iter_mut().find(|known| known.socket.ptr_eq(socket)) {
            known.limit = limit;
        } else if self.starved.try_reserve(1).is_ok() {
            self.starved.push(Starved { socket: socket.clone(), limit });
        }
    }
}

/// Whether a sender with `limit` finds space worth a wake in a queue with this load: a quarter of it, as Linux has it
/// (`unix_writable`).
fn has_space(load: usize, limit: usize) -> bool {
    load <= limit / 4
}

/// Tells those who found no room that there is some.
fn feed(starved: Vec<Starved>) {
    starved.iter().filter_map(|entry| entry.socket.upgrade()).for_each(|socket| socket.wait.wake(WRITABLE));
}
