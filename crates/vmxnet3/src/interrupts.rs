//! Vectors, masks, and which is for what.
//!
//! With MSI-X there are three vectors; with MSI or the pin there is one for everything. The vector of sent frames stays
//! masked as long as nobody waits for room, because the device would use it for every single frame. A vector by which the
//! device interrupted is masked from then on, where the device does that by itself, until it is unmasked again.

use hw::nic::{Events, StartError};
use hw::pci::msi::{self, MsixTable};
use hw::pci::{PciDevice, capability};

use crate::registers::{Command, Registers};
use crate::shared::Vectors;

/// The interrupts of the device.
pub struct Interrupts {
    vectors: Vectors,
    /// Whether the device asserts its pin, which has to be told that this was seen.
    uses_pin: bool,
    /// Which vectors are known to be masked. With a single one, the first of these is about it.
    receive_masked: bool,
    transmit_masked: bool,
    event_masked: bool,
}

impl Interrupts {
    /// Connects the best that there is.
    pub fn connect(registers: &Registers) -> Result<Self, StartError> {
        let mode = registers.command(Command::GetInterruptConfiguration);
        let auto_mask = mode >> 2 & 3 == 0;
        let (uses_pin, vectors) = if Self::connect_msix(&registers.device)? {
            (false, Vectors { receive: 0, transmit: 1, event: 2, count: 3, auto_mask })
        } else {
            let uses_pin = Self::connect_one(&registers.device)?;
            (uses_pin, Vectors { receive: 0, transmit: 0, event: 0, count: 1, auto_mask })
        };
        Ok(Self { vectors, uses_pin, receive_masked: true, transmit_masked: true, event_masked: true })
    }

    /// Connects three vectors of MSI-X; whether that is possible.
    fn connect_msix(device: &PciDevice) -> Result<bool, StartError> {
        let causes = [Events::RX, Events::TX, Events::LINK];
        let table = MsixTable::new(device)?.filter(|table| usize::from(table.entries()) >= causes.len());
        let Some(table) = table else { return Ok(false) };
        for (entry, cause) in (0..).zip(causes) {
            match device.irq.message(cause.bits()) {
                Ok(message) => table.set(entry, message),
                Err(_) if entry == 0 => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        table.enable(device);
        Ok(true)
    }

    /// Connects MSI, or else the pin; whether it is the pin.
    fn connect_one(device: &PciDevice) -> Result<bool, StartError> {
        let causes = Events::all().bits();
        if capability::find(&*device.config, capability::MSI).is_some()
            && let Ok(message) = device.irq.message(causes)
            && msi::enable_msi(device, message)
        {
            return Ok(false);
        }
        device.irq.line(causes)?;
        Ok(true)
    }

    /// What the shared area says about them.
    pub fn vectors(&self) -> Vectors {
        self.vectors
    }

    /// Whether all that there is to report comes by one vector.
    pub fn is_shared(&self) -> bool {
        self.vectors.count == 1
    }

    /// Asks for interrupts for events and received frames, and for sent ones if `transmit`.
    pub fn unmask(&mut self, registers: &Registers, transmit: bool) {
        registers.mask(self.vectors.receive, false);
        self.receive_masked = false;
        if !self.is_shared() && core::mem::take(&mut self.event_masked) {
            registers.mask(self.vectors.event, false);
        }
        if transmit {
            self.unmask_transmit(registers);
        }
    }

    /// Asks for an interrupt for sent frames. A shared vector is unmasked already, or will be for received frames.
    pub fn unmask_transmit(&mut self, registers: &Registers) {
        if !self.is_shared() {
            registers.mask(self.vectors.transmit, false);
            self.transmit_masked = false;
        }
    }

    /// Asks for no interrupts for frames. With a shared vector, events wait, too.
    pub fn mask(&mut self, registers: &Registers) {
        if !core::mem::replace(&mut self.receive_masked, true) {
            registers.mask(self.vectors.receive, true);
        }
        self.mask_transmit(registers);
    }

    /// Asks for no interrupts for sent frames.
    pub fn mask_transmit(&mut self, registers: &Registers) {
        if !core::mem::replace(&mut self.transmit_masked, true) {
            registers.mask(self.vectors.transmit, true);
        }
    }

    /// Takes note of interrupts, whose causes the handlers recorded; what may be behind them comes back.
    pub fn acknowledge(&mut self, registers: &Registers, pending: Events) -> Events {
        if self.uses_pin && !registers.take_line() {
            return Events::empty();
        }
        if self.vectors.auto_mask {
            self.receive_masked |= pending.contains(Events::RX);
            self.transmit_masked |= pending.contains(Events::TX);
            self.event_masked |= pending.contains(Events::LINK);
        }
        pending
    }
}
