//! smoltcp's surroundings, and the device through which its segments leave.
//!
//! smoltcp's TCP sockets run inside of an `Interface`, which it means to be one per NIC and to know addresses, routes and
//! neighbours. Here it knows none of these: this stack finds sockets and ways itself, so an interface is only the clock, the
//! random numbers and the limits of a link. So there can be one per core and link, and no two cores ever wait for
//! the same. Each call handles one socket and one packet; the cost is the same with one socket and with 10,000.

use alloc::boxed::Box;
use alloc::vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;

use crate::arch::{self, MAX_CORES};
use crate::net::link::{Link, NextHop};
use crate::net::wire::{IPV4_HEADER, Tcp, be32, checksum_add, protocol, pseudo_header_sum};
use crate::percore::CacheLine;
use crate::sync::SpinLock;

/// Largest packet of a connection over the loopback: four or more fit into a receive buffer, so that sender and receiver
/// can work at the same time.
const LOOPBACK_PACKET: usize = 16384 + 40;
/// Where the checksum field is in a TCP header.
const CHECKSUM_FIELD: usize = 16;

/// The time as smoltcp has it.
pub fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1000) as i64)
}

/// A link's interfaces, one per core.
pub struct Contexts(Box<[CacheLine<SpinLock<Option<Interface>>>]>);

impl Contexts {
    /// None made yet.
    pub fn new() -> Self {
        Self((0..MAX_CORES).map(|_| CacheLine(SpinLock::new(None))).collect())
    }

    /// Calls `run` with this core's interface for `link`.
    pub fn with<R>(&self, link: &Link, run: impl FnOnce(&mut Interface) -> R) -> R {
        let mut slot = self.0[usize::from(arch::core_id().0)].0.lock();
        run(slot.get_or_insert_with(|| interface(link)))
    }

    /// Has this core's next initial sequence number be unpredictable from all before: smoltcp draws it from a generator
    /// that is quick, but not strong (RFC 6528).
    pub fn reseed(&self) {
        *self.0[usize::from(arch::core_id().0)].0.lock() = None;
    }
}

fn interface(link: &Link) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = crate::random::next_u64();
    let mut interface = Interface::new(config, &mut Limits(capabilities(link)), Instant::ZERO);
    // Addresses were checked before a packet gets here.
    interface.set_any_ip(true);
    interface
}

fn capabilities(link: &Link) -> DeviceCapabilities {
    let mut checksum = ChecksumCapabilities::ignored();
    checksum.ipv4 = Checksum::Tx;
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = if link.is_loopback() { LOOPBACK_PACKET } else { link.mtu };
    capabilities.checksum = checksum;
    capabilities
}

/// A device without packets, to tell an interface its limits.
struct Limits(DeviceCapabilities);

/// What was seen of a connection's segments on their way out.
#[derive(Default)]
pub struct Tap {
    /// The highest sequence number that was sent, plus one.
    highest: Option<u32>,
    /// Data was sent again: something was lost.
    pub retransmitted: u32,
    /// Segments sent.
    pub segments: u32,
    /// The acknowledgment number of the last one.
    pub acknowledged: u32,
}

impl Tap {
    /// Whether `sequence` follows everything that was sent.
    pub fn is_end(&self, sequence: u32) -> bool {
        self.highest == Some(sequence)
    }

    /// Notes a segment, and mends one thing about it: after a time-out smoltcp forgets how far it had sent, and its
    /// acknowledgments then bear a number that the peer has seen long ago. A peer ignores such segments, so that two
    /// that are both sending again would never hear each other. The number belongs at the end of all
    /// that was sent (RFC 9293, 3.10.7.4: `SEQ=SND.NXT`).
    fn note(&mut self, packet: &mut [u8]) {
        let tcp = &mut packet[IPV4_HEADER..];
        let sequence = be32(tcp, 4);
        let header = usize::from(tcp[12] >> 4) * 4;
        let length = (tcp.len() - header) as u32 + u32::from(tcp[13] & 3 != 0);
        self.segments += 1;
        self.acknowledged = be32(tcp, 8);
        let end = sequence.wrapping_add(length);
        let again = self.highest.is_some_and(|highest| (end.wrapping_sub(highest) as i32) <= 0);
        if let (0, false, true, Some(highest)) = (length, tcp[13] & Tcp::RST != 0, again, self.highest) {
            tcp[4..8].copy_from_slice(&highest.to_be_bytes());
            return;
        }
        // A lone byte is a probe of an idle peer or of a closed window.
        if again && (length > 1 || tcp[13] & 3 != 0) {
            self.retransmitted += 1;
        } else {
            self.highest = Some(end);
        }
    }
}

/// The device that smoltcp sees: at most one packet comes in, and packets leave on the connection's path.
pub struct Adapter<'a> {
    /// The packet that came in.
    pub received: Option<&'a [u8]>,
    /// Where packets leave.
    pub link: &'a Link,
    /// To whom.
    pub hop: &'a mut NextHop,
    /// Who looks at them.
    pub tap: &'a mut Tap,
    /// The time.
    pub now: u64,
}

/// The packet that came in.
pub struct Receive<'a>(&'a [u8]);

/// The right to send one packet.
pub struct Transmit<'a> {
    link: &'a Link,
    hop: &'a mut NextHop,
    tap: &'a mut Tap,
    now: u64,
}

impl Device for Adapter<'_> {
    type RxToken<'a>
        = Receive<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Transmit<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Receive<'_>, Transmit<'_>)> {
        let packet = self.received.take()?;
        let transmit = Transmit { link: self.link, hop: self.hop, tap: self.tap, now: self.now };
        Some((Receive(packet), transmit))
    }

    fn transmit(&mut self, _: Instant) -> Option<Transmit<'_>> {
        self.link.has_room().then_some(Transmit {
            link: self.link,
            hop: self.hop,
            tap: self.tap,
            now: self.now,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // smoltcp asks at every call but uses what it was told at first.
        DeviceCapabilities::default()
    }
}

impl phy::RxToken for Receive<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let Self { link, hop, tap, now } = self;
        let checksum = link.tx_checksum.then_some((IPV4_HEADER, CHECKSUM_FIELD));
        let (mut fill, mut result) = (Some(f), None);
        let sent = link.send(hop, length, checksum, now, &mut |packet| {
            result = fill.take().map(|fill| fill(&mut *packet));
            tap.note(packet);
            put_checksum(packet, link.tx_checksum);
        });
        match (sent, result, fill) {
            (_, Some(result), _) => result,
            // Not sent: smoltcp takes it for lost, and sends it again in time.
            (_, None, Some(fill)) => fill(&mut vec![0; length]),
            (_, None, None) => unreachable!("`fill` is taken only to make the result"),
        }
    }
}

/// Stores the checksum, or what the device needs to complete it.
fn put_checksum(packet: &mut [u8], offloaded: bool) {
    let (source, destination) = (be32(packet, 12), be32(packet, 16));
    let (source, destination) = (Ipv4Addr::from_bits(source), Ipv4Addr::from_bits(destination));
    let tcp = &mut packet[IPV4_HEADER..];
    let pseudo = pseudo_header_sum(source, destination, protocol::TCP, tcp.len());
    tcp[CHECKSUM_FIELD..CHECKSUM_FIELD + 2].fill(0);
    let sum = if offloaded { pseudo } else { !checksum_add(pseudo, tcp) };
    tcp[CHECKSUM_FIELD..CHECKSUM_FIELD + 2].copy_from_slice(&sum.to_be_bytes());
}

impl Device for Limits {
    type RxToken<'a> = Receive<'a>;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Receive<'_>, Transmit<'_>)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Transmit<'_>> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.0.clone()
    }
}
