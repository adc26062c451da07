//! Links, deadlines and TCP sockets in the dump (see [`crate::dump`]).

use core::fmt::{self, Write};

use super::link::Link;
use super::stack::Stack;
use super::tcp::{Flow, TcpSocket};
use crate::sched::Deadline;

/// Writes the state of a stack at the time `now`.
pub fn dump(stack: &Stack, now: u64, out: &mut dyn Write) -> fmt::Result {
    stack.links().iter().try_for_each(|link| of_link(link, now, out))?;
    let first = Deadline { at: stack.deadline(), now };
    let watched = Deadline { at: stack.timers.sleeping_until(), now };
    writeln!(out, "net: first deadline {first}, watched for {watched}")?;
    for (_, listening) in stack.tcp.listeners() {
        of_socket(&listening.socket, now, out)?;
    }
    for (key, flow) in stack.tcp.flows() {
        match flow {
            Flow::Socket(socket) => of_socket(&socket, now, out)?,
            Flow::TimeWait(_) => writeln!(out, "tcp {} {}: TIME_WAIT", key.local, key.remote)?,
        }
    }
    Ok(())
}

fn of_link(link: &Link, now: u64, out: &mut dyn Write) -> fmt::Result {
    write!(out, "{}: ", link.name)?;
    out.write_str(if link.is_up() { "up" } else { "down" })?;
    out.write_str(if link.has_carrier() { ", carrier" } else { ", no carrier" })?;
    out.write_str(if link.has_room() { ", room to send" } else { ", queue full" })?;
    if let Some(fault) = link.nic().and_then(|nic| nic.lock().fault()) {
        write!(out, ", broken: {fault:?}")?;
    }
    let neighbours = Deadline { at: link.neighbours.deadline(), now };
    let dhcp = Deadline { at: link.dhcp.deadline(), now };
    writeln!(out, "; neighbours due {neighbours}, DHCP {dhcp}")?;
    writeln!(out, "  {:?}", link.statistics())
}

fn of_socket(socket: &TcpSocket, now: u64, out: &mut dyn Write) -> fmt::Result {
    let (view, (segments, again)) = (socket.view(), socket.sent_segments());
    writeln!(
        out,
        "tcp {} {}: {}, inode {}, {} to read, {} unacknowledged, {segments} segments and {again} of them again, next deadline {}, ready for {:?}",
        socket.local(),
        socket.peer(),
        view.state,
        socket.inode().number,
        view.received,
        view.queued,
        Deadline { at: socket.next_deadline(), now },
        socket.poll(),
    )
}
