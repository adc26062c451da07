//! System calls on sockets: socket(2) and its kin.
//!
//! Addresses, options and control data are copied here; what they mean is in `net/socket`. Blocking, time-outs and
//! `SIGPIPE` are added here, too. [`control`] has the control data of messages.

mod control;

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::net as abi;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use super::transfer::{SEGMENTS_MAX, check_range, check_segments, send_broken_pipe};
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::fs::{OpenFile, OpenFlags};
use crate::memory::VirtAddr;
use crate::net::socket::address::STORAGE;
use crate::net::socket::message::PeerCredentials;
use crate::net::socket::{Control, Kind, MessageFlags, Outgoing, Received, Socket, SocketAddress, option};
use crate::net::tcp::Shutdown;
use crate::process::block::block_on;
use crate::process::pace::Pace;
use crate::sched::Events;
use crate::uaccess::{self, IoVec, ReadBuf, UserPtr, WriteBuf};

/// `SOCK_NONBLOCK` and `SOCK_CLOEXEC`, which are the flags of open(2).
const TYPE_FLAGS: u32 = OpenFlags::NONBLOCK.union(OpenFlags::CLOEXEC).bits();
const READABLE: Events = Events::IN.union(Events::RDNORM).union(Events::RDHUP);
const WRITABLE: Events = Events::OUT.union(Events::WRNORM);
/// Most messages of sendmmsg(2) and recvmmsg(2) (Linux: `UIO_MAXIOV`).
const MESSAGES_MAX: u32 = 1024;

/// `struct msghdr` of sendmsg(2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MessageHeader {
    name: u64,
    name_length: u32,
    padding: u32,
    segments: u64,
    segment_count: u64,
    control: u64,
    control_length: u64,
    flags: u32,
    padding_after: u32,
}

/// `struct mmsghdr` of sendmmsg(2).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CountedMessage {
    header: MessageHeader,
    length: u32,
    padding: u32,
}

/// `struct timespec`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

/// An open socket. (The field keeps the file open while a call waits.)
struct Open(Arc<OpenFile>);

impl Open {
    fn get(c: &Caller<'_>, fd: i32) -> Result<Self, Errno> {
        let open = c.thread.files().get(fd)?;
        Socket::of(&*open.file)?;
        Ok(Self(open))
    }

    fn socket(&self) -> Result<&Socket, Errno> {
        Socket::of(&*self.0.file)
    }

    /// Whether a call with these flags waits.
    fn waits(&self, flags: MessageFlags) -> bool {
        !self.0.is_nonblocking() && !flags.contains(MessageFlags::DONTWAIT)
    }
}

/// When a wait that begins now ends.
fn deadline(timeout: u64) -> Option<u64> {
    (timeout != 0).then(|| arch::now().saturating_add(timeout))
}

fn kind(family: u32, socket_type: u32, protocol: u32) -> Result<(Kind, OpenFlags), Errno> {
    let flags = socket_type & !0xf;
    if flags & !TYPE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let kind = Kind { family, socket_type: socket_type & 0xf, protocol };
    Ok((kind, OpenFlags::from_bits_truncate(flags)))
}

fn install(c: &Caller<'_>, socket: Socket, flags: OpenFlags) -> SysResult {
    let open = OpenFile::new(Arc::new(socket), flags | OpenFlags::RDWR);
    Ok(c.thread.files().insert(open, flags.contains(OpenFlags::CLOEXEC))? as usize)
}

/// socket(2)
pub fn socket(c: &mut Caller<'_>, family: u32, socket_type: u32, protocol: u32) -> SysResult {
    let (kind, flags) = kind(family, socket_type, protocol)?;
    let socket = Socket::new(crate::net::stack(), kind, &c.thread.credentials())?;
    install(c, socket, flags)
}

/// socketpair(2)
pub fn socketpair(
    c: &mut Caller<'_>,
    family: u32,
    socket_type: u32,
    protocol: u32,
    numbers: UserPtr<[i32; 2]>,
) -> SysResult {
    let (kind, flags) = kind(family, socket_type, protocol)?;
    let own = c.thread.credentials();
    let who = PeerCredentials { pid: c.thread.process().pid(), uid: own.euid, gid: own.egid };
    let files = Socket::pair(kind, who)?.map(|end| OpenFile::new(Arc::new(end), flags | OpenFlags::RDWR));
    let pair = c.thread.files().insert_pair(files, flags.contains(OpenFlags::CLOEXEC))?;
    if let Err(error) = numbers.write(&c.space, &pair) {
        // Another thread may have closed them meanwhile, which is as good.
        for fd in pair {
            let _ = c.thread.files().close(fd);
        }
        return Err(error);
    }
    Ok(0)
}

/// bind(2)
pub fn bind(c: &mut Caller<'_>, fd: i32, address: VirtAddr, length: u32) -> SysResult {
    let open = Open::get(c, fd)?;
    let address = read_address(c, address, length)?;
    open.socket()?.protocol.bind(&address, &c.thread.credentials())?;
    Ok(0)
}

/// listen(2)
pub fn listen(c: &mut Caller<'_>, fd: i32, backlog: i32) -> SysResult {
    Open::get(c, fd)?.socket()?.protocol.listen(backlog, &c.thread.credentials())?;
    Ok(0)
}

/// accept(2)
pub async fn accept(c: &mut Caller<'_>, fd: i32, address: VirtAddr, length: UserPtr<u32>) -> SysResult {
    accept4(c, fd, address, length, 0).await
}

/// accept4(2)
pub async fn accept4(
    c: &mut Caller<'_>,
    fd: i32,
    address: VirtAddr,
    length: UserPtr<u32>,
    flags: u32,
) -> SysResult {
    if flags & !TYPE_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let open = Open::get(c, fd)?;
    let socket = open.socket()?;
    let (protocol, peer) = if open.waits(MessageFlags::empty()) {
        let deadline = deadline(socket.protocol.options().receive_timeout);
        let queue = socket.protocol.wait_queue();
        block_on(c.thread, queue, READABLE, deadline, || socket.protocol.accept()).await?
    } else {
        socket.protocol.accept()?
    };
    let accepted = Socket::with(socket.kind, protocol);
    let fd = install(c, accepted, OpenFlags::from_bits_truncate(flags))?;
    if address.as_u64() != 0
        && let Err(error) = write_address(c, &peer, address, length)
    {
        // It was there a moment ago.
        let _ = c.thread.files().close(fd as i32);
        return Err(error);
    }
    Ok(fd)
}

/// connect(2)
pub async fn connect(c: &mut Caller<'_>, fd: i32, address: VirtAddr, length: u32) -> SysResult {
    let open = Open::get(c, fd)?;
    let socket = open.socket()?;
    let address = read_address(c, address, length)?;
    let who = c.thread.credentials();
    let begun = socket.protocol.connect(&address, &who);
    let waits = open.waits(MessageFlags::empty());
    if !matches!(begun, Err(Errno::EINPROGRESS | Errno::EALREADY | Errno::EAGAIN)) || !waits {
        return begun.map(|()| 0);
    }
    let timeout = socket.protocol.options().send_timeout;
    let again = || match socket.protocol.connect(&address, &who) {
        Err(Errno::EINPROGRESS | Errno::EALREADY) => Err(Errno::EAGAIN),
        done => done,
    };
    match block_on(c.thread, socket.protocol.wait_queue(), WRITABLE, deadline(timeout), again).await {
        // The attempt goes on.
        Err(Errno::EAGAIN) => Err(Errno::EINPROGRESS),
        done => done.map(|()| 0),
    }
}

/// getsockname(2)
pub fn getsockname(c: &mut Caller<'_>, fd: i32, address: VirtAddr, length: UserPtr<u32>) -> SysResult {
    let own = Open::get(c, fd)?.socket()?.protocol.local();
    write_address(c, &own, address, length)
}

/// getpeername(2)
pub fn getpeername(c: &mut Caller<'_>, fd: i32, address: VirtAddr, length: UserPtr<u32>) -> SysResult {
    let peer = Open::get(c, fd)?.socket()?.protocol.remote()?;
    write_address(c, &peer, address, length)
}

/// shutdown(2)
pub fn shutdown(c: &mut Caller<'_>, fd: i32, how: u32) -> SysResult {
    let how = match how {
        abi::SHUT_RD => Shutdown::Read,
        abi::SHUT_WR => Shutdown::Write,
        abi::SHUT_RDWR => Shutdown::Both,
        _ => return Err(Errno::EINVAL),
    };
    Open::get(c, fd)?.socket()?.protocol.shutdown(how)?;
    Ok(0)
}

/// setsockopt(2)
pub fn setsockopt(
    c: &mut Caller<'_>,
    fd: i32,
    level: u32,
    name: u32,
    value: VirtAddr,
    length: i32,
) -> SysResult {
    let open = Open::get(c, fd)?;
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
    let mut bytes = [0; option::LARGEST];
    let bytes = &mut bytes[..length.min(option::LARGEST)];
    uaccess::read_bytes(&c.space, value, bytes)?;
    open.socket()?.set_option(crate::net::stack(), level, name, bytes)?;
    Ok(0)
}

/// getsockopt(2)
pub fn getsockopt(
    c: &mut Caller<'_>,
    fd: i32,
    level: u32,
    name: u32,
    value: VirtAddr,
    length: UserPtr<u32>,
) -> SysResult {
    let open = Open::get(c, fd)?;
    let room = usize::try_from(length.read(&c.space)? as i32).map_err(|_| Errno::EINVAL)?;
    let mut bytes = [0; option::LARGEST];
    let used = open.socket()?.option(crate::net::stack(), level, name, &mut bytes)?.min(room);
    uaccess::write_bytes(&c.space, value, &bytes[..used])?;
    length.write(&c.space, &(used as u32))?;
    Ok(0)
}

/// sendto(2)
pub async fn sendto(
    c: &mut Caller<'_>,
    fd: i32,
    address: VirtAddr,
    length: usize,
    flags: u32,
    to: VirtAddr,
    to_length: u32,
) -> SysResult {
    let open = Open::get(c, fd)?;
    let flags = MessageFlags::for_send(flags)?;
    let to = if to.as_u64() == 0 { None } else { Some(read_address(c, to, to_length)?) };
    let mut buf = WriteBuf::user(address, check_range(address, length)?);
    send(c, &open, &mut buf, flags, to.as_ref(), None).await
}

/// recvfrom(2)
pub async fn recvfrom(
    c: &mut Caller<'_>,
    fd: i32,
    address: VirtAddr,
    length: usize,
    flags: u32,
    from: VirtAddr,
    from_length: UserPtr<u32>,
) -> SysResult {
    let open = Open::get(c, fd)?;
    let flags = MessageFlags::for_receive(flags)?;
    let mut buf = ReadBuf::user(address, check_range(address, length)?);
    let (count, received) = receive(c, &open, &mut buf, flags).await?;
    if from.as_u64() != 0 {
        match &received.from {
            Some(sender) => {
                write_address(c, sender, from, from_length)?;
            }
            None => from_length.write(&c.space, &0)?,
        }
    }
    Ok(count)
}

/// sendmsg(2)
pub async fn sendmsg(c: &mut Caller<'_>, fd: i32, message: UserPtr<MessageHeader>, flags: u32) -> SysResult {
    let open = Open::get(c, fd)?;
    let header = message.read(&c.space)?;
    send_message(c, &open, &header, MessageFlags::for_send(flags)?).await
}

/// recvmsg(2)
pub async fn recvmsg(c: &mut Caller<'_>, fd: i32, message: UserPtr<MessageHeader>, flags: u32) -> SysResult {
    let open = Open::get(c, fd)?;
    let mut header = message.read(&c.space)?;
    let count = receive_message(c, &open, &mut header, MessageFlags::for_receive(flags)?).await?;
    message.write(&c.space, &header)?;
    Ok(count)
}

/// sendmmsg(2)
pub async fn sendmmsg(
    c: &mut Caller<'_>,
    fd: i32,
    messages: UserPtr<CountedMessage>,
    count: u32,
    flags: u32,
) -> SysResult {
    let open = Open::get(c, fd)?;
    let flags = MessageFlags::for_send(flags)?;
    let mut pace = Pace::new(c.thread);
    for sent in 0..count.min(MESSAGES_MAX) as usize {
        let message = messages.index(sent);
        let result = async {
            let mut entry = message.read(&c.space)?;
            entry.length = send_message(c, &open, &entry.header, flags).await? as u32;
            message.write(&c.space, &entry)?;
            pace.pause().await
        };
        if let Err(error) = result.await {
            return if sent > 0 { Ok(sent) } else { Err(error) };
        }
    }
    Ok(count.min(MESSAGES_MAX) as usize)
}

/// recvmmsg(2)
pub async fn recvmmsg(
    c: &mut Caller<'_>,
    fd: i32,
    messages: UserPtr<CountedMessage>,
    count: u32,
    flags: u32,
    timeout: UserPtr<TimeSpec>,
) -> SysResult {
    let open = Open::get(c, fd)?;
    let mut flags = MessageFlags::for_receive(flags)?;
    let limit = match timeout.non_null() {
        Some(timeout) => Some(arch::now().saturating_add(timeout.read(&c.space)?.nanoseconds()?)),
        None => None,
    };
    let only_first_waits = flags.contains(MessageFlags::WAITFORONE);
    flags.remove(MessageFlags::WAITFORONE);
    let mut pace = Pace::new(c.thread);
    for received in 0..count.min(MESSAGES_MAX) as usize {
        // As on Linux, the time is looked at after each message only.
        if received > 0 && limit.is_some_and(|limit| arch::now() >= limit) {
            return Ok(received);
        }
        let message = messages.index(received);
        let result = async {
            let mut entry = message.read(&c.space)?;
            entry.length = receive_message(c, &open, &mut entry.header, flags).await? as u32;
            message.write(&c.space, &entry)?;
            pace.pause().await
        };
        if let Err(error) = result.await {
            return if received > 0 { Ok(received) } else { Err(error) };
        }
        if only_first_waits {
            flags.insert(MessageFlags::DONTWAIT);
        }
    }
    Ok(count.min(MESSAGES_MAX) as usize)
}

impl TimeSpec {
    fn nanoseconds(&self) -> Result<u64, Errno> {
        let seconds = u64::try_from(self.seconds).map_err(|_| Errno::EINVAL)?;
        match self.nanoseconds {
            0..1_000_000_000 => {
                Ok(seconds.saturating_mul(1_000_000_000).saturating_add(self.nanoseconds as u64))
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

async fn send_message(c: &Caller<'_>, open: &Open, header: &MessageHeader, flags: MessageFlags) -> SysResult {
    let to = match header.name {
        0 => None,
        name => Some(read_address(c, VirtAddr::new(name), header.name_length)?),
    };
    let control = control::read(c, header)?;
    let segments = read_segments(c, header)?;
    send(c, open, &mut WriteBuf::vectors(&segments), flags, to.as_ref(), Some(&control)).await
}

async fn receive_message(
    c: &Caller<'_>,
    open: &Open,
    header: &mut MessageHeader,
    flags: MessageFlags,
) -> SysResult {
    let segments = read_segments(c, header)?;
    let (count, received) = receive(c, open, &mut ReadBuf::vectors(&segments), flags).await?;
    if header.name != 0 {
        header.name_length = match &received.from {
            Some(from) => put_address(c, from, VirtAddr::new(header.name), header.name_length)?,
            None => 0,
        };
    }
    let mut answer = received.flags;
    header.control_length = control::write(c, header, received.control, flags, &mut answer)? as u64;
    header.flags = answer.bits();
    Ok(count)
}

/// Sends all of `buf`, waiting where the socket's flags say so. A stream that is cut short by an error says how much went.
async fn send(
    c: &Caller<'_>,
    open: &Open,
    buf: &mut WriteBuf<'_>,
    flags: MessageFlags,
    to: Option<&SocketAddress>,
    control: Option<&Control>,
) -> SysResult {
    let socket = open.socket()?;
    let waits = open.waits(flags);
    let deadline = if waits { deadline(socket.protocol.options().send_timeout) } else { None };
    let mut sent = 0;
    let result = loop {
        // Descriptors go with the first byte.
        let control = control.filter(|_| sent == 0);
        let mut attempt = || socket.protocol.send(buf, Outgoing { to, flags, control });
        let result = match attempt() {
            Err(Errno::EAGAIN) if waits => {
                block_on(c.thread, socket.protocol.wait_queue(), WRITABLE, deadline, attempt).await
            }
            result => result,
        };
        match result {
            Err(Errno::EFAULT) if buf.faulted() => {
                if let Err(error) = buf.resolve_fault(&c.space) {
                    break Err(error);
                }
            }
            Ok(count) => {
                sent += count;
                if buf.faulted() {
                    let _ = buf.resolve_fault(&c.space);
                }
                if !socket.is_stream() || buf.remaining() == 0 {
                    break Ok(sent);
                }
            }
            Err(error) => break Err(error),
        }
    };
    match result {
        Err(_) if sent > 0 => Ok(sent),
        Err(Errno::EPIPE) if !flags.contains(MessageFlags::NOSIGNAL) && socket.is_stream() => {
            send_broken_pipe(c.thread);
            Err(Errno::EPIPE)
        }
        result => result,
    }
}

/// Receives into `buf`, waiting where the socket's flags say so. Returns what the call returns, and the rest.
async fn receive(
    c: &Caller<'_>,
    open: &Open,
    buf: &mut ReadBuf<'_>,
    flags: MessageFlags,
) -> Result<(usize, Received), Errno> {
    let socket = open.socket()?;
    // What comes too late for the queue of errors comes with the next call: it is not waited for.
    let waits = open.waits(flags) && !flags.contains(MessageFlags::ERRQUEUE);
    let deadline = if waits { deadline(socket.protocol.options().receive_timeout) } else { None };
    let whole =
        socket.is_stream() && flags.contains(MessageFlags::WAITALL) && !flags.contains(MessageFlags::PEEK);
    let mut total = 0;
    let mut first: Option<Received> = None;
    loop {
        let mut attempt = || socket.protocol.receive(buf, flags);
        // What follows a first piece is waited for only by those who want it all.
        let waits = waits && (first.is_none() || whole);
        let result = match attempt() {
            Err(Errno::EAGAIN) if waits => {
                block_on(c.thread, socket.protocol.wait_queue(), READABLE, deadline, attempt).await
            }
            result => result,
        };
        let received = match (result, first) {
            (Err(Errno::EFAULT), kept) if buf.faulted() => {
                first = kept;
                match (buf.resolve_fault(&c.space), first.take()) {
                    (Ok(()), kept) => first = kept,
                    (Err(_), Some(kept)) => return Ok((total, kept)),
                    (Err(error), None) => return Err(error),
                }
                continue;
            }
            (Err(_), Some(kept)) => return Ok((total, kept)),
            (Err(error), None) => return Err(error),
            (Ok(received), kept) => {
                total += received.length;
                let ended = received.length == 0;
                let received = kept.unwrap_or(received);
                if ended || !socket.is_stream() {
                    let count = if socket.is_stream() { total } else { count_of(&received, buf, flags) };
                    return Ok((count, received));
                }
                received
            }
        };
        let more = buf.remaining() > 0 && !flags.contains(MessageFlags::TRUNC);
        if !more || !(buf.faulted() || whole) {
            return Ok((total, received));
        }
        if buf.faulted() && buf.resolve_fault(&c.space).is_err() {
            return Ok((total, received));
        }
        first = Some(received);
    }
}

/// What receiving a message returns: the bytes copied, or with `MSG_TRUNC` its true length.
fn count_of(received: &Received, buf: &ReadBuf<'_>, flags: MessageFlags) -> usize {
    if flags.contains(MessageFlags::TRUNC) { received.length } else { received.length.min(buf.len()) }
}

fn read_address(c: &Caller<'_>, from: VirtAddr, length: u32) -> Result<SocketAddress, Errno> {
    let length =
        usize::try_from(length as i32).ok().filter(|&length| length <= STORAGE).ok_or(Errno::EINVAL)?;
    let mut bytes = [0; STORAGE];
    uaccess::read_bytes(&c.space, from, &mut bytes[..length])?;
    SocketAddress::decode(&bytes[..length])
}

/// Stores as much of an address as there is room for, and its true length.
fn write_address(c: &Caller<'_>, address: &SocketAddress, to: VirtAddr, length: UserPtr<u32>) -> SysResult {
    let room = length.read(&c.space)?;
    let true_length = put_address(c, address, to, room)?;
    length.write(&c.space, &true_length)?;
    Ok(0)
}

fn put_address(c: &Caller<'_>, address: &SocketAddress, to: VirtAddr, room: u32) -> Result<u32, Errno> {
    let room = usize::try_from(room as i32).map_err(|_| Errno::EINVAL)?;
    let mut bytes = [0; STORAGE];
    let length = address.encode(&mut bytes);
    uaccess::write_bytes(&c.space, to, &bytes[..length.min(room)])?;
    Ok(length as u32)
}

fn read_segments(c: &Caller<'_>, header: &MessageHeader) -> Result<Vec<IoVec>, Errno> {
    if header.segment_count > SEGMENTS_MAX as u64 {
        return Err(Errno::EMSGSIZE);
    }
    let pointer = UserPtr::<IoVec>::new(VirtAddr::new(header.segments));
    let mut segments = pointer.read_vec(&c.space, header.segment_count as usize, SEGMENTS_MAX)?;
    check_segments(&mut segments)?;
    Ok(segments)
}
