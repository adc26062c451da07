//! By which datagrams find their sockets: the port, then how well a socket's addresses fit.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use hashbrown::HashMap;

use super::{Arrival, UdpSocket};
use crate::errno::Errno;
use crate::net::icmp::QuotedFlow;
use crate::net::ports::Ports;
use crate::net::wire::Endpoint;
use crate::percore::CacheLine;
use crate::sched::Events;
use crate::sync::RwSpinLock;

const SHARDS: usize = 64;

/// What the table knows of a socket, so as not to have to lock it.
#[derive(Clone)]
pub(super) struct Entry {
    pub local: Ipv4Addr,
    pub remote: Option<Endpoint>,
    pub device: Option<u32>,
    pub socket: Arc<UdpSocket>,
}

impl Entry {
    /// How well it fits a datagram; `None`: not at all.
    fn score(&self, arrival: &Arrival) -> Option<u32> {
        let local = self.local.is_unspecified() || self.local == arrival.to;
        let remote = self.remote.is_none_or(|remote| remote == arrival.from);
        let device = self.device.is_none_or(|device| device == arrival.link);
        let specific = u32::from(self.remote.is_some()) * 4
            + u32::from(!self.local.is_unspecified()) * 2
            + u32::from(self.device.is_some());
        (local && remote && device).then_some(specific)
    }
}

type Shard = CacheLine<RwSpinLock<HashMap<u16, Vec<Entry>>>>;

/// The UDP sockets of a stack.
pub struct UdpTable {
    pub(super) ports: Ports,
    shards: Box<[Shard]>,
}

impl UdpTable {
    /// No sockets.
    pub fn new() -> Self {
        let shards = (0..SHARDS).map(|_| CacheLine(RwSpinLock::default())).collect();
        Self { ports: Ports::new(), shards }
    }

    fn shard(&self, port: u16) -> &RwSpinLock<HashMap<u16, Vec<Entry>>> {
        &self.shards[usize::from(port) % SHARDS].0
    }

    pub(super) fn add(&self, port: u16, entry: Entry) -> Result<(), Errno> {
        let mut shard = self.shard(port).write();
        shard.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        let entries = shard.entry(port).or_default();
        entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        entries.push(entry);
        Ok(())
    }

    pub(super) fn update(&self, port: u16, socket: &UdpSocket, change: impl FnOnce(&mut Entry)) {
        let mut shard = self.shard(port).write();
        let entries = shard.get_mut(&port).into_iter().flatten();
        entries.filter(|entry| core::ptr::eq(&*entry.socket, socket)).take(1).for_each(change_once(change));
    }

    pub(super) fn remove(&self, port: u16, socket: &UdpSocket) {
        let mut removed = Vec::new();
        let mut shard = self.shard(port).write();
        if let Some(entries) = shard.get_mut(&port) {
            removed.extend(entries.extract_if(.., |entry| core::ptr::eq(&*entry.socket, socket)));
            if entries.is_empty() {
                shard.remove(&port);
            }
        }
        drop(shard);
        drop(removed);
    }

    /// The socket that fits a datagram best. Of several that share the port, the hash of the flow chooses.
    pub(super) fn find(
        &self,
        port: u16,
        arrival: &Arrival,
        hash: impl FnOnce() -> u64,
    ) -> Option<Arc<UdpSocket>> {
        let shard = self.shard(port).read();
        let entries = shard.get(&port)?;
        let best = entries.iter().filter_map(|entry| entry.score(arrival)).max()?;
        let fitting = || entries.iter().filter(|entry| entry.score(arrival) == Some(best));
        let chosen = match fitting().count() {
            1 => 0,
            several => hash() as usize % several,
        };
        fitting().nth(chosen).map(|entry| entry.socket.clone())
    }

    pub(super) fn find_all(&self, port: u16, arrival: &Arrival) -> Vec<Arc<UdpSocket>> {
        let shard = self.shard(port).read();
        let entries = shard.get(&port).into_iter().flatten();
        entries.filter(|entry| entry.score(arrival).is_some()).map(|entry| entry.socket.clone()).collect()
    }

    /// All sockets at this moment.
    pub fn sockets(&self) -> Vec<Arc<UdpSocket>> {
        let of_shard = |shard: &Shard| {
            shard.0.read().values().flatten().map(|entry| entry.socket.clone()).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// A datagram of ours was not delivered: its socket reports that, if connected and the error is a definite one.
    pub fn undeliverable(&self, flow: &QuotedFlow, error: Errno, hard: bool) {
        let arrival =
            Arrival { from: flow.remote, to: flow.local.address, link: 0, ttl: 0, at: 0, length: 0 };
        let Some(socket) = self.find(flow.local.port, &arrival, || 0) else { return };
        let mut inner = socket.inner.lock();
        let connected = inner.remote == Some(flow.remote) && hard;
        if connected || inner.options.receive_errors {
            inner.error = Some(error);
            drop(inner);
            socket.queue.wake(Events::ERR | Events::IN | Events::OUT);
        }
    }
}

fn change_once<T>(change: impl FnOnce(&mut T)) -> impl FnMut(&mut T) {
    let mut change = Some(change);
    move |value| {
        if let Some(change) = change.take() {
            change(value);
        }
    }
}
