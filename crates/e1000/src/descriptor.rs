//! The formats of descriptors (8254x 3.2.3, 3.3.6, 3.3.7). All have 16 bytes.

use hw::nic::{DeviceFault, ETHERNET_HEADER, Offload, RxChecksum};

/// The size of a descriptor in bytes.
pub const SIZE: usize = 16;
/// Where, in a descriptor of either kind, the address of the buffer is.
pub const ADDRESS: usize = 0;
/// Where the other half is. In it, bit 32 tells that the device is done with the descriptor, in both rings.
pub const CONTROL: usize = 8;
/// Where the byte with that bit is.
pub const STATUS: usize = 12;
/// That bit (DD).
pub const DONE: u8 = 1 << 0;

/// What the device wrote into the control half of a receive descriptor (8254x 3.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received(u64);

/// Status and errors (8254x 3.2.3.1, 3.2.3.2), from bit 32 on.
mod bit {
    pub const EOP: u64 = 1 << 33;
    pub const IXSM: u64 = 1 << 34;
    pub const TCPCS: u64 = 1 << 37;
    pub const CE: u64 = 1 << 40;
    pub const SE: u64 = 1 << 41;
    pub const SEQ: u64 = 1 << 42;
    pub const CXE: u64 = 1 << 44;
    pub const TCPE: u64 = 1 << 45;
    pub const IPE: u64 = 1 << 46;
    pub const RXE: u64 = 1 << 47;
}

impl Received {
    /// From what is in memory.
    pub fn new(control: u64) -> Self {
        Self(control)
    }

    /// The length of the data in a buffer of `capacity` bytes.
    pub fn length(self, capacity: usize) -> Result<usize, DeviceFault> {
        let length = usize::from(self.0 as u16);
        if length <= capacity { Ok(length) } else { Err(DeviceFault::Length) }
    }

    /// Whether the frame ends in this buffer.
    pub fn is_last(self) -> bool {
        self.0 & bit::EOP != 0
    }

    /// Whether the frame is a sound one.
    pub fn is_sound(self) -> bool {
        let length = usize::from(self.0 as u16);
        self.0 & (bit::CE | bit::SE | bit::SEQ | bit::CXE | bit::RXE) == 0 && length >= ETHERNET_HEADER
    }

    /// What is known of the checksum of TCP or UDP. One that the device found wrong is left to software, too,
    /// which then counts it.
    pub fn checksum(self) -> RxChecksum {
        let verified = self.0 & (bit::IXSM | bit::TCPCS | bit::TCPE | bit::IPE) == bit::TCPCS;
        if verified { RxChecksum::Good } else { RxChecksum::Unknown }
    }
}

/// Commands of transmit descriptors (8254x 3.3.6.1, 3.3.7.1), in the lower 32 bits of the control half.
mod command {
    pub const TYPE_DATA: u32 = 1 << 20;
    pub const TCP: u32 = 1 << 24;
    pub const EOP: u32 = 1 << 24;
    pub const IFCS: u32 = 1 << 25;
    pub const RS: u32 = 1 << 27;
    pub const DEXT: u32 = 1 << 29;
}
/// Packet option: insert the checksum of TCP or UDP (8254x 3.3.7.3).
const TXSM: u64 = 1 << 41;
/// Where the checksum field is in the TCP header.
const TCP_CHECKSUM: u16 = 16;

/// Where the device is to sum up and to put the sum (8254x 3.3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// TUCSS: where the sum begins.
    start: u8,
    /// TUCSO: where it is put.
    place: u8,
    /// Whether this is TCP.
    is_tcp: bool,
}

impl Context {
    /// For an offload that wants a checksum: `Ok(None)` when it does not, an error when the fields are too small for it.
    pub fn new(offload: Offload) -> Result<Option<Self>, core::num::TryFromIntError> {
        let Offload::Checksum { start, offset } = offload else { return Ok(None) };
        let place = u8::try_from(u32::from(start) + u32::from(offset))?;
        Ok(Some(Self { start: start.try_into()?, place, is_tcp: offset == TCP_CHECKSUM }))
    }

    /// The context descriptor. The sum goes to the end of the frame (TUCSE zero).
    pub fn encode(self) -> [u64; 2] {
        let tcp = if self.is_tcp { command::TCP } else { 0 };
        let offsets = u64::from(self.start) << 32 | u64::from(self.place) << 40;
        [offsets, u64::from(command::DEXT | command::RS | tcp)]
    }
}

/// The data descriptor of a whole frame of `length` bytes at `address` (8254x 3.3.7).
pub fn data(address: u64, length: u16, checksum: bool) -> [u64; 2] {
    let command = command::TYPE_DATA | command::DEXT | command::EOP | command::IFCS | command::RS;
    [address, u64::from(command | u32::from(length)) | if checksum { TXSM } else { 0 }]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Length 60, done, last.
    const PLAIN: u64 = 60 | 3 << 32;

    #[test]
    fn a_received_descriptor_is_decoded() {
        let received = Received::new(PLAIN);
        assert_eq!(received.length(2048), Ok(60));
        assert!(received.is_last() && received.is_sound());
        assert_eq!(received.checksum(), RxChecksum::Unknown);
        assert!(!Received::new(60 | 1 << 32).is_last());
    }

    #[test]
    fn a_length_beyond_the_buffer_is_a_fault() {
        assert_eq!(Received::new(2048 | 3 << 32).length(2048), Ok(2048));
        assert_eq!(Received::new(2049 | 3 << 32).length(2048), Err(DeviceFault::Length));
    }

    #[test]
    fn frames_with_errors_and_runts_are_not_sound() {
        for error in [0x01, 0x02, 0x04, 0x10, 0x80] {
            assert!(!Received::new(PLAIN | error << 40).is_sound(), "error {error:#x}");
        }
        assert!(!Received::new(13 | 3 << 32).is_sound());
        assert!(Received::new(PLAIN | 0x60 << 40).is_sound(), "a wrong checksum is no damage");
    }

    #[test]
    fn only_a_checksum_that_was_verified_is_good() {
        let checksum =
            |status: u64, errors: u64| Received::new(PLAIN | status << 32 | errors << 40).checksum();
        assert_eq!(checksum(0x20, 0), RxChecksum::Good);
        assert_eq!(checksum(0x24, 0), RxChecksum::Unknown);
        assert_eq!(checksum(0x20, 0x20), RxChecksum::Unknown);
        assert_eq!(checksum(0x20, 0x40), RxChecksum::Unknown);
        assert_eq!(checksum(0x00, 0), RxChecksum::Unknown);
    }

    #[test]
    fn a_context_says_where_the_checksum_goes() {
        let tcp = Context::new(Offload::Checksum { start: 34, offset: 16 }).unwrap().unwrap();
        assert_eq!(tcp.encode(), [34 << 32 | 50 << 40, 0x2900_0000]);
        let udp = Context::new(Offload::Checksum { start: 34, offset: 6 }).unwrap().unwrap();
        assert_eq!(udp.encode(), [34 << 32 | 40 << 40, 0x2800_0000]);
        assert_eq!(Context::new(Offload::None), Ok(None));
    }

    #[test]
    fn a_context_beyond_its_fields_is_refused() {
        assert!(Context::new(Offload::Checksum { start: 250, offset: 6 }).is_err());
        assert!(Context::new(Offload::Checksum { start: 256, offset: 0 }).is_err());
        assert!(Context::new(Offload::Checksum { start: 239, offset: 16 }).is_ok());
    }

    #[test]
    fn a_data_descriptor_sends_one_whole_frame() {
        assert_eq!(data(0x1_2345_6000, 1514, false), [0x1_2345_6000, 0x2b10_05ea]);
        assert_eq!(data(0, 60, true)[1], 0x0000_0200_2b10_003c);
    }
}
