//! A model of the device, for the tests of the driver: registers as in VIRTIO 4.1, and two queues.
//!
//! It can be made to misbehave: its fields and its rings are open to the tests.

mod ring;

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use hw::fake::{FakeIrq, FakeMemory, FakePci, Registers};
use hw::pci::PciId;
use hw::{Message, Width};

pub use ring::DeviceRing;

use crate::spec::{Features, capability, common, isr, net, status};
use crate::{header, spec};

/// The base address registers of the model, and where the structures are in the second.
const MSIX_BAR: u8 = 1;
const BAR: u8 = 4;
const COMMON: usize = 0x0000;
const ISR: usize = 0x1000;
const DEVICE: usize = 0x2000;
const NOTIFY: usize = 0x3000;
const MULTIPLIER: usize = 4;
/// Where the MSI-X capability is in configuration space.
pub const MSIX_CAPABILITY: u8 = 0x98;

pub const MAC: [u8; 6] = [0x56, 0xb4, 0x44, 0xe9, 0x62, 0xd0];

/// One queue as the registers show it.
#[derive(Default)]
pub struct QueueRegisters {
    pub size: u16,
    vector: u16,
    enabled: bool,
    notify_offset: u16,
    addresses: [u64; 3],
    pub ring: Option<DeviceRing>,
}

/// The device.
pub struct Model {
    memory: FakeMemory,
    irq: FakeIrq,
    pub offered: Features,
    pub accepted: u64,
    pub status: u8,
    pub config: [u8; 24],
    pub queues: [QueueRegisters; 2],
    /// The queue numbers written to the notification area.
    pub notifications: Vec<u16>,
    /// The device ignores resets.
    pub never_resets: bool,
    /// The device does not keep FEATURES_OK.
    pub refuses_features: bool,
    /// The device has no room for interrupt vectors.
    pub refuses_vectors: bool,
    /// The configuration changes whenever it is looked at.
    pub restless: bool,
    pub isr: u8,
    generation: u8,
    config_vector: u16,
    feature_select: [u32; 2],
    queue_select: u16,
    msix: HashMap<usize, u32>,
}

impl Model {
    fn reset(&mut self) {
        self.status = 0;
        self.accepted = 0;
        self.isr = 0;
        self.config_vector = common::NO_VECTOR;
        for queue in &mut self.queues {
            *queue = QueueRegisters {
                size: queue.size,
                notify_offset: queue.notify_offset,
                vector: common::NO_VECTOR,
                ..QueueRegisters::default()
            };
        }
    }

    fn selected(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select))
    }

    fn read_common(&mut self, field: usize) -> u64 {
        let select = self.feature_select;
        match field {
            common::DEVICE_FEATURE => self.offered.bits() >> (32 * select[0]),
            common::DRIVER_FEATURE => self.accepted >> (32 * select[1]),
            common::CONFIG_MSIX_VECTOR => self.config_vector.into(),
            common::DEVICE_STATUS => self.status.into(),
            common::CONFIG_GENERATION => {
                self.generation = self.generation.wrapping_add(self.restless.into());
                self.generation.into()
            }
            _ => self.selected().map_or(0, |queue| match field {
                common::QUEUE_SIZE => queue.size.into(),
                common::QUEUE_MSIX_VECTOR => queue.vector.into(),
                common::QUEUE_ENABLE => queue.enabled.into(),
                common::QUEUE_NOTIFY_OFF => queue.notify_offset.into(),
                _ => panic!("the driver reads {field} of the common configuration"),
            }),
        }
    }

    fn write_common(&mut self, field: usize, value: u64) {
        let vector = if self.refuses_vectors { common::NO_VECTOR } else { value as u16 };
        match field {
            common::DEVICE_FEATURE_SELECT => self.feature_select[0] = value as u32,
            common::DRIVER_FEATURE_SELECT => self.feature_select[1] = value as u32,
            common::DRIVER_FEATURE => self.accepted |= value << (32 * self.feature_select[1]),
            common::CONFIG_MSIX_VECTOR => self.config_vector = vector,
            common::DEVICE_STATUS => self.write_status(value as u8),
            common::QUEUE_SELECT => self.queue_select = value as u16,
            _ => self.write_queue(field, value, vector),
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            if !self.never_resets {
                self.reset();
            }
            return;
        }
        assert_eq!(self.status & !value & 0xf, 0, "the driver takes back a status bit");
        let refused = if self.refuses_features { status::FEATURES_OK } else { 0 };
        self.status = value & !refused;
    }

    fn write_queue(&mut self, field: usize, value: u64, vector: u16) {
        let event_index = self.accepted & Features::EVENT_IDX.bits() != 0;
        let memory = self.memory.clone();
        let Some(queue) = self.selected() else { return };
        match field {
            common::QUEUE_SIZE => queue.size = value as u16,
            common::QUEUE_MSIX_VECTOR => queue.vector = vector,
            common::QUEUE_ENABLE => {
                queue.enabled = true;
                queue.ring = Some(DeviceRing::new(memory, queue.addresses, queue.size, event_index));
            }
            field @ common::QUEUE_DESC..common::SIZE => {
                let address = &mut queue.addresses[(field - common::QUEUE_DESC) / 8];
                let shift = 8 * (field % 8);
                *address = *address & !(0xffff_ffff << shift) | value << shift;
            }
            _ => panic!("the driver writes {field} of the common configuration"),
        }
    }

    fn interrupt(&self, vector: u16) -> bool {
        if vector == common::NO_VECTOR {
            return self.irq.raise_line();
        }
        let word = |index| self.msix.get(&(usize::from(vector) * 16 + index)).copied().unwrap_or(0);
        assert_eq!(word(12), 0, "the driver left the entry masked");
        self.irq.raise(Message { address: u64::from(word(4)) << 32 | u64::from(word(0)), data: word(8) })
    }

    fn signal(&mut self, queue: usize) {
        let vector = self.queues[queue].vector;
        if self.ring(queue).wants_interrupt() {
            self.isr |= isr::QUEUE;
            assert!(self.interrupt(vector), "the vector of the queue is connected");
        }
    }

    /// The device's side of a queue.
    pub fn ring(&mut self, queue: usize) -> &mut DeviceRing {
        self.queues[queue].ring.as_mut().expect("the queue is enabled")
    }

    /// The device receives a frame, with this header before it. False when it has no buffer.
    pub fn deliver(&mut self, header: [u8; header::LENGTH], frame: &[u8]) -> bool {
        assert_ne!(self.status & status::DRIVER_OK, 0, "the driver is ready");
        let bytes = [&header[..], frame].concat();
        let Some(buffer) = self.ring(0).take() else { return false };
        assert!(bytes.len() <= buffer.length as usize, "the frame fits");
        self.memory.write(buffer.address, &bytes).unwrap();
        self.ring(0).complete(buffer.id.into(), bytes.len() as u32);
        self.signal(0);
        true
    }

    /// The device receives a frame and cuts it into pieces of `size` bytes, header included, a buffer each.
    pub fn deliver_in_pieces(&mut self, frame: &[u8], size: usize) {
        let pieces = (header::LENGTH + frame.len()).div_ceil(size);
        let bytes = [&plain(pieces as u16)[..], frame].concat();
        let mut used = Vec::new();
        for piece in bytes.chunks(size) {
            let buffer = self.ring(0).take().expect("a buffer for each piece");
            self.memory.write(buffer.address, piece).unwrap();
            used.push((u32::from(buffer.id), piece.len() as u32));
        }
        self.ring(0).complete_all(&used);
        self.signal(0);
    }

    /// The device sends all that it was given: headers and frames.
    pub fn sent(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(buffer) = self.ring(1).take() {
            let bytes = self.memory.read(buffer.address, buffer.length as usize).unwrap();
            sent.push((bytes[..header::LENGTH].to_vec(), bytes[header::LENGTH..].to_vec()));
            self.ring(1).complete(buffer.id.into(), 0);
        }
        self.signal(1);
        sent
    }

    /// The cable is plugged in or pulled out.
    pub fn set_link(&mut self, up: bool) {
        self.config[net::STATUS] = up.into();
        self.change_config();
    }

    /// The device reports that its configuration changed.
    pub fn change_config(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.isr |= isr::CONFIG;
        assert!(self.interrupt(self.config_vector), "the vector of the configuration is connected");
    }
}

/// The header of a complete frame that is spread over `buffers` buffers.
pub fn plain(buffers: u16) -> [u8; header::LENGTH] {
    let mut header = [0; header::LENGTH];
    header[10..].copy_from_slice(&buffers.to_le_bytes());
    header
}

impl Registers for Model {
    fn read(&mut self, bar: u8, offset: usize, width: Width) -> u64 {
        match (bar, offset) {
            (MSIX_BAR, _) => self.msix.get(&offset).copied().unwrap_or(0).into(),
            (BAR, COMMON..ISR) => self.read_common(offset),
            (BAR, ISR) => core::mem::take(&mut self.isr).into(),
            (BAR, DEVICE..NOTIFY) => {
                let start = offset - DEVICE;
                let bytes = &self.config[start..start + width.bytes()];
                bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
            }
            _ => panic!("the driver reads {offset:#x} of register window {bar}"),
        }
    }

    fn write(&mut self, bar: u8, offset: usize, _width: Width, value: u64) {
        match (bar, offset) {
            (MSIX_BAR, _) => {
                self.msix.insert(offset, value as u32);
            }
            (BAR, COMMON..ISR) => self.write_common(offset, value),
            (BAR, NOTIFY..) => {
                let queue = value as u16;
                let place = usize::from(self.queues[usize::from(queue)].notify_offset) * MULTIPLIER;
                assert_eq!(offset - NOTIFY, place, "the driver notifies where the queue wants it");
                self.notifications.push(queue);
            }
            _ => panic!("the driver writes {offset:#x} of register window {bar}"),
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
    /// A well-behaved device that offers everything the driver wants, with MSI-X.
    pub fn new() -> Self {
        let (memory, irq) = (FakeMemory::new(), FakeIrq::default());
        let mut config = [0; 24];
        config[..6].copy_from_slice(&MAC);
        config[net::STATUS] = 1;
        config[net::MTU..net::MTU + 2].copy_from_slice(&1500u16.to_le_bytes());
        let queue = |notify_offset| QueueRegisters { size: 8, notify_offset, ..QueueRegisters::default() };
        let model = Arc::new(Mutex::new(Model {
            memory: memory.clone(),
            irq: irq.clone(),
            offered: Features::all(),
            accepted: 0,
            status: 0xf,
            config,
            queues: [queue(3), queue(5)],
            notifications: Vec::new(),
            never_resets: false,
            refuses_features: false,
            refuses_vectors: false,
            restless: false,
            isr: 0,
            generation: 0,
            config_vector: common::NO_VECTOR,
            feature_select: [0; 2],
            queue_select: 0,
            msix: HashMap::new(),
        }));
        let id = PciId { vendor: spec::VENDOR, device: spec::DEVICE_MODERN };
        let pci = FakePci::with_registers(id, memory.clone(), irq.clone(), model.clone());
        let fake = Self { pci, memory, irq, model };
        fake.describe();
        fake
    }

    /// Fills the configuration space as QEMU does.
    fn describe(&self) {
        let config = &self.pci.config;
        config.add_memory_bar(MSIX_BAR, 0xfebd_0000, 0x1000);
        config.add_wide_bar(BAR, 0xfe00_0000, 0x4000);
        let structures = [
            (0x84, capability::COMMON, COMMON, 0x1000),
            (0x70, capability::ISR, ISR, 0x1000),
            (0x60, capability::DEVICE, DEVICE, 0x1000),
            (0x40, capability::NOTIFY, NOTIFY, 0x1000),
        ];
        for (place, kind, offset, length) in structures {
            let mut bytes = alloc::vec![9, 0, 20, kind, BAR, 0, 0, 0];
            bytes.extend((offset as u32).to_le_bytes());
            bytes.extend(u32::to_le_bytes(length));
            bytes.extend((MULTIPLIER as u32).to_le_bytes());
            config.add_capability(place, &bytes[..if kind == capability::NOTIFY { 20 } else { 16 }]);
        }
        config.add_capability(MSIX_CAPABILITY, &[0x11, 0, 2, 0, MSIX_BAR, 0, 0, 0, MSIX_BAR, 8, 0, 0]);
    }

    /// The model of the device.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }
}
