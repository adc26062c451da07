//! s05: large transfers over TCP, with the data compared at the end: on a clean network, and on a bad one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::guest::{self, Guest, Setup, amount};
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::qemu::Nic;
use xtask::relay::{Faults, Relay};

use crate::common::{await_lease, lines_of, on_each_nic};

/// What a large file has, from day to day and in long tests.
const LARGE: (usize, usize) = (25_000_000, 300_000_000);
/// What is sent over a network that loses packets. Now and then it takes a second until one is sent again.
const MODEST: usize = 700_000;
/// A network much worse than most. The seed is arbitrary.
const BAD: Faults = Faults {
    lost: 10,
    repeated: 10,
    damaged: 10,
    reordered: 20,
    delay: Duration::from_millis(1),
    late: Duration::from_millis(10),
    seed: 42,
};

on_each_nic!(large_file: s05_large_file_virtio, s05_large_file_e1000, s05_large_file_vmxnet3);
on_each_nic!(bad_network: s05_bad_network_virtio, s05_bad_network_e1000, s05_bad_network_vmxnet3);

fn large_file(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let size = amount(LARGE.0, LARGE.1);
    let mut guest = partner(size)?.tap(nic).start_in(Some(&namespace))?;
    let result = transfer(&mut guest, &namespace, size);
    guest.stop_after(result)
}

fn bad_network(nic: Nic) -> Result<()> {
    let mut namespace = Namespace::new()?;
    let relay = Relay::start(&namespace, BAD)?;
    namespace.start_dhcp()?;
    let mut guest = partner(MODEST)?.relay(nic, &relay).start_in(Some(&namespace))?;
    let result = transfer(&mut guest, &namespace, MODEST);
    guest.stop_after(result.with_context(|| relay.counts().to_string()))?;
    println!("{}", relay.counts());
    ensure!(relay.counts().all_happened(), "not every fault has happened: {}", relay.counts());
    Ok(())
}

/// A guest that receives on port 5001, then sends `size` bytes to who comes to port 5002; it stays until it is stopped.
fn partner(size: usize) -> Result<Setup> {
    let script = format!("torture tcpsink 5001; torture tcpsource 5002 {size}; read end");
    Setup::program("busybox", &["sh", "-c", &script]).with_user_program("torture")
}

fn transfer(guest: &mut Guest, namespace: &Namespace, size: usize) -> Result<()> {
    let (size, program) = (size.to_string(), guest::user_program("torture")?);
    guest.expect("listening on 0.0.0.0:5001")?;
    await_lease(namespace)?;
    let peer = |port: u16| format!("{GUEST_ADDRESS}:{port}");
    let sent = lines_of(namespace.enter(&program), &["tcpsource", &peer(5001), &size])?.join("\n");
    let received = guest.expect_match("tcpsink: [^\r\n]*crc32[^\r\n]*")?;
    ensure!(is_same(&sent, &received, &size), "sent: {sent}, but received: {received}");
    guest.expect("listening on 0.0.0.0:5002")?;
    let received = lines_of(namespace.enter(&program), &["tcpsink", &peer(5002)])?.join("\n");
    let sent = guest.expect_match("tcpsource: [^\r\n]*crc32[^\r\n]*")?;
    ensure!(is_same(&sent, &received, &size), "sent: {sent}, but received: {received}");
    Ok(())
}

/// Whether both ends saw `size` bytes with the same checksum: `tcpsource: SIZE bytes, crc32 ...`.
fn is_same(sent: &str, received: &str, size: &str) -> bool {
    fn summary<'a>(text: &'a str, program: &str) -> Option<&'a str> {
        text.lines().find_map(|line| {
            line.strip_prefix(program)?.strip_prefix(": ").filter(|text| text.contains("crc32"))
        })
    }
    let sent = summary(sent, "tcpsource");
    sent.is_some_and(|sent| sent.starts_with(&format!("{size} bytes")))
        && sent == summary(received, "tcpsink")
}
