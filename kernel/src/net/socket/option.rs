//! setsockopt(2) and getsockopt(2): numbers and layouts of options (socket(7), tcp(7), ip(7)).
//!
//! An option that is not in here is refused with `ENOPROTOOPT`; none is accepted and ignored unless its effect is
//! already there (and then that is said).

use linux_raw_sys::net as abi;

use super::Socket;
use crate::errno::{Errno, SysResult};
use crate::net::options::{BUFFER_MAX, BUFFER_MIN, DeferAccept, Options};
use crate::net::stack::Stack;

/// Bytes of the largest option.
pub const LARGEST: usize = 256;

const SECOND: u64 = 1_000_000_000;
const MICROSECOND: u64 = 1000;

/// An option's value as an integer (`EINVAL` when it is too short).
fn integer(value: &[u8]) -> Result<i32, Errno> {
    let bytes = value.get(..4).ok_or(Errno::EINVAL)?;
    Ok(i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// As ip(7) options: one byte is enough.
fn short_integer(value: &[u8]) -> Result<i32, Errno> {
    match value {
        [] => Err(Errno::EINVAL),
        [byte, rest @ ..] if rest.len() < 3 => Ok(i32::from(*byte)),
        _ => integer(value),
    }
}

fn in_range<T: TryFrom<i32>>(value: i32, range: core::ops::RangeInclusive<i32>) -> Result<T, Errno> {
    if !range.contains(&value) {
        return Err(Errno::EINVAL);
    }
    T::try_from(value).map_err(|_| Errno::EINVAL)
}

/// A `struct timeval` in nanoseconds (`EDOM` for impossible ones, as Linux says).
fn time(value: &[u8]) -> Result<u64, Errno> {
    let word = |at: usize| -> Result<i64, Errno> {
        let bytes = value.get(at..at + 8).ok_or(Errno::EINVAL)?;
        Ok(i64::from_ne_bytes(bytes.try_into().map_err(|_| Errno::EINVAL)?))
    };
    let (seconds, microseconds) = (word(0)?, word(8)?);
    if !(0..1_000_000).contains(&microseconds) {
        return Err(Errno::EDOM);
    }
    // A negative time has passed already.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Ok(seconds.saturating_mul(SECOND).saturating_add(microseconds as u64 * MICROSECOND))
}

impl Socket {
    /// setsockopt(2).
    ///
    /// # Errors
    /// `ENOPROTOOPT` for options and levels that are not there, `EINVAL`, `EDOM`; `EOPNOTSUPP` for levels of a unix socket.
    pub fn set_option(&self, stack: &Stack, level: u32, name: u32, value: &[u8]) -> Result<(), Errno> {
        if !self.has_level(level) {
            let is_unix = self.kind.family == abi::AF_UNIX;
            return Err(if is_unix { Errno::EOPNOTSUPP } else { Errno::ENOPROTOOPT });
        }
        match level {
            abi::SOL_SOCKET => self.set_socket_option(stack, name, value),
            abi::SOL_TCP => self.set_tcp_option(name, value),
            abi::SOL_IP => self.set_ip_option(name, value),
            _ => self.protocol.set_own_option(level, name, value),
        }
    }

    /// Whether the socket has options of `level`.
    fn has_level(&self, level: u32) -> bool {
        match (self.kind.family, level) {
            (_, abi::SOL_SOCKET) | (abi::AF_INET, abi::SOL_IP) => true,
            (abi::AF_INET, abi::SOL_TCP) => self.is_stream(),
            (abi::AF_INET, abi::SOL_UDP) => self.kind.socket_type == abi::SOCK_DGRAM,
            (abi::AF_INET, abi::SOL_RAW) => self.kind.socket_type == abi::SOCK_RAW,
            // Where a protocol has all to say: that of netlink says `ENOPROTOOPT`.
            (family, _) => !matches!(family, abi::AF_INET | abi::AF_UNIX),
        }
    }

    fn change(&self, mut change: impl FnMut(&mut Options)) {
        self.protocol.change_options(&mut change);
    }

    fn set_socket_option(&self, stack: &Stack, name: u32, value: &[u8]) -> Result<(), Errno> {
        if name == abi::SO_BINDTODEVICE {
            let device = device_index(stack, value)?;
            self.change(|options| options.device = device);
            return Ok(());
        }
        let number = integer(value)?;
        let on = number != 0;
        match name {
            abi::SO_REUSEADDR => self.change(|options| options.reuse_address = on),
            abi::SO_REUSEPORT => self.change(|options| options.reuse_port = on),
            abi::SO_KEEPALIVE => self.change(|options| options.keep_alive = on),
            abi::SO_BROADCAST => self.change(|options| options.broadcast = on),
            abi::SO_OOBINLINE => self.change(|options| options.oob_inline = on),
            abi::SO_PASSCRED if self.kind.family == abi::AF_UNIX => {
                self.change(|options| options.pass_credentials = on)
            }
            abi::SO_TIMESTAMP if self.is_datagram() => self.change(|options| options.timestamp = on),
            abi::SO_PRIORITY => {
                let priority = in_range(number, 0..=7)?;
                self.change(|options| options.priority = priority);
            }
            abi::SO_RCVBUF | abi::SO_RCVBUFFORCE => {
                self.change(|options| options.receive_buffer = Some(buffer_size(number)));
            }
            abi::SO_SNDBUF | abi::SO_SNDBUFFORCE => {
                self.change(|options| options.send_buffer = Some(buffer_size(number)));
            }
            abi::SO_RCVLOWAT => {
                let low = usize::try_from(number).unwrap_or(usize::MAX).max(1);
                self.change(|options| options.receive_low = low);
            }
            abi::SO_LINGER => {
                let time = integer(value.get(4..).ok_or(Errno::EINVAL)?)?;
                let linger = on.then(|| u64::from(time.max(0) as u32) * SECOND);
                self.change(|options| options.linger = linger);
            }
            abi::SO_RCVTIMEO => {
                let time = time(value)?;
                self.change(|options| options.receive_timeout = time);
            }
            abi::SO_SNDTIMEO => {
                let time = time(value)?;
                self.change(|options| options.send_timeout = time);
            }
            abi::SO_TYPE | abi::SO_ERROR | abi::SO_DOMAIN | abi::SO_PROTOCOL | abi::SO_ACCEPTCONN => {
                return Err(Errno::ENOPROTOOPT);
            }
            _ => return self.protocol.set_own_option(abi::SOL_SOCKET, name, value),
        }
        Ok(())
    }

    fn set_tcp_option(&self, name: u32, value: &[u8]) -> Result<(), Errno> {
        if name == abi::TCP_CONGESTION {
            let wanted = value.split(|&byte| byte == 0).next().unwrap_or(value);
            return if wanted == b"reno" { Ok(()) } else { Err(Errno::ENOENT) };
        }
        let number = integer(value)?;
        let on = number != 0;
        let seconds = |number| Ok::<_, Errno>(u64::from(in_range::<u32>(number, 1..=32767)?) * SECOND);
        match name {
            abi::TCP_NODELAY => self.change(|options| options.no_delay = on),
            abi::TCP_CORK => self.change(|options| options.cork = on),
            abi::TCP_QUICKACK => self.change(|options| options.quick_ack = Some(on)),
            abi::TCP_KEEPIDLE => {
                let idle = seconds(number)?;
                self.change(|options| options.keep_idle = idle);
            }
            abi::TCP_KEEPINTVL => {
                let interval = seconds(number)?;
                self.change(|options| options.keep_interval = interval);
            }
            abi::TCP_KEEPCNT => {
                let count = in_range(number, 1..=127)?;
                self.change(|options| options.keep_count = count);
            }
            abi::TCP_SYNCNT => {
                let count = in_range(number, 1..=127)?;
                self.change(|options| options.syn_count = count);
            }
            abi::TCP_DEFER_ACCEPT => {
                let periods = DeferAccept::from_seconds(number);
                self.change(|options| options.defer_accept = periods);
            }
            abi::TCP_USER_TIMEOUT => {
                let milliseconds = u64::from(in_range::<u32>(number, 0..=i32::MAX)?);
                self.change(|options| options.user_timeout = milliseconds * 1_000_000);
            }
            _ => return self.protocol.set_own_option(abi::SOL_TCP, name, value),
        }
        Ok(())
    }

    fn set_ip_option(&self, name: u32, value: &[u8]) -> Result<(), Errno> {
        let number = short_integer(value)?;
        let on = number != 0;
        match name {
            abi::IP_TTL => {
                let ttl = if number == -1 { 64 } else { in_range(number, 1..=255)? };
                self.change(|options| options.ttl = ttl);
            }
            abi::IP_TOS if !self.is_stream() => self.change(|options| options.tos = number as u8),
            abi::IP_MULTICAST_TTL => {
                let ttl = if number == -1 { 1 } else { in_range(number, 0..=255)? };
                self.change(|options| options.multicast_ttl = ttl);
            }
            abi::IP_PKTINFO => self.change(|options| options.packet_info = on),
            abi::IP_RECVTTL => self.change(|options| options.receive_ttl = on),
            abi::IP_RECVERR => self.change(|options| options.receive_errors = on),
            // Packets are as large as the link carries, and larger ones go in pieces: as for `IP_PMTUDISC_DONT` and `_WANT`.
            abi::IP_MTU_DISCOVER if (0..=1).contains(&number) => {}
            _ => return self.protocol.set_own_option(abi::SOL_IP, name, value),
        }
        Ok(())
    }

    /// getsockopt(2): writes the value to the front of `value`, and returns its length.
    ///
    /// # Errors
    /// As for [`set_option`](Self::set_option), but `EOPNOTSUPP` for levels that are not there.
    pub fn option(&self, stack: &Stack, level: u32, name: u32, value: &mut [u8; LARGEST]) -> SysResult {
        if !self.has_level(level) {
            return Err(Errno::EOPNOTSUPP);
        }
        let options = self.protocol.options();
        let number = match level {
            abi::SOL_SOCKET => match name {
                abi::SO_LINGER => {
                    let seconds = options.linger.map_or(0, |time| (time / SECOND) as u32);
                    value[..4].copy_from_slice(&u32::from(options.linger.is_some()).to_ne_bytes());
                    value[4..8].copy_from_slice(&seconds.to_ne_bytes());
                    return Ok(8);
                }
                abi::SO_RCVTIMEO => return Ok(put_time(options.receive_timeout, value)),
                abi::SO_SNDTIMEO => return Ok(put_time(options.send_timeout, value)),
                abi::SO_BINDTODEVICE => return Ok(put_device(stack, options.device, value)),
                _ => self.socket_option(name, &options),
            },
            abi::SOL_TCP => tcp_option(name, &options),
            abi::SOL_IP => ip_option(name, &options),
            _ => None,
        };
        match number {
            Some(number) => {
                value[..4].copy_from_slice(&number.to_ne_bytes());
                Ok(4)
            }
            None => self.protocol.own_option(level, name, value),
        }
    }

    fn socket_option(&self, name: u32, options: &Options) -> Option<u32> {
        Some(match name {
            abi::SO_TYPE => self.kind.socket_type,
            abi::SO_DOMAIN => self.kind.family,
            abi::SO_PROTOCOL => self.kind.protocol,
            abi::SO_ERROR => self.protocol.take_error().map_or(0, |error| u32::from(error.number())),
            abi::SO_ACCEPTCONN => u32::from(self.protocol.is_listening()),
            abi::SO_REUSEADDR => u32::from(options.reuse_address),
            abi::SO_REUSEPORT => u32::from(options.reuse_port),
            abi::SO_KEEPALIVE => u32::from(options.keep_alive),
            abi::SO_BROADCAST => u32::from(options.broadcast),
            abi::SO_OOBINLINE => u32::from(options.oob_inline),
            abi::SO_PASSCRED => u32::from(options.pass_credentials),
            abi::SO_TIMESTAMP => u32::from(options.timestamp),
            abi::SO_PRIORITY => options.priority,
            abi::SO_RCVLOWAT => options.receive_low as u32,
            abi::SO_SNDLOWAT => 1,
            abi::SO_RCVBUF => options.receive_buffer.unwrap_or(self.default_buffer(131_072)) as u32,
            abi::SO_SNDBUF => options.send_buffer.unwrap_or(self.default_buffer(131_072)) as u32,
            _ => return None,
        })
    }

    /// Whether datagrams come with notes.
    fn is_datagram(&self) -> bool {
        self.kind.family == abi::AF_INET && !self.is_stream()
    }

    fn default_buffer(&self, of_stream: usize) -> usize {
        if self.is_stream() && self.kind.family == abi::AF_INET {
            of_stream
        } else {
            crate::net::udp::RECEIVE_BUFFER
        }
    }
}

fn tcp_option(name: u32, options: &Options) -> Option<u32> {
    Some(match name {
        abi::TCP_NODELAY => u32::from(options.no_delay),
        abi::TCP_CORK => u32::from(options.cork),
        abi::TCP_QUICKACK => u32::from(options.quick_ack.unwrap_or(true)),
        abi::TCP_KEEPIDLE => (options.keep_idle / SECOND) as u32,
        abi::TCP_KEEPINTVL => (options.keep_interval / SECOND) as u32,
        abi::TCP_KEEPCNT => options.keep_count,
        abi::TCP_SYNCNT => options.syn_count,
        abi::TCP_DEFER_ACCEPT => options.defer_accept.seconds(),
        abi::TCP_USER_TIMEOUT => (options.user_timeout / 1_000_000) as u32,
        _ => return None,
    })
}

fn ip_option(name: u32, options: &Options) -> Option<u32> {
    Some(match name {
        abi::IP_TTL => u32::from(options.ttl),
        abi::IP_TOS => u32::from(options.tos),
        abi::IP_MULTICAST_TTL => u32::from(options.multicast_ttl),
        abi::IP_PKTINFO => u32::from(options.packet_info),
        abi::IP_RECVTTL => u32::from(options.receive_ttl),
        abi::IP_RECVERR => u32::from(options.receive_errors),
        abi::IP_MTU_DISCOVER => abi::IP_PMTUDISC_WANT,
        _ => return None,
    })
}

/// The size of a buffer that a program asked for: bounded, and twice that, as Linux does.
fn buffer_size(wanted: i32) -> usize {
    // Negative numbers count as very large: Linux takes them as unsigned.
    let wanted = usize::try_from(wanted).unwrap_or(BUFFER_MAX).min(BUFFER_MAX);
    (2 * wanted).max(BUFFER_MIN)
}

fn put_time(time: u64, value: &mut [u8; LARGEST]) -> usize {
    value[..8].copy_from_slice(&(time / SECOND).to_ne_bytes());
    value[8..16].copy_from_slice(&(time % SECOND / MICROSECOND).to_ne_bytes());
    16
}

fn device_index(stack: &Stack, value: &[u8]) -> Result<Option<u32>, Errno> {
    let name = value.split(|&byte| byte == 0).next().unwrap_or(value);
    if name.is_empty() {
        return Ok(None);
    }
    stack.link_named(name).map(|link| Some(link.index)).ok_or(Errno::ENODEV)
}

fn put_device(stack: &Stack, device: Option<u32>, value: &mut [u8; LARGEST]) -> usize {
    let Some(link) = device.and_then(|index| stack.link(index)) else { return 0 };
    let name = link.name.as_bytes();
    value[..name.len()].copy_from_slice(name);
    value[name.len()] = 0;
    name.len() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::socket::Kind;
    use crate::process::Credentials;
    use proptest::prelude::*;

    fn socket(socket_type: u32) -> (alloc::sync::Arc<Stack>, Socket) {
        let stack = Stack::new(crate::arch::now);
        let kind = Kind { family: abi::AF_INET, socket_type, protocol: 0 };
        let socket = Socket::new(&stack, kind, &Credentials::root()).unwrap();
        (stack, socket)
    }

    fn get(stack: &Stack, socket: &Socket, level: u32, name: u32) -> Result<Vec<u8>, Errno> {
        let mut value = [0; LARGEST];
        let length = socket.option(stack, level, name, &mut value)?;
        Ok(value[..length].to_vec())
    }

    #[test]
    fn what_is_set_is_what_is_got() {
        let (stack, socket) = socket(abi::SOCK_STREAM);
        for (level, name) in [
            (abi::SOL_SOCKET, abi::SO_REUSEADDR),
            (abi::SOL_SOCKET, abi::SO_KEEPALIVE),
            (abi::SOL_TCP, abi::TCP_NODELAY),
            (abi::SOL_TCP, abi::TCP_CORK),
            (abi::SOL_TCP, abi::TCP_KEEPINTVL),
            (abi::SOL_IP, abi::IP_TTL),
            (abi::SOL_TCP, abi::TCP_DEFER_ACCEPT),
        ] {
            socket.set_option(&stack, level, name, &1u32.to_ne_bytes()).unwrap();
            assert_eq!(get(&stack, &socket, level, name).unwrap(), 1u32.to_ne_bytes());
        }
        socket.set_option(&stack, abi::SOL_SOCKET, abi::SO_RCVBUF, &10_000u32.to_ne_bytes()).unwrap();
        assert_eq!(get(&stack, &socket, abi::SOL_SOCKET, abi::SO_RCVBUF).unwrap(), 20_000u32.to_ne_bytes());
        let time = [3u64.to_ne_bytes(), 500_000u64.to_ne_bytes()].concat();
        socket.set_option(&stack, abi::SOL_SOCKET, abi::SO_RCVTIMEO, &time).unwrap();
        assert_eq!(get(&stack, &socket, abi::SOL_SOCKET, abi::SO_RCVTIMEO).unwrap(), time);
        assert_eq!(
            get(&stack, &socket, abi::SOL_SOCKET, abi::SO_TYPE).unwrap(),
            abi::SOCK_STREAM.to_ne_bytes()
        );
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let (stack, socket) = socket(abi::SOCK_DGRAM);
        let one = 1u32.to_ne_bytes();
        assert_eq!(socket.set_option(&stack, abi::SOL_TCP, abi::TCP_NODELAY, &one), Err(Errno::ENOPROTOOPT));
        assert_eq!(socket.set_option(&stack, abi::SOL_SOCKET, 9999, &one), Err(Errno::ENOPROTOOPT));
        assert_eq!(socket.set_option(&stack, abi::SOL_SOCKET, abi::SO_BROADCAST, &[1]), Err(Errno::EINVAL));
        assert_eq!(
            socket.set_option(&stack, abi::SOL_SOCKET, abi::SO_BINDTODEVICE, b"eth9\0"),
            Err(Errno::ENODEV)
        );
        assert_eq!(get(&stack, &socket, abi::SOL_SOCKET, 9999), Err(Errno::ENOPROTOOPT));
        assert_eq!(get(&stack, &socket, abi::SOL_TCP, abi::TCP_NODELAY), Err(Errno::EOPNOTSUPP));
        assert_eq!(get(&stack, &socket, abi::SOL_IPV6, 1), Err(Errno::EOPNOTSUPP));
    }

    proptest! {
        #[test]
        fn no_option_makes_it_panic(level in 0u32..300, name in 0u32..100, value in prop::collection::vec(any::<u8>(), 0..40)) {
            for socket_type in [abi::SOCK_STREAM, abi::SOCK_DGRAM, abi::SOCK_RAW] {
                let stack = Stack::new(crate::arch::now);
                let kind = Kind { family: abi::AF_INET, socket_type, protocol: u32::from(socket_type == abi::SOCK_RAW) };
                let socket = Socket::new(&stack, kind, &Credentials::root()).unwrap();
                let _ = socket.set_option(&stack, level, name, &value);
                let _ = get(&stack, &socket, level, name);
            }
        }
    }
}
