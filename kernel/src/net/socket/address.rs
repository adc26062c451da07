//! Socket addresses, as programs lay them out: `struct sockaddr_in` (ip(7)), `sockaddr_un` (unix(7)).

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use linux_raw_sys::net::{AF_INET, AF_UNIX, AF_UNSPEC};

use crate::errno::Errno;
use crate::net::wire::Endpoint;

/// Bytes of the largest address (`struct sockaddr_storage`).
pub const STORAGE: usize = 128;
/// Bytes of a `struct sockaddr_in`.
const INET: usize = 16;
/// Bytes of the path in a `struct sockaddr_un`.
const UNIX_PATH: usize = 108;

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketAddress {
    /// None: ends a connection.
    Unspecified,
    /// `AF_INET`.
    Inet(Endpoint),
    /// `AF_UNIX`.
    Unix(UnixName),
    /// `AF_NETLINK`: port and groups.
    Netlink(u32, u32),
    /// Of another family.
    Other(u16),
}

/// The name of a unix-domain socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnixName {
    /// It has none.
    Unnamed,
    /// A name in the file system.
    Path(Vec<u8>),
    /// A name in a space of its own; it begins with a NUL that is not kept here.
    Abstract(Vec<u8>),
}

impl SocketAddress {
    /// Decodes the address in `bytes`.
    ///
    /// # Errors
    /// `EINVAL` when it is too short or too long.
    pub fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let family = bytes.get(..2).ok_or(Errno::EINVAL)?;
        let family = u16::from_ne_bytes([family[0], family[1]]);
        match u32::from(family) {
            AF_UNSPEC => Ok(Self::Unspecified),
            AF_INET if bytes.len() >= INET => {
                let address = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
                Ok(Self::Inet(Endpoint::new(address, u16::from_be_bytes([bytes[2], bytes[3]]))))
            }
            AF_INET => Err(Errno::EINVAL),
            AF_UNIX => decode_unix(&bytes[2..]),
            linux_raw_sys::net::AF_NETLINK if bytes.len() >= 12 => {
                let word =
                    |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
                Ok(Self::Netlink(word(4), word(8)))
            }
            linux_raw_sys::net::AF_NETLINK => Err(Errno::EINVAL),
            _ => Ok(Self::Other(family)),
        }
    }

    /// Encodes it into `bytes`, and returns its length.
    pub fn encode(&self, bytes: &mut [u8; STORAGE]) -> usize {
        bytes.fill(0);
        let mut family = |family: u32| bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        match self {
            Self::Unspecified | Self::Other(_) => {
                family(AF_UNSPEC);
                2
            }
            Self::Inet(endpoint) => {
                family(AF_INET);
                bytes[2..4].copy_from_slice(&endpoint.port.to_be_bytes());
                bytes[4..8].copy_from_slice(&endpoint.address.octets());
                INET
            }
            Self::Unix(name) => {
                family(AF_UNIX);
                2 + encode_unix(name, &mut bytes[2..])
            }
            Self::Netlink(port, groups) => {
                family(linux_raw_sys::net::AF_NETLINK);
                bytes[4..8].copy_from_slice(&port.to_ne_bytes());
                bytes[8..12].copy_from_slice(&groups.to_ne_bytes());
                12
            }
        }
    }

    /// The endpoint of an `AF_INET` address.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` for all others.
    pub fn inet(&self) -> Result<Endpoint, Errno> {
        match self {
            Self::Inet(endpoint) => Ok(*endpoint),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }
}

fn decode_unix(path: &[u8]) -> Result<SocketAddress, Errno> {
    if path.len() > UNIX_PATH {
        return Err(Errno::EINVAL);
    }
    let copy = |bytes: &[u8]| -> Result<Vec<u8>, Errno> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        copy.extend_from_slice(bytes);
        Ok(copy)
    };
    Ok(SocketAddress::Unix(match path {
        [] => UnixName::Unnamed,
        [0, name @ ..] => UnixName::Abstract(copy(name)?),
        _ => UnixName::Path(copy(path.split(|&byte| byte == 0).next().unwrap_or(path))?),
    }))
}

fn encode_unix(name: &UnixName, bytes: &mut [u8]) -> usize {
    match name {
        UnixName::Unnamed => 0,
        UnixName::Path(path) => {
            bytes[..path.len()].copy_from_slice(path);
            // The NUL counts.
            path.len() + 1
        }
        UnixName::Abstract(name) => {
            bytes[1..=name.len()].copy_from_slice(name);
            1 + name.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(bytes: &[u8]) -> SocketAddress {
        let mut address = vec![1, 0];
        address.extend(bytes);
        SocketAddress::decode(&address).unwrap()
    }

    #[test]
    fn names_are_of_three_kinds() {
        assert_eq!(name(b""), SocketAddress::Unix(UnixName::Unnamed));
        assert_eq!(name(b"/run/x\0rubbish"), SocketAddress::Unix(UnixName::Path(b"/run/x".to_vec())));
        assert_eq!(name(b"\0x\0y"), SocketAddress::Unix(UnixName::Abstract(b"x\0y".to_vec())));
        assert_eq!(SocketAddress::decode(&[1; 111]).unwrap(), SocketAddress::Other(0x0101));
        let mut long = vec![1; 111];
        long[1] = 0;
        assert_eq!(SocketAddress::decode(&long), Err(Errno::EINVAL));
        assert_eq!(SocketAddress::decode(&[2, 0, 0, 80, 127, 0, 0, 1]), Err(Errno::EINVAL));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(address in any::<u32>(), port in any::<u16>(), text in "[a-z/]{1,107}") {
            let text = text.into_bytes();
            for address in [
                SocketAddress::Inet(Endpoint::new(Ipv4Addr::from_bits(address), port)),
                SocketAddress::Unix(UnixName::Path(text.clone())),
                SocketAddress::Unix(UnixName::Abstract(text.clone())),
                SocketAddress::Unix(UnixName::Unnamed),
                SocketAddress::Netlink(7, 9),
            ] {
                let mut bytes = [0; STORAGE];
                let length = address.encode(&mut bytes);
                prop_assert_eq!(SocketAddress::decode(&bytes[..length]), Ok(address));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..STORAGE)) {
            if let Ok(address) = SocketAddress::decode(&bytes) {
                address.encode(&mut [0; STORAGE]);
            }
        }
    }
}
