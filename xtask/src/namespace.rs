//! A guest network of its own: a user and network namespace with tap0 and a DHCP server.
//!
//! The namespace is made as `unshare -Urn` does, so root is not needed and nothing of the host's network is touched.
//! A holder process keeps it alive; guests and clients are started in it with [`Namespace::enter`]. Everything ends
//! with the value (and with the thread that made it): the processes are killed, and the namespace goes with them.
//!
//! | Who | Address |
//! |---|---|
//! | tap0, the host's end, router, DHCP server | 172.31.0.20/24 |
//! | the guest with hardware address 56:b4:44:e9:62:d0 | 172.31.0.10 by DHCP |
//! | a second guest, ...:d1 | 172.31.0.11 |

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::watched::Watched;
use crate::{host, process, workspace};

/// The host's end of the tap.
pub const HOST_ADDRESS: &str = "172.31.0.20";
/// The guest's address.
pub const GUEST_ADDRESS: &str = "172.31.0.10";
/// The tap's name; each namespace has its own.
pub const TAP: &str = "tap0";
/// How long a helper may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the first process of a namespace does.
const NETWORK: [&str; 5] = [
    "ip link set lo up",
    "ip tuntap add dev tap0 mode tap",
    "ip link set tap0 addrgenmode none",
    "ip addr add 172.31.0.20/24 dev tap0",
    "ip link set tap0 up",
];

/// A namespace with a tap in it.
pub struct Namespace {
    // In this order: the server ends before the namespace that it lives in.
    dhcp: Option<Watched>,
    holder: Watched,
    with_users: bool,
    folder: TempDir,
}

impl Namespace {
    /// Makes a namespace with tap0.
    pub fn new() -> Result<Self> {
        let (holder, with_users) = match hold(true) {
            Ok(holder) => (holder, true),
            // Root does not need a user namespace, where those are forbidden.
            Err(_) if host::is_root() => (hold(false)?, false),
            Err(error) => return Err(error),
        };
        let folder = tempfile::Builder::new().prefix("nrk-net-").tempdir()?;
        Ok(Self { dhcp: None, holder, with_users, folder })
    }

    /// Makes a namespace in which a DHCP server listens.
    pub fn with_dhcp() -> Result<Self> {
        let mut namespace = Self::new()?;
        namespace.start_dhcp()?;
        Ok(namespace)
    }

    /// Starts the DHCP server.
    pub fn start_dhcp(&mut self) -> Result<()> {
        let leases = self.folder.path().join("leases");
        fs::write(&leases, "")?;
        let mut command = self.enter(dhcpd()?);
        command.args(["-f", "-d", TAP, "--no-pid", "-cf"]).arg(configuration()).arg("-lf").arg(leases);
        let server = Watched::start(command, false)?;
        server.expect("Server starting service", PATIENCE).context("the DHCP server does not start")?;
        self.dhcp = Some(server);
        Ok(())
    }

    /// The DHCP server's messages.
    pub fn dhcp(&self) -> Option<&Watched> {
        self.dhcp.as_ref()
    }

    /// A command that runs in the namespace and is killed with the thread that starts it.
    pub fn enter(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.nsenter_arguments());
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// The same for a whole command, of which program and arguments are taken.
    pub fn wrap(&self, inner: &Command) -> Command {
        let mut command = self.enter(inner.get_program());
        command.args(inner.get_args());
        command
    }

    /// A way to put any frame onto the tap, for the guest to receive; the guest must be running.
    pub fn injector(&self) -> Result<Injector> {
        let path = self.folder.path().join("frames");
        let mut command = self.enter("socat");
        // Packet for packet from a datagram socket to a packet socket, packet(7).
        command
            .args(["-d", "-d", "-u"])
            .arg(format!("UNIX-RECV:{}", path.display()))
            .arg(format!("INTERFACE:{TAP}"));
        let relay = Watched::start(command, false)?;
        relay.expect("starting data transfer loop", PATIENCE)?;
        let socket = UnixDatagram::unbound()?;
        socket.connect(&path)?;
        Ok(Injector { socket, relay })
    }

    /// The line that enters the namespace from a shell.
    pub fn by_hand(&self) -> String {
        format!("nsenter {} $SHELL", self.nsenter_arguments().join(" "))
    }

    /// One line for a shell that does for a command what this module does: namespace, tap and DHCP server.
    pub fn line_around(command: &str) -> String {
        let configuration = process::shell_word(configuration().as_os_str());
        let script = format!(
            "{}; dhcpd -f -d {TAP} --no-pid -cf {configuration} -lf $(mktemp) 2>/dev/null & {command}; s=$?; kill $!; exit $s",
            NETWORK.join("; ")
        );
        format!("unshare --user --map-root-user --net sh -c {}", process::shell_word(script.as_ref()))
    }

    fn nsenter_arguments(&self) -> Vec<String> {
        let users: &[&str] = if self.with_users { &["--user", "--preserve-credentials"] } else { &[] };
        let target = self.holder.id().to_string();
        [&["--target", &target, "--net"][..], users, &["--"]].concat().into_iter().map(String::from).collect()
    }
}

/// Puts frames onto a tap.
pub struct Injector {
    socket: UnixDatagram,
    relay: Watched,
}

impl Injector {
    /// Sends one Ethernet frame, 14 bytes or more; waits while the relay's queue is full.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.send(frame);
        sent.with_context(|| format!("the relay has ended:\n{}", self.relay.lines().join("\n")))?;
        Ok(())
    }
}

/// The DHCP server's configuration.
fn configuration() -> PathBuf {
    workspace::root().join("kernel/tests/dhcpd.conf")
}

/// Starts the process that holds a namespace.
fn hold(with_users: bool) -> Result<Watched> {
    let mut command = Command::new("unshare");
    if with_users {
        command.args(["--user", "--map-root-user"]);
    }
    // setpriv comes behind unshare: changing credentials would clear the signal again.
    command.args(["--net", "--", "setpriv", "--pdeathsig", "KILL", "--", "sh", "-c"]);
    // The shell stays until its standard input is closed.
    command.arg(format!("set -e; {}; echo ready; read end || true", NETWORK.join("; ")));
    command.env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
    let holder = Watched::start(command, true)?;
    holder.expect("ready", PATIENCE).context("cannot make a network namespace with a tap")?;
    Ok(holder)
}

/// A copy of dhcpd: where AppArmor confines /usr/sbin/dhcpd, it may not read our files.
fn dhcpd() -> Result<PathBuf> {
    let original = host::find_program("dhcpd").context("dhcpd is not installed")?;
    let copy = workspace::target().join("tools/dhcpd");
    let _lock = workspace::lock("tools")?;
    let of = |path: &Path| fs::metadata(path).and_then(|meta| Ok((meta.len(), meta.modified()?))).ok();
    let fresh = of(&copy)
        .zip(of(&original))
        .is_some_and(|(copy, original)| copy.0 == original.0 && copy.1 >= original.1);
    if !fresh {
        let folder = copy.parent().context("no folder")?;
        fs::create_dir_all(folder)?;
        let new = folder.join(".dhcpd");
        fs::copy(&original, &new).with_context(|| format!("cannot copy {}", original.display()))?;
        fs::rename(&new, &copy)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this machine has what the tests below need.
    fn possible() -> bool {
        let have = |program: &str| host::find_program(program).is_some();
        have("ip") && have("nsenter") && Path::new("/dev/net/tun").exists()
    }

    #[test]
    fn namespaces_with_the_same_addresses_live_side_by_side() {
        if !possible() {
            return;
        }
        for namespace in [Namespace::new().unwrap(), Namespace::new().unwrap()] {
            let mut command = namespace.enter("ip");
            let output = command.args(["-brief", "address"]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.contains("tap0") && text.contains("172.31.0.20/24"), "{text}");
            assert_eq!(text.lines().count(), 2, "{text}");
        }
    }

    #[test]
    fn the_dhcp_server_listens_and_ends_with_the_namespace() {
        if !possible() || host::find_program("dhcpd").is_none() {
            return;
        }
        let namespace = Namespace::with_dhcp().unwrap();
        let server = namespace.dhcp().unwrap();
        assert!(server.expect("Listening on LPF/tap0/", PATIENCE).is_ok());
        let process = PathBuf::from(format!("/proc/{}", server.id()));
        assert!(process.exists());
        drop(namespace);
        assert!(!process.exists());
    }
}
