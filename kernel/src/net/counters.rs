//! Counters of the protocols, as /proc/net/snmp shows them (RFC 1213 names). One set per core, so that counting
//! touches no shared cache line.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::{self, MAX_CORES};
use crate::percore::CacheLine;

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names are those of RFC 1213 and /proc/net/snmp")]
        pub enum Counter { $($name),* }

        const COUNTERS: usize = [$(Counter::$name),*].len();
    };
}

counters! {
    IpInReceives, IpInHdrErrors, IpInAddrErrors, IpInUnknownProtos, IpInDelivers, IpOutRequests, IpOutNoRoutes,
    IpOutDiscards, IpReasmReqds, IpReasmOKs, IpReasmFails, IpFragOKs, IpFragCreates,
    IcmpInMsgs, IcmpInErrors, IcmpInDestUnreachs, IcmpInEchos, IcmpInEchoReps,
    IcmpOutMsgs, IcmpOutDestUnreachs, IcmpOutEchoReps,
    TcpActiveOpens, TcpPassiveOpens, TcpAttemptFails, TcpEstabResets, TcpInSegs, TcpOutSegs, TcpRetransSegs,
    TcpInErrs, TcpOutRsts, TcpInCsumErrors,
    UdpInDatagrams, UdpNoPorts, UdpInErrors, UdpOutDatagrams, UdpRcvbufErrors, UdpInCsumErrors,
}

/// The counters of a stack.
pub struct Counters(Box<[CacheLine<[AtomicU64; COUNTERS]>]>);

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        Self((0..MAX_CORES).map(|_| CacheLine([const { AtomicU64::new(0) }; COUNTERS])).collect())
    }

    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts several.
    pub fn add(&self, counter: Counter, count: u64) {
        self.0[usize::from(arch::core_id().0)].0[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// The sum over the cores.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.iter().map(|core| core.0[counter as usize].load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_cores_add_up() {
        let counters = Counters::new();
        std::thread::scope(|scope| {
            (0..3).for_each(|_| {
                scope.spawn(|| counters.count(Counter::TcpInSegs));
            });
        });
        assert_eq!((counters.get(Counter::TcpInSegs), counters.get(Counter::TcpOutSegs)), (3, 0));
    }
}
