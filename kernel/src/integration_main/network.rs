//! A network card, its driver and the stack around smoltcp, without user space: a task of the kernel serves a TCP port and
//! sends each line back reversed. The test ends with its first client.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::Poll;

use crate::cmdline::CommandLine;
use crate::errno::Errno;
use crate::net::tcp::TcpSocket;
use crate::net::wire::Endpoint;
use crate::sched::{self, Events, Priority};
use crate::uaccess::{ReadBuf, WriteBuf};
use crate::{Machine, arch, boot, net, println};

/// Where the server listens.
const PORT: u16 = 6970;

/// Serves one client, from the address by DHCP on.
pub fn serve_reversed_lines(machine: &Machine) {
    boot::start_network(&CommandLine::parse(machine.command_line));
    let served = Arc::new(AtomicBool::new(false));
    let told = served.clone();
    sched::spawn(arch::core_id(), Priority::Normal, async move {
        let outcome = serve().await;
        assert!(outcome.is_ok(), "the server failed: {outcome:?}");
        told.store(true, Ordering::Relaxed);
    });
    while !served.load(Ordering::Relaxed) {
        sched::run_until_idle();
        sched::timer::arm();
        arch::wait_for_interrupt();
    }
}

async fn serve() -> Result<(), Errno> {
    let listener = TcpSocket::new(net::stack());
    listener.bind(Endpoint::new(Ipv4Addr::UNSPECIFIED, PORT), 0)?;
    listener.listen(1, 0)?;
    println!("listening on port {PORT}");
    let connection = ready(&listener, || listener.accept()).await?;
    let (mut line, mut block) = (Vec::new(), [0; 512]);
    loop {
        let count =
            ready(&connection, || connection.read(&mut ReadBuf::kernel(&mut block), false, false)).await?;
        if count == 0 {
            break;
        }
        for &byte in &block[..count] {
            if byte == b'\n' {
                line.reverse();
                line.push(b'\n');
                write_all(&connection, &line).await?;
                line.clear();
            } else {
                line.push(byte);
            }
        }
    }
    connection.close();
    Ok(())
}

async fn write_all(connection: &TcpSocket, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = ready(connection, || connection.write(&mut WriteBuf::kernel(bytes), false)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Tries `call` whenever something happens to the socket, until it does not say `EAGAIN`.
async fn ready<T>(socket: &TcpSocket, mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut registration = None;
    poll_fn(|context| {
        // Before the attempt: what happens between the two wakes this task.
        registration.get_or_insert_with(|| socket.queue.register(Events::all(), context.waker()));
        match call() {
            Err(Errno::EAGAIN) => Poll::Pending,
            outcome => Poll::Ready(outcome),
        }
    })
    .await
}
