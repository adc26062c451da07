//! /proc/net: links, routes, neighbours, sockets and counters as text (proc(5)), in the very columns that ifconfig, route,
//! netstat and their like expect.

use core::fmt::{self, Write};
use core::net::Ipv4Addr;

use hw::MacAddress;

use super::counters::Counter;
use super::link::mask;
use super::socket::Inode;
use super::socket::address::UnixName;
use super::socket::stream::state_number;
use super::stack::Stack;
use super::tcp::Flow;
use super::unix::{Type, UnixSocket};
use super::wire::Endpoint;
use crate::fs::proc::{Folder, Generate};
use crate::memory::PAGE_SIZE;

/// Puts the files into /proc/net. At boot.
pub fn register() {
    const FILES: [(&str, Generate); 15] = [
        ("dev", |out| dev(super::stack(), out)),
        ("arp", |out| arp(super::stack(), out)),
        ("route", |out| route(super::stack(), out)),
        ("tcp", |out| tcp(super::stack(), out)),
        ("udp", |out| udp(super::stack(), out)),
        ("raw", |out| raw(super::stack(), out)),
        ("unix", unix),
        ("pnp", |out| pnp(super::stack(), out)),
        ("snmp", |out| snmp(super::stack(), out)),
        ("sockstat", |out| sockstat(super::stack(), out)),
        // There is no IPv6.
        ("tcp6", |out| out.write_str(TCP6_HEADER)),
        ("udp6", |out| out.write_str(UDP6_HEADER)),
        ("raw6", |out| out.write_str(UDP6_HEADER)),
        ("if_inet6", |_| Ok(())),
        ("ipv6_route", |_| Ok(())),
    ];
    FILES.iter().for_each(|(name, generate)| crate::fs::proc::register(Folder::Net, name, *generate));
}

const TCP_HEADER: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
const UDP_HEADER: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops";
const TCP6_HEADER: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
const UDP6_HEADER: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";

/// An address as a number, its bytes in the order of the network.
struct Hex(Ipv4Addr);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", u32::from_ne_bytes(self.0.octets()))
    }
}

/// An endpoint as these files write it.
struct End(Endpoint);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:04X}", Hex(self.0.address), self.0.port)
    }
}

fn dev(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    out.write_str(concat!(
        "Inter-|   Receive                                                |  Transmit\n",
        " face |bytes    packets errs drop fifo frame compressed multicast",
        "|bytes    packets errs drop fifo colls carrier compressed\n",
    ))?;
    for link in stack.links() {
        let s = link.statistics();
        writeln!(
            out,
            "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
            link.name,
            s.rx_bytes,
            s.rx_packets,
            s.rx_errors,
            s.rx_dropped,
            0,
            0,
            0,
            0,
            s.tx_bytes,
            s.tx_packets,
            0,
            s.tx_dropped,
            0,
            0,
            0,
            0
        )?;
    }
    Ok(())
}

fn arp(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    out.write_str("IP address       HW type     Flags       HW address            Mask     Device\n")?;
    for link in stack.links() {
        let mut result = Ok(());
        link.neighbours.for_each(|address, mac| {
            let (flags, mac) = (if mac.is_some() { 2 } else { 0 }, mac.unwrap_or(MacAddress([0; 6])));
            let address = alloc::format!("{address}");
            result = result.and_then(|()| {
                writeln!(out, "{address:<16} 0x{:<10x}0x{flags:<10x}{mac}     *        {}", 1, link.name)
            });
        });
        result?;
    }
    Ok(())
}

fn route(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    let header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    writeln!(out, "{header:<127}")?;
    for route in stack.routes() {
        let Some(link) = stack.link(route.link) else { continue };
        let gateway = route.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
        // RTF_UP, RTF_GATEWAY, RTF_HOST.
        let flags = 1 | if route.gateway.is_some() { 2 } else { 0 } | if route.prefix == 32 { 4 } else { 0 };
        let line = alloc::format!(
            "{}\t{}\t{}\t{flags:04X}\t0\t0\t{}\t{}\t0\t0\t0",
            link.name,
            Hex(route.destination),
            Hex(gateway),
            route.metric,
            Hex(mask(route.prefix)),
        );
        writeln!(out, "{line:<127}")?;
    }
    Ok(())
}

/// The columns that /proc/net/tcp, udp and raw have in common.
struct SocketLine {
    number: usize,
    local: Endpoint,
    remote: Endpoint,
    state: u8,
    sending: usize,
    receiving: usize,
    inode: Inode,
}

impl SocketLine {
    fn write(&self, width: usize, end: &str, out: &mut dyn Write) -> fmt::Result {
        let Self { number, local, remote, state, sending, receiving, inode } = self;
        let line = alloc::format!(
            "{number:width$}: {} {} {state:02X} {sending:08X}:{receiving:08X} 00:00000000 00000000 {:5} {:8} {}{end}",
            End(*local),
            End(*remote),
            inode.uid,
            0,
            inode.number,
        );
        writeln!(out, "{line:<127}")
    }
}

fn tcp(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "{TCP_HEADER:<149}")?;
    let mut number = 0;
    let mut line = |local, remote, state, sending, receiving, inode| {
        let line = SocketLine { number, local, remote, state, sending, receiving, inode };
        number += 1;
        line.write(4, " 1 0000000000000000 100 0 0 10 0", out)
    };
    for (_, listening) in stack.tcp.listeners() {
        let (socket, none) = (&listening.socket, Endpoint::UNSPECIFIED);
        let view = socket.view();
        line(socket.local(), none, 10, 0, view.received, socket.inode())?;
    }
    for (key, flow) in stack.tcp.flows() {
        match flow {
            Flow::Socket(socket) => {
                let view = socket.view();
                let state = state_number(view.state);
                line(key.local, key.remote, state, view.queued, view.received, socket.inode())?;
            }
            Flow::TimeWait(_) => line(key.local, key.remote, 6, 0, 0, Inode::default())?,
        }
    }
    Ok(())
}

fn udp(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "{UDP_HEADER:<127}")?;
    for (number, socket) in stack.udp.sockets().into_iter().enumerate() {
        let remote = socket.remote();
        let line = SocketLine {
            number,
            local: socket.local(),
            remote: remote.unwrap_or(Endpoint::UNSPECIFIED),
            state: if remote.is_ok() { 1 } else { 7 },
            sending: 0,
            receiving: socket.queued(),
            inode: socket.inode(),
        };
        line.write(5, " 2 0000000000000000 0", out)?;
    }
    Ok(())
}

fn raw(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    writeln!(out, "{UDP_HEADER:<127}")?;
    for (number, socket) in stack.raw.sockets().into_iter().enumerate() {
        let remote = socket.remote().unwrap_or(Ipv4Addr::UNSPECIFIED);
        let line = SocketLine {
            number,
            // The protocol takes the place of the port.
            local: Endpoint::new(socket.local(), u16::from(socket.protocol)),
            remote: Endpoint::new(remote, 0),
            state: 7,
            sending: 0,
            receiving: socket.queued(),
            inode: socket.inode(),
        };
        line.write(4, " 2 0000000000000000 0", out)?;
    }
    Ok(())
}

fn unix(out: &mut dyn Write) -> fmt::Result {
    out.write_str("Num       RefCount Protocol Flags    Type St Inode Path\n")?;
    let mut result = Ok(());
    UnixSocket::for_each(|socket_type, listens, connected, inode, name| {
        let socket_type = match socket_type {
            Type::Stream => 1,
            Type::Datagram => 2,
            Type::SequencedPacket => 5,
        };
        // __SO_ACCEPTCON; SS_UNCONNECTED, SS_CONNECTED.
        let (flags, state) = (if listens { 0x10000 } else { 0 }, if connected { 3 } else { 1 });
        let mut write = || {
            let inode = inode.number;
            write!(out, "{:016x}: 00000002 00000000 {flags:08X} {socket_type:04X} {state:02X} {inode:5}", 0)?;
            match name {
                UnixName::Unnamed => {}
                UnixName::Path(path) => write!(out, " {}", path.escape_ascii())?,
                // NULs in abstract names are shown as `@`, too.
                UnixName::Abstract(name) => {
                    out.write_str(" @")?;
                    for part in name.split_inclusive(|&byte| byte == 0) {
                        let text = part.strip_suffix(&[0]).unwrap_or(part);
                        let end = if text.len() < part.len() { "@" } else { "" };
                        write!(out, "{}{end}", text.escape_ascii())?;
                    }
                }
            }
            out.write_char('\n')
        };
        result = result.and_then(|()| write());
    });
    result
}

/// What a DHCP server told, in the form of resolv.conf(5), so that this can be linked to.
fn pnp(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    let leases = stack.links().into_iter().filter_map(|link| link.dhcp.lease());
    for lease in leases {
        out.write_str("#PROTO: DHCP\n")?;
        for resolver in &lease.resolvers {
            writeln!(out, "nameserver {resolver}")?;
        }
        writeln!(out, "bootserver {}", lease.server)?;
    }
    Ok(())
}

/// How many sockets there are, and how many pages their buffers take.
fn sockstat(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    let flows = stack.tcp.flows();
    let (mut connections, mut orphans) = (0, 0);
    for (_, flow) in &flows {
        if let Flow::Socket(socket) = flow {
            connections += 1;
            orphans += usize::from(socket.is_orphan());
        }
    }
    let in_use = connections + stack.tcp.listeners().len();
    let (udp, raw) = (stack.udp.sockets().len(), stack.raw.sockets().len());
    let mut unix = 0;
    UnixSocket::for_each(|_, _, _, _, _| unix += 1);
    writeln!(out, "sockets: used {}", in_use - orphans + udp + raw + unix)?;
    writeln!(
        out,
        "TCP: inuse {in_use} orphan {orphans} tw {} alloc {in_use} mem {}",
        flows.len() - connections,
        stack.memory.used().div_ceil(PAGE_SIZE)
    )?;
    writeln!(out, "UDP: inuse {udp} mem 0")?;
    writeln!(out, "UDPLITE: inuse 0")?;
    writeln!(out, "RAW: inuse {raw}")?;
    writeln!(out, "FRAG: inuse 0 memory 0")
}

fn snmp(stack: &Stack, out: &mut dyn Write) -> fmt::Result {
    use Counter as C;
    let get = |counter| stack.counters.get(counter);
    out.write_str(concat!(
        "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards",
        " InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs",
        " FragFails FragCreates\n",
    ))?;
    writeln!(
        out,
        "Ip: 2 64 {} {} {} 0 {} 0 {} {} {} {} 0 {} {} {} {} 0 {}",
        get(C::IpInReceives),
        get(C::IpInHdrErrors),
        get(C::IpInAddrErrors),
        get(C::IpInUnknownProtos),
        get(C::IpInDelivers),
        get(C::IpOutRequests),
        get(C::IpOutDiscards),
        get(C::IpOutNoRoutes),
        get(C::IpReasmReqds),
        get(C::IpReasmOKs),
        get(C::IpReasmFails),
        get(C::IpFragOKs),
        get(C::IpFragCreates),
    )?;
    out.write_str(concat!(
        "Icmp: InMsgs InErrors InDestUnreachs InEchos InEchoReps OutMsgs OutErrors OutDestUnreachs OutEchos",
        " OutEchoReps\n",
    ))?;
    writeln!(
        out,
        "Icmp: {} {} {} {} {} {} 0 {} 0 {}",
        get(C::IcmpInMsgs),
        get(C::IcmpInErrors),
        get(C::IcmpInDestUnreachs),
        get(C::IcmpInEchos),
        get(C::IcmpInEchoReps),
        get(C::IcmpOutMsgs),
        get(C::IcmpOutDestUnreachs),
        get(C::IcmpOutEchoReps),
    )?;
    let flows = stack.tcp.flows();
    let is_established = |flow: &Flow| match flow {
        Flow::Socket(socket) => matches!(state_number(socket.view().state), 1 | 8),
        Flow::TimeWait(_) => false,
    };
    let established = flows.iter().filter(|(_, flow)| is_established(flow)).count();
    out.write_str(concat!(
        "Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab",
        " InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n",
    ))?;
    writeln!(
        out,
        "Tcp: 1 1000 60000 -1 {} {} {} {} {established} {} {} {} {} {} {}",
        get(C::TcpActiveOpens),
        get(C::TcpPassiveOpens),
        get(C::TcpAttemptFails),
        get(C::TcpEstabResets),
        get(C::TcpInSegs),
        get(C::TcpOutSegs),
        get(C::TcpRetransSegs),
        get(C::TcpInErrs),
        get(C::TcpOutRsts),
        get(C::TcpInCsumErrors),
    )?;
    out.write_str("Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors\n")?;
    writeln!(
        out,
        "Udp: {} {} {} {} {} 0 {}",
        get(C::UdpInDatagrams),
        get(C::UdpNoPorts),
        get(C::UdpInErrors),
        get(C::UdpOutDatagrams),
        get(C::UdpRcvbufErrors),
        get(C::UdpInCsumErrors),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tcp::TcpSocket;
    use crate::net::udp::UdpSocket;
    use alloc::string::String;

    fn text(generate: impl FnOnce(&mut String) -> fmt::Result) -> String {
        let mut text = String::new();
        generate(&mut text).unwrap();
        text
    }

    #[test]
    fn sockets_stand_in_the_columns_of_linux() {
        let stack = Stack::new(crate::arch::now);
        let listener = TcpSocket::new(&stack);
        listener.bind(Endpoint::new(Ipv4Addr::UNSPECIFIED, 6379), 0).unwrap();
        listener.listen(5, 0).unwrap();
        let client = TcpSocket::new(&stack);
        let _ = client.connect(Endpoint::new(Ipv4Addr::LOCALHOST, 6379));
        client.set_inode(Inode { number: 4711, uid: 33 });
        let tcp = text(|out| tcp(&stack, out));
        let lines: Vec<_> = tcp.lines().collect();
        assert_eq!(lines.len(), 4);
        let first: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(first[..4], ["0:", "00000000:18EB", "00000000:0000", "0A"]);
        let fields: Vec<Vec<_>> = lines[2..].iter().map(|line| line.split_whitespace().collect()).collect();
        let own = fields.iter().find(|line| line[2] == "0100007F:18EB").unwrap();
        assert_eq!((own[3], own[7], own[9]), ("01", "33", "4711"));

        let socket = UdpSocket::new(&stack);
        socket.bind(Endpoint::new(Ipv4Addr::LOCALHOST, 53), 0).unwrap();
        let counts = text(|out| sockstat(&stack, out));
        assert!(counts.starts_with("sockets: used "), "{counts}");
        // The listener and both ends; a full receive and send buffer for each end.
        assert!(counts.contains("\nTCP: inuse 3 orphan 0 tw 0 alloc 3 mem 64\n"), "{counts}");
        client.close();
        let counts = text(|out| sockstat(&stack, out));
        assert!(counts.contains("\nTCP: inuse 3 orphan 1 "), "{counts}");

        let udp = text(|out| udp(&stack, out));
        assert!(udp.lines().nth(1).unwrap().starts_with("    0: 0100007F:0035 00000000:0000 07 "));
    }

    #[test]
    fn the_loopback_counts_and_the_tables_have_their_headers() {
        let stack = Stack::new(crate::arch::now);
        let dev = text(|out| dev(&stack, out));
        assert!(dev.lines().nth(2).unwrap().starts_with("    lo:       0       0"));
        assert!(text(|out| arp(&stack, out)).starts_with("IP address       HW type"));
        assert!(text(|out| route(&stack, out)).starts_with("Iface\tDestination"));
        let snmp = text(|out| snmp(&stack, out));
        for pair in snmp.lines().collect::<Vec<_>>().chunks(2) {
            assert_eq!(pair[0].split(' ').count(), pair[1].split(' ').count(), "{pair:?}");
        }
    }
}
