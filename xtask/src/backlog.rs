//! A longer backlog for the ports that QEMU forwards.
//!
//! QEMU's user-mode network listens on each of them with a backlog of one connection (libslirp's `tcpx_listen`). Of fifty
//! clients that connect at once two then get in: Linux drops the first segments of the others, which come again
//! after one, three, seven... seconds, and resets some (tcp(7), `tcp_abort_on_overflow`; listen(2)). QEMU has no
//! option for it, but listen(2) on a socket that listens already just changes the backlog, and
//! pidfd_getfd(2) gives us the sockets of our own child.

use std::fs;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketAddrV4, getsockname, listen, sockopt};
use rustix::process::{ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// What redis-server itself would ask for, several times over; the system's `somaxconn` caps it.
const BACKLOG: i32 = 4096;
/// How long QEMU may take to open its ports.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often to look. QEMU gives no sign of its own.
const PAUSE: Duration = Duration::from_millis(5);

/// Lengthens the backlogs of `ports` (TCP, of 127.0.0.1) in the child `pid` as soon as it listens on them, in the background.
///
/// Where the system forbids it, the ports work all the same, with few clients at a time.
pub fn lengthen(pid: Pid, ports: Vec<u16>) {
    if !ports.is_empty() {
        thread::spawn(move || lengthen_all(pid, ports));
    }
}

/// Does so and returns the ports that were not found listening.
fn lengthen_all(pid: Pid, mut ports: Vec<u16>) -> Vec<u16> {
    let end = Instant::now() + PATIENCE;
    while !ports.is_empty() && Instant::now() < end {
        let Ok(listening) = listening_sockets(pid) else { break };
        for (port, socket) in listening {
            if ports.contains(&port) && listen(&socket, BACKLOG).is_ok() {
                ports.retain(|other| *other != port);
            }
        }
        thread::sleep(PAUSE);
    }
    ports
}

/// The listening TCP sockets of a process, with their ports; an error once the process is gone.
fn listening_sockets(pid: Pid) -> Result<Vec<(u16, OwnedFd)>, Errno> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let entries = fs::read_dir(folder).map_err(|_| Errno::SRCH)?;
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let numbers = entries
        .flatten()
        .filter(is_socket)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<ForeignRawFd>().ok());
    let sockets = numbers
        .filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok())
        .filter(|socket| sockopt::socket_acceptconn(socket).unwrap_or(false));
    Ok(sockets.filter_map(|socket| Some((port(&getsockname(&socket).ok()?)?, socket))).collect())
}

fn port(address: &SocketAddrAny) -> Option<u16> {
    SocketAddrV4::try_from(address.clone()).ok().map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    /// Connections that get in while nobody accepts.
    fn admitted(port: u16) -> usize {
        let connect = || {
            let address = (Ipv4Addr::LOCALHOST, port).into();
            TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok()
        };
        let streams: Vec<TcpStream> = (0..20).map_while(|_| connect()).collect();
        streams.len()
    }

    #[test]
    fn more_connections_get_in_than_the_owner_asked_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listen(&listener, 1).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(admitted(port) < 20);
        assert_eq!(lengthen_all(rustix::process::getpid(), vec![port]), []);
        assert_eq!(admitted(port), 20);
    }

    #[test]
    fn a_process_that_is_gone_ends_the_search() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        child.wait().unwrap();
        assert_eq!(lengthen_all(pid, vec![1]), [1]);
    }
}
