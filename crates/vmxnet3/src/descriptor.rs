//! The entries of the rings. All have 16 bytes, in which the mark of the generation is written last and read first.

use hw::nic::{ETHERNET_HEADER, Offload, RxChecksum};

/// The size of an entry in bytes.
pub const SIZE: usize = 16;

/// A receive descriptor: address, then length and marks (`Vmxnet3_RxDesc`).
pub mod receive {
    /// Where the word with the mark is.
    pub const CONTROL: usize = 8;
    /// The mark.
    const GEN: u32 = 1 << 31;

    /// That word, for a buffer of `length` bytes, at most 16,383, in which a frame may begin.
    pub fn control(length: u32, generation: bool) -> u32 {
        length | if generation { GEN } else { 0 }
    }
}

/// A transmit descriptor: address, then two words (`Vmxnet3_TxDesc`).
pub mod transmit {
    use super::Checksum;

    /// Where the word with length and mark is.
    pub const CONTROL: usize = 8;
    /// Where the word with the offload is.
    pub const OFFLOAD: usize = 12;
    const GEN: u32 = 1 << 14;
    const MSSCOF_SHIFT: u32 = 18;
    const OM_CSUM: u32 = 2 << 10;
    const EOP: u32 = 1 << 12;
    const CQ: u32 = 1 << 13;

    /// Both words for a whole frame of `length` bytes, less than 16,384, whose completion is wanted.
    pub fn words(length: u32, checksum: Option<Checksum>, generation: bool) -> (u32, u32) {
        let mark = if generation { GEN } else { 0 };
        let whole = EOP | CQ;
        match checksum {
            None => (length | mark, whole),
            Some(Checksum { start, place }) => {
                (length | mark | u32::from(place) << MSSCOF_SHIFT, whole | OM_CSUM | u32::from(start))
            }
        }
    }
}

/// Where the device is to sum up and to put the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// `hlen`: where the sum begins, 10 bits.
    start: u16,
    /// `msscof`: where it is put, within the first 1024 bytes (`VMXNET3_MAX_CSUM_OFFSET`).
    place: u16,
}

/// The offload is beyond the device's reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfReach;

impl Checksum {
    /// For an offload that wants a checksum.
    pub fn new(offload: Offload) -> Result<Option<Self>, OutOfReach> {
        let Offload::Checksum { start, offset } = offload else { return Ok(None) };
        let place = start.checked_add(offset).filter(|&place| place < 1024).ok_or(OutOfReach)?;
        Ok(Some(Self { start, place }))
    }
}

/// The mark of a completion of either kind, in its last word.
pub const COMPLETION_MARK: usize = 12;

/// Whether a completion with this last word is of this generation.
pub fn is_complete(last_word: u32, generation: bool) -> bool {
    (last_word >> 31 == 1) == generation
}

/// The transmit descriptor that a completion is about, from its first word (`Vmxnet3_TxCompDesc`).
pub fn transmitted(first_word: u32) -> usize {
    (first_word & 0xfff) as usize
}

/// A receive completion (`Vmxnet3_RxCompDesc`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The first, third and fourth word.
    pub words: [u32; 3],
}

impl Received {
    const EOP: u32 = 1 << 14;
    const SOP: u32 = 1 << 15;
    const CNC: u32 = 1 << 30;
    const ERR: u32 = 1 << 14;
    const TUC: u32 = 1 << 16;
    const UDP: u32 = 1 << 17;
    const TCP: u32 = 1 << 18;
    const IPC: u32 = 1 << 19;
    const V6: u32 = 1 << 20;
    const FRG: u32 = 1 << 22;

    /// The descriptor that was filled.
    pub fn descriptor(self) -> usize {
        (self.words[0] & 0xfff) as usize
    }

    /// The ring in which that is: zero for the only one that has buffers.
    pub fn ring(self) -> u32 {
        self.words[0] >> 16 & 0x3ff
    }

    /// How many bytes were filled.
    pub fn length(self) -> usize {
        (self.words[1] & 0x3fff) as usize
    }

    /// Whether the frame ends here.
    pub fn is_last(self) -> bool {
        self.words[0] & Self::EOP != 0
    }

    /// Whether this is a whole, sound frame.
    pub fn is_sound(self) -> bool {
        let whole = Self::EOP | Self::SOP;
        self.words[0] & whole == whole && self.words[1] & Self::ERR == 0 && self.length() >= ETHERNET_HEADER
    }

    /// What is known of the checksum of TCP or UDP.
    pub fn checksum(self) -> RxChecksum {
        let [first, _, last] = self.words;
        let known = first & Self::CNC == 0 && last & (Self::TCP | Self::UDP) != 0 && last & Self::FRG == 0;
        let header = last & (Self::IPC | Self::V6) != 0;
        if known && header && last & Self::TUC != 0 { RxChecksum::Good } else { RxChecksum::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Received = Received { words: [0xc005, 60, 0] };

    #[test]
    fn a_transmit_descriptor_carries_a_whole_frame() {
        assert_eq!(transmit::words(60, None, true), (60 | 1 << 14, 0x3000));
        assert_eq!(transmit::words(60, None, false), (60, 0x3000));
    }

    #[test]
    fn a_checksum_is_asked_for_by_start_and_place() {
        let udp = Checksum::new(Offload::Checksum { start: 34, offset: 6 }).unwrap();
        assert_eq!(transmit::words(60, udp, false), (60 | 40 << 18, 0x3800 | 34));
        assert_eq!(Checksum::new(Offload::None), Ok(None));
        assert_eq!(Checksum::new(Offload::Checksum { start: 1010, offset: 14 }), Err(OutOfReach));
        assert_eq!(Checksum::new(Offload::Checksum { start: u16::MAX, offset: 6 }), Err(OutOfReach));
        assert!(Checksum::new(Offload::Checksum { start: 1007, offset: 16 }).is_ok());
    }

    #[test]
    fn a_receive_descriptor_has_length_and_mark() {
        assert_eq!(receive::control(2048, true), 0x8000_0800);
        assert_eq!(receive::control(2048, false), 0x0000_0800);
    }

    #[test]
    fn a_received_completion_is_decoded() {
        assert_eq!((WHOLE.descriptor(), WHOLE.ring(), WHOLE.length()), (5, 0, 60));
        assert!(WHOLE.is_sound() && WHOLE.is_last());
        assert_eq!(Received { words: [0x0003_c005, 60, 0] }.ring(), 3);
    }

    #[test]
    fn pieces_errors_and_runts_are_not_sound() {
        for words in [[0x8005, 60, 0], [0x4005, 60, 0], [0xc005, 60 | 1 << 14, 0], [0xc005, 13, 0]] {
            assert!(!Received { words }.is_sound(), "{words:x?}");
        }
    }

    #[test]
    fn only_a_checksum_that_was_verified_is_good() {
        let checksum = |first: u32, last: u32| Received { words: [first, 60, last] }.checksum();
        assert_eq!(checksum(0xc005, 0x00ad_0000), RxChecksum::Good, "TCP over IPv4");
        assert_eq!(checksum(0xc005, 0x0093_0000), RxChecksum::Good, "UDP over IPv6");
        assert_eq!(checksum(0xc005 | 1 << 30, 0x00ad_0000), RxChecksum::Unknown, "not calculated");
        assert_eq!(checksum(0xc005, 0x00ac_0000), RxChecksum::Unknown, "wrong");
        assert_eq!(checksum(0xc005, 0x00a5_0000), RxChecksum::Unknown, "wrong header");
        assert_eq!(checksum(0xc005, 0x00ed_0000), RxChecksum::Unknown, "a fragment");
        assert_eq!(checksum(0xc005, 0x00a9_0000), RxChecksum::Unknown, "neither TCP nor UDP");
    }

    #[test]
    fn the_mark_is_the_highest_bit() {
        assert!(is_complete(1 << 31, true) && is_complete(0, false));
        assert!(!is_complete(1 << 31, false) && !is_complete(0, true));
        assert_eq!(transmitted(0xffff_f0ff), 0x0ff);
    }
}
