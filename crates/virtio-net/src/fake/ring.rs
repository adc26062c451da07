//! The device's side of a split virtqueue (VIRTIO 2.7).

use hw::fake::FakeMemory;

/// A buffer that the driver made available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    pub id: u16,
    pub address: u64,
    pub length: u32,
    pub device_writes: bool,
}

/// A queue as the device sees it.
pub struct DeviceRing {
    memory: FakeMemory,
    descriptors: u64,
    available: u64,
    used: u64,
    size: u16,
    event_index: bool,
    next_available: u16,
    next_used: u16,
    signalled: u16,
}

impl DeviceRing {
    pub fn new(memory: FakeMemory, addresses: [u64; 3], size: u16, event_index: bool) -> Self {
        let [descriptors, available, used] = addresses;
        let mut ring = Self {
            memory,
            descriptors,
            available,
            used,
            size,
            event_index,
            next_available: 0,
            next_used: 0,
            signalled: 0,
        };
        ring.want_notification(true);
        ring
    }

    /// How many buffers the driver made available that the device has not taken yet.
    pub fn waiting(&self) -> u16 {
        self.read_u16(self.available + 2).wrapping_sub(self.next_available)
    }

    /// Takes the next buffer.
    pub fn take(&mut self) -> Option<Available> {
        if self.waiting() == 0 {
            return None;
        }
        assert!(self.waiting() <= self.size, "the driver makes no more available than there are descriptors");
        let position = u64::from(self.next_available % self.size);
        let id = self.read_u16(self.available + 4 + 2 * position);
        self.next_available = self.next_available.wrapping_add(1);
        let entry = self.descriptors + 16 * u64::from(id);
        let flags = self.read_u16(entry + 12);
        assert_eq!(flags & !2, 0, "the driver uses no chains");
        Some(Available {
            id,
            address: self.memory.read_u64(entry).unwrap(),
            length: self.memory.read_u32(entry + 8).unwrap(),
            device_writes: flags & 2 != 0,
        })
    }

    /// Gives a buffer back.
    pub fn complete(&mut self, id: u32, length: u32) {
        self.complete_all(&[(id, length)]);
    }

    /// Gives several buffers back at once.
    pub fn complete_all(&mut self, buffers: &[(u32, u32)]) {
        for &(id, length) in buffers {
            let entry = self.used + 4 + 8 * u64::from(self.next_used % self.size);
            self.memory.write(entry, &id.to_le_bytes()).unwrap();
            self.memory.write(entry + 4, &length.to_le_bytes()).unwrap();
            self.next_used = self.next_used.wrapping_add(1);
        }
        self.set_used_index(self.next_used);
    }

    /// Claims to have come to `index`.
    pub fn set_used_index(&mut self, index: u16) {
        self.next_used = index;
        self.memory.write(self.used + 2, &index.to_le_bytes()).unwrap();
    }

    /// Where the next completion goes.
    pub fn used_index(&self) -> u16 {
        self.next_used
    }

    /// Says whether to be notified of the next buffer.
    pub fn want_notification(&mut self, wanted: bool) {
        if self.event_index {
            let event = if wanted { self.next_available } else { self.next_available.wrapping_sub(1) };
            let place = self.used + 4 + 8 * u64::from(self.size);
            self.memory.write(place, &event.to_le_bytes()).unwrap();
        } else {
            self.memory.write(self.used, &u16::from(!wanted).to_le_bytes()).unwrap();
        }
    }

    /// Whether the driver wants to be interrupted for what was given back since the last call.
    pub fn wants_interrupt(&mut self) -> bool {
        let (new, old) = (self.next_used, core::mem::replace(&mut self.signalled, self.next_used));
        if !self.event_index {
            return new != old && self.read_u16(self.available) & 1 == 0;
        }
        let event = self.read_u16(self.available + 4 + 2 * u64::from(self.size));
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    fn read_u16(&self, bus: u64) -> u16 {
        self.memory.read_u16(bus).unwrap()
    }
}
