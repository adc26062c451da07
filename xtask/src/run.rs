//! `cargo xtask run`: starts a program of this machine in a guest.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::fs::{fcntl_getfl, fcntl_setfl};
use rustix::process::Pid;
use rustix::termios::{self, OptionalActions};

use crate::build::{self, Profile};
use crate::cmdline::{Boot, Terminals};
use crate::exit::Ending;
use crate::namespace::{GUEST_ADDRESS, Namespace, TAP};
use crate::profile::plugin::Plugin;
use crate::qemu::{Console, Forward, Gdb, Machine, Net, Nic, tap_netdev, user_netdev};
use crate::{accel::Accelerator, backlog, gdb, host, pack, process, setup, stdin, workspace};

/// The servers whose port is forwarded without being asked for.
const KNOWN_SERVERS: [(&str, u16); 2] = [("redis-server", 6379), ("memcached", 11211)];
/// The arguments of the default program: it listens to everybody and writes no files.
pub const REDIS_ARGUMENTS: [&str; 8] =
    ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/"];
/// How long QEMU may take to end when its time is over: it may have things to write.
const LAST_WORK: Duration = Duration::from_secs(10);
/// Starts a program of this machine in a guest that nrk runs; without PROGRAM: redis-server.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Cores of the guest
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cores: u32,
    /// NUMA nodes of the guest
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: u32,
    /// Memory of the guest in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub memory: u32,
    /// Network card
    #[arg(long, value_enum, default_value_t = Nic::Virtio)]
    pub nic: Nic,
    /// Network: user (ports are forwarded), tap (a namespace of its own), tap:NAME, none
    #[arg(long, value_name = "NET", default_value = "user")]
    pub net: Net,
    /// Forward a port of 127.0.0.1 to the guest (repeatable; udp:HOST:GUEST for UDP)
    #[arg(long, value_name = "HOST:GUEST")]
    pub forward: Vec<Forward>,
    /// Put a file or folder of this machine into the guest (repeatable)
    #[arg(long, value_name = "HOST:GUEST", value_parser = parse_file)]
    pub file: Vec<(PathBuf, PathBuf)>,
    /// Lay down a root file system first: a directory, a tar or a cpio archive
    #[arg(long, value_name = "DIR|TAR|CPIO")]
    pub rootfs: Option<PathBuf>,
    /// Write every frame of the network card to a file, for tshark, tcpdump or Wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// More words for the kernel's command line, such as log=debug
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub cmdline: String,
    /// More options for QEMU, split into words as a shell does, such as '-device virtio-rng-pci' (repeatable)
    #[arg(long, value_name = "OPTIONS", value_parser = parse_words, allow_hyphen_values = true)]
    pub qemu: Vec<Words>,
    /// End the guest after this time, with status 124
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub timeout: Option<Duration>,
    /// Run the kernel that benchmarks measure; without this, one that is built in seconds after an edit
    #[arg(long)]
    pub release: bool,
    /// Run the kernel with all that gdb can use, and wait for gdb before the first instruction
    #[arg(long)]
    pub debug: bool,
    /// Print the QEMU command instead of running it
    #[arg(long)]
    pub dry_run: bool,
    /// Show the QEMU command and the kernel's messages
    #[arg(long)]
    pub verbose: bool,
    /// The program and its arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
    /// Counts the guest's instructions
    #[arg(skip)]
    pub plugin: Option<Plugin>,
}

/// What one `--qemu` adds to QEMU's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<OsString>);

fn parse_words(text: &str) -> Result<Words, String> {
    let words = shell_words::split(text).map_err(|_| "a quotation mark is not closed")?;
    if words.is_empty() {
        Err("an option of QEMU".into())
    } else {
        Ok(Words(words.into_iter().map(Into::into).collect()))
    }
}

fn parse_file(text: &str) -> Result<(PathBuf, PathBuf), String> {
    match text.rsplit_once(':') {
        Some((host, guest)) if !host.is_empty() && guest.starts_with('/') => Ok((host.into(), guest.into())),
        _ => Err("HOST:GUEST, where GUEST is an absolute path".into()),
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "a number of seconds".to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// The program that runs when none is named.
pub fn default_program() -> PathBuf {
    host::find_program("redis-server").unwrap_or_else(|| "/usr/bin/redis-server".into())
}

/// Runs the guest; returns the exit status for the shell.
pub fn run(mut options: Options) -> Result<u8> {
    setup::require(setup::RUN)?;
    if options.program.is_empty() {
        setup::require(setup::REDIS)?;
        options.program.push(default_program().into());
        options.program.extend(REDIS_ARGUMENTS.map(Into::into));
    }
    forward_known_server(&mut options);
    let folder = workspace::scratch()?;
    let machine = prepare(&options, folder.path())?;
    if options.dry_run {
        let line = machine.by_hand();
        println!("{}", if options.net == Net::OwnTap { Namespace::line_around(&line) } else { line });
        return Ok(0);
    }
    let namespace = if machine.netdev.is_some() && options.net == Net::OwnTap {
        setup::require(setup::NETWORK)?;
        Some(Namespace::with_dhcp()?)
    } else {
        None
    };
    announce(&options, &machine, namespace.as_ref());
    let ports = options.forward.iter().filter(|forward| !forward.udp).map(|forward| forward.host).collect();
    let ending = start(&machine, namespace.as_ref(), ports, options.timeout)?;
    if !matches!(ending, Ending::Program(_)) {
        eprintln!("xtask: {ending}");
    }
    Ok(ending.code())
}

/// Checks everything that can be wrong, cheap things first, and builds what QEMU needs.
fn prepare(options: &Options, folder: &Path) -> Result<Machine> {
    let contents = contents(options);
    pack::check(&contents)?;
    let networked = options.nic != Nic::None;
    let netdev = match &options.net {
        Net::None => None,
        Net::User => Some(user_netdev(&options.forward)),
        Net::Tap(name) => Some(tap_netdev(name)),
        Net::OwnTap => Some(tap_netdev(TAP)),
    };
    let reachable = networked && options.net == Net::User;
    if !reachable && !options.forward.is_empty() {
        bail!("--forward needs --net user and a network card");
    }
    if options.pcap.is_some() && (!networked || options.net == Net::None) {
        bail!("--pcap needs a network and a network card");
    }
    let profile = profile(options);
    let status =
        if options.dry_run { workspace::target().join("exit-status") } else { folder.join("status") };
    let mut machine = Machine {
        cores: options.cores,
        nodes: options.nodes,
        memory: options.memory,
        nic: options.nic,
        netdev: netdev.filter(|_| networked).map(|netdev| recorded(netdev, options)),
        pcap: options.pcap.as_deref().map(writable).transpose()?,
        // A line to be pasted is pasted into a terminal.
        console: if terminals(options) == Terminals::BOTH { Console::Terminal } else { Console::Plain },
        gdb: options.debug.then_some(Gdb::Port(gdb::PORT)),
        extra: options.qemu.iter().flat_map(|words| words.0.iter().cloned()).collect(),
        ..Machine::new(&profile.image(), &status)?
    };
    if options.debug {
        machine.accelerator = Accelerator::for_debugging()?;
    }
    machine.check()?;
    if !options.dry_run {
        options.forward.iter().try_for_each(Forward::check)?;
        if options.debug && host::tcp_port_in_use(gdb::PORT) {
            bail!("port {} of 127.0.0.1, which --debug needs, is in use", gdb::PORT);
        }
    }
    let packed = pack::initramfs(&contents)?;
    machine.cmdline = cmdline(options, &packed.init)?;
    machine.initramfs = Some(packed.path);
    machine.kernel = build::kernel(profile)?;
    if let Some(plugin) = &options.plugin {
        machine = plugin.watch(machine);
    }
    if let Some(server) = &machine.gdb {
        let session = gdb::Session { kernel: &machine.kernel, program: packed.code.as_deref(), server };
        let script = session.script()?;
        workspace::write_atomically(&gdb::script_path(), |file| Ok(file.write_all(script.as_bytes())?))?;
    }
    Ok(machine)
}

/// The kernel's: that of --release can be debugged, too, as far as that goes.
fn profile(options: &Options) -> Profile {
    if options.debug && !options.release { Profile::Debugging } else { Profile::released(options.release) }
}

/// The `-netdev`, such that a record of it shows whole frames. On a tap, cards would else leave checksums to be filled in
/// later, and QEMU before 8.0 would record the header that says where.
fn recorded(netdev: String, options: &Options) -> String {
    let is_tap = matches!(options.net, Net::OwnTap | Net::Tap(_));
    if is_tap && options.pcap.is_some() { netdev + ",vnet_hdr=off" } else { netdev }
}

/// The absolute path of a file that QEMU, wherever it runs, can write.
fn writable(file: &Path) -> Result<PathBuf> {
    let unwritable = || format!("cannot write {}", file.display());
    fs::File::create(file).with_context(unwritable)?;
    fs::canonicalize(file).with_context(unwritable)
}

fn contents(options: &Options) -> pack::Contents {
    pack::Contents {
        program: options.program.first().map(PathBuf::from),
        files: options.file.clone(),
        rootfs: options.rootfs.clone(),
    }
}

/// What the kernel is told.
fn cmdline(options: &Options, init: &Path) -> Result<OsString> {
    let boot = Boot {
        log: if options.verbose { "info" } else { "warn" },
        networked: options.net != Net::None && options.nic != Nic::None,
        tty: window_size(),
        terminals: terminals(options),
        term: &std::env::var("TERM").unwrap_or_else(|_| "dumb".into()),
        fixed_addresses: options.debug,
        words: &options.cmdline,
        init: Some(init),
        arguments: options.program.get(1..).unwrap_or_default(),
    };
    boot.line()
}

/// Which streams are terminals. A line to be pasted is pasted into one.
fn terminals(options: &Options) -> Terminals {
    if options.dry_run { Terminals::BOTH } else { Terminals::of_ours() }
}

/// Rows and columns of the terminal that we read from or write to, if there is one and it knows.
fn window_size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(std::io::stdin()).or_else(|_| termios::tcgetwinsize(std::io::stdout()));
    size.ok().filter(|size| size.ws_row > 0 && size.ws_col > 0).map(|size| (size.ws_row, size.ws_col))
}

/// A server with a well-known port is reachable under it, unless --forward says otherwise.
fn forward_known_server(options: &mut Options) {
    let name =
        options.program.first().map(|program| Path::new(program).file_name().unwrap_or_default().to_owned());
    let port = KNOWN_SERVERS
        .iter()
        .find(|(server, _)| name.as_deref() == Some(server.as_ref()))
        .map(|(_, port)| *port);
    if let Some(port) = port
        && options.net == Net::User
        && options.nic != Nic::None
        && options.forward.is_empty()
    {
        options.forward.push(Forward::same(port));
    }
}

/// Says how to reach the guest and how to leave it.
fn announce(options: &Options, machine: &Machine, namespace: Option<&Namespace>) {
    if options.verbose {
        eprintln!("{}", machine.by_hand());
    }
    if let Some(namespace) = namespace {
        eprintln!(
            "the guest is {GUEST_ADDRESS} in a network of its own; enter it with: {}",
            namespace.by_hand()
        );
    }
    for forward in &options.forward {
        let client = match (forward.guest, forward.udp) {
            (6379, false) => format!(": redis-cli -p {}", forward.host),
            (11211, false) => format!(": nc 127.0.0.1 {}", forward.host),
            _ => String::new(),
        };
        let protocol = if forward.udp { "UDP" } else { "TCP" };
        eprintln!(
            "127.0.0.1:{} leads to the guest's {protocol} port {}{client}",
            forward.host, forward.guest
        );
    }
    if options.debug {
        let script = process::shell_word(gdb::script_path().as_os_str());
        eprintln!("the guest waits for gdb: gdb -x {script}");
    }
    if machine.console == Console::Terminal {
        eprintln!("this terminal is the guest's console; ^A x ends the guest");
    }
}

/// Starts QEMU, which forwards the TCP ports `ports`, and waits for its end.
fn start(
    machine: &Machine,
    namespace: Option<&Namespace>,
    ports: Vec<u16>,
    timeout: Option<Duration>,
) -> Result<Ending> {
    let on_terminal = machine.console == Console::Terminal;
    let terminal = on_terminal.then(|| termios::tcgetattr(std::io::stdin()).ok()).flatten();
    let flags = fcntl_getfl(std::io::stdout());
    let mut command = machine.command(namespace);
    command.stdin(if on_terminal { Stdio::inherit() } else { Stdio::piped() });
    let mut child = command.spawn().context("cannot start QEMU")?;
    child.stdin.take().into_iter().for_each(stdin::relay);
    backlog::lengthen(Pid::from_child(&child), ports);
    let ending = watch(&mut child, &machine.status, timeout);
    process::end(&mut child);
    if let Some(settings) = terminal {
        // QEMU puts the terminal back itself, unless it was killed.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &settings);
    }
    if let Ok(flags) = flags {
        // QEMU writes without blocking, and leaves that to all who share our standard output.
        let _ = fcntl_setfl(std::io::stdout(), flags);
    }
    ending
}

fn watch(child: &mut Child, status: &Path, timeout: Option<Duration>) -> Result<Ending> {
    let Some(ended) = process::wait(child, timeout)? else {
        process::terminate(child, LAST_WORK)?;
        return Ok(Ending::Timeout);
    };
    let ending = Ending::read(ended, status);
    // The file is as good as read; the folder above it goes with the caller.
    let _ = fs::remove_file(status);
    Ok(ending)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Line::try_parse_from(std::iter::once(&"run").chain(words)).unwrap().options
    }

    #[test]
    fn known_servers_are_forwarded_unless_told_otherwise() {
        let forwards = |words: &[&str]| {
            let mut options = options(words);
            forward_known_server(&mut options);
            options.forward
        };
        assert_eq!(forwards(&["--", "/usr/bin/memcached"]), [Forward::same(11211)]);
        assert_eq!(forwards(&["--forward", "1:6379", "--", "redis-server"]).len(), 1);
        assert_eq!(forwards(&["--", "ls"]), []);
        assert_eq!(forwards(&["--net", "none", "--", "redis-server"]), []);
    }

    #[test]
    fn options_for_qemu_are_split_as_a_shell_does() {
        let options = options(&["--qemu", "-device virtio-rng-pci", "--qemu=-name 'a b,c'", "--qemu", "-s"]);
        let words: Vec<&OsString> = options.qemu.iter().flat_map(|words| &words.0).collect();
        assert_eq!(words, ["-device", "virtio-rng-pci", "-name", "a b,c", "-s"]);
    }

    #[test]
    fn wrong_options_are_refused() {
        for bad in [
            &["--file", "a:b"][..],
            &["--timeout", "-1"],
            &["--timeout", "x"],
            &["--nic", "rtl8139"],
            &["--net", "x"],
            &["--pcap"],
            &["--qemu"],
            &["--qemu", " "],
            &["--qemu", "-name 'nrk"],
            &["stray"],
        ] {
            assert!(Line::try_parse_from(std::iter::once(&"run").chain(bad)).is_err(), "{bad:?}");
        }
    }
}
