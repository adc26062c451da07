//! The kernel's own network stack: its instance, and the tasks that run it.
//!
//! Each NIC has a task, woken by the NIC's interrupts, that runs before any user thread: it takes frames in until there are
//! none, and only then has the NIC interrupt again. One more task watches the deadlines of the stack.

use alloc::sync::Arc;
use core::future::poll_fn;
use core::net::Ipv4Addr;
use core::str::FromStr;
use core::task::Poll;

use hw::nic::{Events, Nic};
use spin::Once;

use super::Stack;
use super::link::{Assigned, Link};
use crate::arch;
use crate::sched::timer::Timer;
use crate::sched::{self, Priority, TaskHandle};

/// Frames that a NIC's task takes in before it lets others run.
const BUDGET: usize = 256;
/// How long the task that watches the deadlines acts on them, and how long it then lets others run, in nanoseconds.
const TURN: u64 = 1_000_000;
const BREATH: u64 = TURN / 4;

static STACK: Once<Arc<Stack>> = Once::new();

/// The kernel's network stack.
pub fn stack() -> &'static Arc<Stack> {
    STACK.call_once(|| Stack::new(arch::now))
}

/// What a NIC's interrupts have reported, as far as its task is concerned.
pub trait Interrupts: Send + Sync {
    /// Has `task` woken by every interrupt.
    fn wake(&self, task: TaskHandle);
    /// Takes the causes recorded since the last call.
    fn take(&self) -> u32;
    /// Lets the device interrupt again, after it has been served.
    fn unmask(&self);
}

/// How the first interface gets its address: the command line's `ip=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configuration {
    /// By DHCP.
    Dhcp,
    /// Not at all.
    Off,
    /// As given.
    Static {
        /// The address and the length of its network's prefix.
        address: Assigned,
        /// The default router.
        gateway: Option<Ipv4Addr>,
    },
}

/// `text` is not an `ip=` that anyone understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAConfiguration;

impl FromStr for Configuration {
    type Err = NotAConfiguration;

    /// `dhcp`, `off`, or `A.B.C.D/N[,GATEWAY]`.
    fn from_str(text: &str) -> Result<Self, NotAConfiguration> {
        match text {
            "dhcp" => return Ok(Self::Dhcp),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let (own, gateway) = text.split_once(',').map_or((text, None), |(own, gateway)| (own, Some(gateway)));
        let (address, prefix) = own.split_once('/').ok_or(NotAConfiguration)?;
        let prefix =
            prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix)).ok_or(NotAConfiguration)?;
        let parse = |text: &str| text.parse().map_err(|_| NotAConfiguration);
        Ok(Self::Static {
            address: Assigned { address: parse(address)?, prefix },
            gateway: gateway.map(parse).transpose()?,
        })
    }
}

/// Takes a started NIC in as the next `ethN`, and serves it from now on. The first is configured as `configuration` says, others by DHCP.
pub fn attach(
    nic: alloc::boxed::Box<dyn Nic>,
    interrupts: &'static dyn Interrupts,
    configuration: Configuration,
) {
    let link = stack().add_nic(nic);
    log::info!("{}: {}", link.name, link.mac);
    let task = sched::spawn(arch::core_id(), Priority::Urgent, serve(link.clone(), interrupts));
    interrupts.wake(task);
    match configuration {
        Configuration::Off => {}
        Configuration::Dhcp => stack().start_dhcp(&link),
        Configuration::Static { address, gateway } => {
            stack().set_addresses(&link, &[address]);
            if let Some(gateway) = gateway {
                stack().set_default_route(&link, gateway);
            }
        }
    }
}

/// Starts the tasks of the stack's deadlines and of unreachable unix-domain sockets, and fills /proc/net. Once, at boot.
pub fn start() {
    super::proc::register();
    stack().memory.set_limit((crate::memory::total_bytes() / 4) as usize);
    sched::spawn(arch::core_id(), Priority::Urgent, watch_deadlines());
    sched::spawn(arch::core_id(), Priority::Normal, super::unix::collect_forever());
}

async fn serve(link: Arc<Link>, interrupts: &'static dyn Interrupts) {
    let Some(nic) = link.nic() else { return };
    loop {
        {
            let mut nic = nic.lock();
            nic.acknowledge(Events::from_bits_truncate(interrupts.take()));
            nic.disable_interrupts();
        }
        if !take_in(&link) {
            sched::yield_now().await;
            continue;
        }
        let more = nic.lock().enable_interrupts();
        if !more {
            interrupts.unmask();
            sched::wait_for_wake().await;
        }
    }
}

/// Takes in the frames that have come over `link`, as many as the budget allows. Whether there are no more.
fn take_in(link: &Arc<Link>) -> bool {
    let receive = || link.receive().map(|frame| stack().receive(link, frame)).is_some();
    let all = (0..BUDGET).any(|_| !receive());
    stack().finish(link);
    all
}

/// Acts on deadlines when they have passed. It runs before all programs: so it lets them run in between, however much there is to do.
async fn watch_deadlines() {
    let mut timer = None;
    poll_fn(|context| {
        let start = arch::now();
        // This may be late, on a machine whose processor was lent to others; what came in time counts all the same: an
        // acknowledgment that has arrived spares its segment from being sent again.
        for link in &stack().links() {
            take_in(link);
        }
        loop {
            stack().expire();
            let deadline = stack().deadline();
            stack().timers.sleep_until(deadline, context.waker());
            // One that was set before the line above is seen here, a later one wakes this task.
            let (deadline, now) = (stack().deadline(), arch::now());
            if deadline > now || now - start > TURN {
                let next = if deadline > now { deadline } else { now + BREATH };
                timer = Some(Timer::at(next, context.waker()));
                return Poll::<()>::Pending;
            }
        }
    })
    .await;
    drop(timer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_as_the_command_line_has_them() {
        assert_eq!("dhcp".parse(), Ok(Configuration::Dhcp));
        assert_eq!("off".parse(), Ok(Configuration::Off));
        let address = Assigned { address: Ipv4Addr::new(172, 31, 0, 10), prefix: 24 };
        assert_eq!("172.31.0.10/24".parse(), Ok(Configuration::Static { address, gateway: None }));
        let gateway = Some(Ipv4Addr::new(172, 31, 0, 20));
        assert_eq!("172.31.0.10/24,172.31.0.20".parse(), Ok(Configuration::Static { address, gateway }));
        for wrong in ["", "1.2.3.4", "1.2.3.4/33", "1.2.3.4/0", "1.2.3/24", "1.2.3.4/24,", "1.2.3.4/24,x"] {
            assert_eq!(wrong.parse::<Configuration>(), Err(NotAConfiguration), "{wrong}");
        }
    }
}
