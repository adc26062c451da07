//! s10: figures of redis-benchmark, as CSV. Short runs, so that they fit among the tests: what they show is that all is there
//! to measure with. `cargo xtask bench redis` measures.

use anyhow::{Context, Result, ensure};
use xtask::guest::amount;
use xtask::namespace::{GUEST_ADDRESS, Namespace};
use xtask::qemu::Nic;

use crate::common::{lines_of, on_each_nic};
use crate::s05_apps::{redis, start_redis};

on_each_nic!(
    redis_benchmark: s10_redis_benchmark_virtio,
    s10_redis_benchmark_e1000,
    s10_redis_benchmark_vmxnet3
);

fn redis_benchmark(nic: Nic) -> Result<()> {
    let namespace = Namespace::with_dhcp()?;
    let guest = start_redis(redis(nic), &namespace)?;
    guest.stop_after(measure(&namespace, nic))
}

fn measure(namespace: &Namespace, nic: Nic) -> Result<()> {
    println!("nic,pipeline,test,requests_per_second");
    for (pipeline, requests) in [("1", amount("1000", "10000")), ("29", amount("10000", "100000"))] {
        let arguments = ["-h", GUEST_ADDRESS, "-t", "ping,set,get", "-n", requests, "-P", pipeline, "--csv"];
        let lines = lines_of(namespace.enter("redis-benchmark"), &arguments)?;
        for test in ["PING_INLINE", "PING_MBULK", "SET", "GET"] {
            let figure = figure(&lines, test).with_context(|| format!("no {test} in {lines:?}"))?;
            ensure!(figure > 0.0, "{test}: {figure} requests per second");
            println!("{nic},{pipeline},{test},{figure}");
        }
    }
    Ok(())
}

/// The second column of a test's line: `"SET","10416.67",...`.
fn figure(lines: &[String], test: &str) -> Option<f64> {
    let columns =
        |line: &String| line.split(',').map(|word| word.trim_matches('"').to_string()).collect::<Vec<_>>();
    let line = lines.iter().map(columns).find(|columns| columns.first().is_some_and(|name| name == test))?;
    line.get(1)?.parse().ok()
}
