//! Packets that arrive in pieces (RFC 791, RFC 815; overlaps are refused as RFC 5722 wants for IPv6).
//!
//! Few packets come like that, and whoever sends pieces only costs us memory: the number of packets under way and their
//! life are short.

use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU64, Ordering};

use hw::nic::RxChecksum;
use hw::pool::Frame;

use super::wire::{IPV4_HEADER, Ipv4, Ipv4Template};
use crate::sched::timer::NEVER;
use crate::sync::SpinLock;

/// How long missing pieces are waited for (Linux: `ipfrag_time`).
const LIFETIME: u64 = 30_000_000_000;
/// Packets under way.
const PACKETS: usize = 32;
/// Pieces of one packet.
const PIECES: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    identification: u16,
}

struct Partial {
    key: Key,
    ttl: u8,
    deadline: u64,
    /// The payload as far as it has come.
    payload: Vec<u8>,
    /// Ranges that are there, in order and apart.
    pieces: Vec<(usize, usize)>,
    /// Length of the whole payload, once the last piece came.
    total: Option<usize>,
    /// Whether each piece had a checksum that the device knows to be right: it never does for pieces.
    checksum: RxChecksum,
}

/// The packets of which pieces are missing.
pub struct Reassembly {
    partial: SpinLock<Vec<Partial>>,
    deadline: AtomicU64,
}

impl Default for Reassembly {
    fn default() -> Self {
        Self { partial: SpinLock::default(), deadline: AtomicU64::new(NEVER) }
    }
}

impl Reassembly {
    /// Adds a piece. Returns the packet, header first, when it is the last one missing.
    pub fn add(&self, frame: &[u8], ip: &Ipv4, now: u64) -> Option<Frame> {
        let key = Key {
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol,
            identification: ip.identification,
        };
        let mut all = self.partial.lock();
        let at = match all.iter().position(|partial| partial.key == key) {
            Some(at) => at,
            None => {
                if all.len() == PACKETS {
                    all.remove(0);
                }
                all.push(Partial::new(key, ip.ttl, now + LIFETIME));
                self.deadline.fetch_min(now + LIFETIME, Ordering::Relaxed);
                all.len() - 1
            }
        };
        match all[at].add(ip, &frame[ip.payload()]) {
            Ok(false) => None,
            Ok(true) => all.remove(at).finish(),
            Err(Refused) => {
                all.remove(at);
                None
            }
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    /// Forgets those whose pieces did not come in time.
    pub fn expire(&self, now: u64) {
        if self.deadline() > now {
            return;
        }
        let mut all = self.partial.lock();
        all.retain(|partial| partial.deadline > now);
        let first = all.iter().map(|partial| partial.deadline).min();
        self.deadline.store(first.unwrap_or(NEVER), Ordering::Relaxed);
    }
}

struct Refused;

impl Partial {
    fn new(key: Key, ttl: u8, deadline: u64) -> Self {
        let (payload, pieces) = (Vec::new(), Vec::new());
        Self { key, ttl, deadline, payload, pieces, total: None, checksum: RxChecksum::Unknown }
    }

    /// Adds a piece; whether the packet is whole. A packet with impossible pieces is refused.
    fn add(&mut self, ip: &Ipv4, piece: &[u8]) -> Result<bool, Refused> {
        let (start, end) = (ip.fragment_offset, ip.fragment_offset + piece.len());
        let uneven = ip.more_fragments && !piece.len().is_multiple_of(8);
        if uneven || piece.is_empty() || end + IPV4_HEADER > usize::from(u16::MAX) {
            return Err(Refused);
        }
        let beyond = self.total.is_some_and(|total| end > total);
        let ends = if ip.more_fragments { None } else { Some(end) };
        if beyond || ends.is_some_and(|end| self.payload.len() > end || self.total.is_some_and(|t| t != end))
        {
            return Err(Refused);
        }
        if self.pieces.contains(&(start, end)) {
            return Ok(false);
        }
        let at = self.pieces.partition_point(|&(other, _)| other < start);
        let before = at.checked_sub(1).is_some_and(|at| self.pieces[at].1 > start);
        let after = self.pieces.get(at).is_some_and(|&(next, _)| next < end);
        if before || after || self.pieces.len() == PIECES {
            return Err(Refused);
        }
        self.pieces.insert(at, (start, end));
        self.total = self.total.or(ends);
        if self.payload.len() < end {
            self.payload.try_reserve(end - self.payload.len()).map_err(|_| Refused)?;
            self.payload.resize(end, 0);
        }
        self.payload[start..end].copy_from_slice(piece);
        let present: usize = self.pieces.iter().map(|&(start, end)| end - start).sum();
        Ok(self.total == Some(present))
    }

    fn finish(self) -> Option<Frame> {
        let mut packet = super::link::zeroed(IPV4_HEADER + self.payload.len())?;
        packet[IPV4_HEADER..].copy_from_slice(&self.payload);
        let Key { source, destination, protocol, .. } = self.key;
        Ipv4Template { ttl: self.ttl, ..Ipv4Template::new(source, destination, protocol) }.emit(&mut packet);
        Some(Frame::from_vec(packet, self.checksum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(payload: &[u8], offset: usize, more: bool) -> (Vec<u8>, Ipv4) {
        let mut packet = vec![0; IPV4_HEADER + payload.len()];
        packet[IPV4_HEADER..].copy_from_slice(payload);
        let more = if more { 0x2000 } else { 0 };
        let fragment = (7, (offset / 8) as u16 | more);
        Ipv4Template { fragment, ..Ipv4Template::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17) }
            .emit(&mut packet);
        let ip = Ipv4::parse(&packet, 0).unwrap();
        (packet, ip)
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_packet(
            data in prop::collection::vec(any::<u8>(), 100..4000),
            size in 1usize..100,
            order in any::<u64>(),
        ) {
            let table = Reassembly::default();
            let chunk = (size * 8).max(data.len().div_ceil(PIECES).next_multiple_of(8));
            let mut pieces: Vec<_> = data.chunks(chunk).enumerate().collect();
            let last = pieces.len() - 1;
            prop_assume!(last > 0);
            pieces.sort_by_key(|(n, _)| (*n as u64 + 1).wrapping_mul(order | 1));
            let mut whole = None;
            for (n, bytes) in pieces {
                let (packet, ip) = piece(bytes, n * chunk, n != last);
                prop_assert!(whole.is_none());
                whole = table.add(&packet, &ip, 0);
            }
            let whole = whole.unwrap();
            let ip = Ipv4::parse(&whole, 0).unwrap();
            prop_assert_eq!(&whole[ip.payload()], &data[..]);
            prop_assert!(!ip.is_fragment());
        }

        #[test]
        fn no_pieces_make_it_panic(pieces in prop::collection::vec((0usize..8200, 0usize..100, any::<bool>()), 0..50)) {
            let table = Reassembly::default();
            for (offset, length, more) in pieces {
                let (packet, ip) = piece(&vec![1; length], offset * 8 % 65536, more);
                table.add(&packet, &ip, 0);
            }
        }
    }

    #[test]
    fn overlaps_are_refused_and_old_pieces_forgotten() {
        let table = Reassembly::default();
        let add = |payload: &[u8], offset, more| {
            let (packet, ip) = piece(payload, offset, more);
            table.add(&packet, &ip, 0).is_some()
        };
        assert!(!add(&[1; 16], 0, true));
        assert!(!add(&[2; 16], 8, true));
        assert!(!add(&[3; 8], 24, false));
        assert_eq!(table.deadline(), LIFETIME);
        table.expire(LIFETIME);
        assert_eq!(table.deadline(), NEVER);
        assert!(!add(&[1; 8], 0, true));
        assert!(add(&[2; 8], 8, false));
    }
}
