//! UDP sockets as a [`Protocol`].

use alloc::sync::Arc;

use super::{Control, Inode, MessageFlags, Outgoing, Protocol, Received, SocketAddress};
use crate::errno::{Errno, SysResult};
use crate::net::options::Options;
use crate::net::stack::Stack;
use crate::net::tcp::Shutdown;
use crate::net::udp::{Arrival, UdpSocket};
use crate::process::Credentials;
use crate::sched::{Events, WaitQueue};
use crate::uaccess::{ReadBuf, WriteBuf};

/// A UDP socket.
pub struct Datagrams(Arc<UdpSocket>);

impl Datagrams {
    /// A fresh one.
    pub fn new(stack: &Arc<Stack>) -> Self {
        Self(UdpSocket::new(stack))
    }

    fn control(&self, arrival: &Arrival) -> Control {
        let options = self.0.options();
        Control {
            packet_info: options.packet_info.then_some((arrival.link, arrival.to)),
            ttl: options.receive_ttl.then_some(arrival.ttl),
            timestamp: options.timestamp.then_some(arrival.at),
            ..Control::default()
        }
    }
}

impl Protocol for Datagrams {
    fn bind(&self, to: &SocketAddress, who: &Credentials) -> Result<(), Errno> {
        let to = to.inet()?;
        super::check_port(to.port, who)?;
        self.0.bind(to, who.euid)
    }

    fn connect(&self, to: &SocketAddress, who: &Credentials) -> Result<(), Errno> {
        let to = if *to == SocketAddress::Unspecified { None } else { Some(to.inet()?) };
        self.0.connect(to, who.euid)
    }

    fn local(&self) -> SocketAddress {
        SocketAddress::Inet(self.0.local())
    }

    fn remote(&self) -> Result<SocketAddress, Errno> {
        self.0.remote().map(SocketAddress::Inet)
    }

    fn send(&self, buf: &mut WriteBuf<'_>, message: Outgoing<'_>) -> SysResult {
        if message.flags.contains(MessageFlags::MORE) {
            return Err(Errno::EOPNOTSUPP);
        }
        let to = message.to.map(SocketAddress::inet).transpose()?;
        self.0.send(buf, to, || super::current_sender().uid)
    }

    fn receive(&self, buf: &mut ReadBuf<'_>, flags: MessageFlags) -> Result<Received, Errno> {
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let Some(arrival) = self.0.receive(buf, flags.contains(MessageFlags::PEEK))? else {
            return Ok(Received::bytes(0));
        };
        let cut = arrival.length > buf.len();
        Ok(Received {
            length: arrival.length,
            from: Some(SocketAddress::Inet(arrival.from)),
            flags: if cut { MessageFlags::TRUNC } else { MessageFlags::empty() },
            control: self.control(&arrival),
        })
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        self.0.shutdown(how)
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
}
