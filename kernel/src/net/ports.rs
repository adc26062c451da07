//! Who holds which port: bind(2)'s rules for sharing, and ephemeral ports.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU32, Ordering};

use hashbrown::HashMap;

use crate::errno::Errno;
use crate::sync::SpinLock;

/// Ports given to sockets that ask for none (Linux: `ip_local_port_range`).
pub const EPHEMERAL: core::ops::RangeInclusive<u16> = 32768..=60999;

/// How a socket wants to hold its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The own address, or unspecified for all.
    pub address: Ipv4Addr,
    /// `SO_REUSEADDR`.
    pub reuse_address: bool,
    /// `SO_REUSEPORT`.
    pub reuse_port: bool,
    /// Whose socket it is: only one user's sockets share a port.
    pub uid: u32,
}

struct Holder {
    id: u64,
    claim: Claim,
    listening: bool,
}

/// The right to a port; given back to [`Ports::release`].
#[derive(Debug, PartialEq, Eq)]
pub struct Binding {
    /// The port.
    pub port: u16,
    id: u64,
}

#[derive(Default)]
struct Table {
    holders: HashMap<u16, Vec<Holder>>,
    next_id: u64,
}

/// The ports of a protocol.
pub struct Ports {
    table: SpinLock<Table>,
    /// How many connections there are from each local port, those in TIME_WAIT included.
    connections: Box<[AtomicU32]>,
}

impl Ports {
    /// All free.
    pub fn new() -> Self {
        let connections = (0..=u16::MAX).map(|_| AtomicU32::new(0)).collect();
        Self { table: SpinLock::default(), connections }
    }

    /// Takes `port`, or any free one when it is 0.
    ///
    /// # Errors
    /// `EADDRINUSE`; `ENOMEM`.
    pub fn bind(&self, port: u16, claim: Claim) -> Result<Binding, Errno> {
        let mut table = self.table.lock();
        if port != 0 {
            if table.conflicts(port, &claim) || (self.is_connected(port) && !claim.reuse_address) {
                return Err(Errno::EADDRINUSE);
            }
            return table.hold(port, claim);
        }
        let free = |port: &u16| !table.conflicts(*port, &claim) && !self.is_connected(*port);
        let port = candidates().find(free).ok_or(Errno::EADDRINUSE)?;
        table.hold(port, claim)
    }

    /// Makes a socket that holds a port a listener: then only those who share it by `SO_REUSEPORT` may listen, too.
    pub fn listen(&self, binding: &Binding) -> Result<(), Errno> {
        let mut table = self.table.lock();
        let Some(holders) = table.holders.get_mut(&binding.port) else { return Err(Errno::EINVAL) };
        let Some(at) = holders.iter().position(|holder| holder.id == binding.id) else {
            return Err(Errno::EINVAL);
        };
        let claim = holders[at].claim;
        let others = holders.iter().filter(|other| other.id != binding.id && other.listening);
        if others.into_iter().any(|other| other.claim.overlaps(&claim) && !other.claim.shares(&claim)) {
            return Err(Errno::EADDRINUSE);
        }
        holders[at].listening = true;
        Ok(())
    }

    /// A listener is none any more, but keeps its port.
    pub fn stop_listening(&self, binding: &Binding) {
        if let Some(holders) = self.table.lock().holders.get_mut(&binding.port) {
            holders
                .iter_mut()
                .filter(|holder| holder.id == binding.id)
                .for_each(|holder| holder.listening = false);
        }
    }

    /// Gives a port back.
    pub fn release(&self, binding: &Binding) {
        let mut table = self.table.lock();
        if let Some(holders) = table.holders.get_mut(&binding.port) {
            holders.retain(|holder| holder.id != binding.id);
            if holders.is_empty() {
                table.holders.remove(&binding.port);
            }
        }
    }

    /// Calls `take(port)` with ephemeral ports that nobody has bound, until it says true.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when it never does.
    pub fn find_ephemeral(&self, mut take: impl FnMut(u16) -> bool) -> Result<u16, Errno> {
        let is_bound = |port: &u16| self.table.lock().holders.contains_key(port);
        candidates().find(|port| !is_bound(port) && take(*port)).ok_or(Errno::EADDRNOTAVAIL)
    }

    /// Notes a connection from `port`.
    pub fn connected(&self, port: u16) {
        self.connections[usize::from(port)].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the end of a connection from `port`.
    pub fn disconnected(&self, port: u16) {
        self.connections[usize::from(port)].fetch_sub(1, Ordering::Relaxed);
    }

    fn is_connected(&self, port: u16) -> bool {
        self.connections[usize::from(port)].load(Ordering::Relaxed) != 0
    }
}

/// All ephemeral ports, from a random one on (RFC 6056, algorithm 1).
fn candidates() -> impl Iterator<Item = u16> {
    let count = EPHEMERAL.len() as u64;
    let start = crate::random::next_u64() % count;
    (0..count).map(move |n| EPHEMERAL.start() + ((start + n) % count) as u16)
}

impl Table {
    fn conflicts(&self, port: u16, claim: &Claim) -> bool {
        let holders = self.holders.get(&port).map_or(&[][..], Vec::as_slice);
        holders.iter().any(|holder| {
            let reuse = holder.claim.reuse_address && claim.reuse_address && !holder.listening;
            holder.claim.overlaps(claim) && !reuse && !holder.claim.shares(claim)
        })
    }

    fn hold(&mut self, port: u16, claim: Claim) -> Result<Binding, Errno> {
        self.holders.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let holders = self.holders.entry(port).or_default();
        holders.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let id = self.next_id;
        self.next_id += 1;
        holders.push(Holder { id, claim, listening: false });
        Ok(Binding { port, id })
    }
}

impl Claim {
    fn overlaps(&self, other: &Self) -> bool {
        self.address == other.address || self.address.is_unspecified() || other.address.is_unspecified()
    }

    fn shares(&self, other: &Self) -> bool {
        self.reuse_port && other.reuse_port && self.uid == other.uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Claim =
        Claim { address: Ipv4Addr::UNSPECIFIED, reuse_address: false, reuse_port: false, uid: 0 };
    const ONE: Claim = Claim { address: Ipv4Addr::new(10, 0, 0, 1), ..ANY };
    const TWO: Claim = Claim { address: Ipv4Addr::new(10, 0, 0, 2), ..ANY };

    #[test]
    fn a_port_is_taken_per_address() {
        let ports = Ports::new();
        let one = ports.bind(80, ONE).unwrap();
        assert_eq!(ports.bind(80, ONE), Err(Errno::EADDRINUSE));
        assert_eq!(ports.bind(80, ANY), Err(Errno::EADDRINUSE));
        ports.bind(80, TWO).unwrap();
        ports.release(&one);
        ports.bind(80, ONE).unwrap();
    }

    #[test]
    fn reused_addresses_do_not_share_with_a_listener() {
        let ports = Ports::new();
        let claim = Claim { reuse_address: true, ..ANY };
        let (first, second) = (ports.bind(80, claim).unwrap(), ports.bind(80, claim).unwrap());
        ports.listen(&first).unwrap();
        assert_eq!(ports.listen(&second), Err(Errno::EADDRINUSE));
        assert_eq!(ports.bind(80, claim), Err(Errno::EADDRINUSE));
        ports.stop_listening(&first);
        ports.listen(&second).unwrap();
    }

    #[test]
    fn reuse_port_shares_among_one_users_sockets() {
        let ports = Ports::new();
        let claim = Claim { reuse_port: true, uid: 5, ..ANY };
        let (first, second) = (ports.bind(80, claim).unwrap(), ports.bind(80, claim).unwrap());
        ports.listen(&first).unwrap();
        ports.listen(&second).unwrap();
        assert_eq!(ports.bind(80, Claim { uid: 6, ..claim }), Err(Errno::EADDRINUSE));
    }

    #[test]
    fn a_port_with_connections_needs_reuse() {
        let ports = Ports::new();
        ports.connected(80);
        assert_eq!(ports.bind(80, ANY), Err(Errno::EADDRINUSE));
        ports.bind(80, Claim { reuse_address: true, ..ANY }).unwrap();
        ports.disconnected(80);
    }

    #[test]
    fn ephemeral_ports_differ_until_they_run_out() {
        let ports = Ports::new();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..EPHEMERAL.len() {
            let binding = ports.bind(0, ANY).unwrap();
            assert!(EPHEMERAL.contains(&binding.port) && seen.insert(binding.port));
        }
        assert_eq!(ports.bind(0, ANY), Err(Errno::EADDRINUSE));
        assert_eq!(ports.find_ephemeral(|_| true), Err(Errno::EADDRNOTAVAIL));
    }
}
