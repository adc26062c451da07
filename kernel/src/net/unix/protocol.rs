//! Unix-domain sockets as a [`Protocol`].

use alloc::boxed::Box;
use alloc::sync::Arc;

use linux_raw_sys::net as abi;

use super::{Type, UnixSocket, WRITABLE};
use crate::errno::{Errno, SysResult};
use crate::net::options::Options;
use crate::net::socket::address::UnixName;
use crate::net::socket::message::PeerCredentials;
use crate::net::socket::{
    Control, Inode, Kind, MessageFlags, Outgoing, Protocol, Received, SocketAddress, current_sender,
};
use crate::net::tcp::Shutdown;
use crate::process::Credentials;
use crate::sched::{Events, WaitQueue};
use crate::uaccess::{ReadBuf, WriteBuf};

/// A unix-domain socket.
pub struct UnixProtocol(Arc<UnixSocket>);

impl UnixProtocol {
    /// A fresh one.
    ///
    /// # Errors
    /// `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
    pub fn new(kind: Kind) -> Result<Self, Errno> {
        UnixSocket::new(socket_type(kind)?).map(Self)
    }

    /// Two that are each other's peer.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn pair(kind: Kind, who: PeerCredentials) -> Result<[Self; 2], Errno> {
        Ok(UnixSocket::pair(socket_type(kind)?, who)?.map(Self))
    }
}

fn socket_type(kind: Kind) -> Result<Type, Errno> {
    if !matches!(kind.protocol, 0 | abi::AF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match kind.socket_type {
        abi::SOCK_STREAM => Ok(Type::Stream),
        abi::SOCK_DGRAM | abi::SOCK_RAW => Ok(Type::Datagram),
        abi::SOCK_SEQPACKET => Ok(Type::SequencedPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

fn name(address: &SocketAddress) -> Result<&UnixName, Errno> {
    match address {
        SocketAddress::Unix(name) => Ok(name),
        _ => Err(Errno::EINVAL),
    }
}

impl Protocol for UnixProtocol {
    fn bind(&self, to: &SocketAddress, _who: &Credentials) -> Result<(), Errno> {
        self.0.bind(name(to)?)
    }

    fn listen(&self, backlog: i32, _who: &Credentials) -> Result<(), Errno> {
        self.0.listen(backlog, current_sender())
    }

    fn accept(&self) -> Result<(Box<dyn Protocol>, SocketAddress), Errno> {
        let accepted = self.0.accept()?;
        let peer = SocketAddress::Unix(accepted.inner.lock().peer_name.clone());
        Ok((Box::new(Self(accepted)), peer))
    }

    fn connect(&self, to: &SocketAddress, _who: &Credentials) -> Result<(), Errno> {
        if *to == SocketAddress::Unspecified && self.0.socket_type == Type::Datagram {
            self.0.disconnect();
            return Ok(());
        }
        self.0.connect(name(to)?, current_sender())
    }

    fn local(&self) -> SocketAddress {
        SocketAddress::Unix(self.0.inner.lock().own_name.clone())
    }

    fn remote(&self) -> Result<SocketAddress, Errno> {
        let inner = self.0.inner.lock();
        match inner.role {
            super::Role::Connected(_) => Ok(SocketAddress::Unix(inner.peer_name.clone())),
            _ => Err(Errno::ENOTCONN),
        }
    }

    fn send(&self, buf: &mut WriteBuf<'_>, message: Outgoing<'_>) -> SysResult {
        let claimed = message.control.and_then(|control| control.credentials);
        let files = message.control.map_or(alloc::vec::Vec::new(), |control| control.files.clone());
        let to = message.to.map(name).transpose()?;
        self.0.send(buf, to, claimed.unwrap_or_else(current_sender), files)
    }

    fn receive(&self, buf: &mut ReadBuf<'_>, flags: MessageFlags) -> Result<Received, Errno> {
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EOPNOTSUPP);
        }
        let Some(taken) = self.0.receive(buf, flags.contains(MessageFlags::PEEK))? else {
            return Ok(Received::bytes(0));
        };
        let tells = self.0.inner.lock().options.pass_credentials;
        let is_cut = self.0.socket_type != Type::Stream && taken.length > buf.len();
        Ok(Received {
            length: taken.length,
            from: (taken.from != UnixName::Unnamed).then_some(SocketAddress::Unix(taken.from)),
            flags: if is_cut { MessageFlags::TRUNC } else { MessageFlags::empty() },
            control: Control {
                files: taken.files,
                credentials: tells.then_some(taken.sender),
                ..Control::default()
            },
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
        &self.0.wait
    }

    fn options(&self) -> Options {
        self.0.inner.lock().options.clone()
    }

    fn change_options(&self, change: &mut dyn FnMut(&mut Options)) {
        change(&mut self.0.inner.lock().options);
        // A larger send buffer may be what a writer waits for.
        self.0.wait.wake(WRITABLE);
    }

    fn set_inode(&self, inode: Inode) {
        self.0.inner.lock().inode = inode;
    }

    fn take_error(&self) -> Option<Errno> {
        self.0.inner.lock().error.take()
    }

    fn readable_bytes(&self) -> usize {
        let inner = self.0.inner.lock();
        if self.0.socket_type == Type::Stream { inner.queue.bytes() } else { inner.queue.first_length() }
    }

    fn as_unix(&self) -> Option<&UnixSocket> {
        Some(&self.0)
    }

    fn is_listening(&self) -> bool {
        matches!(self.0.inner.lock().role, super::Role::Listener { .. })
    }

    fn own_option(&self, level: u32, name: u32, value: &mut [u8]) -> SysResult {
        if (level, name) != (abi::SOL_SOCKET, abi::SO_PEERCRED) {
            return Err(Errno::ENOPROTOOPT);
        }
        // Without a peer: process 0, and nobody.
        let nobody = PeerCredentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let PeerCredentials { pid, uid, gid } = self.0.inner.lock().peer.unwrap_or(nobody);
        value[..12].copy_from_slice(&[pid, uid, gid].map(u32::to_ne_bytes).concat());
        Ok(12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OpenFile;
    use crate::net::socket::Socket;
    use crate::sched::fixture::Waiter;
    use alloc::vec::Vec;

    const ME: PeerCredentials = PeerCredentials { pid: 7, uid: 1, gid: 2 };
    const READABLE: Events = Events::IN.union(Events::RDNORM);

    fn kind(socket_type: u32) -> Kind {
        Kind { family: abi::AF_UNIX, socket_type, protocol: 0 }
    }

    fn pair(socket_type: u32) -> [Socket; 2] {
        Socket::pair(kind(socket_type), ME).unwrap()
    }

    fn fresh(socket_type: u32) -> Socket {
        Socket::with(kind(socket_type), Box::new(UnixProtocol::new(kind(socket_type)).unwrap()))
    }

    fn send_with(socket: &Socket, data: &[u8], to: Option<&SocketAddress>, control: &Control) -> SysResult {
        let message = Outgoing { to, control: Some(control), ..Outgoing::PLAIN };
        socket.protocol.send(&mut WriteBuf::kernel(data), message)
    }

    fn send(socket: &Socket, data: &[u8]) -> SysResult {
        send_with(socket, data, None, &Control::default())
    }

    fn receive(socket: &Socket, room: usize) -> Result<(Vec<u8>, Received), Errno> {
        let mut bytes = vec![0; room];
        let received = socket.protocol.receive(&mut ReadBuf::kernel(&mut bytes), MessageFlags::empty())?;
        bytes.truncate(received.length);
        Ok((bytes, received))
    }

    fn waiter(socket: &Socket, events: Events) -> Waiter<'_> {
        Waiter::new(socket.protocol.wait_queue(), events)
    }

    fn abstract_name(name: &str) -> SocketAddress {
        SocketAddress::Unix(UnixName::Abstract(name.as_bytes().to_vec()))
    }

    #[test]
    fn a_stream_flows_ends_and_breaks() {
        let [a, b] = pair(abi::SOCK_STREAM);
        assert_eq!((send(&a, b"one"), send(&a, b"two")), (Ok(3), Ok(3)));
        assert_eq!(receive(&b, 4).unwrap().0, b"onet");
        assert_eq!(receive(&b, 9).unwrap().0, b"wo");
        assert_eq!(receive(&b, 9).err(), Some(Errno::EAGAIN));
        a.protocol.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive(&b, 9).unwrap().0, b"");
        assert_eq!(b.protocol.poll(), READABLE | Events::RDHUP | WRITABLE);
        assert_eq!(send(&a, b"x"), Err(Errno::EPIPE));
        send(&b, b"unread").unwrap();
        drop(a);
        assert!(b.protocol.poll().contains(Events::HUP | Events::ERR));
        assert_eq!(receive(&b, 9).err(), Some(Errno::ECONNRESET));
        assert_eq!(receive(&b, 9).unwrap().0, b"");
        assert_eq!(send(&b, b"x"), Err(Errno::EPIPE));
    }

    #[test]
    fn a_full_stream_waits_for_its_reader() {
        let [a, b] = pair(abi::SOCK_STREAM);
        let chunk = vec![1; 60_000];
        let mut sent = 0;
        while let Ok(count) = send(&a, &chunk) {
            sent += count;
        }
        assert_eq!(sent, super::super::BUFFER);
        assert!(!a.protocol.poll().contains(Events::OUT));
        let writable = waiter(&a, Events::OUT);
        while receive(&b, 50_000).is_ok() {}
        assert!(writable.was_woken());
        assert!(a.protocol.poll().contains(Events::OUT));
    }

    #[test]
    fn a_listener_accepts_by_name_and_tells_who_connects() {
        let (listener, client) = (fresh(abi::SOCK_STREAM), fresh(abi::SOCK_STREAM));
        let (name, who) = (abstract_name("accepts_by_name"), Credentials::root());
        assert_eq!(client.protocol.connect(&name, &who), Err(Errno::ECONNREFUSED));
        listener.protocol.bind(&name, &who).unwrap();
        assert_eq!(fresh(abi::SOCK_STREAM).protocol.bind(&name, &who), Err(Errno::EADDRINUSE));
        assert_eq!(client.protocol.connect(&name, &who), Err(Errno::ECONNREFUSED));
        listener.protocol.listen(0, &who).unwrap();
        assert_eq!(fresh(abi::SOCK_DGRAM).protocol.connect(&name, &who), Err(Errno::EPROTOTYPE));
        client.protocol.connect(&name, &who).unwrap();
        assert_eq!(client.protocol.connect(&name, &who), Err(Errno::EISCONN));
        assert_eq!(fresh(abi::SOCK_STREAM).protocol.connect(&name, &who), Err(Errno::EAGAIN));
        assert_eq!(client.protocol.remote(), Ok(name.clone()));
        // Bytes may be sent before anybody accepts.
        send(&client, b"early").unwrap();
        assert_eq!(listener.protocol.poll(), READABLE);
        let (accepted, _) = listener.protocol.accept().unwrap();
        let server = Socket::with(kind(abi::SOCK_STREAM), accepted);
        assert_eq!(receive(&server, 9).unwrap().0, b"early");
        let mut value = [0; 12];
        assert_eq!(server.protocol.own_option(abi::SOL_SOCKET, abi::SO_PEERCRED, &mut value), Ok(12));
        assert_eq!(value[4..8], [0; 4]);
        drop(listener);
        fresh(abi::SOCK_STREAM).protocol.bind(&name, &who).unwrap();
    }

    #[test]
    fn connections_not_accepted_are_reset() {
        let (listener, client) = (fresh(abi::SOCK_SEQPACKET), fresh(abi::SOCK_SEQPACKET));
        let (name, who) = (abstract_name("not_accepted"), Credentials::root());
        listener.protocol.bind(&name, &who).unwrap();
        listener.protocol.listen(5, &who).unwrap();
        client.protocol.connect(&name, &who).unwrap();
        drop(listener);
        assert_eq!(receive(&client, 1).err(), Some(Errno::ECONNRESET));
    }

    #[test]
    fn packets_keep_their_bounds() {
        let [a, b] = pair(abi::SOCK_SEQPACKET);
        send(&a, b"first").unwrap();
        send(&a, b"2").unwrap();
        let (bytes, received) = receive(&b, 3).unwrap();
        assert_eq!((&bytes[..3], received.length, received.flags), (&b"fir"[..], 5, MessageFlags::TRUNC));
        assert_eq!(receive(&b, 9).unwrap().0, b"2");
    }

    #[test]
    fn datagrams_tell_their_sender() {
        let (a, b) = (fresh(abi::SOCK_DGRAM), fresh(abi::SOCK_DGRAM));
        let (here, there, who) = (abstract_name("dgram-a"), abstract_name("dgram-b"), Credentials::root());
        a.protocol.bind(&here, &who).unwrap();
        b.protocol.bind(&there, &who).unwrap();
        assert_eq!(send(&a, b"x"), Err(Errno::ENOTCONN));
        assert_eq!(send_with(&a, b"hello", Some(&there), &Control::default()), Ok(5));
        let (bytes, received) = receive(&b, 9).unwrap();
        assert_eq!((&bytes[..], received.from), (&b"hello"[..], Some(here.clone())));
        b.protocol.connect(&here, &who).unwrap();
        let stranger = fresh(abi::SOCK_DGRAM);
        assert_eq!(send_with(&stranger, b"x", Some(&there), &Control::default()), Err(Errno::EPERM));
        drop(a);
        assert_eq!(send(&b, b"x"), Err(Errno::ECONNREFUSED));
    }

    #[test]
    fn descriptors_travel_with_their_bytes() {
        let [a, b] = pair(abi::SOCK_STREAM);
        let [passed, other] = pair(abi::SOCK_STREAM);
        let open = OpenFile::new(Arc::new(passed), crate::fs::OpenFlags::RDWR);
        let control = Control { files: vec![open], ..Control::default() };
        send(&a, b"before").unwrap();
        assert_eq!(send_with(&a, b"with", None, &control), Ok(4));
        send(&a, b"after").unwrap();
        drop(control);
        let (bytes, received) = receive(&b, 99).unwrap();
        assert_eq!((&bytes[..], received.control.files.len()), (&b"beforewith"[..], 1));
        assert_eq!(receive(&b, 99).unwrap().0, b"after");
        let file = &received.control.files[0];
        assert_eq!(file.write(&mut WriteBuf::kernel(b"through")), Ok(7));
        assert_eq!(receive(&other, 9).unwrap().0, b"through");
        drop(received);
        assert_eq!(receive(&other, 9).unwrap().0, b"");
    }

    /// Each socket is in the queue of the next: closing the last one must not recurse to the first.
    #[test]
    fn a_long_chain_of_passed_sockets_is_closed_without_recursion() {
        let [mut end, _keep] = pair(abi::SOCK_STREAM);
        for _ in 0..5000 {
            let [a, b] = pair(abi::SOCK_STREAM);
            let open = OpenFile::new(Arc::new(end), crate::fs::OpenFlags::RDWR);
            let control = Control { files: vec![open], ..Control::default() };
            send_with(&a, b"x", None, &control).unwrap();
            end = b;
            // What `a` sent stays when it goes.
            drop(a);
        }
        drop(end);
        assert!(_keep.protocol.poll().contains(Events::HUP));
    }

    #[test]
    fn credentials_are_told_to_those_who_ask() {
        let [a, b] = pair(abi::SOCK_DGRAM);
        let control = Control { credentials: Some(ME), ..Control::default() };
        send_with(&a, b"x", None, &control).unwrap();
        assert_eq!(receive(&b, 9).unwrap().1.control.credentials, None);
        b.protocol.change_options(&mut |options| options.pass_credentials = true);
        send_with(&a, b"x", None, &control).unwrap();
        assert_eq!(receive(&b, 9).unwrap().1.control.credentials, Some(ME));
    }

    #[test]
    fn a_socket_that_holds_itself_is_bounded_and_harmless() {
        let [a, b] = pair(abi::SOCK_DGRAM);
        let open = OpenFile::new(Arc::new(a), crate::fs::OpenFlags::RDWR);
        let socket = Socket::of(&*open.file).unwrap();
        let control = Control { files: vec![open.clone()], ..Control::default() };
        send_with(&b, b"x", None, &control).unwrap();
        assert_eq!(receive(socket, 9).unwrap().1.control.files.len(), 1);
    }

    #[test]
    fn whoever_waits_for_bytes_is_told_of_them() {
        for socket_type in [abi::SOCK_STREAM, abi::SOCK_SEQPACKET, abi::SOCK_DGRAM] {
            let [a, b] = pair(socket_type);
            let readable = waiter(&b, Events::IN);
            send(&a, b"x").unwrap();
            assert!(readable.was_woken(), "type {socket_type}");
        }
    }

    #[test]
    fn a_full_queue_of_datagrams_tells_its_senders_of_room() {
        let [a, b] = pair(abi::SOCK_DGRAM);
        while send(&a, b"x").is_ok() {}
        let writable = waiter(&a, Events::OUT);
        receive(&b, 9).unwrap();
        assert!(writable.was_woken());
    }

    #[test]
    fn both_ends_are_told_of_a_connection() {
        let (listener, client) = (fresh(abi::SOCK_STREAM), fresh(abi::SOCK_STREAM));
        let (name, who) = (abstract_name("told_of_a_connection"), Credentials::root());
        listener.protocol.bind(&name, &who).unwrap();
        listener.protocol.listen(0, &who).unwrap();
        let (acceptable, connected) = (waiter(&listener, Events::IN), waiter(&client, Events::OUT));
        client.protocol.connect(&name, &who).unwrap();
        assert!(acceptable.was_woken() && connected.was_woken());
        // No room for another one, until this one is accepted.
        let second = fresh(abi::SOCK_STREAM);
        assert_eq!(second.protocol.connect(&name, &who), Err(Errno::EAGAIN));
        let connectable = waiter(&second, Events::OUT);
        listener.protocol.accept().unwrap();
        assert!(connectable.was_woken());
    }

    #[test]
    fn shutdown_and_close_are_told_to_those_who_read_and_those_who_write() {
        for events in [Events::IN, Events::OUT, Events::HUP] {
            let [a, b] = pair(abi::SOCK_STREAM);
            let (here, there) =
                (Waiter::for_nothing_else(a.protocol.wait_queue(), events), waiter(&b, events));
            a.protocol.shutdown(Shutdown::Both).unwrap();
            assert!(here.was_woken() && there.was_woken(), "{events:?}");
            let [a, b] = pair(abi::SOCK_STREAM);
            let there = Waiter::for_nothing_else(b.protocol.wait_queue(), events);
            drop(a);
            assert!(there.was_woken(), "{events:?}");
        }
    }
}
