//! A model of the device, for the tests of the driver: both register windows, the shared area, and the four rings.
//!
//! It can be made to misbehave: its fields and its rings are open to the tests.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use hw::fake::{FakeIrq, FakeMemory, FakePci, Registers};
use hw::pci::PciId;
use hw::{Message, Width};

use crate::registers::{Command, pt, vd};

pub const MAC: [u8; 6] = [0x56, 0xb4, 0x44, 0xe9, 0x62, 0xd0];
const PT_BAR: u8 = 0;
const VD_BAR: u8 = 1;
const MSIX_BAR: u8 = 2;
/// Where the MSI-X capability is in configuration space.
pub const MSIX_CAPABILITY: u8 = 0x9c;

/// A frame that the device sent, with start and place of the checksum that it is to insert.
pub type Sent = (Vec<u8>, Option<(u32, u32)>);

/// A ring as the device sees it.
#[derive(Clone, Copy, Default)]
pub struct DeviceRing {
    base: u64,
    size: u32,
    pub next: u32,
    generation: bool,
}

impl DeviceRing {
    fn entry(&self) -> u64 {
        self.base + 16 * u64::from(self.next)
    }

    fn advance(&mut self) {
        self.next += 1;
        if self.next == self.size {
            (self.next, self.generation) = (0, !self.generation);
        }
    }
}

/// The device.
pub struct Model {
    memory: FakeMemory,
    irq: FakeIrq,
    pub mac: [u8; 6],
    pub revisions: [u32; 2],
    /// The device does not start.
    pub refuses: bool,
    /// The device was pulled out.
    pub gone: bool,
    /// The device masks vectors by which it interrupts.
    pub auto_masks: bool,
    /// Where MSI goes, once enabled.
    pub message: Option<Message>,
    pub active: bool,
    /// How often each register of the first window was written.
    pub writes: BTreeMap<usize, usize>,
    shared: u64,
    result: u32,
    link: bool,
    stopped: bool,
    line: bool,
    masked: [bool; 3],
    pending: [bool; 3],
    msix: BTreeMap<usize, u32>,
    pub heads: DeviceRing,
    pub received: DeviceRing,
    pub commands: DeviceRing,
    pub sent: DeviceRing,
    /// The vectors of received and sent frames and of events.
    vectors: [usize; 3],
}

impl Model {
    fn word(&self, offset: u64) -> u32 {
        self.memory.read_u32(self.shared + offset).unwrap()
    }

    fn byte(&self, address: u64) -> u8 {
        self.memory.read(address, 1).unwrap()[0]
    }

    fn ring(&self, queue: u64, address: u64, size: u64) -> DeviceRing {
        let base = self.memory.read_u64(queue + address).unwrap();
        let size = self.memory.read_u32(queue + size).unwrap();
        assert!(
            base.is_multiple_of(512) && size > 0 && size.is_multiple_of(32),
            "alignment and size of a ring"
        );
        DeviceRing { base, size, next: 0, generation: true }
    }

    fn activate(&mut self) -> u32 {
        if self.refuses || self.word(0) != 0xbabe_fee1 {
            return 1;
        }
        let mtu = self.word(56);
        assert!((60..=9000).contains(&mtu), "the MTU is one that a device takes");
        assert_eq!([62, 63].map(|count| self.byte(self.shared + count)), [1, 1], "one queue of each kind");
        let queues = self.memory.read_u64(self.shared + 40).unwrap();
        assert_eq!(queues % 128, 0);
        let (transmit, receive) = (queues, queues + 256);
        self.commands = self.ring(transmit, 16, 56);
        self.sent = self.ring(transmit, 32, 64);
        self.heads = self.ring(receive, 16, 56);
        self.ring(receive, 24, 60);
        self.received = self.ring(receive, 32, 64);
        assert!(self.received.size > self.heads.size, "room for a completion of every buffer");
        let vector = |address| usize::from(self.byte(address));
        self.vectors = [vector(receive + 72), vector(transmit + 72), vector(self.shared + 82)];
        assert!(self.vectors.iter().all(|&vector| vector < usize::from(self.byte(self.shared + 81))));
        assert_eq!(self.byte(self.shared + 80), self.auto_masks.into());
        self.active = true;
        0
    }

    fn reset(&mut self) {
        (self.active, self.masked, self.pending, self.line) = (false, [true; 3], [false; 3], false);
    }

    fn command(&mut self, command: u32) {
        let known = [
            Command::Activate,
            Command::Quiesce,
            Command::Reset,
            Command::GetQueueStatus,
            Command::GetLink,
            Command::GetPermanentMacLow,
            Command::GetPermanentMacHigh,
            Command::GetInterruptConfiguration,
        ];
        let command =
            known.into_iter().find(|&known| known as u32 == command).expect("a command that exists");
        let [a, b, c, d, e, f] = self.mac;
        self.result = match command {
            Command::Activate => self.activate(),
            Command::Quiesce | Command::Reset => {
                self.reset();
                0
            }
            Command::GetQueueStatus => {
                let queues = self.memory.read_u64(self.shared + 40).unwrap();
                self.memory.write(queues + 80, &[self.stopped.into()]).unwrap();
                0
            }
            Command::GetLink => 10_000 << 16 | u32::from(self.link),
            Command::GetPermanentMacLow => u32::from_le_bytes([a, b, c, d]),
            Command::GetPermanentMacHigh => u32::from_le_bytes([e, f, 0, 0]),
            Command::GetInterruptConfiguration => u32::from(!self.auto_masks) << 2,
        };
    }

    /// Interrupts by a vector, unless it is masked; then later.
    fn interrupt(&mut self, vector: usize) {
        self.pending[vector] = true;
        let off = self.word(108) & 1 == 1;
        if self.masked[vector] || off {
            return;
        }
        self.pending[vector] = false;
        self.masked[vector] = self.auto_masks;
        if let Some(message) = self.message {
            return assert!(self.irq.raise(message), "the message is connected");
        }
        let word = |index| self.msix.get(&(vector * 16 + index)).copied().unwrap_or(0);
        if word(0) == 0 {
            self.line = true;
            return assert!(self.irq.raise_line(), "the pin is connected");
        }
        let message = Message { address: word(0).into(), data: word(8) };
        assert!(word(12) == 0 && self.irq.raise(message), "the vector is connected");
    }

    fn complete(ring: &mut DeviceRing, memory: &FakeMemory, words: [u32; 4]) {
        let mark = u32::from(ring.generation) << 31;
        let words = [words[0], words[1], words[2], words[3] | mark];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.write(ring.entry(), &bytes).unwrap();
        ring.advance();
    }

    /// The device reports a receive completion: first, third and fourth word.
    pub fn report_received(&mut self, words: [u32; 3]) {
        let words = [words[0], 0, words[1], words[2]];
        Self::complete(&mut self.received, &self.memory, words);
        self.interrupt(self.vectors[0]);
    }

    /// The device reports that the frame of a descriptor is sent.
    pub fn report_sent(&mut self, descriptor: u32) {
        Self::complete(&mut self.sent, &self.memory, [descriptor, 0, 0, 0]);
        self.interrupt(self.vectors[1]);
    }

    /// Takes a receive buffer and fills it; its number. `None` when there is no buffer.
    fn fill(&mut self, bytes: &[u8]) -> Option<u32> {
        let control = self.memory.read_u32(self.heads.entry() + 8).unwrap();
        if !self.active || (control >> 31 == 1) != self.heads.generation {
            return None;
        }
        let address = self.memory.read_u64(self.heads.entry()).unwrap();
        assert!(bytes.len() <= (control & 0x3fff) as usize && control >> 14 & 0x1ffff == 0);
        self.memory.write(address, bytes).unwrap();
        let index = self.heads.next;
        self.heads.advance();
        Some(index)
    }

    /// The device receives a frame, with these bits in the last word of its completion. False when it has no buffer.
    pub fn deliver_with(&mut self, frame: &[u8], last: u32) -> bool {
        let Some(index) = self.fill(frame) else { return false };
        self.report_received([index | 0xc000, frame.len() as u32, last]);
        true
    }

    /// The device receives a frame.
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        self.deliver_with(frame, 0)
    }

    /// The device leaves out a buffer.
    pub fn leave_out(&mut self) {
        self.fill(&[]).expect("there is a buffer");
    }

    /// The device sends all that it was given.
    pub fn send(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        loop {
            let entry = self.commands.entry();
            let (control, offload) =
                (self.memory.read_u32(entry + 8).unwrap(), self.memory.read_u32(entry + 12).unwrap());
            if (control >> 14 & 1 == 1) != self.commands.generation {
                return sent;
            }
            assert_eq!(offload & 0x3000, 0x3000, "a whole frame, with a completion");
            let address = self.memory.read_u64(entry).unwrap();
            let frame = self.memory.read(address, (control & 0x3fff) as usize).unwrap();
            let checksum = (offload >> 10 & 3 == 2).then_some((offload & 0x3ff, control >> 18));
            sent.push((frame, checksum));
            let index = self.commands.next;
            self.commands.advance();
            self.report_sent(index);
        }
    }

    /// How often the driver wrote a register of the first window.
    pub fn told(&self, register: usize) -> usize {
        self.writes.get(&register).copied().unwrap_or(0)
    }

    fn report_event(&mut self, event: u32) {
        let events = self.word(696) | event;
        self.memory.write(self.shared + 696, &events.to_le_bytes()).unwrap();
        self.interrupt(self.vectors[2]);
    }

    /// The cable is plugged in or pulled out.
    pub fn set_link(&mut self, up: bool) {
        self.link = up;
        self.report_event(1 << 2);
    }

    /// A queue has an error, by which it is stopped or not.
    pub fn queue_error(&mut self, stopped: bool) {
        self.stopped = stopped;
        self.report_event(1 << 1);
    }

    /// The device says whether it wants to hear of filled receive descriptors.
    pub fn want_producer(&mut self) {
        let queues = self.memory.read_u64(self.shared + 40).unwrap();
        self.memory.write(queues + 256, &[1]).unwrap();
    }

    fn write_pt(&mut self, offset: usize, value: u32) {
        *self.writes.entry(offset).or_default() += 1;
        match offset {
            pt::TXPROD => assert_eq!(u64::from(value) * 16 + self.commands.base, self.first_unfilled()),
            pt::RXPROD => assert!(value < self.heads.size),
            _ => {
                let vector = offset / pt::STRIDE;
                self.masked[vector] = value != 0;
                if self.pending[vector] {
                    self.interrupt(vector);
                }
            }
        }
    }

    /// The first transmit descriptor that the driver has not filled.
    fn first_unfilled(&self) -> u64 {
        let mut ring = self.commands;
        let filled = |ring: &DeviceRing| {
            (self.memory.read_u32(ring.entry() + 8).unwrap() >> 14 & 1 == 1) == ring.generation
        };
        while filled(&ring) {
            ring.advance();
        }
        ring.entry()
    }

    fn write_vd(&mut self, offset: usize, value: u64) {
        match offset {
            vd::VRRS | vd::UVRS => assert_eq!(value, 1),
            vd::DSAL => self.shared = self.shared & !0xffff_ffff | value,
            vd::DSAH => self.shared = self.shared & 0xffff_ffff | value << 32,
            vd::CMD => self.command(value as u32),
            vd::MACL | vd::MACH => {}
            vd::ECR => {
                let events = self.word(696) & !(value as u32);
                self.memory.write(self.shared + 696, &events.to_le_bytes()).unwrap();
            }
            _ => panic!("the driver writes {offset:#x} of the second window"),
        }
    }
}

impl Registers for Model {
    fn read(&mut self, bar: u8, offset: usize, _width: Width) -> u64 {
        if self.gone {
            return u64::MAX;
        }
        match (bar, offset) {
            (VD_BAR, vd::VRRS) => self.revisions[0].into(),
            (VD_BAR, vd::UVRS) => self.revisions[1].into(),
            (VD_BAR, vd::CMD) => self.result.into(),
            (VD_BAR, vd::ICR) => core::mem::take(&mut self.line).into(),
            _ => panic!("the driver reads {offset:#x} of window {bar}"),
        }
    }

    fn write(&mut self, bar: u8, offset: usize, width: Width, value: u64) {
        assert_eq!(width, Width::Four);
        match bar {
            _ if self.gone => {}
            PT_BAR => self.write_pt(offset, value as u32),
            VD_BAR => self.write_vd(offset, value),
            _ => {
                self.msix.insert(offset, value as u32);
            }
        }
    }
}

/// A device with all that belongs to it.
pub struct Fake {
    pub pci: FakePci,
    pub memory: FakeMemory,
    pub irq: FakeIrq,
    model: Arc<Mutex<Model>>,
}

impl Fake {
    /// A well-behaved device with MSI-X.
    pub fn new() -> Self {
        let (memory, irq) = (FakeMemory::new(), FakeIrq::default());
        let model = Arc::new(Mutex::new(Model {
            memory: memory.clone(),
            irq: irq.clone(),
            mac: MAC,
            revisions: [7, 1],
            refuses: false,
            gone: false,
            auto_masks: true,
            message: None,
            active: false,
            writes: BTreeMap::new(),
            shared: 0,
            result: 0,
            link: true,
            stopped: false,
            line: false,
            masked: [true; 3],
            pending: [false; 3],
            msix: BTreeMap::new(),
            heads: DeviceRing::default(),
            received: DeviceRing::default(),
            commands: DeviceRing::default(),
            sent: DeviceRing::default(),
            vectors: [0; 3],
        }));
        let id = PciId { vendor: 0x15ad, device: 0x07b0 };
        let pci = FakePci::with_registers(id, memory.clone(), irq.clone(), model.clone());
        pci.config.add_memory_bar(PT_BAR, 0xfebd_0000, 0x1000);
        pci.config.add_memory_bar(VD_BAR, 0xfebd_1000, 0x1000);
        pci.config.add_memory_bar(MSIX_BAR, 0xfebd_2000, 0x2000);
        let msix = [0x11, 0, 24, 0, MSIX_BAR, 0, 0, 0, MSIX_BAR, 0x10, 0, 0];
        pci.config.add_capability(MSIX_CAPABILITY, &msix);
        Self { pci, memory, irq, model }
    }

    /// The model of the device.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }
}
