//! Neighbours: the hardware addresses of the hosts on a link (RFC 826), and the packets that wait for one.
//!
//! A packet to a neighbour whose address is not known yet waits, bounded in number, while the link asks for it; it is
//! sent when the answer comes and given back as undeliverable when none does. An address that was learnt is
//! trusted for half a minute; after that it is used on, but confirmed by asking the neighbour itself (RFC 1122, 2.3.2.1),
//! and then all, in case it has moved or its answer was damaged.
//!
//! Who sends often keeps a copy of the address ([`Hop`]), valid while the table's generation stays the same.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashMap;
use hw::MacAddress;

use crate::sched::timer::NEVER;
use crate::sync::SpinLock;

const SECOND: u64 = 1_000_000_000;
/// How long an answer is trusted.
const REACHABLE: u64 = 30 * SECOND;
/// How long an unused entry is kept.
const FORGET: u64 = 600 * SECOND;
/// Between two questions.
const RETRY: u64 = SECOND;
/// Questions before giving up (Linux: `mcast_solicit`, `ucast_solicit`).
const ATTEMPTS: u8 = 3;
/// Packets that may wait for one neighbour.
const WAITING_EACH: usize = 16;
/// Packets that may wait on a link.
const WAITING_ALL: usize = 256;
/// Neighbours remembered.
const ENTRIES: usize = 1024;

/// The next host on the way, with its hardware address if that was known when it was last used.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// The neighbour.
    pub address: Ipv4Addr,
    cached: Option<(u32, MacAddress)>,
}

impl Hop {
    /// The neighbour at `address`.
    pub fn new(address: Ipv4Addr) -> Self {
        Self { address, cached: None }
    }
}

/// A question to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whose hardware address is wanted.
    pub address: Ipv4Addr,
    /// Whom to ask: the address known until now, or everybody.
    pub to: Option<MacAddress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked, never answered.
    Incomplete,
    Reachable(MacAddress),
    /// Was reachable; nobody has used it since.
    Stale(MacAddress),
    /// In use, and asked for confirmation.
    Probing(MacAddress),
}

impl State {
    fn mac(self) -> Option<MacAddress> {
        match self {
            Self::Incomplete => None,
            Self::Reachable(mac) | Self::Stale(mac) | Self::Probing(mac) => Some(mac),
        }
    }
}

struct Entry {
    state: State,
    /// When the state ends.
    deadline: u64,
    attempts: u8,
    waiting: VecDeque<Vec<u8>>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Ipv4Addr, Entry>,
    waiting: usize,
}

/// What [`Neighbours::expire`] found.
#[derive(Default)]
pub struct Expired {
    /// To be sent.
    pub questions: Vec<Question>,
    /// Packets whose neighbour does not answer, each from its IPv4 header on.
    pub undeliverable: Vec<Vec<u8>>,
}

/// The neighbours of a link.
pub struct Neighbours {
    /// Changes whenever an address that was given out may have become wrong.
    generation: AtomicU32,
    /// The first deadline.
    deadline: AtomicU64,
    table: SpinLock<Table>,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { generation: AtomicU32::new(0), deadline: AtomicU64::new(NEVER), table: SpinLock::default() }
    }
}

impl Neighbours {
    /// The hardware address of `hop`, and a question to send if it has to be confirmed. `None`: [`park`](Self::park) the packet.
    pub fn resolve(&self, hop: &mut Hop, now: u64) -> Option<(MacAddress, Option<Question>)> {
        let generation = self.generation.load(Ordering::Acquire);
        if let Some((cached, mac)) = hop.cached
            && cached == generation
        {
            return Some((mac, None));
        }
        let mut table = self.table.lock();
        let entry = table.entries.get_mut(&hop.address)?;
        let mac = entry.state.mac()?;
        hop.cached = Some((generation, mac));
        if entry.state != State::Stale(mac) {
            return Some((mac, None));
        }
        entry.begin(State::Probing(mac), now + RETRY);
        self.note_deadline(now + RETRY);
        Some((mac, Some(Question { address: hop.address, to: Some(mac) })))
    }

    /// Has `packet` wait for `address`. The question is to be sent if there is one.
    ///
    /// # Errors
    /// The packet, when it cannot wait: the oldest of its neighbour's has then been given up already.
    pub fn park(&self, address: Ipv4Addr, packet: Vec<u8>, now: u64) -> Result<Option<Question>, Vec<u8>> {
        let mut table = self.table.lock();
        if !table.make_room(address) {
            return Err(packet);
        }
        let Table { entries, waiting } = &mut *table;
        let mut question = None;
        let entry = entries.entry(address).or_insert_with(|| {
            question = Some(Question { address, to: None });
            Entry { state: State::Incomplete, deadline: now + RETRY, attempts: 1, waiting: VecDeque::new() }
        });
        if entry.waiting.len() == WAITING_EACH || *waiting == WAITING_ALL {
            if entry.waiting.pop_front().is_none() {
                return Err(packet);
            }
            *waiting -= 1;
        }
        if entry.waiting.try_reserve(1).is_err() {
            return Err(packet);
        }
        entry.waiting.push_back(packet);
        *waiting += 1;
        self.note_deadline(entry.deadline);
        Ok(question)
    }

    /// Notes that `address` is at `mac`. Returns the packets that waited for it. One that nobody asked for is noted only
    /// if `create`: the neighbour asked for us, and so will be answered soon.
    pub fn learn(&self, address: Ipv4Addr, mac: MacAddress, create: bool, now: u64) -> VecDeque<Vec<u8>> {
        let mut table = self.table.lock();
        let known = table.entries.contains_key(&address);
        let taken_in = known || (create && table.make_room(address));
        if !taken_in {
            return VecDeque::new();
        }
        let entry = table.entries.entry(address).or_insert_with(|| Entry {
            state: State::Incomplete,
            deadline: NEVER,
            attempts: 0,
            waiting: VecDeque::new(),
        });
        let changed = entry.state.mac().is_some_and(|old| old != mac);
        entry.begin(State::Reachable(mac), now + REACHABLE);
        let ready = core::mem::take(&mut entry.waiting);
        table.waiting -= ready.len();
        drop(table);
        if changed {
            self.generation.fetch_add(1, Ordering::Release);
        }
        self.note_deadline(now + REACHABLE);
        ready
    }

    /// Acts on the deadlines that have passed.
    pub fn expire(&self, now: u64) -> Expired {
        let mut expired = Expired::default();
        if self.deadline() > now {
            return expired;
        }
        let mut table = self.table.lock();
        let mut given_up = 0;
        let mut outdated = false;
        table.entries.retain(|&address, entry| {
            if entry.deadline > now {
                return true;
            }
            outdated |= matches!(entry.state, State::Reachable(_));
            let stays = entry.next_state(address, now, &mut expired.questions);
            if !stays {
                outdated |= entry.state != State::Incomplete;
                given_up += entry.waiting.len();
                expired.undeliverable.extend(entry.waiting.drain(..));
            }
            stays
        });
        table.waiting -= given_up;
        let first = table.entries.values().map(|entry| entry.deadline).min();
        self.deadline.store(first.unwrap_or(NEVER), Ordering::Relaxed);
        drop(table);
        if outdated {
            // Those who keep a copy look here again, and so have a stale address confirmed.
            self.generation.fetch_add(1, Ordering::Release);
        }
        expired
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    /// Forgets everything: the link went down.
    pub fn clear(&self) {
        *self.table.lock() = Table::default();
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Calls `visit(address, mac)` for each neighbour; those that did not answer yet have no address.
    pub fn for_each(&self, mut visit: impl FnMut(Ipv4Addr, Option<MacAddress>)) {
        self.table.lock().entries.iter().for_each(|(&address, entry)| visit(address, entry.state.mac()));
    }

    fn note_deadline(&self, deadline: u64) {
        self.deadline.fetch_min(deadline, Ordering::Relaxed);
    }
}

impl Entry {
    fn begin(&mut self, state: State, deadline: u64) {
        self.state = state;
        self.deadline = deadline;
        self.attempts = u8::from(matches!(state, State::Probing(_)));
    }

    /// Moves on at the deadline. Whether the entry stays.
    fn next_state(&mut self, address: Ipv4Addr, now: u64, questions: &mut Vec<Question>) -> bool {
        match self.state {
            State::Reachable(mac) => self.begin(State::Stale(mac), now + FORGET),
            State::Stale(_) => return false,
            State::Incomplete | State::Probing(_) if self.attempts >= ATTEMPTS => return false,
            State::Incomplete | State::Probing(_) => {
                self.attempts += 1;
                self.deadline = now + RETRY;
                questions.push(Question { address, to: None });
            }
        }
        true
    }
}

impl Table {
    /// Makes room for an entry for `address`, at the cost of one that nothing waits for.
    fn make_room(&mut self, address: Ipv4Addr) -> bool {
        if self.entries.contains_key(&address) {
            return true;
        }
        if self.entries.len() >= ENTRIES {
            let idle = self.entries.iter().filter(|(_, entry)| entry.state != State::Incomplete);
            let Some(oldest) = idle.min_by_key(|(_, entry)| entry.deadline).map(|(&key, _)| key) else {
                return false;
            };
            self.entries.remove(&oldest);
        }
        self.entries.try_reserve(1).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    #[test]
    fn packets_wait_in_order_and_the_first_asks() {
        let table = Neighbours::default();
        let mut hop = Hop::new(PEER);
        assert!(table.resolve(&mut hop, 0).is_none());
        assert_eq!(table.park(PEER, vec![1], 0), Ok(Some(Question { address: PEER, to: None })));
        assert_eq!(table.park(PEER, vec![2], 0), Ok(None));
        assert_eq!(table.learn(PEER, MAC, false, 1), [vec![1], vec![2]]);
        assert_eq!(table.resolve(&mut hop, 1), Some((MAC, None)));
    }

    #[test]
    fn the_queue_is_short_and_drops_the_oldest() {
        let table = Neighbours::default();
        for n in 0..WAITING_EACH as u8 + 3 {
            table.park(PEER, vec![n], 0).unwrap();
        }
        let ready = table.learn(PEER, MAC, false, 0);
        assert_eq!(ready.len(), WAITING_EACH);
        assert_eq!(ready[0], [3]);
    }

    #[test]
    fn a_silent_neighbour_is_asked_three_times_then_given_up() {
        let table = Neighbours::default();
        table.park(PEER, vec![7], 0).unwrap();
        for second in 1..=2 {
            let expired = table.expire(second * SECOND);
            assert_eq!(expired.questions, [Question { address: PEER, to: None }]);
            assert!(expired.undeliverable.is_empty());
        }
        let expired = table.expire(3 * SECOND);
        assert!(expired.questions.is_empty());
        assert_eq!(expired.undeliverable, [[7]]);
        assert_eq!(table.deadline(), NEVER);
    }

    #[test]
    fn an_old_address_is_used_and_confirmed_and_dropped_when_silent() {
        let table = Neighbours::default();
        let mut hop = Hop::new(PEER);
        table.learn(PEER, MAC, true, 0);
        assert_eq!(table.resolve(&mut hop, 1), Some((MAC, None)));
        table.expire(REACHABLE);
        let question = Question { address: PEER, to: Some(MAC) };
        assert_eq!(table.resolve(&mut hop, REACHABLE), Some((MAC, Some(question))));
        assert_eq!(table.resolve(&mut hop, REACHABLE), Some((MAC, None)));
        for second in 1..=3 {
            table.expire(REACHABLE + second * SECOND);
        }
        assert!(table.resolve(&mut hop, REACHABLE + 4 * SECOND).is_none());
    }

    #[test]
    fn a_neighbour_that_moved_is_followed() {
        let table = Neighbours::default();
        let mut hop = Hop::new(PEER);
        table.learn(PEER, MAC, true, 0);
        table.resolve(&mut hop, 0);
        let moved = MacAddress([2, 0, 0, 0, 0, 9]);
        table.learn(PEER, moved, false, 1);
        assert_eq!(table.resolve(&mut hop, 1), Some((moved, None)));
    }

    #[test]
    fn strangers_are_not_learnt_and_the_table_is_bounded() {
        let table = Neighbours::default();
        table.learn(PEER, MAC, false, 0);
        assert!(table.resolve(&mut Hop::new(PEER), 0).is_none());
        for n in 0..2 * ENTRIES as u32 {
            table.learn(Ipv4Addr::from_bits(n), MAC, true, u64::from(n));
        }
        let mut count = 0;
        table.for_each(|_, _| count += 1);
        assert_eq!(count, ENTRIES);
    }
}
