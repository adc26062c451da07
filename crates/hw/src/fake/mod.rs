//! Stand-ins for the hardware, on the host, for the tests of drivers.
//!
//! [`FakePci`] is a whole function: give it the [`Registers`] that model the device, and it makes the
//! [`PciDevice`] that a driver is started with. The model reaches the driver's memory through [`FakeMemory`], as a device
//! does: by bus address, and only where memory is allocated.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::irq::{Irq, IrqError, Message};
use crate::mmio::Mmio;
use crate::pci::{Bar, BarMapper, PciDevice, PciError, PciId};
use crate::{Clock, Width};

mod config;
mod memory;

pub use config::FakeConfig;
pub use memory::{BusError, FakeMemory};

/// A clock that advances by a tenth of a millisecond whenever it is read, so that every wait ends.
#[derive(Debug, Default)]
pub struct FakeClock {
    ticks: AtomicU64,
}

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        Duration::from_micros(100 * self.ticks.fetch_add(1, Ordering::Relaxed))
    }
}

/// An interrupt controller that records.
#[derive(Clone, Debug, Default)]
pub struct FakeIrq {
    state: Arc<Mutex<IrqState>>,
}

#[derive(Debug)]
struct IrqState {
    vectors: Vec<u32>,
    vectors_left: usize,
    line: Option<u32>,
    pending: u32,
    raised: usize,
}

impl Default for IrqState {
    fn default() -> Self {
        Self { vectors: Vec::new(), vectors_left: 8, line: None, pending: 0, raised: 0 }
    }
}

impl FakeIrq {
    const ADDRESS: u64 = 0xfee0_0000;

    /// Lets only `count` more vectors be allocated.
    pub fn limit_vectors(&self, count: usize) {
        self.state.lock().unwrap().vectors_left = count;
    }

    /// The device writes `message`. False when that is no interrupt.
    pub fn raise(&self, message: Message) -> bool {
        let mut state = self.state.lock().unwrap();
        let causes = state.vectors.get(message.data as usize).copied();
        let Some(causes) = causes.filter(|_| message.address == Self::ADDRESS) else { return false };
        state.pending |= causes;
        state.raised += 1;
        true
    }

    /// The device asserts its pin. False when the pin is not connected.
    pub fn raise_line(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let Some(causes) = state.line else { return false };
        state.pending |= causes;
        state.raised += 1;
        true
    }

    /// The causes recorded since the last call.
    pub fn take_pending(&self) -> u32 {
        core::mem::take(&mut self.state.lock().unwrap().pending)
    }

    /// How many interrupts were raised so far.
    pub fn raised(&self) -> usize {
        self.state.lock().unwrap().raised
    }
}

impl Irq for FakeIrq {
    fn message(&self, causes: u32) -> Result<Message, IrqError> {
        let mut state = self.state.lock().unwrap();
        state.vectors_left = state.vectors_left.checked_sub(1).ok_or(IrqError::NoVector)?;
        state.vectors.push(causes);
        Ok(Message { address: Self::ADDRESS, data: state.vectors.len() as u32 - 1 })
    }

    fn line(&self, causes: u32) -> Result<(), IrqError> {
        self.state.lock().unwrap().line = Some(causes);
        Ok(())
    }
}

/// The registers of a modelled device. `bar` is the base address register through which they are accessed.
pub trait Registers: Send {
    /// The driver reads a register.
    fn read(&mut self, bar: u8, offset: usize, width: Width) -> u64;
    /// The driver writes a register.
    fn write(&mut self, bar: u8, offset: usize, width: Width, value: u64);
}

/// Registers that keep what is written to them.
#[derive(Debug, Default)]
pub struct PlainRegisters {
    bytes: std::collections::HashMap<(u8, usize), u8>,
}

impl Registers for PlainRegisters {
    fn read(&mut self, bar: u8, offset: usize, width: Width) -> u64 {
        let byte = |index| self.bytes.get(&(bar, offset + index)).copied().unwrap_or(0);
        (0..width.bytes()).rev().fold(0, |value, index| value << 8 | u64::from(byte(index)))
    }

    fn write(&mut self, bar: u8, offset: usize, width: Width, value: u64) {
        for index in 0..width.bytes() {
            self.bytes.insert((bar, offset + index), value.to_le_bytes()[index]);
        }
    }
}

/// One function with all that belongs to it.
pub struct FakePci {
    /// Its configuration space.
    pub config: FakeConfig,
    /// The memory it can reach.
    pub memory: FakeMemory,
    /// Its interrupts.
    pub irq: FakeIrq,
    registers: Arc<Mutex<dyn Registers>>,
}

impl FakePci {
    /// A function with [`PlainRegisters`].
    pub fn new(id: PciId) -> Self {
        Self::with_registers(
            id,
            FakeMemory::new(),
            FakeIrq::default(),
            Arc::new(Mutex::new(PlainRegisters::default())),
        )
    }

    /// A function whose registers are those of a model, which shares its memory and interrupts.
    pub fn with_registers(
        id: PciId,
        memory: FakeMemory,
        irq: FakeIrq,
        registers: Arc<Mutex<dyn Registers>>,
    ) -> Self {
        Self { config: FakeConfig::new(id), memory, irq, registers }
    }

    /// What a driver is started with. May be called again, for a second start.
    pub fn device(&self) -> PciDevice {
        PciDevice {
            config: Box::new(self.config.clone()),
            bars: Box::new(Mapper { registers: self.registers.clone() }),
            dma: Arc::new(self.memory.clone()),
            irq: Box::new(self.irq.clone()),
            clock: Arc::new(FakeClock::default()),
        }
    }
}

struct Mapper {
    registers: Arc<Mutex<dyn Registers>>,
}

impl BarMapper for Mapper {
    fn map(&self, index: u8, bar: Bar) -> Result<Arc<dyn Mmio>, PciError> {
        let size = match bar {
            Bar::Memory { size, .. } => size as usize,
            Bar::Io { size, .. } => size.into(),
        };
        Ok(Arc::new(Mapped { bar: index, size, registers: self.registers.clone() }))
    }
}

struct Mapped {
    bar: u8,
    size: usize,
    registers: Arc<Mutex<dyn Registers>>,
}

impl Mapped {
    /// The model. A test that failed while it held the lock still lets the driver stop its device.
    fn device(&self) -> MutexGuard<'_, dyn Registers + 'static> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mmio for Mapped {
    fn size(&self) -> usize {
        self.size
    }

    fn read(&self, offset: usize, width: Width) -> u64 {
        if offset + width.bytes() > self.size {
            return width.all_ones();
        }
        self.device().read(self.bar, offset, width) & width.all_ones()
    }

    fn write(&self, offset: usize, width: Width, value: u64) {
        if offset + width.bytes() <= self.size {
            self.device().write(self.bar, offset, width, value);
        }
    }
}
