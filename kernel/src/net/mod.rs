//! The network: drivers' frames on one side, sockets on the other.
//!
//! - [`mod@stack`]: a network stack; [`link`]: a NIC or the loopback; [`route`], [`neighbour`], [`dhcp`]: addresses and ways;
//! - [`input`], [`output`], [`icmp`], [`reassembly`], [`wire`]: packets; [`trace`]: a log line for each;
//! - [`tcp`], [`udp`], [`raw`]: sockets by protocol; [`ports`], [`options`], [`timers`], [`memory`]: what they share;
//! - [`unix`]: sockets within the machine;
//! - [`proc`]: /proc/net; [`dump()`]: for /proc/nrk/dump; [`ioctl`]: netdevice(7); [`netlink`]: rtnetlink(7);
//! - [`socket`]: sockets behind descriptors, as the socket calls see them.
//!
//! TCP's state machine is smoltcp's. Around it, cost per packet does not depend on how many sockets there are: a frame is parsed,
//! its socket found by a hash of the flow, and only that socket is run, under no lock but its own and its core's.
//!
//! Nothing in here waits. Who enters (a system call, the task of a NIC, the task of the timers) leaves through
//! [`Stack::finish`], which rings doorbells.

pub mod counters;
pub mod dhcp;
mod dump;
pub mod icmp;
mod input;
pub mod ioctl;
pub mod link;
pub mod memory;
pub mod neighbour;
pub mod netlink;
pub mod options;
mod output;
pub mod ports;
mod proc;
pub mod raw;
pub mod reassembly;
pub mod route;
mod scratch;
pub mod service;
pub mod socket;
pub mod stack;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod timers;
mod trace;
pub mod udp;
pub mod unix;
pub mod wire;

pub use dump::dump;
pub use service::stack;
pub use stack::Stack;
