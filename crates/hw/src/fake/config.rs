//! A configuration space in memory, with base address registers that answer to sizing.

use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use crate::Width;
use crate::pci::{PciConfig, PciId};

const STATUS: usize = 0x06;
const BARS: core::ops::Range<usize> = 0x10..0x28;
const LIST: usize = 0x34;

/// The configuration space of one function. Clones share it.
#[derive(Clone, Debug)]
pub struct FakeConfig {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    bytes: [u8; 256],
    /// For each base address register: the bits that can be written, and those that are fixed.
    bars: [(u32, u32); 6],
    sized_while_decoding: Vec<u8>,
}

impl State {
    fn word(&self, offset: usize) -> u32 {
        u32::from_le_bytes(core::array::from_fn(|index| self.bytes[offset + index]))
    }

    fn set_word(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn write_bar(&mut self, offset: usize, value: u32) {
        let slot = (offset - BARS.start) / 4;
        let (writable, fixed) = self.bars[slot];
        if value == u32::MAX && self.bytes[4] & 3 != 0 {
            self.sized_while_decoding.push(slot as u8);
        }
        self.set_word(offset, value & writable | fixed);
    }
}

impl FakeConfig {
    /// An empty configuration space of this identity.
    pub fn new(id: PciId) -> Self {
        let mut state = State { bytes: [0; 256], bars: [(0, 0); 6], sized_while_decoding: Vec::new() };
        state.set_word(0, u32::from(id.device) << 16 | u32::from(id.vendor));
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn add_bar(&self, index: u8, writable: u32, fixed: u32, value: u32) {
        let mut state = self.state.lock().unwrap();
        state.bars[usize::from(index)] = (writable, fixed);
        state.set_word(BARS.start + 4 * usize::from(index), value | fixed);
    }

    /// Adds a 32-bit memory register.
    pub fn add_memory_bar(&self, index: u8, address: u32, size: u32) {
        self.add_bar(index, !(size - 1), 0, address);
    }

    /// Adds a 64-bit, prefetchable memory register; its upper half only where there is a slot for it.
    pub fn add_wide_bar(&self, index: u8, address: u64, size: u64) {
        let writable = !(size - 1);
        self.add_bar(index, writable as u32, 0xc, address as u32);
        if index < 5 {
            self.add_bar(index + 1, (writable >> 32) as u32, 0, (address >> 32) as u32);
        }
    }

    /// Adds an I/O register.
    pub fn add_io_bar(&self, index: u8, port: u16, size: u16) {
        self.add_bar(index, (!(size - 1)).into(), 1, port.into());
    }

    /// Puts a capability (its second byte, the link, is filled in) at the front of the list.
    pub fn add_capability(&self, offset: u8, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let start = usize::from(offset);
        state.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        state.bytes[start + 1] = state.bytes[LIST];
        state.bytes[LIST] = offset;
        state.bytes[STATUS] |= 1 << 4;
    }

    /// The registers that were asked for their size while the function was decoding addresses: a driver error.
    pub fn sized_while_decoding(&self) -> Vec<u8> {
        self.state.lock().unwrap().sized_while_decoding.clone()
    }
}

impl PciConfig for FakeConfig {
    fn read(&self, offset: u16, width: Width) -> u32 {
        let (offset, bytes) = (usize::from(offset), width.bytes());
        if bytes > 4 || !offset.is_multiple_of(bytes) || offset + bytes > 256 {
            return u32::MAX;
        }
        let word = self.state.lock().unwrap().word(offset & !3);
        word >> (8 * (offset % 4)) & width.all_ones() as u32
    }

    fn write(&self, offset: u16, width: Width, value: u32) {
        let (offset, bytes) = (usize::from(offset), width.bytes());
        if bytes > 4 || !offset.is_multiple_of(bytes) || offset + bytes > 256 {
            return;
        }
        let mut state = self.state.lock().unwrap();
        let shift = 8 * (offset % 4);
        let mask = (width.all_ones() as u32) << shift;
        let word = state.word(offset & !3) & !mask | value << shift & mask;
        if BARS.contains(&offset) {
            state.write_bar(offset & !3, word);
        } else {
            state.set_word(offset & !3, word);
        }
    }
}
