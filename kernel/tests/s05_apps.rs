//! s05: unmodified servers of this machine, reached over a tap from a network namespace of the test's own.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::guest::{Guest, Setup, amount};
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::process::dies_with_us;
use xtask::qemu::{Forward, Nic};
use xtask::run::REDIS_ARGUMENTS;
use xtask::watched::Watched;

use crate::common::{PATIENCE, await_lease, lines_of, on_each_nic};

/// A redis-server on the tap.
pub fn redis(nic: Nic) -> Setup {
    Setup::program("redis-server", &REDIS_ARGUMENTS).tap(nic)
}

/// Starts a redis-server; returns when it accepts connections and has its address.
pub fn start_redis(setup: Setup, namespace: &Namespace) -> Result<Guest> {
    let mut guest = setup.start_in(Some(namespace))?;
    guest.expect("Ready to accept connections")?;
    await_lease(namespace).map_err(|error| guest.failure(format!("{error:#}")))?;
    Ok(guest)
}

/// A redis-cli command's output lines.
pub fn redis_cli(namespace: &Namespace, arguments: &[&str]) -> Result<Vec<String>> {
    lines_of(namespace.enter("redis-cli"), &[&["-h", GUEST_ADDRESS], arguments].concat())
}

on_each_nic!(redis_smoke: s05_redis_smoke_virtio, s05_redis_smoke_e1000, s05_redis_smoke_vmxnet3);

fn redis_smoke(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let guest = start_redis(redis(nic), &namespace)?;
    guest.stop_after(exercise_redis(&namespace))
}

fn exercise_redis(namespace: &Namespace) -> Result<()> {
    ensure!(redis_cli(namespace, &["ping"])? == ["PONG"]);
    ensure!(redis_cli(namespace, &["set", "k", "v"])? == ["OK"]);
    ensure!(redis_cli(namespace, &["get", "k"])? == ["v"]);
    ensure!(redis_cli(namespace, &["info"])?.iter().any(|line| line.starts_with("redis_version:")));
    let requests = amount("500", "5000");
    for pipeline in ["1", "16"] {
        let arguments =
            ["-h", GUEST_ADDRESS, "-n", requests, "-t", "ping,set,get,lpush,lrange,mset", "-P", pipeline];
        let lines = lines_of(namespace.enter("redis-benchmark"), &[&arguments[..], &["--csv"]].concat())?;
        for test in ["PING_INLINE", "PING_MBULK", "SET", "GET", "LPUSH", "LRANGE_100", "LRANGE_600", "MSET"] {
            ensure!(
                lines.iter().any(|line| line.starts_with(&format!("\"{test}"))),
                "no {test} in {lines:?}"
            );
        }
        ensure!(
            !lines.iter().any(|line| line.contains("rror")),
            "redis-benchmark reports an error: {lines:?}"
        );
    }
    ensure!(redis_cli(namespace, &["get", "k"])? == ["v"]);
    Ok(())
}

on_each_nic!(memcached_smoke: s05_memcached_smoke_virtio, s05_memcached_smoke_e1000, s05_memcached_smoke_vmxnet3);

fn memcached_smoke(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let guest = Setup::program("memcached", &["-u", "root"]).tap(nic).start_in(Some(&namespace))?;
    let result = await_lease(&namespace)
        .and_then(|()| exercise_memcached(|program| namespace.enter(program), GUEST_ADDRESS, 11211));
    guest.stop_after(result)
}

/// Over QEMU's user-mode network, as `cargo xtask run` has it: a port of this machine leads to the guest.
#[test]
fn s05_memcached_forwarded() -> Result<()> {
    let port = xtask::host::free_tcp_port()?;
    let forward = Forward { udp: false, host: port, guest: 11211 };
    let guest = Setup::program("memcached", &["-u", "root"]).user_network(Nic::Virtio, &[forward]).start()?;
    guest.stop_after(exercise_memcached(dies_with_us, "127.0.0.1", port))
}

/// Talks to a memcached with clients that `client` makes.
fn exercise_memcached<C: Fn(&'static str) -> Command>(client: C, address: &str, port: u16) -> Result<()> {
    // memcached prints nothing when it is ready, and a forwarded port is open before: knock until it answers.
    let knock =
        format!("until echo version | nc -q 2 -w 2 {address} {port} | grep VERSION; do sleep 0.1; done");
    lines_of(client("sh"), &["-c", &knock])?;
    let mut command = client("nc");
    command.args(["-q", "-1", address, &port.to_string()]);
    let mut client = Watched::start(command, true)?;
    let value = "x".repeat(5000);
    let mut stdin = client.child().stdin.take().context("no standard input")?;
    write!(stdin, "set key 7 0 {}\r\n{value}\r\nget key\r\nincr missing 1\r\n", value.len())?;
    client.expect("STORED", PATIENCE)?;
    client.expect(&format!("VALUE key 7 {}", value.len()), PATIENCE)?;
    client.expect(&value, PATIENCE)?;
    client.expect("NOT_FOUND", PATIENCE)?;
    write!(stdin, "quit\r\n")?;
    drop(stdin);
    client.succeed(PATIENCE)?;
    Ok(())
}
