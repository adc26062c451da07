//! What travels with a message beside its bytes: flags, descriptors, credentials, and notes on where it came from
//! (recvmsg(2), cmsg(3), unix(7)).

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::net as abi;

use super::SocketAddress;
use crate::errno::Errno;
use crate::fs::OpenFile;

bitflags::bitflags! {
    /// `MSG_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MessageFlags: u32 {
        /// Urgent data, of which there is none here.
        const OOB = abi::MSG_OOB;
        /// What is read stays.
        const PEEK = abi::MSG_PEEK;
        /// Only to hosts on the link.
        const DONTROUTE = abi::MSG_DONTROUTE;
        /// In an answer: control data was cut.
        const CTRUNC = abi::MSG_CTRUNC;
        /// The true length counts; in an answer: the message was cut.
        const TRUNC = abi::MSG_TRUNC;
        /// Does not wait.
        const DONTWAIT = abi::MSG_DONTWAIT;
        /// End of a record.
        const EOR = abi::MSG_EOR;
        /// Waits until the buffer is full.
        const WAITALL = abi::MSG_WAITALL;
        /// The neighbour is alive, says the program.
        const CONFIRM = abi::MSG_CONFIRM;
        /// Errors instead of data.
        const ERRQUEUE = abi::MSG_ERRQUEUE;
        /// No `SIGPIPE`.
        const NOSIGNAL = abi::MSG_NOSIGNAL;
        /// More will follow at once.
        const MORE = abi::MSG_MORE;
        /// recvmmsg(2): waits only for the first.
        const WAITFORONE = 0x1_0000;
        /// Descriptors that arrive are closed by execve.
        const CMSG_CLOEXEC = abi::MSG_CMSG_CLOEXEC;
    }
}

impl MessageFlags {
    /// What send takes. The rest is refused.
    const SEND: Self = Self::DONTROUTE
        .union(Self::DONTWAIT)
        .union(Self::EOR)
        .union(Self::CONFIRM)
        .union(Self::NOSIGNAL)
        .union(Self::MORE);
    /// What receive takes.
    const RECEIVE: Self = Self::PEEK
        .union(Self::TRUNC)
        .union(Self::DONTWAIT)
        .union(Self::WAITALL)
        .union(Self::NOSIGNAL)
        .union(Self::WAITFORONE)
        .union(Self::CMSG_CLOEXEC)
        .union(Self::ERRQUEUE);

    /// The flags of send(2).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for urgent data and flags that are not there.
    pub fn for_send(bits: u32) -> Result<Self, Errno> {
        Self::from_bits(bits).filter(|flags| Self::SEND.contains(*flags)).ok_or(Errno::EOPNOTSUPP)
    }

    /// The flags of recv(2).
    ///
    /// # Errors
    /// `EINVAL` for urgent data, as there is none; `EOPNOTSUPP` for flags that are not there.
    pub fn for_receive(bits: u32) -> Result<Self, Errno> {
        let flags = Self::from_bits(bits).ok_or(Errno::EOPNOTSUPP)?;
        if flags.contains(Self::OOB) {
            return Err(Errno::EINVAL);
        }
        if Self::RECEIVE.contains(flags) { Ok(flags) } else { Err(Errno::EOPNOTSUPP) }
    }
}

/// Who sent a message (`struct ucred`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Control data of a message.
#[derive(Clone, Default)]
pub struct Control {
    /// Descriptors (`SCM_RIGHTS`).
    pub files: Vec<Arc<OpenFile>>,
    /// `SCM_CREDENTIALS`.
    pub credentials: Option<PeerCredentials>,
    /// `IP_PKTINFO`: link, own address, address in the header.
    pub packet_info: Option<(u32, core::net::Ipv4Addr)>,
    /// `IP_TTL`.
    pub ttl: Option<u8>,
    /// `SCM_TIMESTAMP`: nanoseconds since boot.
    pub timestamp: Option<u64>,
}

/// What was received beside the bytes.
pub struct Received {
    /// Length of what there was to receive, which for a datagram may be more than was copied.
    pub length: usize,
    /// Who sent it; `None` where that is not told.
    pub from: Option<SocketAddress>,
    /// `MSG_TRUNC`, `MSG_CTRUNC`, `MSG_EOR`.
    pub flags: MessageFlags,
    /// Descriptors, credentials, notes.
    pub control: Control,
}

impl Received {
    /// Bytes of a stream.
    pub fn bytes(length: usize) -> Self {
        Self { length, from: None, flags: MessageFlags::empty(), control: Control::default() }
    }
}

/// Most descriptors in one message (Linux: `SCM_MAX_FD`).
pub const FILES_MAX: usize = 253;
/// Bytes of a header of control data: length, level, type.
const HEADER: usize = 16;

/// An item of control data, as a program lays it out.
#[derive(Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// `SOL_*`.
    pub level: u32,
    /// `SCM_*` and the like.
    pub kind: u32,
    /// What it says.
    pub data: &'a [u8],
}

/// Takes control data apart (cmsg(3)).
///
/// # Errors
/// `EINVAL` for lengths that are wrong.
pub fn items(mut bytes: &[u8]) -> Result<Vec<Item<'_>>, Errno> {
    let mut items = Vec::new();
    while bytes.len() >= HEADER {
        let mut length = [0; 8];
        length.copy_from_slice(&bytes[..8]);
        let length = usize::try_from(u64::from_ne_bytes(length)).map_err(|_| Errno::EINVAL)?;
        if length < HEADER || length > bytes.len() {
            return Err(Errno::EINVAL);
        }
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        items.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        items.push(Item { level: word(8), kind: word(12), data: &bytes[HEADER..length] });
        bytes = &bytes[length.next_multiple_of(8).min(bytes.len())..];
    }
    Ok(items)
}

/// Lays out control data for a program, in at most `room` bytes.
pub struct ControlWriter {
    bytes: Vec<u8>,
    room: usize,
    /// Something did not fit.
    pub is_cut: bool,
}

impl ControlWriter {
    /// For `room` bytes.
    pub fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), room, is_cut: false }
    }

    /// How many bytes of data an item could still have.
    pub fn data_room(&self) -> usize {
        self.room.saturating_sub(self.bytes.len() + HEADER)
    }

    /// Adds an item, if it fits whole.
    pub fn put(&mut self, level: u32, kind: u32, data: &[u8]) {
        let length = HEADER + data.len();
        if self.bytes.len() + length > self.room || self.bytes.try_reserve(length + 8).is_err() {
            self.is_cut = true;
            return;
        }
        self.bytes.extend_from_slice(&(length as u64).to_ne_bytes());
        self.bytes.extend_from_slice(&level.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        let padded = self.bytes.len().next_multiple_of(8).min(self.room);
        self.bytes.resize(padded.max(self.bytes.len()), 0);
    }

    /// What was laid out.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flags_that_are_not_there_are_refused() {
        assert!(MessageFlags::for_send(abi::MSG_NOSIGNAL | abi::MSG_MORE).is_ok());
        assert_eq!(MessageFlags::for_send(abi::MSG_OOB), Err(Errno::EOPNOTSUPP));
        assert_eq!(MessageFlags::for_send(0x0400_0000), Err(Errno::EOPNOTSUPP));
        assert_eq!(MessageFlags::for_receive(abi::MSG_OOB), Err(Errno::EINVAL));
        assert!(MessageFlags::for_receive(abi::MSG_PEEK | abi::MSG_DONTWAIT).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_laid_out_is_taken_apart(parts in prop::collection::vec((any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..20)), 0..6)) {
            let mut writer = ControlWriter::new(4096);
            parts.iter().for_each(|(level, kind, data)| writer.put(*level, *kind, data));
            let bytes = writer.finish();
            let items = items(&bytes).unwrap();
            prop_assert_eq!(items.len(), parts.len());
            for (item, (level, kind, data)) in items.iter().zip(&parts) {
                prop_assert_eq!(item, &Item { level: *level, kind: *kind, data });
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), room in 0usize..64) {
            let _ = items(&bytes);
            let mut writer = ControlWriter::new(room);
            writer.put(1, 1, &bytes);
            prop_assert!(writer.finish().len() <= room);
        }
    }
}
