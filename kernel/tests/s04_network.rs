//! s04: networking from user space, over the kernel's own stack, as a peer on the wire sees it.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xtask::guest::{Guest, Setup};
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::qemu::Nic;
use xtask::watched::Watched;

use crate::common::{PATIENCE, await_lease, client, lines_of, on_each_nic};

/// Where the host listens for datagrams.
const DATAGRAM_PORT: u16 = 8889;
/// Datagrams that are looked at.
const DATAGRAMS: usize = 50;
/// Packets of a stream of pings.
const PINGS: &str = "10000";

on_each_nic!(userspace_net: s04_userspace_net_virtio, s04_userspace_net_e1000, s04_userspace_net_vmxnet3);

fn userspace_net(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let datagrams = listen(&namespace)?;
    let mut guest = probe(nic)?.start_in(Some(&namespace))?;
    let result = converse(&mut guest, &namespace, &datagrams);
    guest.stop_after(result)
}

/// A guest that sends numbered datagrams to port 8889 of the host, and echoes what comes to port 6337.
fn probe(nic: Nic) -> Result<Setup> {
    Ok(Setup::user_program("netprobe", &["serve", &format!("172.31.0.20:{DATAGRAM_PORT}"), "6337"])?.tap(nic))
}

/// Prints the datagrams that come to port 8889.
fn listen(namespace: &Namespace) -> Result<Watched> {
    let mut command = namespace.enter("socat");
    command.args(["-d", "-d", &format!("UDP-LISTEN:{DATAGRAM_PORT},fork"), "stdout"]);
    let listener = Watched::start(command, false)?;
    listener.expect("listening on", PATIENCE)?;
    Ok(listener)
}

fn converse(guest: &mut Guest, namespace: &Namespace, datagrams: &Watched) -> Result<()> {
    guest.expect("listening on")?;
    await_lease(namespace)?;
    all_datagrams_came(guest, datagrams)?;
    answers_pings(namespace)?;
    echoes(namespace)
}

/// From the first on, each once, in the order of their numbers. socat prints those that came before it knew the sender from other
/// processes than the rest, in whatever order these run; so the order is looked up in the record.
fn all_datagrams_came(guest: &Guest, datagrams: &Watched) -> Result<()> {
    let expected: Vec<String> = (1..=DATAGRAMS).map(|number| format!("pkt {number}")).collect();
    let end = Instant::now() + PATIENCE;
    let count = |line: &String| datagrams.lines().iter().filter(|other| *other == line).count();
    while let Some(missing) = expected.iter().find(|line| count(line) == 0) {
        ensure!(Instant::now() < end, "{missing:?} did not come: {:?}", datagrams.lines());
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(expected.iter().all(|line| count(line) == 1), "some came twice: {:?}", datagrams.lines());
    let sent = guest.sent_datagrams(DATAGRAM_PORT)?;
    let sent: Vec<_> =
        sent.iter().map(|bytes| String::from_utf8_lossy(bytes).trim_end().to_string()).collect();
    ensure!(sent.starts_with(&expected), "the datagrams were sent in another order: {sent:?}");
    Ok(())
}

fn answers_pings(namespace: &Namespace) -> Result<()> {
    let lines = lines_of(namespace.enter("ping"), &["-c", "3", "-i", "0.2", GUEST_ADDRESS])?;
    for number in 1..=3 {
        let start = format!("64 bytes from {GUEST_ADDRESS}: icmp_seq={number} ttl=64 time=");
        ensure!(lines.iter().any(|line| line.starts_with(&start)), "no {start:?} in {lines:?}");
    }
    for stream in ["-A", "-f"] {
        let lines = lines_of(namespace.enter("ping"), &[stream, "-q", "-c", PINGS, GUEST_ADDRESS])?;
        let nothing_lost = format!("{PINGS} packets transmitted, {PINGS} received, 0% packet loss");
        ensure!(lines.iter().any(|line| line.starts_with(&nothing_lost)), "ping {stream}: {lines:?}");
    }
    Ok(())
}

/// What is typed comes back.
fn echoes(namespace: &Namespace) -> Result<()> {
    let (client, mut stdin) = client(namespace, "nc", &["-N", GUEST_ADDRESS, "6337"])?;
    for line in ["hello", "a second line"] {
        writeln!(stdin, "{line}")?;
        client.expect(line, PATIENCE)?;
    }
    drop(stdin);
    ensure!(client.succeed(PATIENCE)? == ["hello", "a second line"]);
    Ok(())
}
