//! A network stack: links, routes, and the tables by which packets find their sockets.
//!
//! The kernel has one; tests have as many as they like, back to back. Nothing here waits or looks at a clock of its own accord:
//! packets come in through [`Stack::receive`], time through [`Stack::expire`], and whoever called into the stack
//! leaves it through [`Stack::finish`], which rings the doorbell and delivers what is on the loopback.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU64, Ordering};

use hw::nic::Nic;

use super::counters::{Counter, Counters};
use super::link::{Assigned, Link, NextHop, SendError};
use super::memory::Budget;
use super::neighbour::Hop;
use super::raw::RawTable;
use super::reassembly::Reassembly;
use super::route::{Route, Routes};
use super::tcp::TcpTable;
use super::timers::Timers;
use super::udp::UdpTable;
use super::wire::{IPV4_HEADER, Ipv4Template};
use crate::errno::Errno;
use crate::sync::{RwSpinLock, SpinLock};

/// Loopback packets that one visitor of the stack delivers before it leaves the rest to the loopback's task.
const LOOPBACK_BUDGET: usize = 64;

/// The way to a destination: found once, then kept by who sends there often.
#[derive(Clone)]
pub struct Path {
    /// The link to send on.
    pub link: Arc<Link>,
    /// The neighbour to send to.
    pub hop: NextHop,
    /// The own address to send from.
    pub source: Ipv4Addr,
    /// Where it leads.
    pub destination: Ipv4Addr,
}

/// A network stack.
pub struct Stack {
    /// TCP connections and listeners.
    pub tcp: TcpTable,
    /// UDP sockets.
    pub udp: UdpTable,
    /// Raw sockets.
    pub raw: RawTable,
    /// Deadlines of sockets.
    pub timers: Timers,
    /// Counters of the protocols.
    pub counters: Counters,
    /// Memory of socket buffers.
    pub memory: Budget,
    /// Packets of which pieces are missing.
    pub reassembly: Reassembly,
    links: RwSpinLock<Vec<Arc<Link>>>,
    routes: RwSpinLock<Routes>,
    clock: fn() -> u64,
    icmp_tokens: SpinLock<TokenBucket>,
    identification: AtomicU64,
}

impl Stack {
    /// A stack with a loopback, whose time is that of `clock`, in nanoseconds.
    pub fn new(clock: fn() -> u64) -> Arc<Self> {
        let loopback = Link::loopback(1);
        loopback.set_addresses(alloc::vec![Assigned { address: Ipv4Addr::LOCALHOST, prefix: 8 }]);
        Arc::new(Self {
            tcp: TcpTable::new(),
            udp: UdpTable::new(),
            raw: RawTable::default(),
            timers: Timers::default(),
            counters: Counters::new(),
            memory: Budget::default(),
            reassembly: Reassembly::default(),
            links: RwSpinLock::new(alloc::vec![Arc::new(loopback)]),
            routes: RwSpinLock::default(),
            clock,
            icmp_tokens: SpinLock::default(),
            identification: AtomicU64::new(crate::random::next_u64()),
        })
    }

    /// The time, in nanoseconds.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// Takes a NIC in as the next `ethN`.
    pub fn add_nic(&self, nic: Box<dyn Nic>) -> Arc<Link> {
        let mut links = self.links.write();
        let index = links.len() as u32 + 1;
        let link = Arc::new(Link::ethernet(format!("eth{}", index - 2), index, nic));
        links.push(link.clone());
        link
    }

    /// All links, the loopback first.
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.links.read().clone()
    }

    /// The loopback.
    pub fn loopback(&self) -> Arc<Link> {
        self.links.read()[0].clone()
    }

    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<Arc<Link>> {
        self.links.read().get((index as usize).checked_sub(1)?).cloned()
    }

    /// The link with this name.
    pub fn link_named(&self, name: &[u8]) -> Option<Arc<Link>> {
        self.links.read().iter().find(|link| link.name.as_bytes() == name).cloned()
    }

    /// Gives a link its addresses, with the routes to their networks; all it had before are gone.
    pub fn set_addresses(&self, link: &Link, addresses: &[Assigned]) {
        self.routes.write().remove_link(link.index);
        link.set_addresses(Vec::new());
        self.change_addresses(link, addresses);
    }

    /// Gives a link its addresses; routes of addresses that it keeps, and other routes over it, stay.
    pub fn change_addresses(&self, link: &Link, addresses: &[Assigned]) {
        let old = link.addresses();
        link.set_addresses(addresses.to_vec());
        if link.is_loopback() {
            return;
        }
        let mut routes = self.routes.write();
        for gone in old.iter().filter(|gone| !addresses.contains(gone)) {
            routes.remove(gone.address, gone.prefix, None, Some(link.index));
        }
        for own in addresses.iter().filter(|own| own.prefix < 32) {
            let (destination, prefix) = (own.address, own.prefix);
            routes.add(Route { destination, prefix, gateway: None, link: link.index, metric: 0 });
        }
    }

    /// Changes the routing table.
    pub fn with_routes<R>(&self, change: impl FnOnce(&mut Routes) -> R) -> R {
        change(&mut self.routes.write())
    }

    /// A copy of the routing table.
    pub fn routes(&self) -> Vec<Route> {
        self.routes.read().all().to_vec()
    }

    /// Whether `address` is this machine's.
    pub fn is_local(&self, address: Ipv4Addr) -> bool {
        address.is_loopback() || self.links.read().iter().any(|link| link.has_address(address))
    }

    /// Whether `address` reaches all hosts of some link.
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || self.links.read().iter().any(|link| link.is_broadcast(address))
    }

    /// The way to `destination`, from `source` and over the link with index `device` where given.
    ///
    /// # Errors
    /// `ENETUNREACH`: no route, or the link has no address; `ENETDOWN`: the link is down.
    pub fn path(
        &self,
        destination: Ipv4Addr,
        source: Option<Ipv4Addr>,
        device: Option<u32>,
    ) -> Result<Path, Errno> {
        if self.is_local(destination) {
            let hop = NextHop::Neighbour(Hop::new(destination));
            let source = source.unwrap_or(destination);
            return Ok(Path { link: self.loopback(), hop, source, destination });
        }
        let (link, gateway) = self.way(destination, source, device).ok_or_else(|| {
            self.counters.count(Counter::IpOutNoRoutes);
            Errno::ENETUNREACH
        })?;
        if !link.is_up() {
            return Err(Errno::ENETDOWN);
        }
        let neighbour = gateway.unwrap_or(destination);
        let source = source.or_else(|| link.source_for(neighbour)).ok_or(Errno::ENETUNREACH)?;
        let hop = if destination.is_multicast() {
            NextHop::Multicast(destination)
        } else if link.is_broadcast(destination) {
            NextHop::Broadcast
        } else {
            NextHop::Neighbour(Hop::new(neighbour))
        };
        Ok(Path { link, hop, source, destination })
    }

    fn way(
        &self,
        destination: Ipv4Addr,
        source: Option<Ipv4Addr>,
        device: Option<u32>,
    ) -> Option<(Arc<Link>, Option<Ipv4Addr>)> {
        if let Some(route) = self.routes.read().lookup(destination, device) {
            return Some((self.link(route.link)?, route.gateway));
        }
        if !(destination.is_broadcast() || destination.is_multicast()) {
            return None;
        }
        // To all or to a group, without a route: over the link asked for, or that of the source, or the first.
        let links = self.links.read();
        let mut nics = links.iter().filter(|link| !link.is_loopback() && link.is_up());
        let link = match (device, source) {
            (Some(device), _) => nics.find(|link| link.index == device),
            (None, Some(source)) => nics.find(|link| link.has_address(source)),
            (None, None) => nics.next(),
        };
        link.map(|link| (link.clone(), None))
    }

    /// Sends an IP packet whose payload of `length` bytes is written by `fill`; for `checksum` see [`Link::send`], but from the
    /// start of the payload.
    pub fn send_ip(
        &self,
        path: &mut Path,
        template: &Ipv4Template,
        length: usize,
        checksum: Option<(usize, usize)>,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), SendError> {
        let checksum = checksum.map(|(start, field)| (IPV4_HEADER + start, field));
        let sent = path.link.send(&mut path.hop, IPV4_HEADER + length, checksum, self.now(), &mut |packet| {
            template.emit(packet);
            fill(&mut packet[IPV4_HEADER..]);
        });
        self.counters.count(if sent.is_ok() { Counter::IpOutRequests } else { Counter::IpOutDiscards });
        sent
    }

    /// A number that tells the fragments of one packet from those of another.
    pub fn next_identification(&self) -> u16 {
        self.identification.fetch_add(1, Ordering::Relaxed) as u16
    }

    /// Whether an ICMP error may be sent now: at most 1,000 a second, and 50 at once (Linux: `icmp_msgs_per_sec`, `icmp_msgs_burst`).
    pub fn may_send_icmp_error(&self) -> bool {
        self.icmp_tokens.lock().take(self.now())
    }

    /// Leaves the stack after something was sent on `link`.
    pub fn finish(self: &Arc<Self>, link: &Arc<Link>) {
        if !link.is_loopback() {
            link.flush();
        } else if link.drain(LOOPBACK_BUDGET, |frame| self.receive_packet(link, frame, 0)) {
            self.timers.note(self.now());
        }
    }

    /// Acts on the deadlines that have passed, of sockets and of neighbours.
    pub fn expire(self: &Arc<Self>) {
        let now = self.now();
        while let Some(target) = self.timers.take_due(now) {
            target.expired(now);
        }
        self.timers.note(self.tcp.expire_time_waits(now));
        self.reassembly.expire(now);
        for link in self.links() {
            let expired = link.neighbours.expire(now);
            expired.questions.iter().for_each(|&question| link.ask(question));
            for packet in &expired.undeliverable {
                self.undeliverable(packet);
            }
            self.expire_dhcp(&link);
            self.finish(&link);
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn deadline(&self) -> u64 {
        let links = self.links.read();
        let of_links = links.iter().map(|link| link.neighbours.deadline().min(link.dhcp.deadline())).min();
        self.timers.deadline().min(of_links.unwrap_or(u64::MAX)).min(self.reassembly.deadline())
    }
}

/// Limits a rate: 1,000 a second, 50 at once.
#[derive(Default)]
struct TokenBucket {
    tokens: u64,
    refilled: u64,
}

impl TokenBucket {
    fn take(&mut self, now: u64) -> bool {
        const NANOSECONDS_PER_TOKEN: u64 = 1_000_000;
        let earned = now.saturating_sub(self.refilled) / NANOSECONDS_PER_TOKEN;
        if earned > 0 || self.refilled == 0 {
            self.tokens = self.tokens.saturating_add(earned.max(1)).min(50);
            self.refilled = now;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_reached_over_the_loopback() {
        let stack = Stack::new(crate::arch::now);
        let path = stack.path([127, 3, 2, 1].into(), None, None).unwrap();
        assert!(path.link.is_loopback());
        assert_eq!(path.source, Ipv4Addr::new(127, 3, 2, 1));
        assert_eq!(stack.path([10, 0, 0, 1].into(), None, None).err(), Some(Errno::ENETUNREACH));
    }

    #[test]
    fn error_messages_are_limited_in_rate() {
        let mut bucket = TokenBucket::default();
        let second = 1_000_000_000;
        assert!((0..50).all(|n| bucket.take(second + n)) || bucket.tokens == 0);
        (0..100).for_each(|_| {
            bucket.take(second + 100);
        });
        assert!(!bucket.take(second + 200));
        assert!(bucket.take(2 * second));
    }
}
