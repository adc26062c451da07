//! The QEMU command line of a guest.
//!
//! One description, [`Machine`], serves `cargo xtask run`, the tests and the benchmarks (with a Linux kernel, too), so
//! that what is compared runs on the same line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::{accel::Accelerator, host, namespace::Namespace, process};

/// The program.
pub const QEMU: &str = "qemu-system-x86_64";
/// The hardware address of the guest's first network card.
pub const MAC: &str = "56:b4:44:e9:62:d0";
/// The fewest MiB that a guest gets.
pub const MIN_MEMORY: u32 = 32;

/// How long QEMU may take until it listens.
const TIME_TO_START: Duration = Duration::from_secs(180);

/// A network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Nic {
    /// virtio-net over PCI.
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// VMware's paravirtual card.
    Vmxnet3,
    /// No network.
    None,
}

impl Nic {
    /// QEMU's name of the device.
    fn device(self) -> Option<&'static str> {
        match self {
            Self::Virtio => Some("virtio-net-pci"),
            Self::E1000 => Some("e1000"),
            Self::Vmxnet3 => Some("vmxnet3"),
            Self::None => None,
        }
    }
}

impl fmt::Display for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Virtio => "virtio",
            Self::E1000 => "e1000",
            Self::Vmxnet3 => "vmxnet3",
            Self::None => "none",
        })
    }
}

/// What the network card is connected to, as `--net` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Net {
    /// QEMU's user-mode network.
    User,
    /// A tap in a namespace that is made for this guest.
    OwnTap,
    /// A tap that exists.
    Tap(String),
    /// Nothing.
    None,
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("tap:")) {
            ("user", _) => Ok(Self::User),
            ("tap", _) => Ok(Self::OwnTap),
            ("none", _) => Ok(Self::None),
            (_, Some(name)) if !name.is_empty() && name.len() < 16 && !name.contains([',', '/']) => {
                Ok(Self::Tap(name.into()))
            }
            _ => Err("user, tap, tap:NAME or none".into()),
        }
    }
}

/// A port of 127.0.0.1 that leads to a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Whether it is a UDP port.
    pub udp: bool,
    /// The port on this machine.
    pub host: u16,
    /// The port in the guest.
    pub guest: u16,
}

impl Forward {
    /// A TCP port under the same number on both sides.
    pub fn same(port: u16) -> Self {
        Self { udp: false, host: port, guest: port }
    }

    /// An error if a server of this machine has the port.
    pub fn check(&self) -> Result<()> {
        let in_use =
            if self.udp { host::udp_port_in_use(self.host) } else { host::tcp_port_in_use(self.host) };
        if in_use {
            bail!(
                "port {} of 127.0.0.1 is in use; choose another one with --forward HOST:{}",
                self.host,
                self.guest
            );
        }
        Ok(())
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (udp, ports) = match text.split_once(':') {
            Some(("udp", ports)) => (true, ports),
            Some(("tcp", ports)) => (false, ports),
            _ => (false, text),
        };
        let (host, guest) =
            ports.split_once(':').ok_or("HOST:GUEST, or udp:HOST:GUEST, with port numbers")?;
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{text} is no port number")),
        };
        Ok(Self { udp, host: port(host)?, guest: port(guest)? })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.udp { "udp" } else { "tcp" };
        write!(f, "{protocol}:127.0.0.1:{}-:{}", self.host, self.guest)
    }
}

/// How the guest's serial console is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// To a person's terminal: ^C goes to the guest, ^A x ends QEMU, ^A c is its monitor.
    Terminal,
    /// To standard input and output as they are.
    Plain,
}

/// Where QEMU listens for gdb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gdb {
    /// On this port of 127.0.0.1.
    Port(u16),
    /// On this socket.
    Socket(PathBuf),
}

/// A guest.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: OsString,
    /// Cores, at least 1.
    pub cores: u32,
    /// NUMA nodes, at least 1 and at most as many as cores.
    pub nodes: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// The network card.
    pub nic: Nic,
    /// QEMU's `-netdev` without its `id`, such as `user,hostfwd=...`.
    pub netdev: Option<String>,
    /// A file that every frame of the network card is written to, in the format of pcap.
    pub pcap: Option<PathBuf>,
    /// A socket on which QEMU's monitor listens, see [`crate::monitor`].
    pub monitor: Option<PathBuf>,
    /// The serial console.
    pub console: Console,
    /// A file that QEMU copies the console's output to.
    pub console_log: Option<PathBuf>,
    /// The file behind the debug console, see [`crate::exit`].
    pub status: PathBuf,
    /// Wait for gdb, which connects here.
    pub gdb: Option<Gdb>,
    /// The accelerator.
    pub accelerator: Accelerator,
    /// More options for QEMU.
    pub extra: Vec<OsString>,
}

impl Machine {
    /// A guest with one core and no network.
    pub fn new(kernel: &Path, status: &Path) -> Result<Self> {
        Ok(Self {
            kernel: kernel.to_path_buf(),
            initramfs: None,
            cmdline: OsString::new(),
            cores: 1,
            nodes: 1,
            memory: 1024,
            nic: Nic::None,
            netdev: None,
            pcap: None,
            monitor: None,
            console: Console::Plain,
            console_log: None,
            status: status.to_path_buf(),
            gdb: None,
            accelerator: Accelerator::choose()?,
            extra: Vec::new(),
        })
    }

    /// The same machine with a clock that counts instructions. What happens in it is the same on every run: what it takes for
    /// chance follows from `seed`, and its date is fixed.
    pub fn counting(mut self, seed: u32) -> Self {
        self.accelerator = Accelerator::Counting;
        let seed = seed.to_string();
        self.extra.extend(["-seed", &seed, "-rtc", "base=2026-01-01,clock=vm"].map(OsString::from));
        self
    }

    /// Whether QEMU would accept the shape of the machine.
    pub fn check(&self) -> Result<()> {
        if self.cores == 0 || self.cores > 255 {
            bail!("a guest has 1 to 255 cores, not {}", self.cores);
        }
        if self.nodes == 0 || self.nodes > self.cores {
            bail!(
                "a guest has at least one NUMA node and a core for each, not {} for {}",
                self.nodes,
                self.cores
            );
        }
        if self.memory < MIN_MEMORY * self.nodes {
            bail!("{} MiB are too little: at least {MIN_MEMORY} for each NUMA node", self.memory);
        }
        Ok(())
    }

    /// QEMU's arguments.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut line = Line(Vec::new());
        line.words("-machine q35").words(self.accelerator.options()).words("-cpu max");
        line.words("-nodefaults -no-user-config -display none -no-reboot");
        line.words(&format!("-smp {} -m {}", self.processors(), self.memory));
        if self.nodes > 1 {
            self.numa(&mut line);
        }
        self.network(&mut line);
        self.console(&mut line);
        line.words("-chardev")
            .add(join(&["file,id=status,path=".as_ref(), &escape(self.status.as_os_str())]));
        line.words("-device isa-debugcon,iobase=0xe9,chardev=status");
        line.words("-device isa-debug-exit,iobase=0xf4,iosize=0x04");
        match &self.gdb {
            Some(Gdb::Port(port)) => drop(line.words(&format!("-S -gdb tcp:127.0.0.1:{port}"))),
            Some(Gdb::Socket(path)) => drop(line.words("-S -gdb").add(unix_server(path))),
            None => {}
        }
        line.0.extend(self.extra.iter().cloned());
        line.words("-kernel").add(&self.kernel);
        if let Some(initramfs) = &self.initramfs {
            line.words("-initrd").add(initramfs);
        }
        line.words("-append").add(&self.cmdline);
        line.0
    }

    /// The command, as it is printed to be repeated by hand.
    pub fn by_hand(&self) -> String {
        let mut command = Command::new(QEMU);
        command.args(self.arguments());
        process::shell_line(&command)
    }

    /// The command that dies with us; in a namespace if there is one.
    pub fn command(&self, namespace: Option<&Namespace>) -> Command {
        let mut command = match namespace {
            Some(namespace) => namespace.enter(QEMU),
            None => process::dies_with_us(QEMU),
        };
        command.args(self.arguments());
        command
    }

    /// The cores, and for one translated core the possibility of another. Alone, its locked instructions and barriers are
    /// translated into plain ones, though the device's thread looks at the same memory: it misses a doorbell sooner or later,
    /// and no frame leaves any more (docs/decisions/0004-a-second-processor-that-may-come.md).
    fn processors(&self) -> String {
        let alone = self.cores == 1 && self.accelerator == Accelerator::Tcg;
        format!("{}{}", self.cores, if alone { ",maxcpus=2" } else { "" })
    }

    /// Cores and memory in equal parts; what is left over goes to the last node.
    fn numa(&self, line: &mut Line) {
        let (cores, memory) = (self.cores / self.nodes, self.memory / self.nodes);
        for node in 0..self.nodes {
            let last = node + 1 == self.nodes;
            let size = if last { self.memory - node * memory } else { memory };
            let end = if last { self.cores } else { (node + 1) * cores } - 1;
            line.words(&format!("-object memory-backend-ram,id=node{node},size={size}M"));
            line.words(&format!("-numa node,nodeid={node},cpus={}-{end},memdev=node{node}", node * cores));
        }
    }

    fn network(&self, line: &mut Line) {
        let (Some(device), Some(netdev)) = (self.nic.device(), &self.netdev) else { return };
        let (kind, options) = netdev.split_once(',').map_or((netdev.as_str(), None), |(k, o)| (k, Some(o)));
        let options = options.map(|options| format!(",{options}")).unwrap_or_default();
        line.words("-netdev").add(format!("{kind},id=net0{options}"));
        line.words("-device").add(format!("{device},netdev=net0,mac={MAC},romfile="));
        if let Some(file) = &self.pcap {
            line.words("-object")
                .add(join(&["filter-dump,id=dump0,netdev=net0,file=".as_ref(), &escape(file.as_os_str())]));
        }
    }

    fn console(&self, line: &mut Line) {
        let mux = if self.console == Console::Terminal { ",mux=on" } else { "" };
        let mut chardev = OsString::from(format!("stdio,id=console{mux},signal=off"));
        if let Some(log) = &self.console_log {
            chardev =
                join(&[&chardev, ",logfile=".as_ref(), &escape(log.as_os_str()), ",logappend=off".as_ref()]);
        }
        line.words("-chardev").add(chardev).words("-serial chardev:console");
        if self.console == Console::Terminal {
            line.words("-mon chardev=console,mode=readline");
        }
        if let Some(path) = &self.monitor {
            line.words("-qmp").add(unix_server(path));
        }
    }
}

/// Waits until a QEMU that was just started listens on a socket.
pub fn await_socket(path: &Path) -> Result<()> {
    let end = Instant::now() + TIME_TO_START;
    while !path.exists() {
        ensure!(Instant::now() < end, "QEMU does not listen on {}", path.display());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// QEMU's `-netdev` for a user-mode network with forwarded ports.
pub fn user_netdev(forwards: &[Forward]) -> String {
    std::iter::once("user".to_string())
        .chain(forwards.iter().map(|f| format!("hostfwd={f}")))
        .collect::<Vec<_>>()
        .join(",")
}

/// QEMU's `-netdev` for a tap that exists.
pub fn tap_netdev(name: &str) -> String {
    format!("tap,ifname={name},script=no,downscript=no")
}

struct Line(Vec<OsString>);

impl Line {
    fn words(&mut self, words: &str) -> &mut Self {
        self.0.extend(words.split(' ').map(OsString::from));
        self
    }

    fn add(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(word.as_ref().to_os_string());
        self
    }
}

fn join(parts: &[&OsStr]) -> OsString {
    parts.iter().copied().collect()
}

/// A socket on which QEMU listens, without waiting for somebody to connect.
fn unix_server(path: &Path) -> OsString {
    join(&["unix:".as_ref(), &escape(path.as_os_str()), ",server=on,wait=off".as_ref()])
}

/// A value inside a comma-separated QEMU option: commas are doubled.
fn escape(value: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let doubled =
        value.as_bytes().iter().flat_map(|b| std::iter::repeat_n(*b, if *b == b',' { 2 } else { 1 }));
    OsString::from_vec(doubled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            accelerator: Accelerator::Tcg,
            kernel: "/k".into(),
            initramfs: None,
            cmdline: "log=info".into(),
            cores: 1,
            nodes: 1,
            memory: 64,
            nic: Nic::None,
            netdev: None,
            pcap: None,
            monitor: None,
            console: Console::Plain,
            console_log: None,
            status: "/tmp/a,b".into(),
            gdb: None,
            extra: Vec::new(),
        }
    }

    fn line(machine: &Machine) -> String {
        machine.arguments().iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn forwards_are_parsed_strictly() {
        assert_eq!("8080:80".parse(), Ok(Forward { udp: false, host: 8080, guest: 80 }));
        assert_eq!("udp:53:53".parse(), Ok(Forward { udp: true, host: 53, guest: 53 }));
        for bad in ["", "80", "80:", ":80", "0:80", "80:70000", "x:1", "tcp:80"] {
            assert!(bad.parse::<Forward>().is_err(), "{bad}");
        }
    }

    #[test]
    fn nets_are_parsed_strictly() {
        assert_eq!("tap:tap0".parse(), Ok(Net::Tap("tap0".into())));
        assert_eq!("tap".parse(), Ok(Net::OwnTap));
        for bad in ["", "tap:", "tap:a,b", "bridge", "tap:0123456789abcdef"] {
            assert!(bad.parse::<Net>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_and_memory_are_shared_out_to_all_nodes() {
        let line = line(&Machine { cores: 5, nodes: 2, memory: 101, ..machine() });
        assert!(line.contains("id=node0,size=50M") && line.contains("id=node1,size=51M"), "{line}");
        assert!(line.contains("nodeid=0,cpus=0-1,") && line.contains("nodeid=1,cpus=2-4,"), "{line}");
    }

    #[test]
    fn a_translated_core_has_barriers_only_if_it_may_not_stay_alone() {
        let with = |accelerator, cores| line(&Machine { accelerator, cores, ..machine() });
        assert!(with(Accelerator::Tcg, 1).contains("-smp 1,maxcpus=2 "));
        assert!(
            with(Accelerator::Tcg, 2).contains("-smp 2 ") && with(Accelerator::Kvm, 1).contains("-smp 1 ")
        );
    }

    #[test]
    fn commas_in_paths_are_doubled() {
        assert!(line(&machine()).contains("path=/tmp/a,,b"));
    }

    #[test]
    fn the_card_has_its_address_and_no_boot_rom() {
        let netdev = Some(user_netdev(&[Forward::same(6379)]));
        let line = line(&Machine { nic: Nic::E1000, netdev, ..machine() });
        assert!(line.contains("-netdev user,id=net0,hostfwd=tcp:127.0.0.1:6379-:6379 "), "{line}");
        assert!(line.contains("-device e1000,netdev=net0,mac=56:b4:44:e9:62:d0,romfile= "), "{line}");
    }

    #[test]
    fn frames_are_written_where_asked_for_if_there_is_a_card() {
        let with = |nic| Machine { nic, netdev: Some("user".into()), pcap: Some("/a,b".into()), ..machine() };
        assert!(line(&with(Nic::Virtio)).contains("-object filter-dump,id=dump0,netdev=net0,file=/a,,b"));
        assert!(!line(&with(Nic::None)).contains("filter-dump"));
    }

    #[test]
    fn a_debugged_guest_waits_before_its_first_instruction() {
        let with = |gdb| line(&Machine { gdb: Some(gdb), ..machine() });
        assert!(with(Gdb::Port(1234)).contains(" -S -gdb tcp:127.0.0.1:1234 "));
        assert!(with(Gdb::Socket("/a,b".into())).contains(" -S -gdb unix:/a,,b,server=on,wait=off "));
        assert!(!line(&machine()).contains(" -S "));
    }

    #[test]
    fn impossible_machines_are_refused() {
        assert!(machine().check().is_ok());
        for bad in [
            Machine { cores: 0, ..machine() },
            Machine { nodes: 0, ..machine() },
            Machine { nodes: 2, ..machine() },
            Machine { memory: 8, ..machine() },
        ] {
            assert!(bad.check().is_err());
        }
    }
}
