//! s04: networking from user space, over the kernel's own stack, as a peer on the wire sees it.

use std::io::Write;

use anyhow::{Result, ensure};
use xtask::guest::{Guest, Setup};
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::qemu::Nic;
use xtask::watched::Watched;

use crate::common::{PATIENCE, await_lease, client, lines_of, on_each_nic};

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
    Ok(Setup::user_program("netprobe", &["serve", "172.31.0.20:8889", "6337"])?.tap(nic))
}

/// Prints the datagrams that come to port 8889.
fn listen(namespace: &Namespace) -> Result<Watched> {
    let mut command = namespace.enter("socat");
    command.args(["-d", "-d", "UDP-LISTEN:8889,fork", "stdout"]);
    let listener = Watched::start(command, false)?;
    listener.expect("listening on", PATIENCE)?;
    Ok(listener)
}

fn converse(guest: &mut Guest, namespace: &Namespace, datagrams: &Watched) -> Result<()> {
    guest.expect("listening on")?;
    await_lease(namespace)?;
    datagrams.expect(&format!("pkt {DATAGRAMS}"), PATIENCE)?;
    let seen: Vec<String> = datagrams.lines().into_iter().filter(|line| line.starts_with("pkt ")).collect();
    let expected: Vec<String> = (1..=DATAGRAMS).map(|number| format!("pkt {number}")).collect();
    ensure!(seen.starts_with(&expected), "not every datagram from the first on came, in order: {seen:?}");
    answers_pings(namespace)?;
    echoes(namespace)
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
