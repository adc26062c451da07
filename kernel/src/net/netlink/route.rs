//! rtnetlink(7): links, addresses, routes and neighbours, as `ip` and getifaddrs(3) ask for them.

use alloc::sync::Arc;
use core::net::Ipv4Addr;

use linux_raw_sys::net::AF_INET;

use super::message::{ACK, DONE, DUMP, ERROR, EXCLUSIVE, MULTI, Request, Writer, attribute};
use crate::errno::Errno;
use crate::net::ioctl::LinkFlags;
use crate::net::link::{Assigned, Link};
use crate::net::route::Route;
use crate::net::stack::Stack;

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const GET_NEIGHBOUR: u16 = 30;

/// Addresses of links: `IFLA_ADDRESS`, `IFLA_BROADCAST`, `IFLA_IFNAME`, `IFLA_MTU`, `IFLA_QDISC`, `IFLA_TXQLEN`, `IFLA_OPERSTATE`.
const LINK_ADDRESS: u16 = 1;
const LINK_BROADCAST: u16 = 2;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_QUEUEING: u16 = 6;
const LINK_QUEUE_LENGTH: u16 = 13;
const LINK_STATE: u16 = 16;

const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_LABEL: u16 = 3;
const ADDRESS_BROADCAST: u16 = 4;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_LINK: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_METRIC: u16 = 6;
const ROUTE_SOURCE: u16 = 7;
const ROUTE_TABLE: u16 = 15;
/// `RT_TABLE_MAIN`.
const MAIN_TABLE: u8 = 254;

const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_MAC: u16 = 2;

/// Acts on a request, and writes the answer.
pub fn answer(stack: &Arc<Stack>, request: &Request<'_>, privileged: bool, out: &mut Writer) {
    let is_dump = request.flags & DUMP != 0
        && matches!(request.kind, GET_LINK | GET_ADDRESS | GET_ROUTE | GET_NEIGHBOUR);
    if is_dump {
        dump(stack, request, out);
        out.begin(request, DONE, MULTI, &[0; 4]);
        return out.end();
    }
    let result = match request.kind {
        GET_LINK => one_link(stack, request, out),
        GET_ROUTE => one_route(stack, request, out),
        NEW_LINK | SET_LINK | NEW_ADDRESS | DELETE_ADDRESS | NEW_ROUTE | DELETE_ROUTE if !privileged => {
            Err(Errno::EPERM)
        }
        NEW_LINK | SET_LINK => set_link(stack, request.body),
        NEW_ADDRESS => add_address(stack, request),
        DELETE_ADDRESS => delete_address(stack, request.body),
        NEW_ROUTE => add_route(stack, request),
        DELETE_ROUTE => delete_route(stack, request.body),
        _ => Err(Errno::EOPNOTSUPP),
    };
    let answered = matches!(request.kind, GET_LINK | GET_ROUTE) && result.is_ok();
    if result.is_err() || (request.flags & ACK != 0 && !answered) {
        let number = result.map_or_else(|error| -i32::from(error.number()), |()| 0);
        let mut body = [0; 20];
        body[..4].copy_from_slice(&number.to_ne_bytes());
        body[4..].copy_from_slice(&request.header);
        out.begin(request, ERROR, 0, &body);
        out.end();
    }
}

fn dump(stack: &Stack, request: &Request<'_>, out: &mut Writer) {
    // A family of which there is nothing here has no entries.
    let family = request.body.first().copied().unwrap_or(0);
    let wanted = family == 0 || u32::from(family) == AF_INET;
    match request.kind {
        GET_LINK => stack.links().iter().for_each(|link| put_link(link, request, MULTI, out)),
        _ if !wanted => {}
        GET_ADDRESS => stack.links().iter().for_each(|link| put_addresses(link, request, out)),
        GET_ROUTE => stack.routes().iter().for_each(|route| put_route(stack, route, request, MULTI, out)),
        _ => stack.links().iter().for_each(|link| put_neighbours(link, request, out)),
    }
}

fn put_link(link: &Link, request: &Request<'_>, flags: u16, out: &mut Writer) {
    // struct ifinfomsg: family, type, index, flags, mask of changes.
    let mut fixed = [0; 16];
    let kind: u16 = if link.is_loopback() { 772 } else { 1 };
    fixed[2..4].copy_from_slice(&kind.to_ne_bytes());
    fixed[4..8].copy_from_slice(&link.index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&LinkFlags::of(link).bits().to_ne_bytes());
    out.begin(request, NEW_LINK, flags, &fixed);
    out.attribute(LINK_NAME, &[link.name.as_bytes(), &[0]].concat());
    out.attribute(LINK_QUEUE_LENGTH, &1000u32.to_ne_bytes());
    // IF_OPER_UNKNOWN for the loopback; IF_OPER_UP, IF_OPER_DOWN.
    let state = if link.is_loopback() {
        0
    } else if link.is_up() && link.has_carrier() {
        6
    } else {
        2
    };
    out.attribute(LINK_STATE, &[state]);
    out.attribute(LINK_MTU, &(link.mtu as u32).to_ne_bytes());
    out.attribute(LINK_QUEUEING, b"noqueue\0");
    out.attribute(LINK_ADDRESS, &link.mac.0);
    out.attribute(LINK_BROADCAST, &if link.is_loopback() { [0; 6] } else { [0xff; 6] });
    out.end();
}

fn put_addresses(link: &Link, request: &Request<'_>, out: &mut Writer) {
    for own in link.addresses() {
        // struct ifaddrmsg: family, prefix, flags (permanent), scope (host, global), index.
        let scope = if link.is_loopback() { 254 } else { 0 };
        let mut fixed = [AF_INET as u8, own.prefix, 0x80, scope, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&link.index.to_ne_bytes());
        out.begin(request, NEW_ADDRESS, MULTI, &fixed);
        out.attribute(ADDRESS, &own.address.octets());
        out.attribute(ADDRESS_LOCAL, &own.address.octets());
        if let Some(broadcast) = own.broadcast().filter(|_| !link.is_loopback()) {
            out.attribute(ADDRESS_BROADCAST, &broadcast.octets());
        }
        out.attribute(ADDRESS_LABEL, &[link.name.as_bytes(), &[0]].concat());
        out.end();
    }
}

fn put_route(stack: &Stack, route: &Route, request: &Request<'_>, flags: u16, out: &mut Writer) {
    // struct rtmsg: family, prefixes, service, table, protocol (kernel, boot), scope (link, universe), type (unicast), flags.
    let (protocol, scope) = if route.gateway.is_none() { (2, 253) } else { (3, 0) };
    let fixed = [AF_INET as u8, route.prefix, 0, 0, MAIN_TABLE, protocol, scope, 1, 0, 0, 0, 0];
    out.begin(request, NEW_ROUTE, flags, &fixed);
    out.attribute(ROUTE_TABLE, &u32::from(MAIN_TABLE).to_ne_bytes());
    if route.prefix > 0 {
        out.attribute(ROUTE_DESTINATION, &route.destination.octets());
    }
    if let Some(gateway) = route.gateway {
        out.attribute(ROUTE_GATEWAY, &gateway.octets());
    } else if let Some(own) = stack.link(route.link).and_then(|link| link.source_for(route.destination)) {
        out.attribute(ROUTE_SOURCE, &own.octets());
    }
    if route.metric > 0 {
        out.attribute(ROUTE_METRIC, &route.metric.to_ne_bytes());
    }
    out.attribute(ROUTE_LINK, &route.link.to_ne_bytes());
    out.end();
}

fn put_neighbours(link: &Link, request: &Request<'_>, out: &mut Writer) {
    link.neighbours.for_each(|address, mac| {
        // struct ndmsg: family, padding, index, state (incomplete, reachable), flags, type (unicast).
        let mut fixed = [AF_INET as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        fixed[4..8].copy_from_slice(&link.index.to_ne_bytes());
        fixed[8] = if mac.is_some() { 2 } else { 1 };
        out.begin(request, NEW_NEIGHBOUR, MULTI, &fixed);
        out.attribute(NEIGHBOUR_ADDRESS, &address.octets());
        if let Some(mac) = mac {
            out.attribute(NEIGHBOUR_MAC, &mac.0);
        }
        out.end();
    });
}

/// The part of `body` before its attributes, and these.
fn split(body: &[u8], fixed: usize) -> Result<(&[u8], &[u8]), Errno> {
    body.split_at_checked(fixed).ok_or(Errno::EINVAL)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn address(attributes: &[u8], kind: u16) -> Result<Option<Ipv4Addr>, Errno> {
    let Some(value) = attribute(attributes, kind) else { return Ok(None) };
    let octets: [u8; 4] = value.try_into().map_err(|_| Errno::EINVAL)?;
    Ok(Some(octets.into()))
}

fn link_of(stack: &Stack, index: u32, attributes: &[u8]) -> Result<Arc<Link>, Errno> {
    let named = || {
        let name = attribute(attributes, LINK_NAME)?;
        stack.link_named(name.split(|&byte| byte == 0).next()?)
    };
    let found = if index != 0 { stack.link(index) } else { named() };
    found.ok_or(Errno::ENODEV)
}

fn one_link(stack: &Stack, request: &Request<'_>, out: &mut Writer) -> Result<(), Errno> {
    let (fixed, attributes) = split(request.body, 16)?;
    let link = link_of(stack, word(fixed, 4), attributes)?;
    put_link(&link, request, 0, out);
    Ok(())
}

/// The route that a packet to an address would take.
fn one_route(stack: &Stack, request: &Request<'_>, out: &mut Writer) -> Result<(), Errno> {
    let (_, attributes) = split(request.body, 12)?;
    let to = address(attributes, ROUTE_DESTINATION)?.ok_or(Errno::EINVAL)?;
    let path = stack.path(to, None, None)?;
    let near = path.link.is_near(to) || path.link.is_loopback();
    let gateway = if near {
        None
    } else {
        stack.with_routes(|routes| routes.lookup(to, None)).and_then(|route| route.gateway)
    };
    let route = Route { destination: to, prefix: 32, gateway, link: path.link.index, metric: 0 };
    put_route(stack, &route, request, 0, out);
    Ok(())
}

/// Takes a link up or down; nothing else of it can be changed.
fn set_link(stack: &Stack, body: &[u8]) -> Result<(), Errno> {
    let (fixed, attributes) = split(body, 16)?;
    let link = link_of(stack, word(fixed, 4), attributes)?;
    let (flags, mask) = (word(fixed, 8), word(fixed, 12));
    let others =
        [LINK_ADDRESS, LINK_MTU, LINK_QUEUE_LENGTH].iter().any(|&kind| attribute(attributes, kind).is_some());
    if others {
        return Err(Errno::EOPNOTSUPP);
    }
    if (mask | flags) & LinkFlags::UP.bits() != 0 {
        link.set_up(flags & LinkFlags::UP.bits() != 0);
    }
    Ok(())
}

/// The link and address that a request about an address means.
fn assigned(stack: &Stack, body: &[u8]) -> Result<(Arc<Link>, Assigned), Errno> {
    let (fixed, attributes) = split(body, 8)?;
    if u32::from(fixed[0]) != AF_INET || fixed[1] > 32 {
        return Err(Errno::EINVAL);
    }
    let link = stack.link(word(fixed, 4)).ok_or(Errno::ENODEV)?;
    let own = address(attributes, ADDRESS_LOCAL)?.or(address(attributes, ADDRESS)?).ok_or(Errno::EINVAL)?;
    if own.is_multicast() || own.is_broadcast() {
        return Err(Errno::EINVAL);
    }
    Ok((link, Assigned { address: own, prefix: fixed[1] }))
}

fn add_address(stack: &Stack, request: &Request<'_>) -> Result<(), Errno> {
    let (link, own) = assigned(stack, request.body)?;
    let mut addresses = link.addresses();
    if let Some(known) = addresses.iter_mut().find(|known| known.address == own.address) {
        if request.flags & EXCLUSIVE != 0 {
            return Err(Errno::EEXIST);
        }
        *known = own;
    } else {
        addresses.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        addresses.push(own);
    }
    stack.change_addresses(&link, &addresses);
    Ok(())
}

fn delete_address(stack: &Stack, body: &[u8]) -> Result<(), Errno> {
    let (link, own) = assigned(stack, body)?;
    let mut addresses = link.addresses();
    let before = addresses.len();
    addresses.retain(|known| known.address != own.address);
    if addresses.len() == before {
        return Err(Errno::EADDRNOTAVAIL);
    }
    stack.change_addresses(&link, &addresses);
    Ok(())
}

/// The network that a request about a route means, with its router, link and metric where given.
struct Wanted {
    destination: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
    link: Option<u32>,
    metric: u32,
}

impl Wanted {
    fn parse(body: &[u8]) -> Result<Self, Errno> {
        let (fixed, attributes) = split(body, 12)?;
        if u32::from(fixed[0]) != AF_INET || fixed[1] > 32 {
            return Err(Errno::EINVAL);
        }
        let number = |kind| match attribute(attributes, kind) {
            Some(value) if value.len() >= 4 => Ok(Some(word(value, 0))),
            Some(_) => Err(Errno::EINVAL),
            None => Ok(None),
        };
        Ok(Self {
            destination: address(attributes, ROUTE_DESTINATION)?.unwrap_or(Ipv4Addr::UNSPECIFIED),
            prefix: fixed[1],
            gateway: address(attributes, ROUTE_GATEWAY)?,
            link: number(ROUTE_LINK)?,
            metric: number(ROUTE_METRIC)?.unwrap_or(0),
        })
    }
}

fn add_route(stack: &Stack, request: &Request<'_>) -> Result<(), Errno> {
    let Wanted { destination, prefix, gateway, link, metric } = Wanted::parse(request.body)?;
    let near = |gateway| stack.links().into_iter().find(|link| link.is_near(gateway) && !link.is_loopback());
    let link = match (link, gateway) {
        (Some(index), _) => stack.link(index).ok_or(Errno::ENODEV)?,
        (None, Some(gateway)) => near(gateway).ok_or(Errno::ENETUNREACH)?,
        (None, None) => return Err(Errno::ENODEV),
    };
    if gateway.is_some_and(|gateway| !link.is_near(gateway)) {
        return Err(Errno::ENETUNREACH);
    }
    let route = Route { destination, prefix, gateway, link: link.index, metric };
    stack.with_routes(|routes| {
        let there = routes.all().iter().any(|known| {
            (known.prefix, known.metric) == (prefix, metric)
                && known.matches(destination)
                && known.link == link.index
        });
        if there && request.flags & EXCLUSIVE != 0 {
            return Err(Errno::EEXIST);
        }
        routes.add(route);
        Ok(())
    })
}

fn delete_route(stack: &Stack, body: &[u8]) -> Result<(), Errno> {
    let wanted = Wanted::parse(body)?;
    let removed = stack
        .with_routes(|routes| routes.remove(wanted.destination, wanted.prefix, wanted.gateway, wanted.link));
    if removed > 0 { Ok(()) } else { Err(Errno::ESRCH) }
}

#[cfg(test)]
mod tests {
    use super::super::message::{HEADER, requests};
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn ask(stack: &Arc<Stack>, kind: u16, flags: u16, body: &[u8], privileged: bool) -> Vec<(u16, Vec<u8>)> {
        let request = Request { kind, flags, sequence: 3, header: [0; HEADER], body };
        let mut out = Writer::new(1);
        answer(stack, &request, privileged, &mut out);
        let datagrams = out.finish();
        datagrams
            .iter()
            .flat_map(|datagram| {
                requests(datagram).map(|part| (part.kind, part.body.to_vec())).collect::<Vec<_>>()
            })
            .collect()
    }

    fn error(parts: &[(u16, Vec<u8>)]) -> i32 {
        assert_eq!((parts.len(), parts[0].0), (1, ERROR));
        i32::from_ne_bytes(parts[0].1[..4].try_into().unwrap())
    }

    fn body(fixed: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = fixed.to_vec();
        for (kind, value) in attributes {
            body.extend((4 + value.len() as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        body
    }

    #[test]
    fn links_and_addresses_are_listed() {
        let stack = Stack::new(crate::arch::now);
        let links = ask(&stack, GET_LINK, DUMP, &[0; 16], false);
        assert_eq!(links.iter().map(|part| part.0).collect::<Vec<_>>(), [NEW_LINK, DONE]);
        assert_eq!(attribute(&links[0].1[16..], LINK_NAME), Some(&b"lo\0"[..]));
        let addresses = ask(&stack, GET_ADDRESS, DUMP, &[0; 8], false);
        assert_eq!(attribute(&addresses[0].1[8..], ADDRESS_LOCAL), Some(&[127, 0, 0, 1][..]));
        // AF_INET6 has none.
        assert_eq!(ask(&stack, GET_ADDRESS, DUMP, &[10; 8], false).len(), 1);
    }

    #[test]
    fn addresses_and_routes_come_and_go() {
        let stack = Stack::new(crate::arch::now);
        let own = body(&[2, 24, 0, 0, 1, 0, 0, 0], &[(ADDRESS_LOCAL, &[10, 1, 2, 3])]);
        assert_eq!(error(&ask(&stack, NEW_ADDRESS, ACK, &own, false)), -1);
        assert_eq!(error(&ask(&stack, NEW_ADDRESS, ACK, &own, true)), 0);
        assert_eq!(error(&ask(&stack, NEW_ADDRESS, ACK | EXCLUSIVE, &own, true)), -17);
        assert!(stack.is_local([10, 1, 2, 3].into()));
        let route = body(
            &[2, 16, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0],
            &[(ROUTE_DESTINATION, &[10, 9, 0, 0]), (ROUTE_LINK, &[1, 0, 0, 0])],
        );
        assert_eq!(error(&ask(&stack, NEW_ROUTE, ACK, &route, true)), 0);
        let routes = ask(&stack, GET_ROUTE, DUMP, &[2; 12], false);
        assert!(routes.iter().any(
            |part| attribute(&part.1[12.min(part.1.len())..], ROUTE_DESTINATION) == Some(&[10, 9, 0, 0])
        ));
        assert_eq!(error(&ask(&stack, DELETE_ROUTE, ACK, &route, true)), 0);
        assert_eq!(error(&ask(&stack, DELETE_ROUTE, ACK, &route, true)), -3);
        assert_eq!(error(&ask(&stack, DELETE_ADDRESS, ACK, &own, true)), 0);
        assert_eq!(error(&ask(&stack, DELETE_ADDRESS, ACK, &own, true)), -99);
        assert_eq!(error(&ask(&stack, 999, 0, &[], true)), -95);
    }

    proptest! {
        #[test]
        fn no_request_makes_it_panic(kind in 10u16..40, flags in any::<u16>(), body in prop::collection::vec(any::<u8>(), 0..80)) {
            let stack = Stack::new(crate::arch::now);
            ask(&stack, kind, flags, &body, true);
        }
    }
}
