//! Whole stacks, back to back, on a wire that loses, repeats, reorders and damages frames as a seed says, in a time of their
//! own: a test of minutes takes milliseconds, and every run is the same.

mod crossing;
mod datagrams;
mod hostile;
mod streams;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::net::Ipv4Addr;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use hw::MacAddress;
use hw::nic::{Capabilities, DeviceFault, Events, Nic, Offload, RxChecksum, Statistics, TxError};
use hw::pool::Frame;

use super::link::{Assigned, Link};
use super::stack::Stack;
use super::tcp::TcpSocket;
use super::wire::{Endpoint, checksum_add};
use crate::errno::Errno;
use crate::uaccess::{ReadBuf, WriteBuf};

pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

thread_local!(static CLOCK: Cell<u64> = const { Cell::new(SECOND) });

fn clock() -> u64 {
    CLOCK.get()
}

/// What the test sees of a fake NIC.
#[derive(Default)]
pub struct Cable {
    sent: Mutex<Vec<Vec<u8>>>,
    /// Frames that the NIC still takes before it is full.
    room: Mutex<Option<usize>>,
    /// Frames that it has received and not handed over.
    arrived: Mutex<VecDeque<Frame>>,
    /// How often the doorbell was rung.
    rings: Mutex<usize>,
}

struct FakeNic {
    mac: MacAddress,
    offload: bool,
    cable: Arc<Cable>,
}

impl Nic for FakeNic {
    fn mac(&self) -> MacAddress {
        self.mac
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { mtu: 1500, tx_checksum: self.offload, rx_checksum: false, rx_depth: 64, tx_depth: 64 }
    }
    fn link_up(&self) -> bool {
        true
    }
    fn statistics(&self) -> Statistics {
        Statistics::default()
    }
    fn fault(&self) -> Option<DeviceFault> {
        None
    }
    fn receive(&mut self) -> Option<Frame> {
        self.cable.arrived.lock().unwrap().pop_front()
    }
    fn can_transmit(&mut self) -> bool {
        *self.cable.room.lock().unwrap() != Some(0)
    }
    fn transmit(
        &mut self,
        length: usize,
        offload: Offload,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), TxError> {
        if let Some(room) = &mut *self.cable.room.lock().unwrap() {
            *room = room.checked_sub(1).ok_or(TxError::Full)?;
        }
        assert!(offload.fits(length, self.capabilities()) && length <= self.capabilities().max_frame());
        let mut frame = vec![0xa5; length];
        fill(&mut frame);
        if let Offload::Checksum { start, offset } = offload {
            let (start, field) = (usize::from(start), usize::from(start + offset));
            let sum = !checksum_add(0, &frame[start..]);
            frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.cable.sent.lock().unwrap().push(frame);
        Ok(())
    }
    fn flush(&mut self) {
        *self.cable.rings.lock().unwrap() += 1;
    }
    fn disable_interrupts(&mut self) {}
    fn enable_interrupts(&mut self) -> bool {
        false
    }
    fn acknowledge(&mut self, pending: Events) -> Events {
        pending
    }
}

/// A machine on the wire.
pub struct Host {
    pub stack: Arc<Stack>,
    pub link: Arc<Link>,
    pub address: Ipv4Addr,
    pub cable: Arc<Cable>,
}

impl Host {
    fn new(number: u8, offload: bool) -> Self {
        let cable = Arc::new(Cable::default());
        let stack = Stack::new(clock);
        let mac = MacAddress([2, 0, 0, 0, 0, number]);
        let link = stack.add_nic(Box::new(FakeNic { mac, offload, cable: cable.clone() }));
        let address = Ipv4Addr::new(10, 0, 0, number);
        stack.set_addresses(&link, &[Assigned { address, prefix: 24 }]);
        Self { stack, link, address, cable }
    }

    pub fn at(&self, port: u16) -> Endpoint {
        Endpoint::new(self.address, port)
    }

    pub fn listen(&self, port: u16, backlog: i32) -> Arc<TcpSocket> {
        let socket = TcpSocket::new(&self.stack);
        socket.bind(Endpoint::new(Ipv4Addr::UNSPECIFIED, port), 0).unwrap();
        socket.listen(backlog, 0).unwrap();
        socket
    }

    /// A frame arrives.
    pub fn receive(&self, frame: &[u8]) {
        self.stack.receive(&self.link, Frame::from_vec(frame.to_vec(), RxChecksum::Unknown));
        self.stack.finish(&self.link);
    }

    /// What it has sent since the last time.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut *self.cable.sent.lock().unwrap())
    }
}

/// Chances in a thousand of what happens to a frame.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    pub loss: u64,
    pub repeat: u64,
    pub delay: u64,
    pub damage: u64,
}

/// Two hosts and the wire between them.
pub struct Network {
    pub a: Host,
    pub b: Host,
    pub weather: Weather,
    /// Every frame that was on the wire.
    pub log: VecDeque<Vec<u8>>,
    random: u64,
    in_flight: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
    count: u64,
}

impl Network {
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self {
            a: Host::new(1, true),
            b: Host::new(2, false),
            weather,
            log: VecDeque::new(),
            random: seed | 1,
            in_flight: BTreeMap::new(),
            count: 0,
        }
    }

    pub fn calm() -> Self {
        Self::new(1, Weather::default())
    }

    fn chance(&mut self, in_thousand: u64) -> bool {
        // xorshift64 (Marsaglia 2003).
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < in_thousand
    }

    fn collect(&mut self) {
        for (to, frames) in [(1, self.a.sent()), (0, self.b.sent())] {
            for mut frame in frames {
                self.log.push_back(frame.clone());
                if self.log.len() > 10_000 {
                    self.log.pop_front();
                }
                if self.chance(self.weather.loss) {
                    continue;
                }
                if self.chance(self.weather.damage) {
                    let at = self.random as usize % frame.len();
                    frame[at] ^= 1 << (self.random % 8);
                }
                let copies = 1 + usize::from(self.chance(self.weather.repeat));
                for _ in 0..copies {
                    let late = if self.chance(self.weather.delay) { 3 * MILLISECOND } else { 0 };
                    self.count += 1;
                    let due = clock() + MILLISECOND / 10 + late;
                    self.in_flight.insert((due, self.count), (to, frame.clone()));
                }
            }
        }
    }

    /// Lets time pass until `done`, or until nothing can happen any more, or for `limit`. Whether it was done.
    pub fn run_until(&mut self, limit: u64, mut done: impl FnMut() -> bool) -> bool {
        let end = clock() + limit;
        let (mut rounds, mut last) = (0, 0);
        loop {
            rounds = if clock() == last { rounds + 1 } else { 0 };
            last = clock();
            assert!(rounds < 1000, "time does not advance beyond {}", clock());
            self.collect();
            if done() {
                return true;
            }
            let arrival = self.in_flight.first_key_value().map_or(u64::MAX, |(key, _)| key.0);
            let timer = self.a.stack.deadline().min(self.b.stack.deadline());
            let next = arrival.min(timer).max(clock());
            if next > end {
                CLOCK.set(end);
                return done();
            }
            CLOCK.set(next);
            while let Some(entry) = self.in_flight.first_entry()
                && entry.key().0 <= next
            {
                let (to, frame) = entry.remove();
                [&self.a, &self.b][to].receive(&frame);
            }
            for host in [&self.a, &self.b] {
                if host.stack.deadline() <= next {
                    host.stack.expire();
                }
            }
        }
    }

    pub fn run(&mut self, time: u64) {
        self.run_until(time, || false);
    }

    /// A connection from `a` to a listener of `b`: both ends, and the listener.
    pub fn connection(&mut self, port: u16) -> (Arc<TcpSocket>, Arc<TcpSocket>, Arc<TcpSocket>) {
        let listener = self.b.listen(port, 16);
        // In bad weather even the neighbour may seem not to be there.
        for _ in 0..5 {
            let client = TcpSocket::new(&self.a.stack);
            assert_eq!(client.connect(self.b.at(port)), Err(Errno::EINPROGRESS));
            let (waiting, opening) = (listener.clone(), client.clone());
            let failed = || opening.view().state == smoltcp::socket::tcp::State::Closed;
            assert!(self.run_until(250 * SECOND, || !waiting.poll().is_empty() || failed()));
            if let Ok(server) = listener.accept() {
                return (client, server, listener);
            }
        }
        panic!("not established")
    }
}

/// Writes as much of `data` as is taken now.
pub fn write(socket: &TcpSocket, data: &[u8]) -> Result<usize, Errno> {
    socket.write(&mut WriteBuf::kernel(data), false)
}

/// Reads what is there now.
pub fn read(socket: &TcpSocket) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; 1 << 20];
    let count = socket.read(&mut ReadBuf::kernel(&mut bytes), false, false)?;
    bytes.truncate(count);
    Ok(bytes)
}
