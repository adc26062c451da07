//! The device as a PCI function (VIRTIO 4.1).
//!
//! Vendor capabilities say where the four structures lie: the common configuration, the notification area, the
//! interrupt status, and the configuration of a network device. [`Transport`] finds them, brings the device through its
//! states, and stops it when dropped, so that memory that the device was given may be freed afterwards.

use alloc::sync::Arc;
use core::time::Duration;

use hw::nic::{DeviceFault, Events, MacAddress, StartError};
use hw::pci::PciError;
use hw::pci::capability as pci_capability;
use hw::pci::msi::MsixTable;
use hw::{BusAddress, Clock, Mmio, PciDevice, Window};

use crate::spec::{Features, capability, common, isr, net, status};

/// How long a reset may take. The specification sets no limit; devices in use need far less.
const RESET_LIMIT: Duration = Duration::from_secs(1);
/// How often the configuration is read again because it changed meanwhile.
const CONFIG_TRIES: usize = 16;

/// The MSI-X entries that the device reports under; [`common::NO_VECTOR`] when it asserts its pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// Received frames.
    pub receive: u16,
    /// Sent frames.
    pub transmit: u16,
    /// Changes of the configuration.
    pub config: u16,
}

/// The registers of the device.
pub struct Transport {
    device: PciDevice,
    common: Window,
    notify: Window,
    multiplier: usize,
    isr: Window,
    config: Window,
    uses_pin: bool,
}

impl Transport {
    /// Finds the registers, resets the device, and says that it has a driver (VIRTIO 3.1.1, steps 1 to 3).
    pub fn new(device: PciDevice) -> Result<Self, StartError> {
        device.enable_registers();
        let missing = StartError::Unsupported("a device without the virtio 1 interface");
        let mut regions = Regions::default();
        let mut find = |kind, size| find_structure(&device, &mut regions, kind, size);
        let (common, _) = find(capability::COMMON, common::SIZE)?.ok_or(missing)?;
        let (notify, place) = find(capability::NOTIFY, 2)?.ok_or(missing)?;
        let (isr, _) = find(capability::ISR, 1)?.ok_or(missing)?;
        let (config, _) = find(capability::DEVICE, net::STATUS)?.ok_or(missing)?;
        let multiplier = device.config.read_u32(place + capability::MULTIPLIER) as usize;
        let transport = Self { device, common, notify, multiplier, isr, config, uses_pin: true };
        transport.reset()?;
        transport.device.enable_bus_master();
        transport.add_status(status::ACKNOWLEDGE);
        transport.add_status(status::DRIVER);
        Ok(transport)
    }

    /// The device's memory allocator.
    pub fn dma(&self) -> &dyn hw::DmaAllocator {
        &*self.device.dma
    }

    /// The clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.device.clock
    }

    /// What the device offers.
    pub fn offered(&self) -> Features {
        let half = |select| {
            self.common.write_u32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read_u32(common::DEVICE_FEATURE))
        };
        Features::from_bits_truncate(half(0) | half(1) << 32)
    }

    /// Agrees on `features`, a subset of what is offered (VIRTIO 3.1.1, steps 4 to 6).
    pub fn accept(&self, features: Features) -> Result<(), StartError> {
        for half in 0..2u32 {
            self.common.write_u32(common::DRIVER_FEATURE_SELECT, half);
            self.common.write_u32(common::DRIVER_FEATURE, (features.bits() >> (32 * half)) as u32);
        }
        self.add_status(status::FEATURES_OK);
        if self.status() & status::FEATURES_OK == 0 {
            return Err(StartError::Unsupported("the device refuses the features that it offers"));
        }
        Ok(())
    }

    /// Connects interrupts: one MSI-X vector each for received frames, sent frames and the configuration, a common one
    /// where the device has fewer, or else the pin.
    pub fn connect_interrupts(&mut self) -> Result<Vectors, StartError> {
        let table = MsixTable::new(&self.device)?;
        let Some(table) = table.filter(|table| table.entries() > 0) else { return self.connect_pin() };
        let separate = [Events::RX, Events::TX, Events::LINK];
        let causes = if table.entries() >= 3 { &separate[..] } else { &[Events::all()] };
        for (entry, cause) in (0..).zip(causes) {
            match self.device.irq.message(cause.bits()) {
                Ok(message) => table.set(entry, message),
                Err(_) if entry == 0 => return self.connect_pin(),
                Err(error) => return Err(error.into()),
            }
        }
        table.enable(&self.device);
        self.uses_pin = false;
        let entry = |wanted: u16| wanted.min(causes.len() as u16 - 1);
        let vectors = Vectors { receive: entry(0), transmit: entry(1), config: entry(2) };
        self.common.write_u16(common::CONFIG_MSIX_VECTOR, vectors.config);
        if self.common.read_u16(common::CONFIG_MSIX_VECTOR) != vectors.config {
            return Err(StartError::Unsupported("the device has no room for an interrupt vector"));
        }
        Ok(vectors)
    }

    fn connect_pin(&self) -> Result<Vectors, StartError> {
        self.device.irq.line(Events::all().bits())?;
        Ok(Vectors { receive: common::NO_VECTOR, transmit: common::NO_VECTOR, config: common::NO_VECTOR })
    }

    /// Whether the device asserts its pin, so that the cause of an interrupt is in [`isr`](Self::isr).
    pub fn uses_pin(&self) -> bool {
        self.uses_pin
    }

    /// The largest size of a queue, a power of two; `None` when there is no such queue (VIRTIO 4.1.5.1.3).
    pub fn queue_limit(&self, queue: u16) -> Option<u16> {
        self.common.write_u16(common::QUEUE_SELECT, queue);
        match self.common.read_u16(common::QUEUE_SIZE) {
            0 => None,
            // A hostile size is no power of two, or beyond the largest allowed (VIRTIO 2.7).
            size => Some(1 << size.ilog2()),
        }
    }

    /// Tells the device where a queue is, and enables it (VIRTIO 4.1.5.1.3). What comes back is where it is notified.
    pub fn enable_queue(
        &self,
        queue: u16,
        size: u16,
        addresses: [BusAddress; 3],
        vector: u16,
    ) -> Result<usize, StartError> {
        let common = &self.common;
        common.write_u16(common::QUEUE_SELECT, queue);
        common.write_u16(common::QUEUE_SIZE, size);
        common.write_u16(common::QUEUE_MSIX_VECTOR, vector);
        if common.read_u16(common::QUEUE_MSIX_VECTOR) != vector {
            return Err(StartError::Unsupported("the device has no room for an interrupt vector"));
        }
        let fields = [common::QUEUE_DESC, common::QUEUE_DRIVER, common::QUEUE_DEVICE];
        for (field, BusAddress(address)) in fields.into_iter().zip(addresses) {
            common.write_u32(field, address as u32);
            common.write_u32(field + 4, (address >> 32) as u32);
        }
        let offset = usize::from(common.read_u16(common::QUEUE_NOTIFY_OFF)).checked_mul(self.multiplier);
        let inside = |offset: &usize| offset.is_multiple_of(2) && offset + 2 <= self.notify.size();
        let offset = offset.filter(inside).ok_or(StartError::BadValue("queue_notify_off"))?;
        common.write_u16(common::QUEUE_ENABLE, 1);
        Ok(offset)
    }

    /// Tells the device that the driver is ready (VIRTIO 3.1.1, step 8).
    pub fn finish(&self) {
        self.add_status(status::DRIVER_OK);
    }

    /// Tells the device that there is something in a queue (VIRTIO 4.1.5.2).
    pub fn notify(&self, offset: usize, queue: u16) {
        self.notify.write_u16(offset, queue);
    }

    /// The causes of an interrupt by the pin, which is thereby deasserted (VIRTIO 4.1.4.5).
    pub fn isr(&self) -> u8 {
        self.isr.read_u8(0) & (isr::QUEUE | isr::CONFIG)
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        self.common.read_u8(common::DEVICE_STATUS)
    }

    /// Whether the device asks to be reset (VIRTIO 2.1.1), or does not answer at all.
    pub fn fault(&self) -> Option<DeviceFault> {
        match self.status() {
            u8::MAX => Some(DeviceFault::Gone),
            status if status & status::NEEDS_RESET != 0 => Some(DeviceFault::NeedsReset),
            _ => None,
        }
    }

    /// The address, from the device's configuration.
    pub fn mac(&self) -> MacAddress {
        MacAddress(self.stable(|config| core::array::from_fn(|byte| config.read_u8(net::MAC + byte))))
    }

    /// The MTU, from the device's configuration.
    pub fn mtu(&self) -> u16 {
        self.stable(|config| config.read_u16(net::MTU))
    }

    /// Whether there is a carrier, from the device's configuration.
    pub fn link_up(&self) -> bool {
        self.stable(|config| config.read_u16(net::STATUS)) & net::LINK_UP != 0
    }

    /// Reads from the configuration such that all comes from the same moment (VIRTIO 2.5.1).
    fn stable<T>(&self, read: impl Fn(&Window) -> T) -> T {
        let generation = || self.common.read_u8(common::CONFIG_GENERATION);
        for _ in 0..CONFIG_TRIES {
            let before = generation();
            let value = read(&self.config);
            if generation() == before {
                return value;
            }
        }
        read(&self.config)
    }

    /// Stops the device for good: it neither touches memory nor interrupts any more.
    pub fn stop(&self) {
        // A device that does not even reset is cut off from memory all the same.
        let _ = self.reset();
        self.device.quiesce();
    }

    /// Resets the device (VIRTIO 4.1.4.3.2: done when the status reads zero).
    fn reset(&self) -> Result<(), StartError> {
        self.common.write_u8(common::DEVICE_STATUS, 0);
        self.clock()
            .wait(RESET_LIMIT, || self.status() == 0)
            .map_err(|timeout| timeout.waiting_for("the reset of the device"))
    }

    fn add_status(&self, bit: u8) {
        self.common.write_u8(common::DEVICE_STATUS, self.status() | bit);
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The base address registers that are mapped already: the structures usually share one.
type Regions = [Option<Arc<dyn Mmio>>; 6];

/// Finds the first usable structure of a kind (VIRTIO 4.1.4.1), and the capability that describes it.
fn find_structure(
    device: &PciDevice,
    regions: &mut Regions,
    kind: u8,
    size: usize,
) -> Result<Option<(Window, u16)>, StartError> {
    let config = &*device.config;
    let found = pci_capability::list(config).find(|entry| {
        entry.id == pci_capability::VENDOR
            && config.read_u8(entry.offset + capability::TYPE) == kind
            // Higher numbers are reserved, and such capabilities to be skipped (VIRTIO 4.1.4.1).
            && config.read_u8(entry.offset + capability::BAR) <= 5
    });
    let Some(entry) = found else { return Ok(None) };
    let bar = config.read_u8(entry.offset + capability::BAR);
    let region = match &mut regions[usize::from(bar)] {
        Some(region) => region.clone(),
        unmapped => unmapped.insert(device.map_bar(bar)?).clone(),
    };
    let offset = config.read_u32(entry.offset + capability::OFFSET) as usize;
    let length = config.read_u32(entry.offset + capability::LENGTH) as usize;
    if length < size {
        return Err(PciError::BadCapability.into());
    }
    let window = Window::new(region, offset, length).ok_or(PciError::BadCapability)?;
    Ok(Some((window, entry.offset)))
}
