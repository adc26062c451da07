//! Numbers of few bytes: LEB128 (DWARF 5, section 7.6), and signed ones in a zigzag: 0, -1, 1, -2, ...

/// Takes a number off the front of `bytes`; `None` if none is whole, or it does not fit.
pub fn read(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(number).ok();
        }
    }
    None
}

/// Appends a number.
#[cfg(feature = "build")]
pub fn write(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The signed number behind an unsigned one.
pub fn from_zigzag(number: u32) -> i32 {
    (number >> 1) as i32 ^ -((number & 1) as i32)
}

/// The unsigned number for a signed one.
#[cfg(feature = "build")]
pub fn to_zigzag(number: i32) -> u32 {
    (number << 1 ^ number >> 31) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_that_are_cut_short_or_too_large_are_none() {
        assert_eq!(read(&mut &[0x80, 0x80][..]), None);
        assert_eq!(read(&mut &[0xff, 0xff, 0xff, 0xff, 0x1f][..]), None);
        assert_eq!(read(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0][..]), None);
        assert_eq!(read(&mut &[0xff, 0xff, 0xff, 0xff, 0x0f][..]), Some(u32::MAX));
    }

    proptest! {
        #[test]
        fn numbers_come_back(number: u32, signed: i32) {
            let mut bytes = Vec::new();
            write(number, &mut bytes);
            let mut rest = &bytes[..];
            prop_assert_eq!((read(&mut rest), rest.len()), (Some(number), 0));
            prop_assert_eq!(from_zigzag(to_zigzag(signed)), signed);
        }
    }
}
