//! The form of netlink messages (netlink(7), rtnetlink(7)): a header, a fixed part by type, attributes.

use alloc::vec::Vec;

/// Bytes of a message header.
pub const HEADER: usize = 16;
/// One of several parts.
pub const MULTI: u16 = 2;
/// An answer is wanted also where all goes well.
pub const ACK: u16 = 4;
/// All entries of a table (`NLM_F_ROOT | NLM_F_MATCH`); either bit is enough for Linux.
pub const DUMP: u16 = 0x300;
/// Must not be there yet.
pub const EXCLUSIVE: u16 = 0x200;
/// The answer to a request that changes something, or that failed.
pub const ERROR: u16 = 2;
/// The end of several parts.
pub const DONE: u16 = 3;

/// A message, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it is about.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    /// Ties answers to it.
    pub sequence: u32,
    /// The header as it came, for errors.
    pub header: [u8; HEADER],
    /// What follows the header.
    pub body: &'a [u8],
}

/// The messages in `bytes`, up to the first that is damaged.
pub fn requests(mut bytes: &[u8]) -> impl Iterator<Item = Request<'_>> {
    core::iter::from_fn(move || {
        let header: [u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Request {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            header,
            body,
        })
    })
}

/// The first attribute of kind `wanted` in `bytes`.
pub fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        // The upper two bits say how the value is made up.
        if u16::from_ne_bytes([header[2], header[3]]) & 0x3fff == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// Builds answers, several to a datagram.
pub struct Writer {
    /// Finished datagrams.
    datagrams: Vec<Vec<u8>>,
    current: Vec<u8>,
    port: u32,
    start: usize,
}

/// Bytes of a datagram, as large as programs expect at least.
const DATAGRAM: usize = 4096;

impl Writer {
    /// For the socket with number `port`.
    pub fn new(port: u32) -> Self {
        Self { datagrams: Vec::new(), current: Vec::new(), port, start: 0 }
    }

    /// Begins a message in answer to `request`; `fixed` is the part before its attributes.
    pub fn begin(&mut self, request: &Request<'_>, kind: u16, flags: u16, fixed: &[u8]) {
        if self.current.len() + 512 > DATAGRAM {
            self.datagrams.push(core::mem::take(&mut self.current));
        }
        self.start = self.current.len();
        self.current.extend_from_slice(&[0; 4]);
        self.current.extend_from_slice(&kind.to_ne_bytes());
        self.current.extend_from_slice(&flags.to_ne_bytes());
        self.current.extend_from_slice(&request.sequence.to_ne_bytes());
        self.current.extend_from_slice(&self.port.to_ne_bytes());
        self.current.extend_from_slice(fixed);
        self.pad();
    }

    /// Adds an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.current.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        self.current.extend_from_slice(&kind.to_ne_bytes());
        self.current.extend_from_slice(value);
        self.pad();
    }

    /// Ends the message.
    pub fn end(&mut self) {
        let length = (self.current.len() - self.start) as u32;
        self.current[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.current.resize(self.current.len().next_multiple_of(4), 0);
    }

    /// What was built.
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.current.is_empty() {
            self.datagrams.push(self.current);
        }
        self.datagrams
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), wanted in any::<u16>()) {
            for request in requests(&bytes).take(20) {
                let _ = attribute(request.body, wanted);
            }
            let _ = attribute(&bytes, wanted);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let request = Request { kind: 1, flags: 0, sequence: 9, header: [0; HEADER], body: &[] };
        let mut writer = Writer::new(5);
        for n in 0..100u8 {
            writer.begin(&request, 16, MULTI, &[n; 5]);
            writer.attribute(3, b"name");
            writer.attribute(4, &[n]);
            writer.end();
        }
        let datagrams = writer.finish();
        assert!(datagrams.len() > 1 && datagrams.iter().all(|datagram| datagram.len() <= DATAGRAM));
        let all: Vec<_> = datagrams.iter().flat_map(|datagram| requests(datagram)).collect();
        assert_eq!(all.len(), 100);
        assert_eq!((all[7].kind, all[7].sequence, attribute(&all[7].body[8..], 4)), (16, 9, Some(&[7][..])));
    }
}
