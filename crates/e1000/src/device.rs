//! The device: reset, address, rings, interrupts, link; and the driver as a [`Nic`].

use alloc::sync::Arc;
use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

use hw::nic::{Capabilities, DeviceFault, Events, Offload, StartError, Statistics, TxError};
use hw::pci::{capability, msi};
use hw::{BusAddress, Clock, Frame, MacAddress, Mmio, Nic, PciDevice};

use crate::descriptor::Context;
use crate::receive::ReceiveRing;
use crate::registers::{
    BAR, CTRL, EERD, ICR, IMC, IMS, ITR, MTA, MTA_COUNT, RAH0, RAL0, RCTL, RDBAH, RDBAL, RDH, RDLEN, RDT,
    RDTR, RXCSUM, STATUS, TCTL, TDBAH, TDBAL, TDH, TDLEN, TDT, TIPG, TIPG_COPPER, WINDOW,
};
use crate::registers::{ctrl, eerd, interrupt, rah, rctl, rxcsum, status, tctl};
use crate::transmit::TransmitRing;

/// The number of descriptors of each ring.
const RING: usize = 256;
/// The payload of frames of the usual length; the driver does not use longer ones.
const MTU: u16 = 1500;
/// After a reset the device loads its EEPROM and does not answer (8254x 14.3); Intel's own software waits as long.
const RESET_PAUSE: Duration = Duration::from_millis(5);
/// How long the reset may take after that.
const RESET_LIMIT: Duration = Duration::from_millis(100);
/// How long the EEPROM may take for a word; a bit takes it about a microsecond (8254x 5.3.1).
const EEPROM_LIMIT: Duration = Duration::from_millis(10);
/// The least time between interrupts, in units of 256 ns: 20 us.
const INTERRUPT_GAP: u32 = 80;
/// The interrupts that concern frames.
const FRAMES: u32 = interrupt::RECEIVE | interrupt::TXDW;

/// The registers. Dropping them stops the device, so that its memory may be freed afterwards.
struct Registers {
    device: PciDevice,
    window: Arc<dyn Mmio>,
}

impl Registers {
    /// Maps the registers and resets the device (8254x 14.3).
    fn new(device: PciDevice) -> Result<Self, StartError> {
        device.enable_registers();
        let window = device.map_bar(BAR)?;
        if window.size() < WINDOW {
            return Err(StartError::BadValue("size of the register window"));
        }
        let registers = Self { device, window };
        registers.reset()?;
        registers.device.enable_bus_master();
        Ok(registers)
    }

    fn read(&self, register: usize) -> u32 {
        self.window.read_u32(register)
    }

    fn write(&self, register: usize, value: u32) {
        self.window.write_u32(register, value);
    }

    fn reset(&self) -> Result<(), StartError> {
        let clock: &dyn Clock = &*self.device.clock;
        self.write(IMC, u32::MAX);
        self.write(RCTL, 0);
        self.write(TCTL, 0);
        self.write(CTRL, self.read(CTRL) | ctrl::RST);
        clock.delay(RESET_PAUSE);
        clock
            .wait(RESET_LIMIT, || self.read(CTRL) & ctrl::RST == 0)
            .map_err(|timeout| timeout.waiting_for("the reset of the device"))?;
        // The reset sets the mask register; causes from before it are dropped by reading them.
        self.write(IMC, u32::MAX);
        self.read(ICR);
        Ok(())
    }

    /// Stops the device for good: it neither touches memory nor interrupts any more.
    fn stop(&self) {
        self.write(IMC, u32::MAX);
        self.write(RCTL, 0);
        self.write(TCTL, 0);
        self.device.quiesce();
    }

    /// The address: from the filter, into which the reset loaded it (8254x 13.5.2), or else from the EEPROM (8254x 5.6.1).
    fn mac(&self) -> Result<MacAddress, StartError> {
        let (low, high) = (self.read(RAL0), self.read(RAH0));
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        let filter = MacAddress([a, b, c, d, e, f]);
        if high & rah::AV != 0 && filter.is_station() {
            return Ok(filter);
        }
        let [[a, b], [c, d], [e, f]] =
            [self.eeprom(0)?, self.eeprom(1)?, self.eeprom(2)?].map(u16::to_le_bytes);
        let stored = MacAddress([a, b, c, d, e, f]);
        if stored.is_station() { Ok(stored) } else { Err(StartError::BadValue("hardware address")) }
    }

    /// Reads a word of the EEPROM (8254x 5.3.1).
    fn eeprom(&self, word: u32) -> Result<u16, StartError> {
        self.write(EERD, eerd::START | word << eerd::ADDRESS_SHIFT);
        let clock: &dyn Clock = &*self.device.clock;
        clock
            .wait(EEPROM_LIMIT, || self.read(EERD) & eerd::DONE != 0)
            .map_err(|timeout| timeout.waiting_for("the EEPROM"))?;
        Ok((self.read(EERD) >> eerd::DATA_SHIFT) as u16)
    }

    /// Connects MSI, where the device has it, or else the pin.
    fn connect_interrupts(&self) -> Result<(), StartError> {
        let causes = Events::all().bits();
        if capability::find(&*self.device.config, capability::MSI).is_some()
            && let Ok(message) = self.device.irq.message(causes)
            && msi::enable_msi(&self.device, message)
        {
            return Ok(());
        }
        Ok(self.device.irq.line(causes)?)
    }

    /// Sets up all but the rings (8254x 14.3 to 14.5).
    fn configure(&self, MacAddress([a, b, c, d, e, f]): MacAddress) {
        let off = ctrl::LRST | ctrl::ILOS | ctrl::VME | ctrl::PHY_RST;
        self.write(CTRL, self.read(CTRL) & !off | ctrl::SLU | ctrl::ASDE);
        self.write(RAL0, u32::from_le_bytes([a, b, c, d]));
        self.write(RAH0, u32::from_le_bytes([e, f, 0, 0]) | rah::AV);
        (0..MTA_COUNT).for_each(|index| self.write(MTA + 4 * index, 0));
        self.write(RXCSUM, rxcsum::IPOFLD | rxcsum::TUOFLD);
        self.write(RDTR, 0);
        self.write(ITR, INTERRUPT_GAP);
        self.write(TIPG, TIPG_COPPER);
    }

    /// Tells the device where a ring is.
    fn place_ring(&self, [low, high, length, head, tail]: [usize; 5], bus: BusAddress, descriptors: usize) {
        self.write(low, bus.0 as u32);
        self.write(high, (bus.0 >> 32) as u32);
        self.write(length, (descriptors * crate::descriptor::SIZE) as u32);
        self.write(head, 0);
        self.write(tail, 0);
    }

    fn link_up(&self) -> bool {
        self.read(STATUS) & status::LU != 0
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An Intel 8254x controller.
///
/// Fields are dropped in order: the device is stopped before the memory of the rings is freed.
pub struct E1000 {
    registers: Registers,
    receive: ReceiveRing,
    transmit: TransmitRing,
    /// The tails that the device was told last.
    receive_tail: usize,
    transmit_tail: usize,
    mac: MacAddress,
    capabilities: Capabilities,
    link_up: bool,
    statistics: Statistics,
    fault: Option<DeviceFault>,
}

impl E1000 {
    /// Brings a device up (8254x 14).
    pub fn start(device: PciDevice) -> Result<Self, StartError> {
        let registers = Registers::new(device)?;
        let mac = registers.mac()?;
        let capabilities = Capabilities {
            mtu: MTU,
            tx_checksum: true,
            rx_checksum: true,
            rx_depth: RING as u16,
            // A frame with a checksum may take two descriptors.
            tx_depth: RING as u16 / 2,
        };
        let dma = &*registers.device.dma;
        let receive = ReceiveRing::new(dma, RING)?;
        let transmit = TransmitRing::new(dma, RING, capabilities.max_frame())?;
        registers.connect_interrupts()?;
        registers.configure(mac);
        let mut nic = Self {
            registers,
            receive,
            transmit,
            receive_tail: 0,
            transmit_tail: 0,
            mac,
            capabilities,
            link_up: false,
            statistics: Statistics::default(),
            fault: None,
        };
        nic.enable();
        Ok(nic)
    }

    /// Gives the rings to the device and lets it go.
    fn enable(&mut self) {
        let registers = &self.registers;
        let receive = [RDBAL, RDBAH, RDLEN, RDH, RDT];
        registers.place_ring(receive, self.receive.bus(), self.receive.size());
        let transmit = [TDBAL, TDBAH, TDLEN, TDH, TDT];
        registers.place_ring(transmit, self.transmit.bus(), self.transmit.size());
        // Virtual machines have few neighbours: all multicast is accepted, and the stack chooses.
        registers.write(RCTL, rctl::EN | rctl::BAM | rctl::MPE | rctl::SECRC);
        registers.write(TCTL, tctl::EN | tctl::PSP | tctl::CT | tctl::COLD);
        self.link_up = registers.link_up();
        self.flush();
    }

    /// Stops a device that broke its protocol.
    fn fail(&mut self, fault: DeviceFault) {
        self.fault = Some(fault);
        self.registers.stop();
    }

    fn try_transmit(
        &mut self,
        length: usize,
        offload: Offload,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), TxError> {
        self.capabilities.check(length, offload)?;
        let context = Context::new(offload).map_err(|_| TxError::Offload)?;
        if !self.can_transmit() {
            return Err(if self.fault.is_some() { TxError::Broken } else { TxError::Full });
        }
        self.transmit.send(length, context, fill);
        Ok(())
    }

    /// Tells the device about emptied descriptors before a long batch makes it run out of them.
    fn replenish(&mut self) {
        let size = self.receive.size();
        let untold = (self.receive.tail() + size - self.receive_tail) % size;
        if untold >= size / 4 {
            self.flush();
        }
    }

    /// Whether somebody waited for room and now has it.
    fn end_wait(&mut self) -> bool {
        let over = self.transmit.wait_is_over();
        if over {
            self.transmit.waited_for = false;
            self.registers.write(IMC, interrupt::TXDW);
        }
        over
    }

    /// Looks at the link; whether it changed.
    fn check_link(&mut self) -> bool {
        let was_up = core::mem::replace(&mut self.link_up, self.registers.link_up());
        self.link_up != was_up
    }
}

impl Nic for E1000 {
    fn mac(&self) -> MacAddress {
        self.mac
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn link_up(&self) -> bool {
        self.link_up && self.fault.is_none()
    }

    fn statistics(&self) -> Statistics {
        self.statistics
    }

    fn fault(&self) -> Option<DeviceFault> {
        self.fault
    }

    fn receive(&mut self) -> Option<Frame> {
        // A device that delivers nothing but damaged frames must not keep the core: one round of the ring at most.
        for _ in 0..self.receive.size() {
            if self.fault.is_some() {
                return None;
            }
            let reading = self.receive.poll();
            self.replenish();
            match reading {
                Ok(Some(arrival)) => match self.statistics.count_received(arrival) {
                    None => continue,
                    frame => return frame,
                },
                Ok(None) => return None,
                Err(fault) => self.fail(fault),
            }
        }
        None
    }

    fn can_transmit(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if self.transmit.has_room() {
            return true;
        }
        self.transmit.waited_for = true;
        self.flush();
        self.registers.write(IMS, interrupt::TXDW);
        // The request before the look: else a frame sent in between would be seen by neither side.
        self.transmit.has_room()
    }

    fn transmit(
        &mut self,
        length: usize,
        offload: Offload,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), TxError> {
        let result = self.try_transmit(length, offload, fill);
        self.statistics.count_sent(length, result);
        result
    }

    fn flush(&mut self) {
        if self.fault.is_some() {
            return;
        }
        // Frames and descriptors before the tail that publishes them.
        fence(Ordering::Release);
        let (receive, transmit) = (self.receive.tail(), self.transmit.tail());
        if core::mem::replace(&mut self.transmit_tail, transmit) != transmit {
            self.registers.write(TDT, transmit as u32);
        }
        if core::mem::replace(&mut self.receive_tail, receive) != receive {
            self.registers.write(RDT, receive as u32);
        }
    }

    fn disable_interrupts(&mut self) {
        self.registers.write(IMC, FRAMES);
    }

    fn enable_interrupts(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let sent = if self.transmit.waited_for { interrupt::TXDW } else { 0 };
        self.registers.write(IMS, interrupt::RECEIVE | interrupt::LSC | sent);
        // Both are asked: ending a wait is done once.
        let over = self.end_wait();
        self.receive.is_ready() || over
    }

    fn acknowledge(&mut self, pending: Events) -> Events {
        if self.fault.is_some() || pending.is_empty() {
            return Events::empty();
        }
        let causes = self.registers.read(ICR);
        if causes == u32::MAX && self.registers.read(STATUS) == status::GONE {
            self.fail(DeviceFault::Gone);
            return Events::LINK;
        }
        let mut events = Events::empty();
        events.set(Events::RX, causes & interrupt::RECEIVE != 0);
        events.set(Events::TX, causes & interrupt::TXDW != 0 && self.end_wait());
        events.set(Events::LINK, causes & interrupt::LSC != 0 && self.check_link());
        events
    }
}

#[cfg(test)]
mod tests;
