//! TCP sockets as the socket calls see them (tcp(7), RFC 9293).
//!
//! The protocol itself is smoltcp's. Around it:
//! - [`connection`]: one connection, and the kernel's timers;
//! - [`context`]: what smoltcp takes for its interface and device;
//! - [`table`]: how a segment finds its connection;
//! - [`input`]: segments that come in, opening of connections, resets;
//! - [`listener`]: listening, the backlog, accept;
//! - [`step`]: what follows from a segment, a deadline or a call;
//! - this file: [`TcpSocket`] with connect, read, write, shutdown, close and poll.
//!
//! A socket has one lock. // Lock order: a connection's socket, then its listener's socket, then the tables, then a context.

mod connection;
mod context;
mod input;
mod listener;
mod step;
mod table;
mod transfer;

use alloc::sync::{Arc, Weak};
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU64, Ordering};

use smoltcp::socket::tcp::State;

pub use connection::{Connection, View};
pub use context::Contexts;
pub use listener::Listener;
pub use table::{Flow, FlowKey, TcpTable};

use super::counters::Counter;
use super::options::Options;
use super::ports::{Binding, Claim};
use super::socket::Inode;
use super::stack::Stack;
use super::wire::Endpoint;
use crate::errno::Errno;
use crate::sched::timer::NEVER;
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;

/// A TCP socket.
pub struct TcpSocket {
    stack: Arc<Stack>,
    me: Weak<Self>,
    /// Who waits for it.
    pub queue: WaitQueue,
    /// The deadline that the timers know.
    armed: AtomicU64,
    inner: SpinLock<Inner>,
}

/// What the socket is at the moment.
enum Role {
    /// Neither connected nor listening.
    Idle,
    Listener(Listener),
    Connection(alloc::boxed::Box<Connection>),
}

struct Inner {
    options: Options,
    /// The own end, as far as chosen.
    local: Endpoint,
    binding: Option<Binding>,
    role: Role,
    /// The flow under which the table has this connection.
    flow: Option<FlowKey>,
    /// The listener that waits for this connection to be established.
    parent: Option<Weak<TcpSocket>>,
    inode: Inode,
    /// What the next call reports (`SO_ERROR`).
    error: Option<Errno>,
    /// connect(2) was called and has not reported the outcome yet.
    connecting: bool,
    shut_read: bool,
    shut_write: bool,
    /// No descriptor refers to the socket any more.
    orphan: bool,
}

/// Why a socket is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A segment came; whether it was a reset.
    Segment { reset: bool },
    /// A deadline passed.
    Timer,
    /// The program did something.
    Call,
}

/// Which half shutdown(2) ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// `SHUT_RD`.
    Read,
    /// `SHUT_WR`.
    Write,
    /// `SHUT_RDWR`.
    Both,
}

impl Shutdown {
    /// Whether the reading half ends.
    pub fn reads(self) -> bool {
        self != Self::Write
    }

    /// Whether the writing half ends.
    pub fn writes(self) -> bool {
        self != Self::Read
    }
}

/// All that poll(2) may report after a change of state.
const EVERYTHING: Events = Events::all();
const READABLE: Events = Events::IN.union(Events::RDNORM);
const WRITABLE: Events = Events::OUT.union(Events::WRNORM);

impl TcpSocket {
    /// A fresh socket.
    pub fn new(stack: &Arc<Stack>) -> Arc<Self> {
        Self::with(stack, Options::default(), Role::Idle, Endpoint::UNSPECIFIED)
    }

    fn with(stack: &Arc<Stack>, options: Options, role: Role, local: Endpoint) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            stack: stack.clone(),
            me: me.clone(),
            queue: WaitQueue::new(),
            armed: AtomicU64::new(NEVER),
            inner: SpinLock::new(Inner {
                options,
                local,
                binding: None,
                role,
                flow: None,
                parent: None,
                inode: Inode::default(),
                error: None,
                connecting: false,
                shut_read: false,
                shut_write: false,
                orphan: false,
            }),
        })
    }

    /// bind(2).
    ///
    /// # Errors
    /// `EINVAL` when it has an address already, `EADDRNOTAVAIL` for an address of another host, `EADDRINUSE`.
    pub fn bind(&self, to: Endpoint, uid: u32) -> Result<(), Errno> {
        if !to.address.is_unspecified() && !self.stack.is_local(to.address) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let mut inner = self.inner.lock();
        if inner.binding.is_some() || !matches!(inner.role, Role::Idle) {
            return Err(Errno::EINVAL);
        }
        inner.bind(&self.stack, to, uid)
    }

    /// connect(2): begins, and says `EINPROGRESS`; later calls say how it stands.
    ///
    /// # Errors
    /// As connect(2): `EINPROGRESS`, `EALREADY`, `EISCONN`, `ECONNREFUSED`, `ETIMEDOUT`, `ENETUNREACH`, `EADDRNOTAVAIL`, ...
    pub fn connect(&self, to: Endpoint) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        match &inner.role {
            Role::Listener(_) => return Err(Errno::EISCONN),
            Role::Connection(_) => return inner.connect_outcome(),
            Role::Idle => {}
        }
        let to = if to.address.is_unspecified() { Endpoint::new(Ipv4Addr::LOCALHOST, to.port) } else { to };
        if to.port == 0 || to.address.is_multicast() || self.stack.is_broadcast(to.address) {
            // What Linux says when a segment cannot be sent.
            return Err(if to.port == 0 { Errno::ECONNREFUSED } else { Errno::ENETUNREACH });
        }
        let link = self.begin_connect(&mut inner, to)?;
        self.stack.counters.count(Counter::TcpActiveOpens);
        inner.connecting = true;
        self.step(&mut inner, None, Cause::Call);
        drop(inner);
        self.stack.finish(&link);
        // Over the loopback it is done already, which the next call tells, as on Linux: there, too, this one only begins.
        Err(Errno::EINPROGRESS)
    }

    fn begin_connect(&self, inner: &mut Inner, to: Endpoint) -> Result<Arc<super::link::Link>, Errno> {
        let bound = Some(inner.local.address).filter(|address| !address.is_unspecified());
        let path = self.stack.path(to.address, bound, inner.options.device)?;
        let (source, link) = (path.source, path.link.clone());
        let me = self.me.upgrade().ok_or(Errno::EINVAL)?;
        let mut connection =
            Connection::new(&self.stack, path, Endpoint::new(source, 0), to, &inner.options)?;
        let (table, now) = (&self.stack.tcp, self.stack.now());
        let key = |port| FlowKey { local: Endpoint::new(source, port), remote: to };
        let port = match inner.binding.as_ref().map(|binding| binding.port) {
            Some(port) => {
                table.insert(key(port), me, now)?;
                port
            }
            None => table.ports.find_ephemeral(|port| table.insert(key(port), me.clone(), now).is_ok())?,
        };
        connection.local = key(port).local;
        if let Err(error) = connection.connect(&inner.options) {
            table.remove(&key(port));
            return Err(error);
        }
        inner.local = connection.local;
        inner.flow = Some(key(port));
        inner.role = Role::Connection(alloc::boxed::Box::new(connection));
        Ok(link)
    }

    /// connect(2) with `AF_UNSPEC`: ends what there is, and the socket is as new, but for its port.
    pub fn disconnect(&self) {
        let mut inner = self.inner.lock();
        let link = inner.link();
        if let Role::Connection(connection) = &mut inner.role {
            connection.abort();
            self.step(&mut inner, None, Cause::Call);
            inner.release_flow(&self.stack);
        }
        let children = inner.stop_listening(&self.stack, &self.me);
        inner.role = Role::Idle;
        (inner.error, inner.connecting, inner.shut_read, inner.shut_write) = (None, false, false, false);
        drop(inner);
        children.into_iter().for_each(|child| child.reset());
        self.leave(link, EVERYTHING);
    }

    /// Ends the connection with a reset, whoever still has the socket.
    fn reset(&self) {
        let mut inner = self.inner.lock();
        let link = inner.link();
        inner.orphan = true;
        inner.parent = None;
        if let Role::Connection(connection) = &mut inner.role {
            connection.abort();
        }
        let events = self.step(&mut inner, None, Cause::Call);
        drop(inner);
        self.leave(link, events);
    }

    /// shutdown(2).
    ///
    /// # Errors
    /// `ENOTCONN` when it is neither connected nor listening.
    pub fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        let (link, write_was_shut) = (inner.link(), inner.shut_write);
        match &mut inner.role {
            Role::Idle => return Err(Errno::ENOTCONN),
            Role::Listener(_) => {
                if how.reads() {
                    let children = inner.stop_listening(&self.stack, &self.me);
                    inner.role = Role::Idle;
                    drop(inner);
                    children.into_iter().for_each(|child| child.reset());
                    self.queue.wake(EVERYTHING);
                }
                return Ok(());
            }
            Role::Connection(connection) => {
                if matches!(connection.tcp().state(), State::Closed) {
                    return Err(Errno::ENOTCONN);
                }
                if how.writes() && !write_was_shut {
                    connection.close();
                }
            }
        }
        inner.shut_read |= how.reads();
        inner.shut_write |= how.writes();
        self.step(&mut inner, None, Cause::Call);
        drop(inner);
        self.leave(link, EVERYTHING);
        Ok(())
    }

    /// The last descriptor is gone. The connection ends in its own time, or with a reset where data would be lost.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        let link = inner.link();
        inner.orphan = true;
        inner.inode = Inode::default();
        inner.unbind(&self.stack);
        let children = inner.stop_listening(&self.stack, &self.me);
        let linger = inner.options.linger;
        if let Role::Connection(connection) = &mut inner.role {
            let unread = connection.tcp().recv_queue() > 0;
            if linger == Some(0) || (unread && connection.tcp().state() != State::TimeWait) {
                self.stack.counters.count(Counter::TcpEstabResets);
                connection.abort();
            } else {
                connection.close();
                connection.give_up = self.stack.now() + connection::ORPHAN;
            }
            self.step(&mut inner, None, Cause::Call);
        } else {
            inner.role = Role::Idle;
        }
        drop(inner);
        children.into_iter().for_each(|child| child.reset());
        self.leave(link, Events::empty());
    }

    /// What poll(2) reports, as Linux's `tcp_poll` does.
    pub fn poll(&self) -> Events {
        let inner = self.inner.lock();
        let error = if inner.error.is_some() { Events::ERR } else { Events::empty() };
        match &inner.role {
            Role::Idle => WRITABLE | Events::HUP | error,
            Role::Listener(listener) if listener.has_connection() => READABLE | error,
            Role::Listener(_) => error,
            Role::Connection(connection) => inner.poll_connection(connection) | error,
        }
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
        match &self.inner.lock().role {
            Role::Connection(connection)
                if !matches!(connection.tcp().state(), State::Closed | State::SynSent) =>
            {
                Ok(connection.remote)
            }
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// The peer's end as it is or was, for what accept(2) reports.
    pub fn peer(&self) -> Endpoint {
        let inner = self.inner.lock();
        match (&inner.role, inner.flow) {
            (Role::Connection(connection), _) => connection.remote,
            (_, Some(key)) => key.remote,
            _ => Endpoint::UNSPECIFIED,
        }
    }

    /// Notes the inode of its descriptor.
    pub fn set_inode(&self, inode: Inode) {
        self.inner.lock().inode = inode;
    }

    /// The inode of its descriptor.
    pub fn inode(&self) -> Inode {
        self.inner.lock().inode
    }

    /// Whether no descriptor refers to it any more.
    pub fn is_orphan(&self) -> bool {
        self.inner.lock().orphan
    }

    /// A copy of the options.
    pub fn options(&self) -> Options {
        self.inner.lock().options.clone()
    }

    /// Changes the options, and puts them into effect.
    pub fn set_options<R>(&self, change: impl FnOnce(&mut Options) -> R) -> R {
        let mut inner = self.inner.lock();
        let result = change(&mut inner.options);
        let link = inner.link();
        let Inner { role, options, .. } = &mut *inner;
        if let Role::Connection(connection) = role {
            connection.apply(options);
            if !options.cork {
                connection.uncork();
            }
            let events = self.step(&mut inner, None, Cause::Call);
            drop(inner);
            self.leave(link, events);
        }
        result
    }

    /// State of the protocol, bytes not acknowledged, and bytes not read, for /proc and ioctl(2).
    pub fn view(&self) -> View {
        match &self.inner.lock().role {
            Role::Connection(connection) => connection.view(),
            Role::Listener(listener) => {
                View { state: State::Listen, received: listener.len(), queued: listener.backlog() }
            }
            Role::Idle => View { state: State::Closed, received: 0, queued: 0 },
        }
    }

    /// When the timers look at it next.
    pub fn next_deadline(&self) -> u64 {
        self.armed.load(Ordering::Relaxed)
    }

    /// Segments sent, and of these again; for `TCP_INFO`.
    pub fn sent_segments(&self) -> (u32, u32) {
        match &self.inner.lock().role {
            Role::Connection(connection) => (connection.tap.segments, connection.tap.retransmitted),
            _ => (0, 0),
        }
    }

    /// Wakes who waits, and leaves the stack.
    fn leave(&self, link: Option<Arc<super::link::Link>>, events: Events) {
        if !events.is_empty() {
            self.queue.wake(events);
        }
        if let Some(link) = link {
            self.stack.finish(&link);
        }
    }
}

impl Inner {
    fn bind(&mut self, stack: &Stack, to: Endpoint, uid: u32) -> Result<(), Errno> {
        let claim = Claim {
            address: to.address,
            reuse_address: self.options.reuse_address,
            reuse_port: self.options.reuse_port,
            uid,
        };
        let binding = stack.tcp.ports.bind(to.port, claim)?;
        self.local = Endpoint::new(to.address, binding.port);
        self.binding = Some(binding);
        Ok(())
    }

    fn unbind(&mut self, stack: &Stack) {
        if let Some(binding) = self.binding.take() {
            stack.tcp.ports.release(&binding);
        }
    }

    fn link(&self) -> Option<Arc<super::link::Link>> {
        match &self.role {
            Role::Connection(connection) => Some(connection.path.link.clone()),
            _ => None,
        }
    }

    /// Whether the connection runs over the loopback, or over a NIC, as `loopback` says.
    fn is_over_loopback(&self, loopback: bool) -> bool {
        match &self.role {
            Role::Connection(connection) => connection.path.link.is_loopback() == loopback,
            _ => false,
        }
    }

    /// Whether the connection was opened by a peer, and accept(2) may now have it: at once, or where that is deferred with
    /// the first data, the end of data, or in due time.
    fn is_acceptable(&self, now: u64) -> bool {
        let Role::Connection(connection) = &self.role else { return false };
        let view = connection.view();
        let is_open = !matches!(view.state, State::SynReceived | State::Listen | State::Closed);
        let is_due = now >= connection.accept_by || view.received > 0 || view.state != State::Established;
        self.parent.is_some() && is_open && is_due
    }

    fn release_flow(&mut self, stack: &Stack) {
        if let Some(key) = self.flow.take() {
            stack.tcp.remove(&key);
        }
    }

    /// What connect(2) says on a socket that has connected, tries to, or failed to.
    fn connect_outcome(&mut self) -> Result<(), Errno> {
        let Role::Connection(connection) = &self.role else {
            self.connecting = false;
            return Err(self.error.take().unwrap_or(Errno::ECONNABORTED));
        };
        match connection.tcp().state() {
            State::SynSent | State::SynReceived => Err(Errno::EALREADY),
            State::Closed => {
                // The socket may be used for another attempt.
                self.role = Role::Idle;
                self.connecting = false;
                Err(self.error.take().unwrap_or(Errno::ECONNABORTED))
            }
            _ if core::mem::take(&mut self.connecting) => Ok(()),
            _ => Err(Errno::EISCONN),
        }
    }

    /// Whether the peer has ended its half, or we do not want it.
    fn is_read_shut(&self, state: State) -> bool {
        let by_peer = matches!(
            state,
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed
        );
        self.shut_read || by_peer
    }

    fn is_write_shut(&self, state: State) -> bool {
        self.shut_write || state == State::Closed
    }

    fn poll_connection(&self, connection: &Connection) -> Events {
        let state = connection.tcp().state();
        if matches!(state, State::SynSent | State::SynReceived) {
            return Events::empty();
        }
        let (read_shut, write_shut) = (self.is_read_shut(state), self.is_write_shut(state));
        let mut events = Events::empty();
        if (read_shut && write_shut) || state == State::Closed {
            events |= Events::HUP;
        }
        if read_shut {
            events |= READABLE | Events::RDHUP;
        }
        if connection.tcp().recv_queue() >= self.options.receive_low {
            events |= READABLE;
        }
        if write_shut || connection.is_writable() {
            events |= WRITABLE;
        }
        events
    }
}
