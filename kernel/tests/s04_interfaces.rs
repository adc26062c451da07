//! s04: network cards and their addresses, as the guest's own tools show them and as its neighbours find them.

use anyhow::{Context, Result, ensure};
use xtask::exit::Ending;
use xtask::guest::{Setup, shows};
use xtask::namespace::{GUEST_ADDRESS, HOST_ADDRESS, Namespace};
use xtask::qemu::{MAC, Nic};

use crate::common::{await_lease, lines_of};

/// A shell command that returns when the first card has its address and a default route.
const CONFIGURED: &str = "until ip route | grep -q ^default; do usleep 10000; done";

/// A guest in which a shell runs a script.
fn shell(script: &str) -> Setup {
    Setup::program("busybox", &["sh", "-c", script])
}

/// The address by DHCP, as busybox's tools read it from /proc/net, ioctls and netlink.
#[test]
fn s04_tools() -> Result<()> {
    let script = format!(
        "{CONFIGURED}; ifconfig eth0; ip addr show dev eth0; ip route; route -n; ping -c 2 {HOST_ADDRESS}; \
         arp -n; nc -l -p 7 & until netstat -ltn | grep :7; do usleep 10000; done; netstat -rn; ifconfig lo; cat /proc/net/pnp"
    );
    let namespace = Namespace::with_dhcp()?;
    let guest = shell(&script).tap(Nic::Virtio).start_in(Some(&namespace))?;
    let console = guest.finish(Ending::Program(0))?;
    let words: Vec<String> =
        console.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        // ifconfig
        &format!("eth0 Link encap:Ethernet HWaddr {}", MAC.to_uppercase()),
        "inet addr:172.31.0.10 Bcast:172.31.0.255 Mask:255.255.255.0",
        "UP BROADCAST RUNNING MULTICAST MTU:1500 Metric:1",
        "inet addr:127.0.0.1 Mask:255.0.0.0",
        // ip
        &format!("link/ether {MAC} brd ff:ff:ff:ff:ff:ff"),
        "172.31.0.0/24 dev eth0 scope link src 172.31.0.10",
        // route, netstat -r
        "0.0.0.0 172.31.0.20 0.0.0.0 UG 2 0 0 eth0",
        "172.31.0.0 0.0.0.0 255.255.255.0 U 0 0 0 eth0",
        "2 packets transmitted, 2 packets received, 0% packet loss",
        "tcp 0 0 0.0.0.0:7 0.0.0.0:* LISTEN",
        "nameserver 172.31.0.20",
    ] {
        ensure!(words.iter().any(|seen| seen == line), "no line {line:?} in:\n{console}");
    }
    for start in [
        "inet 172.31.0.10/24 brd 172.31.0.255 scope global",
        "default via 172.31.0.20 dev eth0",
        "? (172.31.0.20) at ",
    ] {
        ensure!(words.iter().any(|seen| seen.starts_with(start)), "no line {start:?}... in:\n{console}");
    }
    Ok(())
}

/// `log=net=trace`: a line for each packet says which way it went, from whom, to whom, and what it was.
#[test]
fn s04_packet_log() -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let setup = shell(&format!("{CONFIGURED}; ping -c 1 {HOST_ADDRESS}")).tap(Nic::Virtio);
    let guest = setup.cmdline("log=net=trace").start_in(Some(&namespace))?;
    let console = guest.finish(Ending::Program(0))?;
    shows(
        &console,
        &[
            "eth0 out 0.0.0.0:68 > 255.255.255.255:67 UDP len 300",
            "eth0 out ARP, 42 bytes",
            "eth0 out 172.31.0.10 > 172.31.0.20 ICMP type 8 code 0",
            "eth0 in 172.31.0.20 > 172.31.0.10 ICMP type 0 code 0",
        ],
    )
}

#[test]
fn s04_static_address() -> Result<()> {
    let script = format!("ping -c 1 {HOST_ADDRESS} && ip route && cat /proc/net/pnp; read end");
    let namespace = Namespace::new()?;
    let setup = shell(&script).tap(Nic::Virtio).cmdline("ip=172.31.0.10/24,172.31.0.20");
    let mut guest = setup.start_in(Some(&namespace))?;
    let result = guest
        .expect("1 packets received")
        .and_then(|_| guest.expect("default via 172.31.0.20"))
        .and_then(|_| lines_of(namespace.enter("ping"), &["-c", "1", GUEST_ADDRESS]));
    guest.stop_after(result).map(|_| ())
}

/// Leases of one second are renewed for ten seconds, without a moment in which the address is gone.
#[test]
fn s04_dhcp_renewal() -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let guest = shell("read end").tap(Nic::Virtio).start_in(Some(&namespace))?;
    let result = await_lease(&namespace)
        .and_then(|()| lines_of(namespace.enter("ping"), &["-q", "-i", "0.1", "-c", "100", GUEST_ADDRESS]));
    let server = namespace.dhcp().context("no DHCP server")?.lines();
    let count = |text: &str| server.iter().filter(|line| line.contains(text)).count();
    let (leases, discoveries) = (count("DHCPACK on 172.31.0.10"), count("DHCPDISCOVER from"));
    let console = guest.console();
    let lines = guest.stop_after(result)?;
    ensure!(lines.iter().any(|line| line.contains(" 100 received, 0% packet loss")), "{lines:?}");
    // Half a second each, if every renewal is answered at once.
    ensure!(leases >= 11 && discoveries == 1, "{leases} leases after {discoveries} discoveries: {server:?}");
    ensure!(!console.contains("expired"), "the address was lost:\n{console}");
    Ok(())
}

/// What a peer hears from ports at which nobody listens.
#[test]
fn s04_closed_ports() -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let guest = shell("read end").tap(Nic::Virtio).start_in(Some(&namespace))?;
    let result = await_lease(&namespace).and_then(|()| knock(&namespace));
    guest.stop_after(result)
}

fn knock(namespace: &Namespace) -> Result<()> {
    for address in ["TCP4", "UDP4"] {
        // -t: how long it waits for the answer after the end of its input.
        let script = format!("echo knock | socat -t 60 - {address}:{GUEST_ADDRESS}:9");
        let output = namespace.enter("sh").args(["-c", &script]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains("Connection refused"), "{address}: {said}");
    }
    Ok(())
}

/// One card of each kind at once: each has its address, its routes and its name, in the order in which they are plugged.
#[test]
fn s04_several_cards() -> Result<()> {
    let script = format!(
        "until [ $(ip route | grep -c ^default) = 3 ]; do usleep 10000; done; ip addr; ip route; \
         ping -c 1 {HOST_ADDRESS} && ping -c 1 10.1.0.2 && ping -c 1 10.2.0.2"
    );
    let namespace = Namespace::with_dhcp()?;
    let cards = [user_card("e1000", 1, ""), user_card("vmxnet3", 2, "")].concat();
    let guest = shell(&script).tap(Nic::Virtio).qemu(cards).start_in(Some(&namespace))?;
    let console = guest.finish(Ending::Program(0))?;
    shows(
        &console,
        &[
            "inet 172.31.0.10/24 brd 172.31.0.255 scope global eth0",
            "inet 10.1.0.15/24 brd 10.1.0.255 scope global eth1",
            "inet 10.2.0.15/24 brd 10.2.0.255 scope global eth2",
            "10.1.0.0/24 dev eth1 scope link  src 10.1.0.15",
            "10.2.0.0/24 dev eth2 scope link  src 10.2.0.15",
        ],
    )?;
    ensure!(console.matches("1 packets received").count() == 3, "not every network answers:\n{console}");
    Ok(())
}

/// A card that cannot be used is reported; those before and behind it work.
#[test]
fn s04_card_that_fails() -> Result<()> {
    // One from before virtio 1.
    let broken = user_card("virtio-net-pci", 1, ",disable-modern=on,disable-legacy=off");
    let cards = [broken, user_card("e1000", 2, "")].concat();
    let script = format!(
        "until [ $(ip route | grep -c ^default) = 2 ]; do usleep 10000; done; \
         ping -c 1 {HOST_ADDRESS} && ping -c 1 10.2.0.2 && ip addr"
    );
    let namespace = Namespace::with_dhcp()?;
    let guest = shell(&script).tap(Nic::Vmxnet3).qemu(cards).start_in(Some(&namespace))?;
    let console = guest.finish(Ending::Program(0))?;
    shows(&console, &["virtio-net does not start", "scope global eth1"])?;
    ensure!(!console.contains("eth2"), "the card that failed has a name:\n{console}");
    Ok(())
}

/// QEMU's options for one more card, on a user-mode network 10.NUMBER.0.0/24 of its own.
fn user_card(device: &str, number: u8, options: &str) -> Vec<String> {
    let netdev = format!("user,id=more{number},net=10.{number}.0.0/24");
    let device = format!("{device},netdev=more{number},mac=56:b4:44:e9:62:e{number},romfile={options}");
    ["-netdev".into(), netdev, "-device".into(), device].into()
}
