//! s06: what a hostile or failing network does: malformed frames, a thousand connections at once, a cable that is pulled.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use xtask::capture::Network;
use xtask::guest::{self, Guest, Setup, amount};
use xtask::host;
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::qemu::Nic;
use xtask::random::Random;

use crate::common::{PATIENCE, await_lease, client, lines_of, on_each_nic};
use crate::frames::{malformed, unanswered};
use crate::s05_apps::{redis, redis_cli, start_redis};

/// How many malformed frames one flood has.
const FRAMES: usize = 10_000;
/// Connections at once, and how often, from day to day and in long tests.
const CONNECTIONS: &str = "1000";
const ROUNDS: (usize, usize) = (5, 30);
/// KiB of memory that may come and go in the kernel's caches. One frame lost with each connection would be four times as much.
const SLACK: u64 = 3000;

on_each_nic!(
    malformed_frames: s06_robust_malformed_frames_virtio,
    s06_robust_malformed_frames_e1000,
    s06_robust_malformed_frames_vmxnet3
);
on_each_nic!(
    many_connections: s06_robust_connections_virtio,
    s06_robust_connections_e1000,
    s06_robust_connections_vmxnet3
);
on_each_nic!(
    frames_without_answer: s06_robust_unanswered_frames_virtio,
    s06_robust_unanswered_frames_e1000,
    s06_robust_unanswered_frames_vmxnet3
);
on_each_nic!(pulled_cable: s06_robust_cable_virtio, s06_robust_cable_e1000, s06_robust_cable_vmxnet3);

fn malformed_frames(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let guest = start_redis(redis(nic).judge(Some(Network::Bad)), &namespace)?;
    guest.stop_after(flood(&namespace))
}

fn flood(namespace: &Namespace) -> Result<()> {
    ensure!(redis_cli(namespace, &["set", "k", "before"])? == ["OK"]);
    let (injector, mut random) = (namespace.injector()?, Random(1));
    for _ in 0..FRAMES {
        injector.send(&malformed(&mut random))?;
    }
    ensure!(redis_cli(namespace, &["get", "k"])? == ["before"]);
    ensure!(redis_cli(namespace, &["set", "k", "after"])? == ["OK"]);
    let benchmark = ["-h", GUEST_ADDRESS, "-n", "2000", "-t", "ping", "-q"];
    lines_of(namespace.enter("redis-benchmark"), &benchmark).map(|_| ())
}

/// A guest that has nothing to say for longer than its receive queue is deep still hears what comes after.
fn frames_without_answer(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    // An address that does not have to be renewed: no frame of the guest's own comes in between.
    let setup = Setup::program("busybox", &["sh", "-c", "echo up; exec sleep 1000"])
        .cmdline("ip=172.31.0.10/24")
        .tap(nic);
    let mut guest = setup.start_in(Some(&namespace))?;
    let result = guest.expect("up").and_then(|_| speak_into_silence(&namespace));
    guest.stop_after(result)
}

fn speak_into_silence(namespace: &Namespace) -> Result<()> {
    let injector = namespace.injector()?;
    for _ in 0..FRAMES {
        injector.send(&unanswered())?;
    }
    lines_of(namespace.enter("ping"), &["-c", "3", GUEST_ADDRESS]).map(|_| ())
}

/// Opened, used and closed again and again, they leave nothing behind.
fn many_connections(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let server =
        "redis-server --bind 0.0.0.0 --protected-mode no --save '' --dir / --loglevel warning & exec sh";
    let setup = Setup::program("busybox", &["sh", "-c", server])
        .with_file(host::find_program("redis-server").context("no redis-server")?, "/usr/bin/redis-server")
        .cmdline("env=PS1=prompt-$")
        .memory(1024)
        .tap(nic);
    let mut guest = setup.start_in(Some(&namespace))?;
    let result = connect_and_count(&mut guest, &namespace);
    guest.stop_after(result)
}

fn connect_and_count(guest: &mut Guest, namespace: &Namespace) -> Result<()> {
    guest.expect("prompt-$")?;
    await_lease(namespace)?;
    lines_of(
        namespace.enter("sh"),
        &["-c", &format!("until redis-cli -h {GUEST_ADDRESS} ping; do sleep 0.1; done")],
    )?;
    // The first rounds fill the caches.
    connect(namespace, 2)?;
    let before = Counts::of(guest)?;
    connect(namespace, amount(ROUNDS.0, ROUNDS.1) - 2)?;
    let after = Counts::of(guest)?;
    ensure!(
        after.descriptors == before.descriptors && after.sockets == before.sockets,
        "{before:?} became {after:?}"
    );
    ensure!(after.ours + SLACK >= before.ours, "memory is lost: {before:?} became {after:?}");
    Ok(())
}

fn connect(namespace: &Namespace, rounds: usize) -> Result<()> {
    let program = guest::user_program("netprobe")?;
    let line = format!(
        "ulimit -n 2048; exec {} connections {GUEST_ADDRESS}:6379 {CONNECTIONS} {rounds}",
        program.display()
    );
    let lines = lines_of(namespace.enter("sh"), &["-c", &line])?;
    ensure!(lines.len() == rounds, "{lines:?}");
    Ok(())
}

/// What the guest has in use.
#[derive(Debug)]
struct Counts {
    /// Open descriptors of the server.
    descriptors: String,
    /// The lines of /proc/net/sockstat.
    sockets: String,
    /// KiB of memory that is free or the server's, whose allocator gives back what it had when it sees fit.
    ours: u64,
}

impl Counts {
    fn of(guest: &mut Guest) -> Result<Self> {
        // A connection ends here a little later than the client sees its end. The words are split where they are typed, so that
        // only the answer matches.
        guest.type_line(
            "until grep -q 'TCP: inuse 1 ' /proc/net/sockstat; do usleep 10000; done; s=$(pidof redis-server); \
             echo des''criptors $(ls /proc/$s/fd | wc -l) sockets $(cat /proc/net/sockstat) \
             kib $(cat /proc/meminfo /proc/$s/status | grep -E 'MemFree|VmRSS' | tr -dc '0-9\\n') end",
        )?;
        let line = guest.expect_match("descriptors .* end\r")?;
        let part = |from: &str, to: &str| {
            let (_, rest) = line.split_once(from)?;
            rest.split_once(to).map(|(part, _)| part.trim().to_string())
        };
        let missing = || format!("a count is missing in {line:?}");
        Ok(Self {
            descriptors: part("descriptors", "sockets").with_context(missing)?,
            sockets: part("sockets ", "kib").with_context(missing)?,
            ours: part("kib", "end").and_then(|text| sum(&text)).with_context(missing)?,
        })
    }
}

/// The sum of two numbers.
fn sum(text: &str) -> Option<u64> {
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    (numbers.len() == 2).then(|| numbers.iter().sum())
}

/// A connection outlives it that the cable is pulled for a while, and the guest sees both.
fn pulled_cable(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let script = "torture tcpecho 7 & exec sh";
    let setup = Setup::program("busybox", &["sh", "-c", script])
        .with_user_program("torture")?
        .cmdline("ip=172.31.0.10/24 env=PS1=prompt-$")
        .tap(nic)
        .judge(Some(Network::Bad));
    let mut guest = setup.start_in(Some(&namespace))?;
    let result = pull_and_plug(&mut guest, &namespace);
    guest.stop_after(result)
}

fn pull_and_plug(guest: &mut Guest, namespace: &Namespace) -> Result<()> {
    guest.expect("listening on")?;
    let (client, mut stdin) = client(namespace, "nc", &[GUEST_ADDRESS, "7"])?;
    writeln!(stdin, "before")?;
    client.expect("before", PATIENCE)?;
    let mut monitor = guest.monitor()?;
    for round in 1..=2 {
        monitor.set_link(false)?;
        await_carrier(guest, false)?;
        writeln!(stdin, "after {round}")?;
        let lost = namespace.enter("ping").args(["-c", "1", "-W", "0.3", GUEST_ADDRESS]).output()?;
        ensure!(!lost.status.success(), "an answer came over a pulled cable");
        ensure!(!client.lines().contains(&format!("after {round}")));
        monitor.set_link(true)?;
        await_carrier(guest, true)?;
        client.expect(&format!("after {round}"), PATIENCE)?;
    }
    lines_of(namespace.enter("ping"), &["-c", "1", GUEST_ADDRESS]).map(|_| ())
}

/// Waits until a program in the guest sees that there is a carrier, or none.
fn await_carrier(guest: &mut Guest, there: bool) -> Result<()> {
    let condition = if there { "until" } else { "while" };
    guest.type_line(&format!(
        "{condition} ifconfig eth0 | grep -q RUNNING; do usleep 10000; done; echo carr''ier-{there}"
    ))?;
    guest.expect(&format!("carrier-{there}")).map(|_| ())
}
