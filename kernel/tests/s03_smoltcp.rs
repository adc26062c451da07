//! s03: a driver and the stack around smoltcp without user space.

use std::io::Write;

use anyhow::{Result, ensure};
use xtask::exit::Ending;
use xtask::guest::{Guest, Setup, shows};
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::qemu::Nic;

use crate::common::{PATIENCE, await_lease, client, on_each_nic};

/// Characters of the line: more than a segment holds.
const LENGTH: usize = 1700;

on_each_nic!(reverses_a_line: s03_virtio_smoltcp, s03_e1000_smoltcp, s03_vmxnet3_smoltcp);

fn reverses_a_line(nic: Nic) -> Result<()> {
    let (name, namespace) = (format!("s03_{nic}_smoltcp"), Namespace::with_dhcp()?);
    let mut guest = Setup::kernel_test(&name).tap(nic).start_in(Some(&namespace))?;
    converse(&mut guest, &namespace)?;
    let console = guest.finish(Ending::Program(0))?;
    shows(&console, &[&format!("{name}: ok")])
}

fn converse(guest: &mut Guest, namespace: &Namespace) -> Result<()> {
    guest.expect("listening on port 6970")?;
    await_lease(namespace)?;
    let line: String = ('!'..='~').cycle().take(LENGTH).collect();
    let reversed: String = line.chars().rev().collect();
    let (client, mut stdin) = client(namespace, "socat", &["-", &format!("TCP:{GUEST_ADDRESS}:6970")])?;
    writeln!(stdin, "{line}")?;
    ensure!(client.expect(&reversed, PATIENCE)? == reversed);
    drop(stdin);
    client.succeed(PATIENCE)?;
    Ok(())
}
