//! What follows from a segment, a deadline or a call: the connection is run once, and its new state has consequences for the
//! socket, its listener and those who wait.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

use smoltcp::socket::tcp::State;

use super::{Cause, EVERYTHING, Inner, READABLE, Role, TcpSocket, WRITABLE, connection};
use crate::errno::Errno;
use crate::net::counters::Counter;
use crate::net::timers::Expires;
use crate::sched::Events;
use crate::sched::timer::NEVER;

/// How soon a connection's deadlines may follow on each other, in nanoseconds.
const AGAIN: u64 = 100_000;

impl TcpSocket {
    /// Runs the connection once and draws the consequences. Returns what to wake waiters for, once the lock is released.
    pub(super) fn step(&self, inner: &mut Inner, packet: Option<&[u8]>, cause: Cause) -> Events {
        let Role::Connection(connection) = &mut inner.role else { return Events::empty() };
        let (before, now) = (connection.view(), self.stack.now());
        if matches!(cause, Cause::Segment { .. }) {
            connection.heard_of(now);
        }
        let mut next = connection.run(packet);
        let mut after = connection.view();
        if inner.orphan && after.received > 0 && after.state != State::Closed {
            // Nobody will read it: the peer should know (RFC 2525, 2.17).
            connection.abort();
            next = connection.run(None);
            after = connection.view();
        }
        connection.note_progress(after.queued < before.queued, now);
        if inner.orphan && after.queued < before.queued {
            connection.give_up = now + connection::ORPHAN;
        }
        let mut events = Events::empty();
        if after.received > before.received {
            events |= READABLE;
        }
        if after.queued < before.queued && connection.is_writable() {
            events |= WRITABLE;
        }
        let was = core::mem::replace(&mut connection.last_state, after.state);
        if after.state != was {
            events |= self.changed(inner, was, after.state, cause);
        }
        if inner.is_acceptable(now) {
            self.established(inner);
        }
        if let Role::Connection(connection) = &inner.role {
            let own = if after.state == State::Closed { NEVER } else { connection.deadline(&inner.options) };
            // What time has not settled now it will not settle at once: whatever the state, it comes to no endless round.
            let earliest = if cause == Cause::Timer { now + AGAIN } else { 0 };
            self.arm(next.min(own).max(earliest));
        }
        events
    }

    fn changed(&self, inner: &mut Inner, before: State, after: State, cause: Cause) -> Events {
        let Role::Connection(connection) = &mut inner.role else { return Events::empty() };
        match (before, after) {
            (State::SynSent, State::Established | State::CloseWait) => connection.give_up = NEVER,
            // Simultaneous open: it was this end that connected.
            (State::SynReceived, State::Established | State::CloseWait) if inner.parent.is_none() => {
                connection.give_up = NEVER;
            }
            (State::SynReceived, State::Established | State::CloseWait) => {
                connection.give_up = NEVER;
                let defer = inner.options.defer_accept.nanoseconds();
                connection.accept_by = defer.map_or(0, |time| self.stack.now() + time);
            }
            (State::SynReceived, State::Listen | State::Closed) if inner.parent.is_some() => {
                self.stack.counters.count(Counter::TcpAttemptFails);
                self.half_open_ended(inner);
                inner.release_flow(&self.stack);
                inner.role = Role::Idle;
            }
            // smoltcp would wait for another peer.
            (_, State::Listen) => {
                connection.abort();
                connection.last_state = State::Closed;
                self.closed(inner, before, cause);
            }
            (_, State::Closed) => self.closed(inner, before, cause),
            (_, State::TimeWait) if inner.orphan => self.begin_time_wait(inner),
            _ => {}
        }
        EVERYTHING
    }

    /// The connection is over. What was received can still be read.
    fn closed(&self, inner: &mut Inner, before: State, cause: Cause) {
        if cause == (Cause::Segment { reset: true }) {
            self.stack.counters.count(Counter::TcpEstabResets);
            inner.error = Some(match before {
                State::SynSent => Errno::ECONNREFUSED,
                State::CloseWait => Errno::EPIPE,
                _ => Errno::ECONNRESET,
            });
        }
        inner.release_flow(&self.stack);
        let was_deferred = inner.parent.is_some();
        self.half_open_ended(inner);
        if inner.orphan || was_deferred {
            inner.role = Role::Idle;
        }
    }

    fn begin_time_wait(&self, inner: &mut Inner) {
        let Role::Connection(connection) = &inner.role else { return };
        let (now, next) = (self.stack.now(), connection.tap.acknowledged);
        if let Some(key) = inner.flow.take() {
            self.stack.tcp.begin_time_wait(&key, next, now);
            self.stack.timers.note(now + super::table::TIME_WAIT);
        }
        inner.role = Role::Idle;
    }

    fn arm(&self, deadline: u64) {
        if deadline < self.armed.load(Ordering::Relaxed) {
            self.armed.store(deadline, Ordering::Relaxed);
            let me: Weak<Self> = self.me.clone();
            self.stack.timers.add(deadline, me);
        }
    }
}

impl Expires for TcpSocket {
    fn expired(self: Arc<Self>, now: u64) {
        let mut inner = self.inner.lock();
        self.armed.store(NEVER, Ordering::Relaxed);
        let link = inner.link();
        let Inner { role, options, error, .. } = &mut *inner;
        if let Role::Connection(connection) = role
            && let Err(given_up) = connection.expire(options, now)
        {
            *error = Some(given_up);
            connection.abort();
        }
        let events = self.step(&mut inner, None, Cause::Timer);
        drop(inner);
        self.leave(link, events);
    }

    /// Only the earliest that was set: when that has passed, the next is set anew.
    fn awaits(&self, deadline: u64) -> bool {
        self.armed.load(Ordering::Relaxed) == deadline
    }

    fn forgotten(&self) {
        self.armed.store(NEVER, Ordering::Relaxed);
    }
}
