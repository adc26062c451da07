//! PCI configuration space: memory-mapped where ACPI says where (PCI Express Base Specification 6.0, section 7.2.2),
//! else through the ports 0xcf8 and 0xcfc (PCI Local Bus Specification 3.0, section 3.2.2.3.2).

use core::fmt;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use hw::{PciConfig, Width};
use x86_64::instructions::port::Port;

use crate::arch::x86_64::acpi::Tables;
use crate::arch::x86_64::boot;
use crate::memory::{PhysAddr, VirtAddr};
use crate::sync::SpinLock;

/// Where a function sits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Bus, 0 to 255.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Physical address of the memory-mapped configuration space of bus 0, or 0.
static WINDOW: AtomicU64 = AtomicU64::new(0);
/// Its last bus.
static LAST_BUS: AtomicU16 = AtomicU16::new(0);
/// Serialises the two accesses of the port mechanism.
static PORTS: SpinLock<()> = SpinLock::new(());

const BYTES_PER_BUS: usize = 1 << 20;
const BYTES_PER_FUNCTION: usize = 4096;

/// Learns where configuration space is.
pub fn init(tables: &Tables) {
    if let Some((window, last_bus)) = tables.pci_config {
        LAST_BUS.store(u16::from(last_bus), Ordering::Relaxed);
        WINDOW.store(window.as_u64(), Ordering::Release);
    }
}

/// The configuration space of one function.
pub struct Config {
    address: Address,
    /// Its registers, if they are mapped.
    registers: Option<VirtAddr>,
}

impl Config {
    /// That of the function at `address`, whether or not there is one.
    pub fn new(address: Address) -> Self {
        Self { address, registers: map(address) }
    }
}

fn map(address: Address) -> Option<VirtAddr> {
    let window = WINDOW.load(Ordering::Acquire);
    if window == 0 || u16::from(address.bus) > LAST_BUS.load(Ordering::Relaxed) {
        return None;
    }
    let bus = PhysAddr::new(window) + usize::from(address.bus) * BYTES_PER_BUS;
    let function = usize::from(address.device) << 3 | usize::from(address.function);
    Some(boot::map_mmio(bus, BYTES_PER_BUS)? + function * BYTES_PER_FUNCTION)
}

impl PciConfig for Config {
    fn read(&self, offset: u16, width: Width) -> u32 {
        let bytes = width.bytes();
        if !usize::from(offset).is_multiple_of(bytes) || bytes > 4 {
            return u32::MAX;
        }
        if let Some(registers) = self.registers.filter(|_| usize::from(offset) < BYTES_PER_FUNCTION) {
            let register = (registers + usize::from(offset)).as_u64() as *const u8;
            // SAFETY: inside of the function's 4 KiB of mapped registers, and aligned.
            return unsafe {
                match width {
                    Width::One => u32::from(register.read_volatile()),
                    Width::Two => u32::from(register.cast::<u16>().read_volatile()),
                    _ => register.cast::<u32>().read_volatile(),
                }
            };
        }
        let shift = 8 * u32::from(offset & 3);
        let mask = width.all_ones() as u32;
        self.with_ports(offset, u32::MAX, |mut data| {
            // SAFETY: the data port, with the index just set.
            unsafe { data.read() >> shift & mask }
        })
    }

    fn write(&self, offset: u16, width: Width, value: u32) {
        let bytes = width.bytes();
        if !usize::from(offset).is_multiple_of(bytes) || bytes > 4 {
            return;
        }
        if let Some(registers) = self.registers.filter(|_| usize::from(offset) < BYTES_PER_FUNCTION) {
            let register = (registers + usize::from(offset)).as_u64() as *mut u8;
            // SAFETY: inside of the function's 4 KiB of mapped registers, and aligned.
            unsafe {
                match width {
                    Width::One => register.write_volatile(value as u8),
                    Width::Two => register.cast::<u16>().write_volatile(value as u16),
                    _ => register.cast::<u32>().write_volatile(value),
                }
            }
            return;
        }
        let port = 0xcfc + (offset & 3);
        self.with_ports(offset, (), |_| {
            // SAFETY: the byte lanes of the data port, with the index just set.
            unsafe {
                match width {
                    Width::One => Port::<u8>::new(port).write(value as u8),
                    Width::Two => Port::<u16>::new(port).write(value as u16),
                    _ => Port::<u32>::new(port).write(value),
                }
            }
        });
    }
}

impl Config {
    fn with_ports<T>(&self, offset: u16, beyond: T, access: impl FnOnce(Port<u32>) -> T) -> T {
        if offset >= 256 {
            return beyond;
        }
        let Address { bus, device, function } = self.address;
        let index = 1 << 31
            | u32::from(bus) << 16
            | u32::from(device) << 11
            | u32::from(function) << 8
            | u32::from(offset & 0xfc);
        let _guard = PORTS.lock();
        // SAFETY: the index port of the mechanism, under its lock.
        unsafe { Port::<u32>::new(0xcf8).write(index) };
        access(Port::new(0xcfc))
    }
}
