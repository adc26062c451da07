//! ioctl(2) on sockets: bytes in queues, and the links as netdevice(7) shows them.

use alloc::sync::Arc;
use core::net::Ipv4Addr;

use super::link::{Assigned, Link};
use super::route::Route;
use super::socket::Socket;
use super::stack::Stack;
use crate::errno::{Errno, SysResult};
use crate::memory::{AddressSpace, VirtAddr};
use crate::process::Thread;
use crate::uaccess::{self, UserPtr};

const FIONREAD: u32 = 0x541b;
const SIOCOUTQ: u32 = 0x5411;
const SIOCADDRT: u32 = 0x890b;
const SIOCDELRT: u32 = 0x890c;
const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCSIFFLAGS: u32 = 0x8914;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCSIFADDR: u32 = 0x8916;
const SIOCGIFDSTADDR: u32 = 0x8917;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCSIFNETMASK: u32 = 0x891c;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
const SIOCGIFMAP: u32 = 0x8970;

const NAME: usize = 16;
/// Bytes of a `struct rtentry`.
const ROUTE: usize = 120;
/// Bytes of a `struct ifreq`: a name and a union.
const REQUEST: usize = 40;

bitflags::bitflags! {
    /// `IFF_*` of netdevice(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LinkFlags: u32 {
        /// Carries packets.
        const UP = 1;
        /// Has a broadcast address.
        const BROADCAST = 2;
        /// Is the loopback.
        const LOOPBACK = 8;
        /// Has a carrier.
        const RUNNING = 0x40;
        /// Knows groups.
        const MULTICAST = 0x1000;
        /// The hardware is up (only in netlink).
        const LOWER_UP = 0x1_0000;
    }
}

impl LinkFlags {
    /// Those of `link`.
    pub fn of(link: &Link) -> Self {
        let mut flags = if link.is_loopback() { Self::LOOPBACK } else { Self::BROADCAST | Self::MULTICAST };
        flags.set(Self::UP, link.is_up());
        flags.set(Self::RUNNING | Self::LOWER_UP, link.is_up() && link.has_carrier());
        flags
    }
}

/// ioctl(2) on a socket.
pub fn socket(socket: &Socket, thread: &Thread, request: u32, argument: u64) -> SysResult {
    let space = &*thread.space();
    let number =
        |value: usize| UserPtr::<u32>::new(VirtAddr::new(argument)).write(space, &(value as u32)).map(|()| 0);
    match request {
        FIONREAD if socket.protocol.is_listening() => Err(Errno::EINVAL),
        FIONREAD => number(socket.protocol.readable_bytes()),
        SIOCOUTQ => number(socket.protocol.unsent_bytes()),
        SIOCGIFCONF => list(super::stack(), space, argument),
        SIOCADDRT | SIOCDELRT if !thread.credentials().is_privileged() => Err(Errno::EPERM),
        SIOCADDRT | SIOCDELRT => {
            let mut entry = [0; ROUTE];
            uaccess::read_bytes(space, VirtAddr::new(argument), &mut entry)?;
            let device = u64::from_ne_bytes(entry[88..96].try_into().map_err(|_| Errno::EINVAL)?);
            let device = match device {
                0 => None,
                name => Some(uaccess::read_cstr(space, VirtAddr::new(name), NAME, Errno::ENODEV)?),
            };
            route(super::stack(), request == SIOCADDRT, &entry, device.as_deref()).map(|()| 0)
        }
        0x8900..=0x89ff => {
            let mut bytes = [0; REQUEST];
            uaccess::read_bytes(space, VirtAddr::new(argument), &mut bytes)?;
            let privileged = thread.credentials().is_privileged();
            interface(super::stack(), request, &mut bytes, privileged)?;
            uaccess::write_bytes(space, VirtAddr::new(argument), &bytes).map(|()| 0)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// What a request about one link does to its `struct ifreq`.
fn interface(
    stack: &Arc<Stack>,
    request: u32,
    bytes: &mut [u8; REQUEST],
    privileged: bool,
) -> Result<(), Errno> {
    if request == SIOCGIFNAME {
        let index = u32::from_ne_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
        let link = stack.link(index).ok_or(Errno::ENODEV)?;
        put_name(&link, &mut bytes[..NAME]);
        return Ok(());
    }
    let known = matches!(
        request,
        SIOCGIFFLAGS..=SIOCGIFDSTADDR
            | SIOCGIFBRDADDR
            | SIOCGIFNETMASK..=SIOCGIFMETRIC
            | SIOCGIFMTU
            | SIOCGIFHWADDR
            | SIOCGIFINDEX
            | SIOCGIFTXQLEN
            | SIOCGIFMAP
    );
    if !known {
        return Err(Errno::ENOTTY);
    }
    let name = bytes[..NAME].split(|&byte| byte == 0).next().unwrap_or_default();
    let link = stack.link_named(name).ok_or(Errno::ENODEV)?;
    let value = &mut bytes[NAME..];
    if matches!(request, SIOCSIFFLAGS | SIOCSIFADDR | SIOCSIFNETMASK) {
        return if privileged { set(stack, &link, request, value) } else { Err(Errno::EPERM) };
    }
    get(&link, request, value)
}

fn get(link: &Link, request: u32, value: &mut [u8]) -> Result<(), Errno> {
    let own = || link.primary().ok_or(Errno::EADDRNOTAVAIL);
    let address = match request {
        SIOCGIFADDR | SIOCGIFDSTADDR => own()?.address,
        SIOCGIFNETMASK => own()?.mask(),
        SIOCGIFBRDADDR => own()?.broadcast().unwrap_or(Ipv4Addr::UNSPECIFIED),
        _ => {
            value.fill(0);
            let mut number = |number: u32| value[..4].copy_from_slice(&number.to_ne_bytes());
            match request {
                // The flags are 16 bits wide here.
                SIOCGIFFLAGS => number(LinkFlags::of(link).bits() & 0xffff),
                SIOCGIFMTU => number(link.mtu as u32),
                SIOCGIFINDEX => number(link.index),
                SIOCGIFTXQLEN => number(1000),
                SIOCGIFHWADDR => {
                    // ARPHRD_LOOPBACK, ARPHRD_ETHER.
                    number(if link.is_loopback() { 772 } else { 1 });
                    value[2..8].copy_from_slice(&link.mac.0);
                }
                // No metric, and no memory or ports to show.
                _ => {}
            }
            return Ok(());
        }
    };
    put_address(address, value);
    Ok(())
}

fn set(stack: &Arc<Stack>, link: &Arc<Link>, request: u32, value: &[u8]) -> Result<(), Errno> {
    let address = Ipv4Addr::new(value[4], value[5], value[6], value[7]);
    let is_inet = value[..2] == (linux_raw_sys::net::AF_INET as u16).to_ne_bytes();
    match request {
        SIOCSIFFLAGS => {
            let flags = LinkFlags::from_bits_truncate(u32::from(u16::from_ne_bytes([value[0], value[1]])));
            link.set_up(flags.contains(LinkFlags::UP));
        }
        _ if !is_inet => return Err(Errno::EINVAL),
        SIOCSIFADDR => {
            let prefix = class_prefix(address);
            let addresses = [Assigned { address, prefix }];
            let used = if address.is_unspecified() { &[][..] } else { &addresses };
            stack.set_addresses(link, used);
        }
        _ => {
            let prefix = address.to_bits().leading_ones() as u8;
            if address.to_bits().count_ones() != u32::from(prefix) {
                return Err(Errno::EINVAL);
            }
            let own = link.primary().ok_or(Errno::EADDRNOTAVAIL)?;
            stack.set_addresses(link, &[Assigned { prefix, ..own }]);
        }
    }
    Ok(())
}

/// Adds or removes the route in a `struct rtentry`.
fn route(stack: &Stack, add: bool, entry: &[u8; ROUTE], device: Option<&[u8]>) -> Result<(), Errno> {
    const GATEWAY: u16 = 2;
    const HOST: u16 = 4;
    let address = |at: usize| Ipv4Addr::new(entry[at + 4], entry[at + 5], entry[at + 6], entry[at + 7]);
    let (destination, router, given_mask) = (address(8), address(24), address(40).to_bits());
    let flags = u16::from_ne_bytes([entry[56], entry[57]]);
    let prefix = if flags & HOST != 0 { 32 } else { given_mask.leading_ones() as u8 };
    if flags & HOST == 0 && given_mask.count_ones() != u32::from(prefix) {
        return Err(Errno::EINVAL);
    }
    let gateway = (flags & GATEWAY != 0 && !router.is_unspecified()).then_some(router);
    let named = device.map(|name| stack.link_named(name).ok_or(Errno::ENODEV)).transpose()?;
    if !add {
        let removed = stack
            .with_routes(|routes| routes.remove(destination, prefix, gateway, named.map(|link| link.index)));
        return if removed > 0 { Ok(()) } else { Err(Errno::ESRCH) };
    }
    let near = |gateway| stack.links().into_iter().find(|link| link.is_near(gateway) && !link.is_loopback());
    let link = match (named, gateway) {
        (Some(link), _) => link,
        (None, Some(gateway)) => near(gateway).ok_or(Errno::ENETUNREACH)?,
        (None, None) => return Err(Errno::ENODEV),
    };
    if gateway.is_some_and(|gateway| !link.is_near(gateway)) {
        return Err(Errno::ENETUNREACH);
    }
    // A metric is one more than it means here; 0 means none.
    let metric = i16::from_ne_bytes([entry[80], entry[81]]).saturating_sub(1).max(0) as u32;
    stack.with_routes(|routes| {
        routes.add(Route { destination, prefix, gateway, link: link.index, metric });
    });
    Ok(())
}

/// The network part that an address has by its class, until a mask is set.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

/// `SIOCGIFCONF`: the addresses of all links, as far as they fit.
fn list(stack: &Stack, space: &AddressSpace, argument: u64) -> SysResult {
    let mut header = [0; 16];
    uaccess::read_bytes(space, VirtAddr::new(argument), &mut header)?;
    let room = i32::from_ne_bytes([header[0], header[1], header[2], header[3]]).max(0) as usize;
    let mut target = [0; 8];
    target.copy_from_slice(&header[8..]);
    let target = u64::from_ne_bytes(target);
    let mut length = 0;
    for link in stack.links() {
        let Some(own) = link.primary() else { continue };
        if target != 0 {
            if length + REQUEST > room {
                break;
            }
            let mut entry = [0; REQUEST];
            put_name(&link, &mut entry[..NAME]);
            put_address(own.address, &mut entry[NAME..]);
            uaccess::write_bytes(space, VirtAddr::new(target.wrapping_add(length as u64)), &entry)?;
        }
        length += REQUEST;
    }
    UserPtr::<u32>::new(VirtAddr::new(argument)).write(space, &(length as u32)).map(|()| 0)
}

fn put_name(link: &Link, to: &mut [u8]) {
    to.fill(0);
    let name = link.name.as_bytes();
    let length = name.len().min(NAME - 1);
    to[..length].copy_from_slice(&name[..length]);
}

fn put_address(address: Ipv4Addr, value: &mut [u8]) {
    value[..16].fill(0);
    value[..2].copy_from_slice(&(linux_raw_sys::net::AF_INET as u16).to_ne_bytes());
    value[4..8].copy_from_slice(&address.octets());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(stack: &Arc<Stack>, request: u32, name: &[u8]) -> Result<[u8; REQUEST], Errno> {
        let mut bytes = [0; REQUEST];
        bytes[..name.len()].copy_from_slice(name);
        interface(stack, request, &mut bytes, true).map(|()| bytes)
    }

    #[test]
    fn the_loopback_shows_itself() {
        let stack = Stack::new(crate::arch::now);
        assert_eq!(ask(&stack, SIOCGIFADDR, b"lo").unwrap()[20..24], [127, 0, 0, 1]);
        assert_eq!(ask(&stack, SIOCGIFNETMASK, b"lo").unwrap()[20..24], [255, 0, 0, 0]);
        assert_eq!(ask(&stack, SIOCGIFFLAGS, b"lo").unwrap()[16..18], [0x49, 0]);
        assert_eq!(ask(&stack, SIOCGIFINDEX, b"lo").unwrap()[16], 1);
        assert_eq!(ask(&stack, SIOCGIFADDR, b"eth7"), Err(Errno::ENODEV));
        assert_eq!(ask(&stack, 0x89f0, b"lo"), Err(Errno::ENOTTY));
    }

    #[test]
    fn only_root_sets_anything() {
        let stack = Stack::new(crate::arch::now);
        let mut bytes = [0; REQUEST];
        bytes[..2].copy_from_slice(b"lo");
        assert_eq!(interface(&stack, SIOCSIFFLAGS, &mut bytes, false), Err(Errno::EPERM));
        interface(&stack, SIOCSIFFLAGS, &mut bytes, true).unwrap();
        assert!(!stack.loopback().is_up());
    }

    #[test]
    fn routes_are_added_and_removed() {
        let stack = Stack::new(crate::arch::now);
        let mut entry = [0; ROUTE];
        entry[12..16].copy_from_slice(&[10, 9, 0, 0]);
        entry[44..48].copy_from_slice(&[255, 255, 0, 0]);
        assert_eq!(route(&stack, true, &entry, None), Err(Errno::ENODEV));
        route(&stack, true, &entry, Some(b"lo")).unwrap();
        assert_eq!(stack.routes()[0].prefix, 16);
        route(&stack, false, &entry, None).unwrap();
        assert_eq!(route(&stack, false, &entry, None), Err(Errno::ESRCH));
        entry[44..48].copy_from_slice(&[255, 0, 255, 0]);
        assert_eq!(route(&stack, true, &entry, Some(b"lo")), Err(Errno::EINVAL));
    }

    proptest! {
        #[test]
        fn no_request_makes_it_panic(request in 0x8900u32..0x8a00, bytes in prop::collection::vec(any::<u8>(), REQUEST)) {
            let stack = Stack::new(crate::arch::now);
            let mut bytes: [u8; REQUEST] = bytes.try_into().unwrap();
            let _ = interface(&stack, request, &mut bytes, true);
            bytes[..3].copy_from_slice(b"lo\0");
            let _ = interface(&stack, request, &mut bytes, true);
        }
    }
}
