//! From a record of QEMU's to what would be on a cable: without the header of virtio_net in front of each frame, and with
//! checksums filled in where that was left to the device.
//!
//! The format is that of pcap (draft-ietf-opsawg-pcap): a file header of 24 bytes, then frames, each behind 16 bytes.

use std::io::{ErrorKind, Read, Write};

use anyhow::{Context, Result, ensure};

/// Lengths of the header that may stand in front of a frame: none; vmxnet3's; virtio-net's, which has a count of buffers.
const HEADERS: [usize; 3] = [0, 10, 12];
/// In the header's first byte: a checksum is to be filled in (virtio 1.2, 5.1.6).
const NEEDS_CHECKSUM: u8 = 1;
/// The longest record that makes sense.
const LONGEST: usize = 1 << 18;

/// Copies a record; returns how many frames the station `mac` sent.
pub fn tidy(mut from: impl Read, mut to: impl Write, mac: &str) -> Result<usize> {
    let mac: Vec<u8> = mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let mut file_header = [0; 24];
    from.read_exact(&mut file_header).context("the record has no header")?;
    to.write_all(&file_header)?;
    let (mut header, mut sent) = (None, 0);
    while let Some((time, mut bytes)) = next(&mut from)? {
        // The first frame from or to the station tells for all.
        header = header.or_else(|| header_length(&bytes, &mac));
        let Some(header) = header.filter(|&header| bytes.len() > header) else { continue };
        let is_sent = bytes.get(header + 6..header + 12) == Some(&mac[..]);
        sent += usize::from(is_sent);
        let mut frame = bytes.split_off(header);
        if is_sent {
            finish(&bytes, &mut frame);
        }
        let length = (frame.len() as u32).to_le_bytes();
        to.write_all(&[&time[..], &length, &length, &frame].concat())?;
    }
    to.flush()?;
    Ok(sent)
}

/// The next frame with its time, the first half of its header. One that QEMU's end cut short is none.
fn next(from: &mut impl Read) -> Result<Option<([u8; 8], Vec<u8>)>> {
    let mut read = |bytes: &mut [u8]| match from.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    let (mut time, mut lengths) = ([0; 8], [0; 8]);
    if !(read(&mut time)? && read(&mut lengths)?) {
        return Ok(None);
    }
    let length = u32::from_le_bytes([lengths[0], lengths[1], lengths[2], lengths[3]]) as usize;
    ensure!(length <= LONGEST, "the record is damaged: a frame of {length} bytes");
    let mut bytes = vec![0; length];
    Ok(read(&mut bytes)?.then_some((time, bytes)))
}

/// How long the header in front of frames is, if this frame is from or to the station.
fn header_length(bytes: &[u8], mac: &[u8]) -> Option<usize> {
    HEADERS.into_iter().find(|&header| {
        let address = |at: usize| bytes.get(header + at..header + at + 6);
        address(0) == Some(mac) || address(6) == Some(mac)
    })
}

/// Fills the checksum in if that was left to the device, and only if the device would have found it.
fn finish(header: &[u8], frame: &mut [u8]) {
    let Some((start, field)) = transport(frame) else { return };
    if let [flags, _, _, _, _, _, start_low, start_high, offset_low, offset_high, ..] = *header {
        let stated =
            [[start_low, start_high], [offset_low, offset_high]].map(u16::from_le_bytes).map(usize::from);
        if flags & NEEDS_CHECKSUM == 0 || stated != [start, field - start] {
            return;
        }
    }
    let stored = [frame[field], frame[field + 1]];
    if u16::from_be_bytes(stored) == pseudo_header_sum(frame, frame.len() - start) {
        let sum = !sum(0, &frame[start..]);
        frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where the TCP or UDP header of an unfragmented IPv4 packet starts in a frame, and where its checksum is.
fn transport(frame: &[u8]) -> Option<(usize, usize)> {
    let ip = frame.get(14..34).filter(|ip| frame[12..14] == [8, 0] && ip[0] >> 4 == 4)?;
    let start = 14 + usize::from(ip[0] & 15) * 4;
    let field = start
        + match ip[9] {
            6 => 16,
            17 => 6,
            _ => return None,
        };
    let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    (!is_fragment && field + 2 <= frame.len()).then_some((start, field))
}

/// The sum of addresses, protocol and length (RFC 9293, 3.1).
fn pseudo_header_sum(frame: &[u8], length: usize) -> u16 {
    let rest = [0, frame[23], (length >> 8) as u8, length as u8];
    sum(u32::from(sum(0, &frame[26..34])), &rest)
}

/// The ones' complement sum (RFC 1071).
pub(super) fn sum(start: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum = start + words.sum::<u32>();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
