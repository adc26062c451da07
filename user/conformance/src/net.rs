//! What the socket sections share: addresses, connected pairs, messages with control data.

use libc::{AF_INET, SOCK_DGRAM, SOCK_STREAM, sockaddr_in};
use user_sys::{Errno, Res, Zeroed, must, sys};

/// Bytes of a sockaddr_in.
pub const LENGTH: usize = 16;

/// 127.0.0.1 and this port.
pub fn loopback(port: u16) -> sockaddr_in {
    address([127, 0, 0, 1], port)
}

/// An IPv4 address and port.
pub fn address(host: [u8; 4], port: u16) -> sockaddr_in {
    let mut address = sockaddr_in::zeroed();
    address.sin_family = AF_INET as u16;
    address.sin_port = port.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(host);
    address
}

/// socket(2).
pub fn socket(domain: i32, kind: i32) -> i32 {
    must(sys!(socket, domain, kind, 0))
}

/// A TCP socket.
pub fn tcp() -> i32 {
    socket(AF_INET, SOCK_STREAM)
}

/// A UDP socket.
pub fn udp() -> i32 {
    socket(AF_INET, SOCK_DGRAM)
}

/// bind(2) to a loopback port; 0 lets the kernel choose.
pub fn bind(fd: i32, port: u16) -> Res {
    sys!(bind, fd, &loopback(port), LENGTH)
}

/// connect(2) to a loopback port.
pub fn connect(fd: i32, port: u16) -> Res {
    sys!(connect, fd, &loopback(port), LENGTH)
}

/// The local port of a socket.
#[track_caller]
pub fn port(fd: i32) -> u16 {
    let (mut name, mut length) = (sockaddr_in::zeroed(), LENGTH as u32);
    must(sys!(getsockname, fd, &mut name, &mut length));
    u16::from_be(name.sin_port)
}

/// A listening socket on a port of the kernel's choice, and the port.
#[track_caller]
pub fn listener(backlog: i32) -> (i32, u16) {
    let fd = tcp();
    must(bind(fd, 0));
    must(sys!(listen, fd, backlog));
    (fd, port(fd))
}

/// A port on which nobody listens.
#[track_caller]
pub fn closed_port() -> u16 {
    let fd = tcp();
    must(bind(fd, 0));
    let port = port(fd);
    must(sys!(close, fd));
    port
}

/// accept4(2) without asking for the address.
pub fn accept(fd: i32, flags: i32) -> Res {
    sys!(accept4, fd, 0, 0, flags)
}

/// Two connected TCP sockets: the one that connected, the one that was accepted.
#[track_caller]
pub fn tcp_pair() -> (i32, i32) {
    let (listening, port) = listener(4);
    let client = tcp();
    must(connect(client, port));
    let server = must(accept(listening, 0));
    must(sys!(close, listening));
    (client, server)
}

/// Two connected unix sockets.
#[track_caller]
pub fn unix_pair(kind: i32) -> (i32, i32) {
    let mut ends = [0_i32; 2];
    must(sys!(socketpair, libc::AF_UNIX, kind, 0, &mut ends));
    (ends[0], ends[1])
}

/// send(2).
pub fn send(fd: i32, bytes: &[u8], flags: i32) -> Res {
    sys!(sendto, fd, bytes, bytes.len(), flags, 0, 0)
}

/// recv(2): the bytes, as an outcome.
pub fn recv(fd: i32, len: usize, flags: i32) -> Result<String, Errno> {
    let mut buffer = vec![0; len];
    let count = sys!(recvfrom, fd, &mut buffer[..], len, flags, 0, 0)?;
    Ok(format!("\"{}\"", buffer[..count.min(len)].escape_ascii()))
}

/// getsockopt(2) of an int.
pub fn option(fd: i32, level: i32, name: i32) -> Result<i32, Errno> {
    let (mut value, mut length) = (-1_i32, 4_u32);
    sys!(getsockopt, fd, level, name, &mut value, &mut length)?;
    Ok(value)
}

/// setsockopt(2) of an int.
pub fn set_option(fd: i32, level: i32, name: i32, value: i32) -> Res {
    sys!(setsockopt, fd, level, name, &value, 4)
}

/// Makes reads of the socket give up after so many milliseconds: what should come at once must not hang the
/// case.
pub fn impatient(fd: i32, milliseconds: i64) {
    must(sys!(
        setsockopt,
        fd,
        libc::SOL_SOCKET,
        libc::SO_RCVTIMEO,
        &[milliseconds / 1000, milliseconds % 1000 * 1000],
        16
    ));
}

/// A message that came with recvmsg(2).
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Its bytes, as far as there was room.
    pub bytes: String,
    /// `msg_flags`.
    pub flags: i32,
    /// The control data, raw.
    pub control: Vec<u8>,
}

/// recvmsg(2) with room for so many bytes and so much control data.
pub fn recvmsg(fd: i32, len: usize, control: usize, flags: i32) -> Result<Message, Errno> {
    let (mut bytes, mut ancillary) = (vec![0_u8; len], vec![0_u8; control]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
    let mut header = libc::msghdr::zeroed();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = ancillary.as_mut_ptr().cast();
    header.msg_controllen = control;
    let count = sys!(recvmsg, fd, &mut header, flags)?;
    ancillary.truncate(header.msg_controllen);
    Ok(Message {
        bytes: bytes[..count.min(len)].escape_ascii().to_string(),
        flags: header.msg_flags,
        control: ancillary,
    })
}

/// sendmsg(2) of these bytes with this control data.
pub fn sendmsg(fd: i32, bytes: &[u8], control: &[u8], flags: i32) -> Res {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut header = libc::msghdr::zeroed();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = control.len();
    sys!(sendmsg, fd, &header, flags)
}

/// Control data that passes these descriptors (SCM_RIGHTS, unix(7)): a header of 16 bytes, then the numbers.
pub fn rights(fds: &[i32]) -> Vec<u8> {
    control_message(
        libc::SOL_SOCKET,
        libc::SCM_RIGHTS,
        &fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect::<Vec<_>>(),
    )
}

/// One control message, padded to eight bytes.
pub fn control_message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut message = (16 + data.len()).to_ne_bytes().to_vec();
    message.extend(level.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(data);
    message.resize(message.len().next_multiple_of(8), 0);
    message
}

/// The descriptors in control data that came.
pub fn descriptors(control: &[u8]) -> Vec<i32> {
    let Some(header) = control.get(..16) else { return Vec::new() };
    let length = usize::from_ne_bytes(header[..8].try_into().unwrap_or_default()).min(control.len());
    let is_rights = header[12..16] == libc::SCM_RIGHTS.to_ne_bytes();
    let data = if is_rights { control.get(16..length).unwrap_or_default() } else { &[] };
    data.chunks_exact(4).map(|fd| i32::from_ne_bytes(fd.try_into().unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_survive_their_encoding() {
        assert_eq!(descriptors(&rights(&[3, 4, 5])), [3, 4, 5]);
        assert_eq!(rights(&[3]).len(), 24);
        assert_eq!(descriptors(&[]), []);
        assert_eq!(descriptors(&control_message(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[0; 12])), []);
    }
}
