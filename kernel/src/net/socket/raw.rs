//! Raw sockets as a [`Protocol`].

use alloc::sync::Arc;

use linux_raw_sys::net as abi;

use super::{Control, Inode, MessageFlags, Outgoing, Protocol, Received, SocketAddress};
use crate::errno::{Errno, SysResult};
use crate::net::options::Options;
use crate::net::raw::RawSocket;
use crate::net::stack::Stack;
use crate::net::tcp::Shutdown;
use crate::net::wire::{Endpoint, protocol};
use crate::process::Credentials;
use crate::sched::{Events, WaitQueue};
use crate::uaccess::{ReadBuf, WriteBuf};

/// `ICMP_FILTER` of raw(7).
const ICMP_FILTER: u32 = 1;

/// A raw socket.
pub struct Raw(Arc<RawSocket>);

impl Raw {
    /// A fresh one.
    pub fn new(stack: &Arc<Stack>, protocol: u8) -> Result<Self, Errno> {
        RawSocket::new(stack, protocol).map(Self)
    }

    /// An address as these sockets show it: the protocol takes the place of the port.
    fn address(&self, address: core::net::Ipv4Addr) -> SocketAddress {
        SocketAddress::Inet(Endpoint::new(address, u16::from(self.0.protocol)))
    }
}

impl Protocol for Raw {
    fn bind(&self, to: &SocketAddress, _who: &Credentials) -> Result<(), Errno> {
        self.0.bind(to.inet()?.address)
    }

    fn connect(&self, to: &SocketAddress, _who: &Credentials) -> Result<(), Errno> {
        let to = if *to == SocketAddress::Unspecified { None } else { Some(to.inet()?.address) };
        self.0.connect(to);
        Ok(())
    }

    fn local(&self) -> SocketAddress {
        self.address(self.0.local())
    }

    fn remote(&self) -> Result<SocketAddress, Errno> {
        self.0.remote().map(|address| self.address(address))
    }

    fn send(&self, buf: &mut WriteBuf<'_>, message: Outgoing<'_>) -> SysResult {
        let to = message.to.map(SocketAddress::inet).transpose()?;
        self.0.send(buf, to.map(|endpoint| endpoint.address))
    }

    fn receive(&self, buf: &mut ReadBuf<'_>, flags: MessageFlags) -> Result<Received, Errno> {
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let (from, length, at) = self.0.receive(buf, flags.contains(MessageFlags::PEEK))?;
        let cut = length > buf.len();
        let flags = if cut { MessageFlags::TRUNC } else { MessageFlags::empty() };
        let from = Some(SocketAddress::Inet(Endpoint::new(from, 0)));
        let timestamp = self.0.options().timestamp.then_some(at);
        let control = Control { timestamp, ..Control::default() };
        Ok(Received { from, flags, control, length })
    }

    fn shutdown(&self, _how: Shutdown) -> Result<(), Errno> {
        Err(if self.0.remote().is_ok() { Errno::EOPNOTSUPP } else { Errno::ENOTCONN })
    }

    fn close(&self) {
        self.0.close();
    }

    fn poll(&self) -> Events {
        self.0.poll()
    }

    fn wait_queue(&self) -> &WaitQueue {
        &self.0.queue
    }

    fn options(&self) -> Options {
        self.0.options()
    }

    fn change_options(&self, change: &mut dyn FnMut(&mut Options)) {
        self.0.set_options(change);
    }

    fn set_inode(&self, inode: Inode) {
        self.0.set_inode(inode);
    }

    fn take_error(&self) -> Option<Errno> {
        self.0.take_error()
    }

    fn readable_bytes(&self) -> usize {
        self.0.next_length()
    }

    fn set_own_option(&self, level: u32, name: u32, value: &[u8]) -> Result<(), Errno> {
        if (level, name) != (abi::SOL_RAW, ICMP_FILTER) || self.0.protocol != protocol::ICMP {
            return Err(Errno::ENOPROTOOPT);
        }
        let bytes = value.get(..4).ok_or(Errno::EINVAL)?;
        self.0.set_filter(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        Ok(())
    }
}
