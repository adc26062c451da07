//! Control data of messages (cmsg(3)): descriptors and credentials that travel with them, times, packet information.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::net as abi;

use super::MessageHeader;
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::fs::OpenFile;
use crate::memory::VirtAddr;
use crate::net::socket::message::{self, ControlWriter, FILES_MAX, PeerCredentials};
use crate::net::socket::{Control, MessageFlags};
use crate::syscall::Caller;
use crate::uaccess;

/// Most bytes of control data.
const CONTROL_MAX: usize = 64 << 10;

/// Takes over the control data of a message that is sent.
///
/// # Errors
/// `ENOBUFS` for too much of it, `EINVAL`, `EBADF`, `EPERM` for credentials that are not the caller's; `ENOMEM`, `EFAULT`.
pub(super) fn read(c: &Caller<'_>, header: &MessageHeader) -> Result<Control, Errno> {
    let mut control = Control::default();
    if header.control_length == 0 || header.control == 0 {
        return Ok(control);
    }
    let length = usize::try_from(header.control_length).map_err(|_| Errno::ENOBUFS)?;
    if length > CONTROL_MAX {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = crate::net::link::zeroed(length).ok_or(Errno::ENOMEM)?;
    uaccess::read_bytes(&c.space, VirtAddr::new(header.control), &mut bytes)?;
    for item in message::items(&bytes)? {
        match (item.level, item.kind) {
            (abi::SOL_SOCKET, abi::SCM_RIGHTS) => read_files(c, item.data, &mut control)?,
            (abi::SOL_SOCKET, abi::SCM_CREDENTIALS) => {
                control.credentials = Some(claimed_credentials(c, item.data)?);
            }
            // Levels are for protocols: what is of another's is not for this one.
            (level, _) if level != abi::SOL_SOCKET => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(control)
}

fn read_files(c: &Caller<'_>, data: &[u8], control: &mut Control) -> Result<(), Errno> {
    let (numbers, _) = data.as_chunks::<4>();
    if numbers.len() + control.files.len() > FILES_MAX {
        return Err(Errno::EINVAL);
    }
    control.files.try_reserve(numbers.len()).map_err(|_| Errno::ENOMEM)?;
    for number in numbers {
        control.files.push(c.thread.files().get_any(i32::from_ne_bytes(*number))?);
    }
    Ok(())
}

/// What a process says of itself; only root may say anything but the truth.
fn claimed_credentials(c: &Caller<'_>, data: &[u8]) -> Result<PeerCredentials, Errno> {
    let (words, _) = data.as_chunks::<4>();
    let [pid, uid, gid] = *words else { return Err(Errno::EINVAL) };
    let [pid, uid, gid] = [pid, uid, gid].map(u32::from_ne_bytes);
    let own = c.thread.credentials();
    let truth = pid == c.thread.process().pid()
        && [own.uid, own.euid, own.suid].contains(&uid)
        && [own.gid, own.egid, own.sgid].contains(&gid);
    if truth || own.is_privileged() { Ok(PeerCredentials { pid, uid, gid }) } else { Err(Errno::EPERM) }
}

/// Lays the control data of a received message out for the program; returns its length. Descriptors get numbers.
///
/// # Errors
/// `EFAULT`.
pub(super) fn write(
    c: &Caller<'_>,
    header: &MessageHeader,
    control: Control,
    flags: MessageFlags,
    answer: &mut MessageFlags,
) -> SysResult {
    let room = if header.control == 0 { 0 } else { header.control_length.min(CONTROL_MAX as u64) as usize };
    let mut writer = ControlWriter::new(room);
    if let Some(time) = control.timestamp {
        let time = time + arch::wall_clock_offset();
        let (seconds, microseconds) = (time / 1_000_000_000, time % 1_000_000_000 / 1000);
        let data = [seconds.to_ne_bytes(), microseconds.to_ne_bytes()].concat();
        writer.put(abi::SOL_SOCKET, abi::SCM_TIMESTAMP, &data);
    }
    if let Some(PeerCredentials { pid, uid, gid }) = control.credentials {
        let data = [pid, uid, gid].map(u32::to_ne_bytes).concat();
        writer.put(abi::SOL_SOCKET, abi::SCM_CREDENTIALS, &data);
    }
    if let Some((link, address)) = control.packet_info {
        let data = [link.to_ne_bytes(), address.octets(), address.octets()].concat();
        writer.put(abi::SOL_IP, abi::IP_PKTINFO, &data);
    }
    if let Some(ttl) = control.ttl {
        writer.put(abi::SOL_IP, abi::IP_TTL, &u32::from(ttl).to_ne_bytes());
    }
    if !control.files.is_empty() {
        put_files(c, control.files, flags.contains(MessageFlags::CMSG_CLOEXEC), &mut writer);
    }
    answer.set(MessageFlags::CTRUNC, writer.is_cut);
    let bytes = writer.finish();
    uaccess::write_bytes(&c.space, VirtAddr::new(header.control), &bytes)?;
    Ok(bytes.len())
}

/// Gives received descriptors numbers, as many as fit and are allowed. The rest is closed.
fn put_files(c: &Caller<'_>, files: Vec<Arc<OpenFile>>, cloexec: bool, writer: &mut ControlWriter) {
    let (wanted, room) = (files.len(), writer.data_room() / 4);
    let table = c.thread.files();
    let numbers = files.into_iter().take(room).map_while(|file| table.insert(file, cloexec).ok());
    let data: Vec<u8> = numbers.flat_map(i32::to_ne_bytes).collect();
    let complete = data.len() / 4 == wanted;
    if !data.is_empty() {
        writer.put(abi::SOL_SOCKET, abi::SCM_RIGHTS, &data);
    }
    writer.is_cut |= !complete;
}
