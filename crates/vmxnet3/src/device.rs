//! The driver as a [`Nic`].

use hw::nic::{Capabilities, DeviceFault, Events, Offload, StartError, Statistics, TxError};
use hw::{Frame, MacAddress, Nic, PciDevice};

use crate::descriptor::Checksum;
use crate::interrupts::Interrupts;
use crate::receive::ReceiveQueue;
use crate::registers::{Command, Registers};
use crate::shared::{Shared, event};
use crate::transmit::TransmitQueue;

/// The number of descriptors of the ring of buffers. The device drops what finds no buffer, unlike others that leave it with
/// the network: so there are as many as Linux has.
const RECEIVE_RING: usize = 1024;
/// The number of descriptors of the ring of frames to be sent.
const TRANSMIT_RING: usize = 256;
/// The payload of frames of the usual length; the driver does not use longer ones.
const MTU: u16 = 1500;

/// A vmxnet3 device.
///
/// Fields are dropped in order: the device is stopped before the memory that it uses is freed.
pub struct Vmxnet3 {
    registers: Registers,
    shared: Shared,
    receive: ReceiveQueue,
    transmit: TransmitQueue,
    interrupts: Interrupts,
    /// The indices that the device was told last.
    receive_told: usize,
    transmit_told: usize,
    mac: MacAddress,
    capabilities: Capabilities,
    link_up: bool,
    statistics: Statistics,
    fault: Option<DeviceFault>,
}

impl Vmxnet3 {
    /// Brings a device up.
    pub fn start(device: PciDevice) -> Result<Self, StartError> {
        let registers = Registers::new(device)?;
        let mac = registers.permanent_mac();
        if !mac.is_station() {
            return Err(StartError::BadValue("hardware address"));
        }
        let capabilities = Capabilities {
            mtu: MTU,
            tx_checksum: true,
            rx_checksum: true,
            rx_depth: RECEIVE_RING as u16 - 1,
            tx_depth: TRANSMIT_RING as u16 - 1,
        };
        let dma = &*registers.device.dma;
        let receive = ReceiveQueue::new(dma, RECEIVE_RING)?;
        let transmit = TransmitQueue::new(dma, TRANSMIT_RING, capabilities.max_frame())?;
        let interrupts = Interrupts::connect(&registers)?;
        let mut shared = Shared::new(dma, MTU, interrupts.vectors())?;
        shared.describe_receive(receive.rings());
        shared.describe_transmit(transmit.rings());
        let mut nic = Self {
            registers,
            shared,
            receive,
            transmit,
            interrupts,
            receive_told: 0,
            transmit_told: 0,
            mac,
            capabilities,
            link_up: false,
            statistics: Statistics::default(),
            fault: None,
        };
        nic.enable()?;
        Ok(nic)
    }

    /// Lets the device go.
    fn enable(&mut self) -> Result<(), StartError> {
        self.registers.activate(self.mac, self.shared.bus())?;
        self.registers.receive_filled(self.receive.filled());
        self.receive_told = self.receive.filled();
        self.link_up = self.registers.link_up();
        Ok(())
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
        let checksum = Checksum::new(offload).map_err(|_| TxError::Offload)?;
        if !self.can_transmit() {
            return Err(if self.fault.is_some() { TxError::Broken } else { TxError::Full });
        }
        self.transmit.send(length, checksum, fill);
        Ok(())
    }

    /// Whether there is room in the transmit queue; a device that reports nonsense is stopped.
    fn has_room(&mut self) -> bool {
        self.transmit.has_room().unwrap_or_else(|fault| {
            self.fail(fault);
            false
        })
    }

    /// Whether somebody waited for room and now has it.
    fn end_wait(&mut self) -> bool {
        let over = self.transmit.waited_for && self.has_room();
        if over {
            self.transmit.waited_for = false;
            self.interrupts.mask_transmit(&self.registers);
        }
        over
    }

    /// Looks at the events in the shared area; whether the link, or the device's health, changed.
    fn check_events(&mut self) -> bool {
        let events = self.shared.events();
        if events == 0 {
            // A vector of its own that comes without an event is suspicious; a shared one is not.
            return !self.interrupts.is_shared() && self.check_presence();
        }
        self.registers.clear_events(events);
        if events & (event::RECEIVE_ERROR | event::TRANSMIT_ERROR) != 0 {
            self.registers.command(Command::GetQueueStatus);
            if self.shared.is_stopped() {
                self.fail(DeviceFault::NeedsReset);
                return true;
            }
        }
        let was_up = self.link_up;
        if events & event::LINK != 0 {
            self.link_up = self.registers.link_up();
        }
        self.link_up != was_up
    }

    /// An interrupt without an event: whether the device has vanished.
    fn check_presence(&mut self) -> bool {
        let gone = self.registers.is_gone();
        if gone {
            self.fail(DeviceFault::Gone);
        }
        gone
    }
}

impl Nic for Vmxnet3 {
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
            match self.receive.poll() {
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
        if self.has_room() {
            return true;
        }
        if self.fault.is_none() {
            self.transmit.waited_for = true;
            self.flush();
            self.interrupts.unmask_transmit(&self.registers);
        }
        // The request before the look: else a frame sent in between would be seen by neither side.
        self.fault.is_none() && self.has_room()
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
        let transmit = self.transmit.filled();
        if core::mem::replace(&mut self.transmit_told, transmit) != transmit {
            self.registers.transmit_filled(transmit);
        }
        let receive = self.receive.filled();
        if receive != self.receive_told && self.shared.wants_producer() {
            self.receive_told = receive;
            self.registers.receive_filled(receive);
        }
    }

    fn disable_interrupts(&mut self) {
        if self.fault.is_none() {
            self.interrupts.mask(&self.registers);
        }
    }

    fn enable_interrupts(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        self.shared.allow_interrupts();
        self.interrupts.unmask(&self.registers, self.transmit.waited_for);
        // Both are asked: ending a wait is done once.
        let over = self.end_wait();
        self.receive.is_ready() || over
    }

    fn acknowledge(&mut self, pending: Events) -> Events {
        if self.fault.is_some() || pending.is_empty() {
            return Events::empty();
        }
        let mut events = self.interrupts.acknowledge(&self.registers, pending);
        if self.interrupts.is_shared() && !self.receive.is_ready() {
            events.remove(Events::RX);
        }
        if events.contains(Events::TX) {
            events.set(Events::TX, self.end_wait());
        }
        if events.contains(Events::LINK) {
            events.set(Events::LINK, self.check_events());
        }
        events
    }
}

#[cfg(test)]
mod tests;
