//! By which packets find their connections: a hash of the flow, else the listeners of a port.
//!
//! The table is in shards, each with a lock of its own, chosen by a keyed hash that a peer cannot predict. Connections in
//! TIME_WAIT stay in it as a small record only, without buffers.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use hashbrown::{HashMap, HashTable};

use super::TcpSocket;
use crate::errno::Errno;
use crate::net::ports::Ports;
use crate::net::wire::Endpoint;
use crate::percore::CacheLine;
use crate::sync::{RwSpinLock, SpinLock};

const SHARDS: usize = 64;
/// How long a closed connection is remembered (Linux: `TCP_TIMEWAIT_LEN`).
pub(super) const TIME_WAIT: u64 = 60_000_000_000;
/// When its ports may serve a new connection to the same peer (Linux: `tcp_tw_reuse`).
pub const REUSE_AFTER: u64 = 1_000_000_000;
/// Closed connections remembered at most (Linux: `tcp_max_tw_buckets`).
const TIME_WAITS: usize = 16384;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// Ours.
    pub local: Endpoint,
    /// The peer's.
    pub remote: Endpoint,
}

/// What a flow belongs to.
#[derive(Clone)]
pub enum Flow {
    /// A connection.
    Socket(Arc<TcpSocket>),
    /// What is left of one.
    TimeWait(TimeWait),
}

/// A connection that has ended but whose last segments may still be under way (RFC 9293, 3.6.1).
#[derive(Clone, Copy, Debug)]
pub struct TimeWait {
    /// The next sequence number of the peer.
    pub next: u32,
    /// When it began.
    pub since: u64,
}

type Shard = CacheLine<RwSpinLock<HashTable<(FlowKey, Flow)>>>;

/// A listening socket, and what it listens to.
#[derive(Clone)]
pub struct Listening {
    /// Own address, or unspecified for all.
    pub address: Ipv4Addr,
    /// Only over this link.
    pub device: Option<u32>,
    /// The socket.
    pub socket: Arc<TcpSocket>,
}

/// The connections and listeners of a stack.
pub struct TcpTable {
    /// Who holds which port.
    pub ports: Ports,
    shards: Box<[Shard]>,
    listeners: RwSpinLock<HashMap<u16, Vec<Listening>>>,
    /// In the order in which they began.
    time_waits: SpinLock<VecDeque<(u64, FlowKey)>>,
    secret: [u64; 2],
}

impl TcpTable {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            ports: Ports::new(),
            shards: (0..SHARDS).map(|_| CacheLine(RwSpinLock::default())).collect(),
            listeners: RwSpinLock::default(),
            time_waits: SpinLock::default(),
            secret: [crate::random::next_u64(), crate::random::next_u64() | 1],
        }
    }

    /// A keyed hash of a flow: two rounds of folded multiplication.
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let addresses =
            u64::from(key.local.address.to_bits()) << 32 | u64::from(key.remote.address.to_bits());
        let ports = u64::from(key.local.port) << 16 | u64::from(key.remote.port);
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            (product >> 64) as u64 ^ product as u64
        };
        fold(fold(addresses ^ self.secret[0], self.secret[1]) ^ ports, self.secret[0] | 1)
    }

    fn shard(&self, hash: u64) -> &RwSpinLock<HashTable<(FlowKey, Flow)>> {
        // hashbrown uses the bits at both ends.
        &self.shards[(hash >> 32) as usize % SHARDS].0
    }

    /// What a flow belongs to.
    pub fn find(&self, key: &FlowKey) -> Option<Flow> {
        let hash = self.hash(key);
        self.shard(hash).read().find(hash, |(other, _)| other == key).map(|(_, flow)| flow.clone())
    }

    /// Enters a connection. One in TIME_WAIT for a second makes room.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when the flow is in use, `ENOMEM`.
    pub fn insert(&self, key: FlowKey, socket: Arc<TcpSocket>, now: u64) -> Result<(), Errno> {
        let hash = self.hash(&key);
        let mut shard = self.shard(hash).write();
        shard.try_reserve(1, |(key, _)| self.hash(key)).map_err(|_| Errno::ENOMEM)?;
        match shard.find_mut(hash, |(other, _)| *other == key) {
            Some((_, Flow::TimeWait(old))) if now < old.since + REUSE_AFTER => {
                return Err(Errno::EADDRNOTAVAIL);
            }
            Some((_, Flow::Socket(_))) => return Err(Errno::EADDRNOTAVAIL),
            Some((_, flow)) => *flow = Flow::Socket(socket),
            None => {
                shard.insert_unique(hash, (key, Flow::Socket(socket)), |(key, _)| self.hash(key));
                self.ports.connected(key.local.port);
            }
        }
        Ok(())
    }

    /// Takes out a connection.
    pub fn remove(&self, key: &FlowKey) {
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        if let Ok(entry) = shard.find_entry(hash, |(other, _)| other == key) {
            let (removed, _) = entry.remove();
            self.ports.disconnected(key.local.port);
            drop(shard);
            // Outside of the lock: this may be the last reference to the socket.
            drop(removed);
        }
    }

    /// Turns a connection into a record of TIME_WAIT. The oldest makes room.
    pub fn begin_time_wait(&self, key: &FlowKey, next: u32, now: u64) {
        let hash = self.hash(key);
        let mut ended = None;
        if let Some((_, flow)) = self.shard(hash).write().find_mut(hash, |(other, _)| other == key) {
            ended = Some(core::mem::replace(flow, Flow::TimeWait(TimeWait { next, since: now })));
        }
        if ended.is_none() {
            return;
        }
        let mut waits = self.time_waits.lock();
        let full = waits.len() >= TIME_WAITS || waits.try_reserve(1).is_err();
        // Without memory even for this, the new one ends at once.
        let oldest = if full { waits.pop_front().or(Some((now, *key))) } else { None };
        if !full || waits.capacity() > waits.len() {
            waits.push_back((now, *key));
        }
        drop(waits);
        if let Some((since, key)) = oldest {
            self.end_time_wait(&key, since);
        }
    }

    /// Ends the TIME_WAIT of a flow that began at `since`; a later one stays.
    pub fn end_time_wait(&self, key: &FlowKey, since: u64) {
        let hash = self.hash(key);
        let mut shard = self.shard(hash).write();
        let is_it = |(other, flow): &(FlowKey, Flow)| {
            other == key && matches!(flow, Flow::TimeWait(record) if record.since == since)
        };
        if let Ok(entry) = shard.find_entry(hash, is_it) {
            entry.remove();
            self.ports.disconnected(key.local.port);
        }
    }

    /// Forgets the connections that ended long enough ago. Returns when to look again.
    pub fn expire_time_waits(&self, now: u64) -> u64 {
        loop {
            let mut waits = self.time_waits.lock();
            match waits.front() {
                None => return crate::sched::timer::NEVER,
                Some(&(since, _)) if since + TIME_WAIT > now => return since + TIME_WAIT,
                Some(_) => {}
            }
            let due = waits.pop_front();
            drop(waits);
            if let Some((since, key)) = due {
                self.end_time_wait(&key, since);
            }
        }
    }

    /// Enters a listener.
    pub fn add_listener(&self, port: u16, listening: Listening) -> Result<(), Errno> {
        let mut listeners = self.listeners.write();
        listeners.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let of_port = listeners.entry(port).or_default();
        of_port.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        of_port.push(listening);
        Ok(())
    }

    /// Takes out a listener.
    pub fn remove_listener(&self, port: u16, socket: &Arc<TcpSocket>) {
        let mut listeners = self.listeners.write();
        if let Some(of_port) = listeners.get_mut(&port) {
            of_port.retain(|listening| !Arc::ptr_eq(&listening.socket, socket));
            if of_port.is_empty() {
                listeners.remove(&port);
            }
        }
    }

    /// The listener for a new flow over the link with index `device`: one of the address before one of all; of several that share
    /// the port the flow's hash chooses.
    pub fn find_listener(&self, key: &FlowKey, device: u32) -> Option<Arc<TcpSocket>> {
        let listeners = self.listeners.read();
        let of_port = listeners.get(&key.local.port)?;
        let on_link = |listening: &&Listening| listening.device.is_none_or(|only| only == device);
        let choose = |address: Ipv4Addr| {
            let matching = || of_port.iter().filter(on_link).filter(|other| other.address == address);
            let chosen = match matching().count() {
                0 => return None,
                1 => 0,
                several => self.hash(key) as usize % several,
            };
            matching().nth(chosen).map(|listening| listening.socket.clone())
        };
        choose(key.local.address).or_else(|| choose(Ipv4Addr::UNSPECIFIED))
    }

    /// All flows at this moment.
    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        self.shards.iter().flat_map(|shard| shard.0.read().iter().cloned().collect::<Vec<_>>()).collect()
    }

    /// All listeners at this moment, with their ports.
    pub fn listeners(&self) -> Vec<(u16, Listening)> {
        let listeners = self.listeners.read();
        listeners.iter().flat_map(|(&port, all)| all.iter().map(move |one| (port, one.clone()))).collect()
    }
}
