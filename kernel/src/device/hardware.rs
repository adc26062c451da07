//! The hardware traits of `crates/hw`, for drivers inside the kernel.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use hw::irq::IrqError;
use hw::pci::{Bar, PciDevice, PciError, PciId};
use hw::{Clock, Dma, Irq, Message, Mmio, PciConfig};

use crate::arch;
use crate::arch::interrupts::{self, Source};
use crate::arch::pci::{Address, Config};
use crate::memory::PAGE_SIZE;
use crate::net::service::Interrupts;
use crate::sched::TaskHandle;
use crate::sync::SpinLock;

/// Everything that the driver of the function at `address` needs. `None` when the kernel's table of devices is full.
pub fn device(address: Address) -> Option<(PciDevice, &'static Source)> {
    let source = Source::allocate()?;
    let device = PciDevice {
        config: Box::new(Config::new(address)),
        bars: Box::new(Mapper),
        dma: Arc::new(Memory),
        irq: Box::new(DeviceIrq { source, address, vectors: SpinLock::new(Vec::new()) }),
        clock: Arc::new(MonotonicClock),
    };
    Some((device, source))
}

/// Maps base address registers.
struct Mapper;

impl hw::pci::BarMapper for Mapper {
    fn map(&self, index: u8, bar: Bar) -> Result<Arc<dyn Mmio>, PciError> {
        arch::map_registers(bar).ok_or(PciError::Unmappable(index))
    }
}

/// Memory for devices: physically contiguous frames.
struct Memory;

impl hw::DmaAllocator for Memory {
    fn allocate(&self, length: usize) -> Result<Dma, hw::dma::NoMemory> {
        let pages = length.div_ceil(PAGE_SIZE).max(1);
        let mut range =
            crate::memory::allocate_contiguous(pages, PAGE_SIZE).map_err(|_| hw::dma::NoMemory)?;
        range.clear();
        Ok(arch::dma_memory(range))
    }
}

/// The time that deadlines are taken from.
struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(arch::now())
    }
}

/// The interrupts of one function.
struct DeviceIrq {
    source: &'static Source,
    address: Address,
    vectors: SpinLock<Vec<u8>>,
}

impl DeviceIrq {
    fn vector(&self, causes: u32) -> Result<u8, IrqError> {
        let vector = self.source.add_vector(causes).ok_or(IrqError::NoVector)?;
        self.vectors.lock().push(vector);
        Ok(vector)
    }

    /// The global system interrupt of the function's pin. ACPI tells it in AML, which nrk does not run; known are QEMU's q35 (ICH9
    /// routes pins of slots below 25 to 20..=23, rotated by slot), and chipsets that use the number in the line register.
    fn global_interrupt(&self) -> Option<u32> {
        const INTERRUPT_LINE: u16 = 0x3c;
        const INTERRUPT_PIN: u16 = 0x3d;
        const Q35_HOST_BRIDGE: PciId = PciId { vendor: 0x8086, device: 0x29c0 };
        let config = Config::new(self.address);
        let pin = u32::from(config.read_u8(INTERRUPT_PIN)).checked_sub(1)?;
        let host_bridge = Config::new(Address { bus: 0, device: 0, function: 0 });
        if PciId::of(&host_bridge) == Q35_HOST_BRIDGE && self.address.bus == 0 && self.address.device < 25 {
            return Some(20 + (u32::from(self.address.device) + pin) % 4);
        }
        Some(u32::from(config.read_u8(INTERRUPT_LINE))).filter(|&line| line != 0 && line != 0xff)
    }
}

impl Irq for DeviceIrq {
    fn message(&self, causes: u32) -> Result<Message, IrqError> {
        let (address, data) = interrupts::message(self.vector(causes)?);
        Ok(Message { address: address.as_u64(), data })
    }

    fn line(&self, causes: u32) -> Result<(), IrqError> {
        let interrupt = self.global_interrupt().ok_or(IrqError::NoRoute)?;
        let vector = self.vector(causes)?;
        if self.source.connect_line(interrupt, vector) { Ok(()) } else { Err(IrqError::NoRoute) }
    }
}

impl Drop for DeviceIrq {
    fn drop(&mut self) {
        self.vectors.lock().drain(..).for_each(|vector| self.source.remove_vector(vector));
    }
}

impl Interrupts for Source {
    fn wake(&self, task: TaskHandle) {
        self.set_task(task);
    }

    fn take(&self) -> u32 {
        self.take_causes()
    }

    fn unmask(&self) {
        self.unmask_line();
    }
}
