//! The way out of packets that are larger than a link carries: they go in pieces (RFC 791).

use super::counters::Counter;
use super::link::{SendError, zeroed};
use super::stack::{Path, Stack};
use super::wire::{IPV4_HEADER, Ipv4Template, MORE_FRAGMENTS};

impl Stack {
    /// As [`send_ip`](Self::send_ip), for payloads of any length up to 65,515 bytes, whose checksum `fill` completes.
    pub fn send_fragmented(
        &self,
        path: &mut Path,
        template: &Ipv4Template,
        length: usize,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), SendError> {
        if IPV4_HEADER + length <= path.link.mtu {
            return self.send_ip(path, template, length, None, fill);
        }
        if IPV4_HEADER + length > usize::from(u16::MAX) {
            return Err(SendError::Refused);
        }
        let mut payload = zeroed(length).ok_or(SendError::NoMemory)?;
        fill(&mut payload);
        let step = (path.link.mtu - IPV4_HEADER) & !7;
        let identification = self.next_identification();
        for (n, piece) in payload.chunks(step).enumerate() {
            let more = if (n + 1) * step < length { MORE_FRAGMENTS } else { 0 };
            let fragment = (identification, (n * step / 8) as u16 | more);
            let template = Ipv4Template { fragment, ..*template };
            self.send_ip(path, &template, piece.len(), None, &mut |packet| packet.copy_from_slice(piece))?;
            self.counters.count(Counter::IpFragCreates);
        }
        self.counters.count(Counter::IpFragOKs);
        Ok(())
    }
}
