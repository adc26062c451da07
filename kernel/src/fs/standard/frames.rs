//! How standard input travels over the serial line when it is no terminal.
//!
//! A serial line knows no end and may lose its first bytes: those that wait in the UART while it is being set up. So the input comes
//! in the transparent text of ISO 2111: bytes that may get lost (`SYN`), `DLE STX`, the input with each `DLE` doubled, and
//! `DLE ETX`. The sender is `xtask::stdin`.

/// Data link escape: gives the next byte its meaning.
const DLE: u8 = 0x10;
/// After `DLE`: the text starts.
const STX: u8 = 0x02;
/// After `DLE`: the text has ended.
const ETX: u8 = 0x03;

/// What a byte of the line brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A byte of the input.
    Byte(u8),
    /// The end of the input.
    End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    Text,
    After,
}

/// Takes the input out of the text.
#[derive(Debug, Default)]
pub struct Decoder {
    place: Place,
    escaped: bool,
}

impl Decoder {
    /// Takes the next byte of the line. What comes before the text and after it, and escapes without a meaning, bring nothing.
    pub fn take(&mut self, byte: u8) -> Option<Item> {
        if !core::mem::take(&mut self.escaped) {
            self.escaped = byte == DLE;
            return (self.place == Place::Text && byte != DLE).then_some(Item::Byte(byte));
        }
        match (self.place, byte) {
            (Place::Before, STX) => self.place = Place::Text,
            (Place::Text, DLE) => return Some(Item::Byte(DLE)),
            (Place::Text, ETX) => {
                self.place = Place::After;
                return Some(Item::End);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const SYN: u8 = 0x16;

    fn decode(line: &[u8]) -> Vec<Item> {
        let mut decoder = Decoder::default();
        line.iter().filter_map(|&byte| decoder.take(byte)).collect()
    }

    /// What `xtask::stdin` sends for `input`.
    fn encode(input: &[u8]) -> Vec<u8> {
        let mut line = Vec::new();
        xtask::stdin::send(input, &mut line).unwrap();
        line
    }

    fn items(input: &[u8]) -> Vec<Item> {
        input.iter().map(|&byte| Item::Byte(byte)).chain([Item::End]).collect()
    }

    #[test]
    fn nothing_but_the_text_is_input_and_nothing_comes_after_its_end() {
        assert_eq!(decode(b"ab\x10\x10\x10\x03c\x16\x10\x02d\x10"), [Item::Byte(b'd')]);
        assert_eq!(decode(&[SYN, DLE, STX, DLE, ETX, b'x', DLE, STX, b'y', DLE, ETX]), [Item::End]);
    }

    #[test]
    fn what_a_uart_can_hold_may_get_lost_before_the_text() {
        let line = encode(b"\x16\x10\x03x");
        for lost in 0..=17 {
            assert_eq!(decode(&line[lost..]), items(b"\x16\x10\x03x"), "{lost} bytes lost");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_through(input: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&input)), items(&input));
        }

        #[test]
        fn control_bytes_come_through(input in prop::collection::vec(0u8..0x18, 0..64)) {
            prop_assert_eq!(decode(&encode(&input)), items(&input));
        }
    }
}
