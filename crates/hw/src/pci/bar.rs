//! Base address registers (6.2.5).
//!
//! Each says in its low bits what it is, and tells its size when all ones are written to it: the bits that stay zero are
//! the size. Memory registers may be 64 bits wide, and then use two slots.

use super::{Command, PciConfig, PciError, register};

/// How many registers an ordinary function has.
const COUNT: u8 = 6;

/// A decoded base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Registers in memory space.
    Memory {
        /// The bus address; zero when none was assigned.
        address: u64,
        /// The size in bytes, a power of two.
        size: u64,
        /// Reading has no side effects, so the mapping may be cached.
        prefetchable: bool,
        /// The register is 64 bits wide, so the address may be above 4 GiB.
        wide: bool,
    },
    /// Registers in I/O space.
    Io {
        /// The first port; zero when none was assigned.
        port: u16,
        /// The number of ports, a power of two.
        size: u16,
    },
}

impl Bar {
    /// Decodes register `index` of a function, whose address decoding is off for a moment. `None` when the function
    /// does not implement the register.
    pub fn read(config: &dyn PciConfig, index: u8) -> Result<Option<Self>, PciError> {
        if index >= COUNT {
            return Err(PciError::BadBar(index));
        }
        let command = Command::from_bits_retain(config.read_u16(register::COMMAND));
        // While sizes are probed the register holds a false address, at which the function must not answer.
        config.write_u16(register::COMMAND, (command - Command::IO - Command::MEMORY).bits());
        let result = Self::probe(config, index);
        config.write_u16(register::COMMAND, command.bits());
        result
    }

    /// The address or the port.
    pub fn address(&self) -> u64 {
        match *self {
            Self::Memory { address, .. } => address,
            Self::Io { port, .. } => port.into(),
        }
    }

    fn probe(config: &dyn PciConfig, index: u8) -> Result<Option<Self>, PciError> {
        let (low, low_mask) = value_and_mask(config, index);
        if low & 1 == 1 {
            return Ok(Self::io(low, low_mask));
        }
        let wide = match low >> 1 & 3 {
            0 => false,
            2 if index + 1 < COUNT => true,
            _ => return Err(PciError::BadBar(index)),
        };
        let (high, high_mask) = if wide { value_and_mask(config, index + 1) } else { (0, u32::MAX) };
        let mask = u64::from(high_mask) << 32 | u64::from(low_mask & !0xf);
        let address = u64::from(high) << 32 | u64::from(low & !0xf);
        if low_mask & !0xf == 0 && (!wide || high_mask == 0) {
            return Ok(None);
        }
        let size = (!mask).wrapping_add(1);
        if !size.is_power_of_two() || size > 1 << 40 {
            return Err(PciError::BadBar(index));
        }
        Ok(Some(Self::Memory { address, size, prefetchable: low & 8 != 0, wide }))
    }

    fn io(value: u32, mask: u32) -> Option<Self> {
        // A function may leave the upper half out: x86 has 64 Ki ports.
        let size = (!(mask as u16 & !3)).wrapping_add(1);
        (mask & !3 != 0 && size.is_power_of_two()).then_some(Self::Io { port: value as u16 & !3, size })
    }
}

/// The register's value, and what it reads after all ones were written to it.
fn value_and_mask(config: &dyn PciConfig, index: u8) -> (u32, u32) {
    let offset = register::BASE_ADDRESS + 4 * u16::from(index);
    let value = config.read_u32(offset);
    config.write_u32(offset, u32::MAX);
    let mask = config.read_u32(offset);
    config.write_u32(offset, value);
    (value, mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeConfig;
    use crate::pci::PciId;

    fn config() -> FakeConfig {
        FakeConfig::new(PciId { vendor: 1, device: 1 })
    }

    #[test]
    fn a_32_bit_memory_register_is_decoded_and_left_as_it_was() {
        let config = config();
        config.add_memory_bar(1, 0xfebc_0000, 0x2_0000);
        let bar = Bar::read(&config, 1).unwrap().unwrap();
        assert_eq!(
            bar,
            Bar::Memory { address: 0xfebc_0000, size: 0x2_0000, prefetchable: false, wide: false }
        );
        assert_eq!(config.read_u32(0x14), 0xfebc_0000);
    }

    #[test]
    fn a_64_bit_memory_register_uses_two_slots() {
        let config = config();
        config.add_wide_bar(4, 0x38_0000_0000, 0x4000);
        let bar = Bar::read(&config, 4).unwrap().unwrap();
        assert_eq!(
            bar,
            Bar::Memory { address: 0x38_0000_0000, size: 0x4000, prefetchable: true, wide: true }
        );
        assert_eq!(config.read_u32(0x24), 0x38);
    }

    #[test]
    fn an_io_register_is_decoded() {
        let config = config();
        config.add_io_bar(0, 0xc040, 0x20);
        assert_eq!(Bar::read(&config, 0), Ok(Some(Bar::Io { port: 0xc040, size: 0x20 })));
    }

    #[test]
    fn absent_and_impossible_registers_are_told_apart() {
        let config = config();
        assert_eq!(Bar::read(&config, 3), Ok(None));
        assert_eq!(Bar::read(&config, 6), Err(PciError::BadBar(6)));
        // A 64-bit register in the last slot has no second half.
        config.add_wide_bar(5, 0x1000, 0x1000);
        assert_eq!(Bar::read(&config, 5), Err(PciError::BadBar(5)));
    }

    #[test]
    fn decoding_is_off_only_during_the_probe() {
        let config = config();
        config.add_memory_bar(0, 0x1000, 0x1000);
        config.write_u16(register::COMMAND, 0x0107);
        Bar::read(&config, 0).unwrap();
        assert_eq!(config.read_u16(register::COMMAND), 0x0107);
        assert!(config.sized_while_decoding().is_empty());
    }
}
