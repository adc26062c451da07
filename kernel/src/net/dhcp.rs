//! A DHCP client (RFC 2131): gets a link its address, and keeps it.
//!
//! [`Client`] is the state machine: it is told the time and the server's messages, and says what to send and what the link's address
//! is. The stack runs it like any other deadline. Leases of one second are kept, too.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU64, Ordering};

use hw::MacAddress;
use hw::pool::Frame;

use super::link::{Assigned, Link, NextHop};
use super::route::Route;
use super::stack::Stack;
use super::wire::{
    IPV4_HEADER, Ipv4, Ipv4Template, UDP_HEADER, Udp, be16, be32, checksum_add, protocol, pseudo_header_sum,
};
use crate::sched::timer::NEVER;
use crate::sync::SpinLock;

const SECOND: u64 = 1_000_000_000;
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// Where the options begin: the fixed part of 236 bytes, and the cookie.
const OPTIONS: usize = 240;
const COOKIE: u32 = 0x6382_5363;
/// Bytes of a message as we send it: servers expect at least those of BOOTP (RFC 1542, 2.1).
const MESSAGE: usize = 300;
/// Between attempts without an answer: first and longest.
const RETRY: (u64, u64) = (SECOND, 16 * SECOND);
/// Requests for an offered address before another is looked for.
const REQUESTS: u32 = 4;
/// Least time between attempts to renew.
const RENEW_RETRY: u64 = SECOND / 10;

/// What a client says (RFC 2132, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who can give me an address?
    Discover = 1,
    /// I take it; or: may I keep it?
    Request = 3,
}

/// A message to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it says.
    pub kind: Kind,
    /// Ties the answer to it.
    pub transaction: u32,
    /// The address in use, or unspecified.
    pub client: Ipv4Addr,
    /// The address wanted.
    pub requested: Option<Ipv4Addr>,
    /// The server whose offer is taken.
    pub server: Option<Ipv4Addr>,
    /// To this server alone, instead of all.
    pub to: Option<Ipv4Addr>,
}

/// What a server gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Assigned,
    /// The way out.
    pub router: Option<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// Who resolves names.
    pub resolvers: Vec<Ipv4Addr>,
    /// Seconds that it lasts.
    pub seconds: u32,
    renew: u64,
    rebind: u64,
    end: u64,
}

/// What a client wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give the link this address.
    Bound(Lease),
    /// Take the address away.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Selecting,
    Requesting { offer: Ipv4Addr, server: Ipv4Addr },
    Bound(Lease),
}

/// The state machine for one link.
pub struct Client {
    mac: MacAddress,
    state: State,
    transaction: u32,
    attempts: u32,
    /// When to act next.
    next: u64,
    /// When the request was sent that the server's times count from.
    asked: u64,
}

/// A server's message.
struct Reply {
    kind: u8,
    yours: Ipv4Addr,
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    resolvers: Vec<Ipv4Addr>,
    lease: Option<u32>,
    renew: Option<u32>,
    rebind: Option<u32>,
}

impl Client {
    /// A client that begins at `now`.
    pub fn new(mac: MacAddress, now: u64) -> Self {
        let transaction = crate::random::next_u64() as u32;
        Self { mac, state: State::Selecting, transaction, attempts: 0, next: now, asked: now }
    }

    /// Acts at its deadline: what to send, and what has changed.
    pub fn expire(&mut self, now: u64) -> (Option<Message>, Option<Change>) {
        if now < self.next {
            return (None, None);
        }
        match &self.state {
            State::Bound(lease) if now >= lease.end => {
                self.restart(now);
                let (message, _) = self.expire(now);
                (message, Some(Change::Lost))
            }
            State::Bound(lease) => {
                let limit = if now < lease.rebind { lease.rebind } else { lease.end };
                let to = (now < lease.rebind).then_some(lease.server);
                let client = lease.address.address;
                self.next = (now + ((limit - now) / 2).max(RENEW_RETRY)).min(limit);
                self.asked = now;
                let (transaction, kind) = (self.transaction, Kind::Request);
                (Some(Message { kind, transaction, client, requested: None, server: None, to }), None)
            }
            State::Requesting { .. } if self.attempts >= REQUESTS => {
                self.restart(now);
                self.expire(now)
            }
            State::Selecting | State::Requesting { .. } => (Some(self.ask(now)), None),
        }
    }

    fn ask(&mut self, now: u64) -> Message {
        let wait = (RETRY.0 << self.attempts.min(8)).min(RETRY.1);
        self.attempts += 1;
        self.next = now + wait;
        self.asked = now;
        let (kind, requested, server) = match self.state {
            State::Requesting { offer, server } => (Kind::Request, Some(offer), Some(server)),
            _ => (Kind::Discover, None, None),
        };
        let (transaction, client) = (self.transaction, Ipv4Addr::UNSPECIFIED);
        Message { kind, transaction, client, requested, server, to: None }
    }

    fn restart(&mut self, now: u64) {
        *self = Self::new(self.mac, now);
    }

    /// Takes in a server's message. What has changed; the deadline may have, too.
    pub fn receive(&mut self, message: &[u8], now: u64) -> Option<Change> {
        let reply = Reply::parse(message, self.transaction, self.mac)?;
        match (&self.state, reply.kind) {
            (State::Selecting, 2) => {
                let server = reply.server?;
                self.state = State::Requesting { offer: reply.yours, server };
                (self.attempts, self.next) = (0, now);
                None
            }
            (State::Requesting { .. } | State::Bound(_), 5) => {
                let lease = reply.lease(self.asked)?;
                self.next = lease.renew;
                let same = matches!(&self.state, State::Bound(old) if old.address == lease.address
                    && old.router == lease.router);
                self.state = State::Bound(lease.clone());
                (!same).then_some(Change::Bound(lease))
            }
            (State::Requesting { .. }, 6) => {
                self.restart(now);
                None
            }
            (State::Bound(_), 6) => {
                self.restart(now);
                Some(Change::Lost)
            }
            _ => None,
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn deadline(&self) -> u64 {
        self.next
    }

    /// The lease, if there is one.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(lease) => Some(lease),
            _ => None,
        }
    }
}

impl Reply {
    fn parse(message: &[u8], transaction: u32, mac: MacAddress) -> Option<Self> {
        let ours = message.len() >= OPTIONS
            && message[0] == 2
            && be32(message, 4) == transaction
            && message[28..34] == mac.0
            && be32(message, 236) == COOKIE;
        if !ours {
            return None;
        }
        let mut reply = Self {
            kind: 0,
            yours: Ipv4Addr::from_bits(be32(message, 16)),
            mask: None,
            router: None,
            server: None,
            resolvers: Vec::new(),
            lease: None,
            renew: None,
            rebind: None,
        };
        let mut options = &message[OPTIONS..];
        while let [code, rest @ ..] = options {
            match (code, rest) {
                (0, _) => options = rest,
                (255, _) => break,
                (_, [length, rest @ ..]) if rest.len() >= usize::from(*length) => {
                    let (value, after) = rest.split_at(usize::from(*length));
                    reply.note(*code, value);
                    options = after;
                }
                _ => break,
            }
        }
        Some(reply)
    }

    fn note(&mut self, code: u8, value: &[u8]) {
        let number = || (value.len() >= 4).then(|| be32(value, 0));
        let address = || number().map(Ipv4Addr::from_bits);
        match code {
            1 => self.mask = address(),
            3 => self.router = address(),
            6 => {
                self.resolvers =
                    value.chunks_exact(4).take(3).map(|v| Ipv4Addr::from_bits(be32(v, 0))).collect()
            }
            51 => self.lease = number(),
            53 => self.kind = value.first().copied().unwrap_or(0),
            54 => self.server = address(),
            58 => self.renew = number(),
            59 => self.rebind = number(),
            _ => {}
        }
    }

    /// The lease that it gives, counted from `asked`; `None` if it makes no sense.
    fn lease(self, asked: u64) -> Option<Lease> {
        let seconds = self.lease?.max(1);
        let host = self.yours;
        if host.is_unspecified() || host.is_broadcast() || host.is_multicast() || host.is_loopback() {
            return None;
        }
        let mask = self.mask.unwrap_or(Ipv4Addr::new(255, 255, 255, 0)).to_bits();
        let prefix = mask.leading_ones() as u8;
        if mask.count_ones() != u32::from(prefix) {
            return None;
        }
        let length = u64::from(seconds) * SECOND;
        let rebind = self.rebind.map_or(length / 8 * 7, |s| u64::from(s) * SECOND).min(length / 8 * 7);
        let renew = self.renew.map_or(length / 2, |s| u64::from(s) * SECOND).min(rebind).max(RENEW_RETRY);
        Some(Lease {
            address: Assigned { address: host, prefix },
            router: self.router.filter(|router| !router.is_unspecified()),
            server: self.server?,
            resolvers: self.resolvers,
            seconds,
            renew: asked + renew,
            rebind: asked + rebind,
            end: asked + length,
        })
    }
}

impl Message {
    /// Writes the message.
    fn emit(&self, mac: MacAddress, message: &mut [u8]) {
        message.fill(0);
        // A request, on Ethernet.
        message[..3].copy_from_slice(&[1, 1, 6]);
        message[4..8].copy_from_slice(&self.transaction.to_be_bytes());
        message[12..16].copy_from_slice(&self.client.octets());
        message[28..34].copy_from_slice(&mac.0);
        message[236..OPTIONS].copy_from_slice(&COOKIE.to_be_bytes());
        let mut at = OPTIONS;
        let mut put = |code: u8, value: &[u8]| {
            message[at] = code;
            message[at + 1] = value.len() as u8;
            message[at + 2..at + 2 + value.len()].copy_from_slice(value);
            at += 2 + value.len();
        };
        put(53, &[self.kind as u8]);
        if let Some(server) = self.server {
            put(54, &server.octets());
        }
        if let Some(requested) = self.requested {
            put(50, &requested.octets());
        }
        // Wanted: mask, router, resolvers, lease, times to renew and rebind.
        put(55, &[1, 3, 6, 51, 58, 59]);
        message[at] = 255;
    }
}

/// A link's client, if it has one.
pub struct Dhcp {
    deadline: AtomicU64,
    client: SpinLock<Option<Client>>,
}

impl Default for Dhcp {
    fn default() -> Self {
        Self { deadline: AtomicU64::new(NEVER), client: SpinLock::new(None) }
    }
}

impl Dhcp {
    /// When the client has something to do.
    pub fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    /// The lease, if there is one.
    pub fn lease(&self) -> Option<Lease> {
        self.client.lock().as_ref().and_then(|client| client.lease().cloned())
    }

    fn with<R>(&self, act: impl FnOnce(&mut Client) -> R) -> Option<R> {
        let mut slot = self.client.lock();
        let client = slot.as_mut()?;
        let result = act(client);
        self.deadline.store(client.deadline(), Ordering::Relaxed);
        Some(result)
    }
}

impl Stack {
    /// Has a link ask for its address.
    pub fn start_dhcp(self: &Arc<Self>, link: &Arc<Link>) {
        let now = self.now();
        *link.dhcp.client.lock() = Some(Client::new(link.mac, now));
        link.dhcp.deadline.store(now, Ordering::Relaxed);
        self.expire_dhcp(link);
        self.finish(link);
    }

    /// Acts on the client's deadline.
    pub fn expire_dhcp(self: &Arc<Self>, link: &Arc<Link>) {
        let now = self.now();
        // An offer is answered at once: hence twice at most.
        while link.dhcp.deadline() <= now {
            let Some((message, change)) = link.dhcp.with(|client| client.expire(now)) else { return };
            if let Some(change) = change {
                self.apply(link, &change);
            }
            let Some(message) = message else { break };
            self.send_dhcp(link, &message);
        }
        self.timers.note(link.dhcp.deadline());
    }

    /// Takes in a packet if it is a server's answer to this link's client; also before the link has an address.
    pub fn receive_dhcp(self: &Arc<Self>, link: &Arc<Link>, frame: &Frame, ip: &Ipv4) -> bool {
        let payload = &frame[ip.payload()];
        let candidate = ip.protocol == protocol::UDP
            && link.dhcp.deadline() != NEVER
            && !ip.is_fragment()
            && payload.len() > UDP_HEADER
            && be16(payload, 2) == CLIENT_PORT
            && be16(payload, 0) == SERVER_PORT;
        if !candidate {
            return false;
        }
        let Ok(udp) = Udp::parse(payload) else { return true };
        let wrong = super::counters::Counter::UdpInCsumErrors;
        if udp.has_checksum && !self.checksum_is_right(frame, ip, wrong) {
            return true;
        }
        let (message, now) = (&payload[UDP_HEADER..udp.length], self.now());
        let change = link.dhcp.with(|client| client.receive(message, now)).flatten();
        if let Some(change) = change {
            self.apply(link, &change);
        }
        self.expire_dhcp(link);
        true
    }

    fn apply(&self, link: &Link, change: &Change) {
        match change {
            Change::Bound(lease) => {
                let Assigned { address, prefix } = lease.address;
                log::info!(
                    target: "net",
                    "{}: {address}/{prefix} from DHCP server {}, for {} s", link.name, lease.server, lease.seconds
                );
                self.set_addresses(link, &[lease.address]);
                if let Some(router) = lease.router {
                    self.set_default_route(link, router);
                }
                // Tells the neighbours, also of a changed hardware address (RFC 5227, 2.3).
                link.send_arp(MacAddress([0xff; 6]), 1, address, MacAddress([0; 6]), address);
            }
            Change::Lost => {
                log::warn!(target: "net", "{}: the address has expired", link.name);
                self.set_addresses(link, &[]);
            }
        }
    }

    /// Has all that no other route leads to go through `router`.
    pub fn set_default_route(&self, link: &Link, router: Ipv4Addr) {
        let route = Route {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(router),
            link: link.index,
            metric: link.index,
        };
        self.with_routes(|routes| routes.add(route));
    }

    fn send_dhcp(&self, link: &Arc<Link>, message: &Message) {
        let to = message.to.unwrap_or(Ipv4Addr::BROADCAST);
        let way = message.to.and_then(|to| self.path(to, Some(message.client), Some(link.index)).ok());
        let mut hop = way.map_or(NextHop::Broadcast, |path| path.hop);
        let template = Ipv4Template::new(message.client, to, protocol::UDP);
        let length = UDP_HEADER + MESSAGE;
        let sum = pseudo_header_sum(template.source, to, protocol::UDP, length);
        let sent = link.send(&mut hop, IPV4_HEADER + length, None, self.now(), &mut |packet| {
            template.emit(packet);
            let udp = &mut packet[IPV4_HEADER..];
            udp[..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
            udp[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
            udp[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            udp[6..8].fill(0);
            message.emit(link.mac, &mut udp[UDP_HEADER..]);
            let sum = !checksum_add(sum, udp);
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        });
        if let Err(error) = sent {
            log::debug!(target: "net", "{}: DHCP message not sent: {error:?}", link.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 20);
    const HOST: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 10);

    fn reply(client: &Client, kind: u8, seconds: u32) -> Vec<u8> {
        let mut message = vec![0; OPTIONS];
        message[0] = 2;
        message[4..8].copy_from_slice(&client.transaction.to_be_bytes());
        message[16..20].copy_from_slice(&HOST.octets());
        message[28..34].copy_from_slice(&MAC.0);
        message[236..240].copy_from_slice(&COOKIE.to_be_bytes());
        message.extend([53, 1, kind, 54, 4]);
        message.extend(SERVER.octets());
        message.extend([51, 4]);
        message.extend(seconds.to_be_bytes());
        message.extend([1, 4, 255, 255, 255, 0, 3, 4]);
        message.extend(SERVER.octets());
        message.push(255);
        message
    }

    fn bound(seconds: u32) -> Client {
        let mut client = Client::new(MAC, 0);
        assert_eq!(client.expire(0).0.unwrap().kind, Kind::Discover);
        assert_eq!(client.receive(&reply(&client, 2, seconds), 0), None);
        let request = client.expire(0).0.unwrap();
        assert_eq!(
            (request.kind, request.requested, request.server),
            (Kind::Request, Some(HOST), Some(SERVER))
        );
        let change = client.receive(&reply(&client, 5, seconds), 0);
        assert!(
            matches!(change, Some(Change::Bound(lease)) if lease.address == Assigned { address: HOST, prefix: 24 })
        );
        client
    }

    #[test]
    fn a_lease_of_one_second_is_renewed_by_its_server_then_by_all_then_lost() {
        let mut client = bound(1);
        assert_eq!(client.deadline(), SECOND / 2);
        let renew = client.expire(SECOND / 2).0.unwrap();
        assert_eq!((renew.to, renew.client, renew.requested), (Some(SERVER), HOST, None));
        let rebind = client.expire(SECOND / 8 * 7).0.unwrap();
        assert_eq!(rebind.to, None);
        let (message, change) = client.expire(SECOND);
        assert_eq!((message.unwrap().kind, change), (Kind::Discover, Some(Change::Lost)));
    }

    #[test]
    fn a_renewed_lease_changes_nothing_but_its_end() {
        let mut client = bound(1);
        client.expire(SECOND / 2);
        assert_eq!(client.receive(&reply(&client, 5, 1), SECOND / 2), None);
        assert_eq!(client.deadline(), SECOND);
        assert_eq!(client.expire(SECOND).0.unwrap().to, Some(SERVER));
    }

    #[test]
    fn a_refusal_begins_anew() {
        let mut client = bound(10);
        client.expire(5 * SECOND);
        assert_eq!(client.receive(&reply(&client, 6, 10), 5 * SECOND), Some(Change::Lost));
        assert_eq!(client.expire(5 * SECOND).0.unwrap().kind, Kind::Discover);
    }

    #[test]
    fn without_an_answer_it_asks_ever_less_often() {
        let mut client = Client::new(MAC, 0);
        let mut gaps = Vec::new();
        let mut now = 0;
        for _ in 0..7 {
            assert_eq!(client.expire(now).0.unwrap().kind, Kind::Discover);
            gaps.push((client.deadline() - now) / SECOND);
            now = client.deadline();
        }
        assert_eq!(gaps, [1, 2, 4, 8, 16, 16, 16]);
    }

    #[test]
    fn messages_for_others_are_ignored() {
        let mut client = Client::new(MAC, 0);
        client.expire(0);
        let mut other = reply(&client, 2, 1);
        other[4] ^= 1;
        client.receive(&other, 0);
        let mut other = reply(&client, 2, 1);
        other[33] ^= 1;
        client.receive(&other, 0);
        assert_eq!(client.state, State::Selecting);
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            at in 0usize..300,
            kind in 0u8..8,
        ) {
            let mut client = bound(1);
            let mut message = reply(&client, kind, 1);
            for (n, byte) in bytes.iter().enumerate() {
                if let Some(slot) = message.get_mut(at + n) {
                    *slot = *byte;
                }
            }
            client.receive(&message, 1);
            client.receive(&bytes, 1);
            client.expire(2);
        }
    }
}
