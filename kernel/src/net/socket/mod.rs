//! Sockets behind descriptors: what all families have in common.
//!
//! A [`Socket`] is the [`File`]; what it does depends on its [`Protocol`]: [`stream`] (TCP), [`datagram`] (UDP),
//! [`raw`](mod@raw), and those of `net/unix`. Addresses, options and messages are decoded in [`address`], [`option`] and [`message`]. Nothing
//! here waits: `syscall/socket.rs` does.

pub mod address;
mod datagram;
pub mod message;
pub mod option;
mod raw;
pub mod stream;

use alloc::boxed::Box;
use alloc::sync::Arc;

use linux_raw_sys::net::{AF_INET, AF_NETLINK, AF_UNIX, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};

use super::netlink::NetlinkSocket;
use super::options::Options;
use super::stack::Stack;
use super::tcp::Shutdown;
use super::unix::{UnixProtocol, UnixSocket};
use super::wire::protocol;
use crate::errno::{Errno, SysResult};
use crate::fs::{File, FileType, Stat, anon};
use crate::process::{Credentials, Thread};
use crate::sched::{Events, WaitQueue};
use crate::uaccess::{ReadBuf, WriteBuf};
use message::PeerCredentials;

pub use address::SocketAddress;
pub use message::{Control, MessageFlags, Received};

/// What a socket is, as socket(2) names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Address family, `AF_*`.
    pub family: u32,
    /// Type, `SOCK_*`.
    pub socket_type: u32,
    /// Protocol number.
    pub protocol: u32,
}

/// By what /proc/net names a socket: the inode of its descriptor, and whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inode {
    /// Its number; 0 for a socket without a descriptor.
    pub number: u64,
    /// The user.
    pub uid: u32,
}

/// What a family's sockets do. Nothing waits: `EAGAIN` says that [`wait_queue`](Protocol::wait_queue) will tell.
pub trait Protocol: Send + Sync + 'static {
    /// bind(2).
    fn bind(&self, to: &SocketAddress, who: &Credentials) -> Result<(), Errno>;

    /// listen(2).
    fn listen(&self, backlog: i32, who: &Credentials) -> Result<(), Errno> {
        let _ = (backlog, who);
        Err(Errno::EOPNOTSUPP)
    }

    /// accept(2): the oldest connection, and its peer.
    fn accept(&self) -> Result<(Box<dyn Protocol>, SocketAddress), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    /// connect(2). `EINPROGRESS` when it has begun, `EALREADY` while it goes on.
    fn connect(&self, to: &SocketAddress, who: &Credentials) -> Result<(), Errno>;

    /// The own address.
    fn local(&self) -> SocketAddress;

    /// The peer's address (`ENOTCONN`).
    fn remote(&self) -> Result<SocketAddress, Errno>;

    /// sendmsg(2).
    fn send(&self, buf: &mut WriteBuf<'_>, message: Outgoing<'_>) -> SysResult;

    /// recvmsg(2).
    fn receive(&self, buf: &mut ReadBuf<'_>, flags: MessageFlags) -> Result<Received, Errno>;

    /// shutdown(2).
    fn shutdown(&self, how: Shutdown) -> Result<(), Errno>;

    /// The last descriptor is gone.
    fn close(&self);

    /// What poll(2) reports.
    fn poll(&self) -> Events;

    /// Who waits for it.
    fn wait_queue(&self) -> &WaitQueue;

    /// A copy of the options.
    fn options(&self) -> Options;

    /// Changes the options.
    fn change_options(&self, change: &mut dyn FnMut(&mut Options));

    /// Takes the pending error (`SO_ERROR`).
    fn take_error(&self) -> Option<Errno>;

    /// Is told the socket's inode, for /proc/net.
    fn set_inode(&self, inode: Inode);

    /// Bytes to read (`FIONREAD`).
    fn readable_bytes(&self) -> usize;

    /// Bytes written but not delivered (`SIOCOUTQ`).
    fn unsent_bytes(&self) -> usize {
        0
    }

    /// The unix-domain socket that it is.
    fn as_unix(&self) -> Option<&UnixSocket> {
        None
    }

    /// Whether it listens (`SO_ACCEPTCONN`).
    fn is_listening(&self) -> bool {
        false
    }

    /// Options that only this protocol has: the value of one, written to the front of `value`; its length.
    fn own_option(&self, level: u32, name: u32, value: &mut [u8]) -> SysResult {
        let _ = (level, name, value);
        Err(Errno::ENOPROTOOPT)
    }

    /// Sets an option that only this protocol has.
    fn set_own_option(&self, level: u32, name: u32, value: &[u8]) -> Result<(), Errno> {
        let _ = (level, name, value);
        Err(Errno::ENOPROTOOPT)
    }
}

/// What is sent beside the bytes.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// To whom; `None`: to the peer.
    pub to: Option<&'a SocketAddress>,
    /// `MSG_*`.
    pub flags: MessageFlags,
    /// Descriptors and credentials.
    pub control: Option<&'a Control>,
}

impl Outgoing<'_> {
    /// Bytes alone.
    pub const PLAIN: Outgoing<'static> = Outgoing { to: None, flags: MessageFlags::empty(), control: None };
}

/// The process that runs; for the kernel's own tests, root.
pub fn current_sender() -> PeerCredentials {
    let Some(thread) = crate::process::current() else { return PeerCredentials { pid: 0, uid: 0, gid: 0 } };
    let own = thread.credentials();
    PeerCredentials { pid: thread.process().pid(), uid: own.euid, gid: own.egid }
}

/// A socket.
pub struct Socket {
    /// What it is.
    pub kind: Kind,
    /// What it does.
    pub protocol: Box<dyn Protocol>,
    stat: Stat,
}

impl Socket {
    /// A socket of `kind` that does what `protocol` does.
    pub fn with(kind: Kind, protocol: Box<dyn Protocol>) -> Self {
        let stat = anon::for_current(FileType::Socket);
        protocol.set_inode(Inode { number: stat.inode, uid: stat.uid });
        Self { kind, protocol, stat }
    }

    /// socket(2), for a socket of `stack`.
    ///
    /// # Errors
    /// `EAFNOSUPPORT`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, `EPERM` for raw sockets of ordinary users.
    pub fn new(stack: &Arc<Stack>, kind: Kind, who: &Credentials) -> Result<Self, Errno> {
        match kind.family {
            AF_INET => Self::inet(stack, kind, who),
            AF_UNIX => Ok(Self::with(kind, Box::new(UnixProtocol::new(kind)?))),
            AF_NETLINK => Ok(Self::with(kind, Box::new(NetlinkSocket::new(kind)?))),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    fn inet(stack: &Arc<Stack>, mut kind: Kind, who: &Credentials) -> Result<Self, Errno> {
        let (tcp, udp) = (u32::from(protocol::TCP), u32::from(protocol::UDP));
        let made: Box<dyn Protocol> = match (kind.socket_type, kind.protocol) {
            (SOCK_STREAM, 0) => Box::new(stream::Stream::new(stack)),
            (SOCK_STREAM, number) if number == tcp => Box::new(stream::Stream::new(stack)),
            (SOCK_DGRAM, 0) => Box::new(datagram::Datagrams::new(stack)),
            (SOCK_DGRAM, number) if number == udp => Box::new(datagram::Datagrams::new(stack)),
            (SOCK_RAW, 0) => return Err(Errno::EPROTONOSUPPORT),
            (SOCK_RAW, number) => {
                if !who.is_privileged() {
                    return Err(Errno::EPERM);
                }
                let number = u8::try_from(number).map_err(|_| Errno::EINVAL)?;
                Box::new(raw::Raw::new(stack, number)?)
            }
            (SOCK_STREAM | SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
            _ => return Err(Errno::ESOCKTNOSUPPORT),
        };
        if kind.protocol == 0 {
            kind.protocol = if kind.socket_type == SOCK_STREAM { tcp } else { udp };
        }
        Ok(Self::with(kind, made))
    }

    /// socketpair(2).
    ///
    /// # Errors
    /// `EOPNOTSUPP` for families other than `AF_UNIX`.
    pub fn pair(kind: Kind, who: PeerCredentials) -> Result<[Self; 2], Errno> {
        match kind.family {
            AF_UNIX => {
                let pair = UnixProtocol::pair(kind, who)?;
                Ok(pair.map(|end| Self::with(kind, Box::new(end))))
            }
            AF_INET => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// The socket behind `file` (`ENOTSOCK`).
    pub fn of(file: &dyn File) -> Result<&Self, Errno> {
        let any: &dyn core::any::Any = file;
        any.downcast_ref().ok_or(Errno::ENOTSOCK)
    }

    /// Whether bytes are a stream, without messages.
    pub fn is_stream(&self) -> bool {
        self.kind.socket_type == SOCK_STREAM
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.protocol.close();
    }
}

impl File for Socket {
    fn read(&self, _offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        // What a datagram has beyond the buffer is lost, and does not count.
        let room = buf.remaining();
        if room == 0 {
            // Unlike recv(2), read(2) of nothing neither waits nor takes a datagram.
            return Ok(0);
        }
        self.protocol.receive(buf, MessageFlags::empty()).map(|received| received.length.min(room))
    }

    fn write(&self, _offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        self.protocol.send(buf, Outgoing::PLAIN)
    }

    fn poll(&self) -> Events {
        self.protocol.poll()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.protocol.wait_queue())
    }

    fn timeout(&self, write: bool) -> Option<u64> {
        let options = self.protocol.options();
        let time = if write { options.send_timeout } else { options.receive_timeout };
        (time != 0).then_some(time)
    }

    fn ioctl(&self, thread: &Thread, request: u32, argument: u64) -> SysResult {
        super::ioctl::socket(self, thread, request, argument)
    }

    fn class(&self) -> &'static str {
        "socket"
    }

    fn stat(&self) -> Stat {
        self.stat
    }
}

/// Ports below 1024 are for root (ip(7)).
fn check_port(port: u16, who: &Credentials) -> Result<(), Errno> {
    if (1..1024).contains(&port) && !who.is_privileged() { Err(Errno::EACCES) } else { Ok(()) }
}
