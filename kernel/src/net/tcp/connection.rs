//! One TCP connection: smoltcp's socket in a set of its own, with what the kernel adds to it.
//!
//! Added here: when to give up, keep-alive as tcp(7) describes it, held-back data (`TCP_CORK`), and when congestion
//! control begins. smoltcp's Reno starts at two segments of 1,024 bytes, with which a reply of a few kilobytes waits for the
//! peer's delayed acknowledgment. A connection therefore starts bounded by its send buffer and the peer's window
//! alone, and is put under Reno when it loses something for the first time.

use alloc::sync::Arc;
use alloc::vec::Vec;

use smoltcp::iface::{PollResult, SocketHandle, SocketSet, SocketStorage};
use smoltcp::socket::tcp::{self, CongestionControl, State};
use smoltcp::time::Duration;
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};

use super::context::{Adapter, Tap, instant};
use crate::errno::Errno;
use crate::net::counters::Counter;
use crate::net::link::zeroed;
use crate::net::options::Options;
use crate::net::stack::{Path, Stack};
use crate::net::wire::{Endpoint, Tcp};
use crate::sched::timer::NEVER;

const SECOND: u64 = 1_000_000_000;
/// How long a half-open connection is kept (Linux: five retransmissions).
const SYN_RECEIVED: u64 = 63 * SECOND;
/// How long an abandoned connection may take to end (Linux: `tcp_fin_timeout`).
pub const ORPHAN: u64 = 60 * SECOND;
/// How long data may stay unacknowledged (Linux: `tcp_retries2`).
const UNACKNOWLEDGED: u64 = 924 * SECOND;
/// When to try again after the device's queue was full.
const QUEUE_FULL: u64 = SECOND / 1000;
/// How long `TCP_CORK` holds data back.
const CORK: u64 = SECOND / 5;
/// How long an acknowledgment waits for data to travel with.
const ACK_DELAY: Duration = Duration::from_millis(10);
/// Segments sent in one go; more than any window holds.
const BURST: usize = 4096;

/// What of a connection others notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// State of the protocol.
    pub state: State,
    /// Bytes to read.
    pub received: usize,
    /// Bytes not acknowledged yet.
    pub queued: usize,
}

/// A connection.
pub struct Connection {
    /// Our end.
    pub local: Endpoint,
    /// The peer's end.
    pub remote: Endpoint,
    /// How to get there.
    pub path: Path,
    /// What was seen of it on the way out.
    pub tap: Tap,
    /// When the connection is given up, unless it gets on.
    pub give_up: u64,
    /// When it can be accepted though no data has come (`TCP_DEFER_ACCEPT`).
    pub accept_by: u64,
    /// State of the protocol when its consequences were last drawn.
    pub last_state: State,
    /// When it was last heard of.
    pub heard: u64,
    /// Bytes that `TCP_CORK` holds back, and until when.
    corked: Vec<u8>,
    cork_until: u64,
    probes: u32,
    /// Since when sent data has not been acknowledged.
    stalled: Option<u64>,
    is_controlled: bool,
    charged: usize,
    stack: Arc<Stack>,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Connection {
    /// A closed connection between these two.
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for the buffers.
    pub fn new(
        stack: &Arc<Stack>,
        path: Path,
        local: Endpoint,
        remote: Endpoint,
        options: &Options,
    ) -> Result<Self, Errno> {
        let receive = stack.memory.buffer_size(options.receive_buffer);
        let send = stack.memory.buffer_size(options.send_buffer);
        let charged = receive + send;
        if !stack.memory.charge(charged) {
            return Err(Errno::ENOMEM);
        }
        let buffers = zeroed(receive).zip(zeroed(send));
        let Some((receive, send)) = buffers else {
            stack.memory.refund(charged);
            return Err(Errno::ENOMEM);
        };
        let mut socket = tcp::Socket::new(tcp::SocketBuffer::new(receive), tcp::SocketBuffer::new(send));
        socket.set_congestion_control(CongestionControl::None);
        let mut sockets = SocketSet::new(alloc::vec![SocketStorage::EMPTY]);
        let handle = sockets.add(socket);
        let mut connection = Self {
            local,
            remote,
            path,
            tap: Tap::default(),
            give_up: NEVER,
            accept_by: NEVER,
            last_state: State::Closed,
            heard: stack.now(),
            corked: Vec::new(),
            cork_until: NEVER,
            probes: 0,
            stalled: None,
            is_controlled: false,
            charged,
            stack: stack.clone(),
            sockets,
            handle,
        };
        connection.apply(options);
        Ok(connection)
    }

    /// Begins to connect. The first segment leaves with the next [`run`](Self::run).
    pub fn connect(&mut self, options: &Options) -> Result<(), Errno> {
        let link = self.path.link.clone();
        link.contexts.reseed();
        let remote = (IpAddress::Ipv4(self.remote.address), self.remote.port);
        let local = IpListenEndpoint::from((IpAddress::Ipv4(self.local.address), self.local.port));
        let socket = self.sockets.get_mut::<tcp::Socket>(self.handle);
        let started = link
            .contexts
            .with(&link, |interface| socket.connect(interface.context(), IpEndpoint::from(remote), local));
        // Retransmissions double from one second on.
        self.give_up = self.stack.now() + ((2u64 << options.syn_count.min(10)) - 1) * SECOND;
        started.map_err(|_| Errno::EADDRNOTAVAIL)
    }

    /// Begins to wait for the segment that opens the connection, which is there already.
    pub fn listen(&mut self) -> Result<(), Errno> {
        self.path.link.contexts.reseed();
        let local = IpListenEndpoint::from((IpAddress::Ipv4(self.local.address), self.local.port));
        self.give_up = self.stack.now() + SYN_RECEIVED;
        self.tcp_mut().listen(local).map_err(|_| Errno::EADDRNOTAVAIL)
    }

    /// Puts options into effect.
    pub fn apply(&mut self, options: &Options) {
        let tcp = self.tcp_mut();
        tcp.set_nagle_enabled(!(options.no_delay || options.cork));
        tcp.set_hop_limit(Some(options.ttl.max(1)));
        tcp.set_ack_delay(if options.quick_ack == Some(true) { None } else { Some(ACK_DELAY) });
    }

    /// smoltcp's socket.
    pub fn tcp(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// smoltcp's socket.
    pub fn tcp_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// What others notice.
    pub fn view(&self) -> View {
        let tcp = self.tcp();
        View { state: tcp.state(), received: tcp.recv_queue(), queued: tcp.send_queue() + self.corked.len() }
    }

    /// Bytes that may still be written.
    pub fn room(&self) -> usize {
        self.tcp().send_capacity() - self.view().queued.min(self.tcp().send_capacity())
    }

    /// Whether a writer should be told that there is room: when a third is free (Linux: `sk_stream_is_writeable`).
    pub fn is_writable(&self) -> bool {
        self.room() >= self.view().queued / 2 && self.room() > 0
    }

    /// Lets smoltcp act on `packet`, if one came, and on the time, and send what there is to send. Returns when it wants
    /// to be run again.
    pub fn run(&mut self, packet: Option<&[u8]>) -> u64 {
        let now = self.stack.now();
        let time = instant(now);
        let (segments, retransmitted) = (self.tap.segments, self.tap.retransmitted);
        let Path { link, hop, .. } = &mut self.path;
        let link: &crate::net::link::Link = link;
        let mut adapter = Adapter { received: packet, link, hop, tap: &mut self.tap, now };
        let sockets = &mut self.sockets;
        let next = link.contexts.with(link, |interface| {
            if packet.is_some() {
                interface.poll_ingress_single(time, &mut adapter, sockets);
            }
            let sent = |_: &usize| interface.poll_egress(time, &mut adapter, sockets) != PollResult::None;
            let _ = (0..BURST).take_while(sent).count();
            interface.poll_at(time, sockets)
        });
        self.control_congestion();
        let counters = &self.stack.counters;
        let sent = u64::from(self.tap.segments.wrapping_sub(segments));
        counters.add(Counter::TcpOutSegs, sent);
        counters.add(Counter::IpOutRequests, sent);
        counters.add(Counter::TcpRetransSegs, u64::from(self.tap.retransmitted.wrapping_sub(retransmitted)));
        match next.map(|at| at.total_micros().max(0) as u64 * 1000) {
            None => NEVER,
            Some(at) if at <= now => now + QUEUE_FULL,
            // Rounded up, so that smoltcp's clock of microseconds has got there, too.
            Some(at) => at + 1000,
        }
    }

    fn control_congestion(&mut self) {
        if self.tap.retransmitted > 0 && !self.is_controlled {
            self.is_controlled = true;
            self.tcp_mut().set_congestion_control(CongestionControl::Reno);
        }
    }

    /// Whether a segment tells nothing that smoltcp has to know. Once only its FIN is unacknowledged, repeated
    /// acknowledgments would have it send data again quickly, of which there is none; it then forgets to send the
    /// FIN again. Without them its timer does that.
    pub fn adds_nothing(&self, tcp: &Tcp) -> bool {
        let only_fin = matches!(self.tcp().state(), State::FinWait1 | State::Closing | State::LastAck)
            && self.tcp().send_queue() == 0;
        let bare = tcp.payload == 0 && !tcp.has(Tcp::SYN | Tcp::FIN | Tcp::RST);
        only_fin && bare && !self.tap.is_end(tcp.acknowledgment)
    }

    /// Notes that the peer sent something.
    pub fn heard_of(&mut self, now: u64) {
        self.heard = now;
        if self.probes > 0 {
            self.probes = 0;
            self.tcp_mut().set_keep_alive(None);
        }
    }

    /// Notes whether sent data makes progress; `acknowledged` says that some has.
    pub fn note_progress(&mut self, acknowledged: bool, now: u64) {
        let waiting = self.tcp().send_queue() > 0;
        if !waiting {
            self.stalled = None;
        } else if acknowledged || self.stalled.is_none() {
            self.stalled = Some(now);
        }
    }

    /// The kernel's own deadlines, beside smoltcp's.
    pub fn deadline(&self, options: &Options) -> u64 {
        let keep_alive = if self.keeps_alive(options) { self.next_probe(options) } else { NEVER };
        let stalled = self.stalled.map_or(NEVER, |since| since + patience(options));
        self.give_up.min(self.accept_by).min(keep_alive).min(stalled).min(self.cork_until)
    }

    /// Acts on the kernel's own deadlines.
    ///
    /// # Errors
    /// `ETIMEDOUT`: the connection is to be given up.
    pub fn expire(&mut self, options: &Options, now: u64) -> Result<(), Errno> {
        let stalled = self.stalled.is_some_and(|since| now >= since + patience(options));
        if now >= self.give_up || stalled {
            return Err(Errno::ETIMEDOUT);
        }
        if now >= self.cork_until {
            self.uncork();
        }
        if self.keeps_alive(options) && now >= self.next_probe(options) {
            if self.probes >= options.keep_count {
                return Err(Errno::ETIMEDOUT);
            }
            self.probes += 1;
            if self.probes == 1 {
                // Sends the first at once, and the others at this interval.
                let interval = Duration::from_micros(options.keep_interval / 1000);
                self.tcp_mut().set_keep_alive(Some(interval));
            }
        }
        Ok(())
    }

    fn keeps_alive(&self, options: &Options) -> bool {
        let tcp = self.tcp();
        options.keep_alive
            && tcp.send_queue() == 0
            && matches!(tcp.state(), State::Established | State::CloseWait | State::FinWait2)
    }

    fn next_probe(&self, options: &Options) -> u64 {
        self.heard + options.keep_idle + u64::from(self.probes) * options.keep_interval
    }

    /// Takes bytes to send from `pull`, which fills a slice and says how much of it; returns their number. With `cork`,
    /// what does not fill a segment is held back.
    pub fn write(&mut self, cork: bool, mut pull: impl FnMut(&mut [u8]) -> usize) -> usize {
        let segment = self.path.link.mtu.min(16424) - 40;
        if cork {
            return self.write_corked(segment, pull);
        }
        if !self.corked.is_empty() {
            self.uncork();
        }
        let mut written = 0;
        // Twice, as the free space of a ring may be in two pieces.
        for _ in 0..2 {
            let sent = self.tcp_mut().send(|space| {
                let (wanted, taken) = (space.len(), pull(space));
                (taken, (taken, wanted))
            });
            let Ok((taken, wanted)) = sent else { break };
            written += taken;
            if taken < wanted || wanted == 0 {
                break;
            }
        }
        written
    }

    fn write_corked(&mut self, segment: usize, mut pull: impl FnMut(&mut [u8]) -> usize) -> usize {
        let mut written = 0;
        loop {
            let held = self.corked.len();
            let space = (segment - held.min(segment)).min(self.room());
            if space == 0 || self.corked.try_reserve(space).is_err() {
                break;
            }
            self.corked.resize(held + space, 0);
            let taken = pull(&mut self.corked[held..]);
            self.corked.truncate(held + taken);
            written += taken;
            if self.corked.len() == segment {
                self.uncork();
            }
            if taken < space {
                break;
            }
        }
        if !self.corked.is_empty() && self.cork_until == NEVER {
            self.cork_until = self.stack.now() + CORK;
        }
        written
    }

    /// Sends what was held back.
    pub fn uncork(&mut self) {
        self.cork_until = NEVER;
        let held = core::mem::take(&mut self.corked);
        // There is room: what is held back counts as queued.
        let _ = self.tcp_mut().send_slice(&held);
    }

    /// Ends an attempt to connect without a word to the peer, and gives the buffers back.
    pub fn discard(&mut self) {
        let nothing = || tcp::SocketBuffer::new(Vec::new());
        self.sockets.remove(self.handle);
        self.handle = self.sockets.add(tcp::Socket::new(nothing(), nothing()));
        self.stack.memory.refund(core::mem::take(&mut self.charged));
    }

    /// Ends our half: a FIN follows the data. What is not connected yet is discarded.
    pub fn close(&mut self) {
        if self.tcp().state() == State::SynSent {
            return self.discard();
        }
        self.uncork();
        self.tcp_mut().close();
    }

    /// Ends it at once: a reset follows. What is not connected yet is discarded.
    pub fn abort(&mut self) {
        if self.tcp().state() == State::SynSent {
            return self.discard();
        }
        self.tcp_mut().abort();
    }
}

fn patience(options: &Options) -> u64 {
    if options.user_timeout == 0 { UNACKNOWLEDGED } else { options.user_timeout }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stack.memory.refund(self.charged);
    }
}
