//! What stands before each frame in its buffer (VIRTIO 5.1.6): `struct virtio_net_hdr`, twelve bytes in version 1.

use hw::nic::{Offload, RxChecksum};

/// Its length in bytes.
pub const LENGTH: usize = 12;

/// The checksum of the frame is to be completed (VIRTIO 5.1.6.2, 5.1.6.4.1).
const NEEDS_CSUM: u8 = 1;
/// The device has verified the checksum (VIRTIO 5.1.6.4.1).
const DATA_VALID: u8 = 2;

/// Where the fields are: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers.
const FLAGS: usize = 0;
const CSUM_START: usize = 6;
const CSUM_OFFSET: usize = 8;
const NUM_BUFFERS: usize = 10;

/// The header of a frame to be sent.
pub fn encode(offload: Offload) -> [u8; LENGTH] {
    let mut header = [0; LENGTH];
    if let Offload::Checksum { start, offset } = offload {
        header[FLAGS] = NEEDS_CSUM;
        header[CSUM_START..CSUM_START + 2].copy_from_slice(&start.to_le_bytes());
        header[CSUM_OFFSET..CSUM_OFFSET + 2].copy_from_slice(&offset.to_le_bytes());
    }
    header
}

/// What the header of a received frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What is known of its checksum.
    pub checksum: RxChecksum,
    /// Over how many buffers it is spread; only with mergeable buffers.
    pub buffers: u16,
}

/// Reads the header of a received frame; `None` when it is cut short.
///
/// A frame whose checksum is yet to be completed comes from this very machine and was never on a wire, so that its
/// data is as good as verified (VIRTIO 5.1.6.4.1).
pub fn decode(bytes: &[u8]) -> Option<Received> {
    let header = bytes.first_chunk::<LENGTH>()?;
    let good = header[FLAGS] & (NEEDS_CSUM | DATA_VALID) != 0;
    Some(Received {
        checksum: if good { RxChecksum::Good } else { RxChecksum::Unknown },
        buffers: u16::from_le_bytes([header[NUM_BUFFERS], header[NUM_BUFFERS + 1]]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_frame_has_an_empty_header() {
        assert_eq!(encode(Offload::None), [0; LENGTH]);
    }

    #[test]
    fn a_checksum_is_asked_for_by_start_and_offset() {
        let header = encode(Offload::Checksum { start: 0x0122, offset: 16 });
        assert_eq!(header, [1, 0, 0, 0, 0, 0, 0x22, 0x01, 16, 0, 0, 0]);
    }

    #[test]
    fn either_flag_makes_a_received_checksum_good() {
        let header = |flags| [flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1];
        assert_eq!(decode(&header(0)), Some(Received { checksum: RxChecksum::Unknown, buffers: 258 }));
        assert_eq!(decode(&header(1)).unwrap().checksum, RxChecksum::Good);
        assert_eq!(decode(&header(2)).unwrap().checksum, RxChecksum::Good);
        assert_eq!(decode(&[0; LENGTH - 1]), None);
    }
}
