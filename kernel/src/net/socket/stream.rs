//! TCP sockets as a [`Protocol`].

use alloc::boxed::Box;
use alloc::sync::Arc;

use linux_raw_sys::net as abi;
use smoltcp::socket::tcp::State;

use super::{Inode, MessageFlags, Outgoing, Protocol, Received, SocketAddress};
use crate::errno::{Errno, SysResult};
use crate::net::options::Options;
use crate::net::stack::Stack;
use crate::net::tcp::{Shutdown, TcpSocket};
use crate::process::Credentials;
use crate::sched::{Events, WaitQueue};
use crate::uaccess::{ReadBuf, WriteBuf};

/// A TCP socket.
pub struct Stream(Arc<TcpSocket>);

impl Stream {
    /// A fresh one.
    pub fn new(stack: &Arc<Stack>) -> Self {
        Self(TcpSocket::new(stack))
    }
}

impl Protocol for Stream {
    fn bind(&self, to: &SocketAddress, who: &Credentials) -> Result<(), Errno> {
        let to = to.inet()?;
        super::check_port(to.port, who)?;
        self.0.bind(to, who.euid)
    }

    fn listen(&self, backlog: i32, who: &Credentials) -> Result<(), Errno> {
        self.0.listen(backlog, who.euid)
    }

    fn accept(&self) -> Result<(Box<dyn Protocol>, SocketAddress), Errno> {
        let connection = self.0.accept()?;
        let peer = SocketAddress::Inet(connection.peer());
        Ok((Box::new(Self(connection)), peer))
    }

    fn connect(&self, to: &SocketAddress, _who: &Credentials) -> Result<(), Errno> {
        if *to == SocketAddress::Unspecified {
            self.0.disconnect();
            return Ok(());
        }
        self.0.connect(to.inet()?)
    }

    fn local(&self) -> SocketAddress {
        SocketAddress::Inet(self.0.local())
    }

    fn remote(&self) -> Result<SocketAddress, Errno> {
        self.0.remote().map(SocketAddress::Inet)
    }

    fn send(&self, buf: &mut WriteBuf<'_>, message: Outgoing<'_>) -> SysResult {
        // An address is ignored once there is a peer; before that Linux takes it for fast open, which is not there.
        self.0.write(buf, message.flags.contains(MessageFlags::MORE))
    }

    fn receive(&self, buf: &mut ReadBuf<'_>, flags: MessageFlags) -> Result<Received, Errno> {
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let (peek, discard) = (flags.contains(MessageFlags::PEEK), flags.contains(MessageFlags::TRUNC));
        self.0.read(buf, peek, discard).map(Received::bytes)
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
        self.0.view().received
    }

    fn unsent_bytes(&self) -> usize {
        self.0.view().queued
    }

    fn is_listening(&self) -> bool {
        self.0.view().state == State::Listen
    }

    fn own_option(&self, level: u32, name: u32, value: &mut [u8]) -> SysResult {
        match (level, name) {
            (abi::SOL_TCP, abi::TCP_INFO) => Ok(self.info(value)),
            (abi::SOL_TCP, abi::TCP_MAXSEG) => {
                value[..4].copy_from_slice(&1460u32.to_ne_bytes());
                Ok(4)
            }
            (abi::SOL_TCP, abi::TCP_CONGESTION) => {
                value[..16].copy_from_slice(b"reno\0\0\0\0\0\0\0\0\0\0\0\0");
                Ok(16)
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }
}

impl Stream {
    /// The front of a `struct tcp_info`, as far as it is known here.
    fn info(&self, value: &mut [u8]) -> usize {
        const LENGTH: usize = 104;
        let info = &mut value[..LENGTH];
        info.fill(0);
        let view = self.0.view();
        info[0] = state_number(view.state);
        let mut word = |at: usize, value: u32| info[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        // tcpi_rto, tcpi_ato in microseconds; tcpi_snd_mss, tcpi_rcv_mss.
        word(8, 1_000_000);
        word(12, 10_000);
        word(16, 1460);
        word(20, 1460);
        let (segments, again) = self.0.sent_segments();
        // tcpi_unacked in segments; tcpi_total_retrans.
        word(24, view.queued.div_ceil(1460) as u32);
        word(100, again.min(segments));
        LENGTH
    }
}

/// The number of a state in /proc/net/tcp and `struct tcp_info` (Linux: `include/net/tcp_states.h`).
pub fn state_number(state: State) -> u8 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Listen => 10,
        State::Closing => 11,
    }
}
