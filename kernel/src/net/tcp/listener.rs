//! Listening: the backlog of connections that are being opened, and those that wait for accept(2).
//!
//! With `TCP_DEFER_ACCEPT`, it is being opened until its first data has come, or some time has passed.
//!
//! A connection counts against the backlog from its first segment on. When a flood of first segments whose senders never answer has
//! filled it, the oldest of those that had their chance (a second) makes room for the next.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::{Cause, Connection, Inner, READABLE, Role, TcpSocket};
use crate::errno::Errno;
use crate::net::counters::Counter;
use crate::net::link::Link;
use crate::net::options::DeferAccept;
use crate::net::stack::Stack;
use crate::net::tcp::table::{FlowKey, Listening};
use crate::net::wire::Endpoint;
use crate::sched::timer::NEVER;

/// The largest backlog (Linux: `somaxconn`).
pub const BACKLOG_MAX: usize = 4096;
/// How long a half-open connection is safe from being given up for another.
const GRACE: u64 = 1_000_000_000;

/// A socket's list of connections to come.
pub struct Listener {
    backlog: usize,
    /// Established, oldest first.
    ready: VecDeque<Arc<TcpSocket>>,
    /// Being opened, oldest first; those that are no longer so are skipped.
    opening: VecDeque<(u64, Weak<TcpSocket>)>,
    half_open: usize,
}

impl Listener {
    fn new(backlog: i32) -> Self {
        let (ready, opening) = (VecDeque::new(), VecDeque::new());
        Self { backlog: clamp(backlog), ready, opening, half_open: 0 }
    }

    /// Whether accept(2) would find one.
    pub fn has_connection(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Connections that wait for accept(2).
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    /// The limit.
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    /// Whether one more may be opened; if not, one that is old enough to be given up for it.
    fn admit(&mut self, now: u64) -> Result<(), Option<Arc<TcpSocket>>> {
        // One more than the backlog, as Linux has it.
        if self.ready.len() + self.half_open <= self.backlog {
            return Ok(());
        }
        while let Some((since, oldest)) = self.opening.front() {
            let oldest = oldest.upgrade().filter(|socket| socket.is_half_open());
            if oldest.is_some() && now < since + GRACE {
                break;
            }
            self.opening.pop_front();
            if oldest.is_some() {
                return Err(oldest);
            }
        }
        Err(None)
    }

    fn note_opening(&mut self, socket: &Arc<TcpSocket>, now: u64) {
        if self.opening.len() > 2 * self.half_open + 16 {
            self.opening.retain(|(_, socket)| socket.upgrade().is_some_and(|socket| socket.is_half_open()));
        }
        if self.opening.try_reserve(1).is_ok() {
            self.opening.push_back((now, Arc::downgrade(socket)));
        }
    }
}

fn clamp(backlog: i32) -> usize {
    // Negative means as large as possible: Linux takes it as unsigned.
    usize::try_from(backlog).map_or(BACKLOG_MAX, |backlog| backlog.min(BACKLOG_MAX))
}

impl TcpSocket {
    /// listen(2); on a socket without a port it takes one.
    ///
    /// # Errors
    /// `EINVAL` when it is connected, `EADDRINUSE` when another listens there.
    pub fn listen(&self, backlog: i32, uid: u32) -> Result<(), Errno> {
        let mut inner = self.inner.lock();
        match &mut inner.role {
            Role::Connection(_) => return Err(Errno::EINVAL),
            Role::Listener(listener) => {
                listener.backlog = clamp(backlog);
                return Ok(());
            }
            Role::Idle => {}
        }
        if inner.binding.is_none() {
            let local = inner.local;
            inner.bind(&self.stack, Endpoint::new(local.address, 0), uid)?;
        }
        let (table, me) = (&self.stack.tcp, self.me.upgrade().ok_or(Errno::EINVAL)?);
        let Some(binding) = &inner.binding else { return Err(Errno::EINVAL) };
        table.ports.listen(binding)?;
        let listening = Listening { address: inner.local.address, device: inner.options.device, socket: me };
        table.add_listener(binding.port, listening)?;
        inner.role = Role::Listener(Listener::new(backlog));
        Ok(())
    }

    /// accept(2): the oldest connection.
    ///
    /// # Errors
    /// `EAGAIN` when there is none; `EINVAL` when the socket does not listen.
    pub fn accept(&self) -> Result<Arc<Self>, Errno> {
        match &mut self.inner.lock().role {
            Role::Listener(listener) => listener.ready.pop_front().ok_or(Errno::EAGAIN),
            _ => Err(Errno::EINVAL),
        }
    }

    fn is_half_open(&self) -> bool {
        // Never waits: a connection that is busy right now is not one that is forgotten.
        self.inner.try_lock().is_none_or(|inner| inner.parent.is_some())
    }

    /// A first segment for this listener came in `packet`: a connection begins.
    pub(super) fn open(self: &Arc<Self>, link: &Arc<Link>, key: FlowKey, packet: &[u8]) {
        let now = self.stack.now();
        let mut inner = self.inner.lock();
        let Role::Listener(listener) = &mut inner.role else { return };
        if let Err(oldest) = listener.admit(now) {
            drop(inner);
            if let Some(oldest) = oldest {
                oldest.give_up_half_open();
            }
            return self.stack.counters.count(Counter::TcpAttemptFails);
        }
        listener.half_open += 1;
        let options = inner.options.clone();
        drop(inner);
        let opened = self.open_child(key, options, packet);
        let mut inner = self.inner.lock();
        let Role::Listener(listener) = &mut inner.role else { return };
        match opened {
            Some(child) => listener.note_opening(&child, now),
            None => listener.half_open = listener.half_open.saturating_sub(1),
        }
        drop(inner);
        let _ = link;
    }

    fn open_child(
        self: &Arc<Self>,
        key: FlowKey,
        options: crate::net::options::Options,
        packet: &[u8],
    ) -> Option<Arc<Self>> {
        let stack = &self.stack;
        let path = stack.path(key.remote.address, Some(key.local.address), options.device).ok()?;
        let mut connection = Connection::new(stack, path, key.local, key.remote, &options).ok()?;
        connection.listen().ok()?;
        let role = Role::Connection(alloc::boxed::Box::new(connection));
        let child = Self::with(stack, options, role, key.local);
        let mut inner = child.inner.lock();
        stack.tcp.insert(key, child.clone(), stack.now()).ok()?;
        inner.flow = Some(key);
        inner.parent = Some(Arc::downgrade(self));
        child.step(&mut inner, Some(packet), Cause::Segment { reset: false });
        let opened = matches!(&inner.role, Role::Connection(connection)
            if connection.tcp().state() == smoltcp::socket::tcp::State::SynReceived);
        if !opened {
            inner.parent = None;
            inner.release_flow(stack);
            inner.role = Role::Idle;
        }
        drop(inner);
        opened.then_some(child)
    }

    fn give_up_half_open(&self) {
        let mut inner = self.inner.lock();
        if inner.parent.is_some() {
            self.half_open_ended(&mut inner);
            inner.release_flow(&self.stack);
            inner.role = Role::Idle;
        }
    }

    /// The connection is open, and has waited as long as `TCP_DEFER_ACCEPT` asks: it waits for accept(2) now.
    pub(super) fn established(&self, inner: &mut Inner) {
        let Some(parent) = inner.parent.take() else { return };
        self.stack.counters.count(Counter::TcpPassiveOpens);
        // That is the listener's.
        inner.options.defer_accept = DeferAccept::default();
        if let Role::Connection(connection) = &mut inner.role {
            connection.accept_by = NEVER;
        }
        let queued = parent.upgrade().zip(self.me.upgrade()).is_some_and(|(parent, me)| {
            let mut parent_inner = parent.inner.lock();
            let Role::Listener(listener) = &mut parent_inner.role else { return false };
            listener.half_open = listener.half_open.saturating_sub(1);
            if listener.ready.try_reserve(1).is_err() {
                return false;
            }
            listener.ready.push_back(me);
            drop(parent_inner);
            parent.queue.wake(READABLE);
            true
        });
        if !queued {
            // Nobody will ever accept it.
            inner.orphan = true;
            if let Role::Connection(connection) = &mut inner.role {
                connection.abort();
                connection.run(None);
            }
            inner.release_flow(&self.stack);
            inner.role = Role::Idle;
        }
    }

    /// A connection that was being opened came to nothing.
    pub(super) fn half_open_ended(&self, inner: &mut Inner) {
        let Some(parent) = inner.parent.take().and_then(|parent| parent.upgrade()) else { return };
        if let Role::Listener(listener) = &mut parent.inner.lock().role {
            listener.half_open = listener.half_open.saturating_sub(1);
        }
    }
}

impl Inner {
    /// Stops listening, if it does. Returns the connections that nobody will accept.
    pub(super) fn stop_listening(&mut self, stack: &Stack, me: &Weak<TcpSocket>) -> Vec<Arc<TcpSocket>> {
        let Role::Listener(listener) = &mut self.role else { return Vec::new() };
        if let Some(me) = me.upgrade() {
            stack.tcp.remove_listener(self.local.port, &me);
        }
        if let Some(binding) = &self.binding {
            stack.tcp.ports.stop_listening(binding);
        }
        let opening = listener.opening.drain(..).filter_map(|(_, socket)| socket.upgrade());
        let mut children: Vec<_> = opening.filter(|socket| socket.is_half_open()).collect();
        children.extend(listener.ready.drain(..));
        children
    }
}
