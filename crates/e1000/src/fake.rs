//! A model of the device, for the tests of the driver: the registers that it uses, and both rings.
//!
//! It can be made to misbehave: its fields and its rings are open to the tests.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use hw::fake::{FakeIrq, FakeMemory, FakePci, Registers};
use hw::pci::PciId;
use hw::{Message, Width};

use crate::registers::*;

pub const MAC: [u8; 6] = [0x56, 0xb4, 0x44, 0xe9, 0x62, 0xd0];
const DONE: u8 = 1;
const LAST: u8 = 2;

/// The device.
pub struct Model {
    memory: FakeMemory,
    irq: FakeIrq,
    registers: BTreeMap<usize, u32>,
    pub eeprom: [u16; 3],
    /// Whether the reset loads the address into the filter.
    pub loads_filter: bool,
    /// The device stays in reset.
    pub never_resets: bool,
    /// The EEPROM does not answer.
    pub no_eeprom: bool,
    /// The device was pulled out.
    pub gone: bool,
    /// Where MSI goes, once enabled.
    pub message: Option<Message>,
    /// How often each register was written.
    pub writes: BTreeMap<usize, usize>,
    cause: u32,
    mask: u32,
    /// TUCSS and TUCSO.
    context: (usize, usize),
}

impl Model {
    pub fn get(&self, register: usize) -> u32 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    pub fn set(&mut self, register: usize, value: u32) {
        self.registers.insert(register, value);
    }

    fn reset(&mut self) {
        if self.never_resets {
            return;
        }
        self.registers.clear();
        (self.cause, self.mask) = (0, 0);
        self.set(STATUS, status::LU);
        if self.loads_filter {
            self.set(RAL0, u32::from_le_bytes([MAC[0], MAC[1], MAC[2], MAC[3]]));
            self.set(RAH0, u32::from_le_bytes([MAC[4], MAC[5], 0, 0]) | rah::AV);
        }
    }

    fn base(&self, low: usize) -> u64 {
        u64::from(self.get(low + 4)) << 32 | u64::from(self.get(low))
    }

    fn ring_size(&self, length: usize) -> u32 {
        let bytes = self.get(length);
        assert_eq!(bytes % 128, 0, "rings have a multiple of eight descriptors");
        bytes / 16
    }

    /// Reports causes, and interrupts if one of them is not masked.
    pub fn report(&mut self, causes: u32) {
        self.cause |= causes;
        if causes & self.mask != 0 {
            match self.message {
                Some(message) => assert!(self.irq.raise(message), "the message is connected"),
                None => assert!(self.irq.raise_line(), "the pin is connected"),
            }
        }
    }

    /// The address of the receive descriptor that the device fills next; `None` when it has none.
    pub fn next_receive(&self) -> Option<u64> {
        let head = self.get(RDH);
        (self.get(RCTL) & rctl::EN != 0 && head != self.get(RDT))
            .then(|| self.base(RDBAL) + 16 * u64::from(head))
    }

    /// The device writes a receive descriptor back.
    pub fn write_back(&mut self, length: u16, status: u8, errors: u8) {
        let entry = self.next_receive().expect("there is a descriptor");
        let [low, high] = length.to_le_bytes();
        self.memory.write(entry + 8, &[low, high, 0, 0, status, errors, 0, 0]).unwrap();
        self.set(RDH, (self.get(RDH) + 1) % self.ring_size(RDLEN));
        self.report(interrupt::RXT0);
    }

    /// The device claims to have filled every descriptor, also the one that it does not own.
    pub fn mark_all_done(&mut self, length: u8) {
        for index in 0..self.ring_size(RDLEN) {
            let entry = self.base(RDBAL) + 16 * u64::from(index);
            self.memory.write(entry + 8, &[length, 0, 0, 0, DONE | LAST, 0, 0, 0]).unwrap();
        }
    }

    /// The device receives a frame, with these bits of status and errors. False when it has no descriptor.
    pub fn deliver_with(&mut self, frame: &[u8], status: u8, errors: u8) -> bool {
        let Some(entry) = self.next_receive() else {
            self.report(interrupt::RXO);
            return false;
        };
        assert!(frame.len() <= 2048);
        let buffer = self.memory.read_u64(entry).unwrap();
        self.memory.write(buffer, frame).unwrap();
        self.write_back(frame.len() as u16, status, errors);
        true
    }

    /// The device receives a frame.
    pub fn deliver(&mut self, frame: &[u8]) -> bool {
        self.deliver_with(frame, DONE | LAST, 0)
    }

    /// The device receives a frame that is spread over several descriptors.
    pub fn deliver_in_pieces(&mut self, pieces: &[&[u8]]) {
        for (index, piece) in pieces.iter().enumerate() {
            let last = if index + 1 == pieces.len() { LAST } else { 0 };
            assert!(self.deliver_with(piece, DONE | last, 0));
        }
    }

    /// The device sends all that it was given.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        assert_ne!(self.get(TCTL) & tctl::EN, 0, "the transmitter is on");
        while self.get(TDH) != self.get(TDT) {
            let entry = self.base(TDBAL) + 16 * u64::from(self.get(TDH));
            let (address, control) =
                (self.memory.read_u64(entry).unwrap(), self.memory.read_u64(entry + 8).unwrap());
            assert_eq!(control >> 24 & 0x28, 0x28, "extended, and its status is wanted");
            assert_eq!(control >> 32 & 0xff, 0, "the status is clear");
            match control >> 20 & 0xf {
                0 => self.context = (address as usize >> 32 & 0xff, address as usize >> 40 & 0xff),
                1 => sent.push(self.frame(address, control)),
                other => panic!("descriptor type {other}"),
            }
            self.memory.write(entry + 12, &[DONE]).unwrap();
            self.set(TDH, (self.get(TDH) + 1) % self.ring_size(TDLEN));
            self.report(interrupt::TXDW);
        }
        sent
    }

    /// The frame of a data descriptor, with its checksum inserted if that is wanted.
    fn frame(&self, address: u64, control: u64) -> Vec<u8> {
        assert_eq!(control >> 24 & 3, 3, "a whole frame, with its check sequence");
        let mut frame = self.memory.read(address, control as usize & 0xf_ffff).unwrap();
        if control >> 41 & 1 == 1 {
            let (start, place) = self.context;
            let words = frame[start..].chunks(2);
            let mut sum: u32 =
                words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
            while sum >> 16 != 0 {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            frame[place..place + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        frame
    }

    /// The cable is plugged in or pulled out.
    pub fn set_link(&mut self, up: bool) {
        self.set(STATUS, if up { status::LU } else { 0 });
        self.report(interrupt::LSC);
    }
}

impl Registers for Model {
    fn read(&mut self, bar: u8, offset: usize, width: Width) -> u64 {
        assert_eq!((bar, width), (BAR, Width::Four));
        if self.gone {
            return u64::MAX;
        }
        match offset {
            ICR => core::mem::take(&mut self.cause).into(),
            _ => self.get(offset).into(),
        }
    }

    fn write(&mut self, bar: u8, offset: usize, width: Width, value: u64) {
        assert_eq!((bar, width), (BAR, Width::Four));
        let value = value as u32;
        *self.writes.entry(offset).or_default() += 1;
        match offset {
            IMS => {
                self.mask |= value;
                let pending = self.cause;
                self.report(pending);
            }
            IMC => self.mask &= !value,
            CTRL if value & ctrl::RST != 0 => {
                self.set(CTRL, value);
                self.reset();
            }
            EERD if !self.no_eeprom => {
                let word = self.eeprom[(value >> eerd::ADDRESS_SHIFT) as usize & 0xff];
                self.set(EERD, eerd::DONE | u32::from(word) << eerd::DATA_SHIFT);
            }
            _ => self.set(offset, value),
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
    /// A well-behaved 82540EM with a pin.
    pub fn new() -> Self {
        let (memory, irq) = (FakeMemory::new(), FakeIrq::default());
        let model = Arc::new(Mutex::new(Model {
            memory: memory.clone(),
            irq: irq.clone(),
            registers: BTreeMap::new(),
            eeprom: [0xb456, 0xe944, 0xd062],
            loads_filter: true,
            never_resets: false,
            no_eeprom: false,
            gone: false,
            message: None,
            writes: BTreeMap::new(),
            cause: 0,
            mask: u32::MAX,
            context: (0, 0),
        }));
        let id = PciId { vendor: 0x8086, device: 0x100e };
        let pci = FakePci::with_registers(id, memory.clone(), irq.clone(), model.clone());
        pci.config.add_memory_bar(0, 0xfeb8_0000, 0x2_0000);
        Self { pci, memory, irq, model }
    }

    /// The model of the device.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }
}
