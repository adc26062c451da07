//! `cargo xtask setup`: what this machine lacks, and how it gets it.
//!
//! On Debian and its relatives packages are installed with apt, as root or through sudo, after one question when on a
//! terminal. Elsewhere an error names what to install.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{host, process, progress::Step, toolchain};

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The program's name.
    pub program: &'static str,
    /// The package.
    pub package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// To build and start a guest.
pub const RUN: &[Need] = &[need("qemu-system-x86_64", "qemu-system-x86"), need("setpriv", "util-linux")];
/// To run the default program.
pub const REDIS: &[Need] = &[need("redis-server", "redis-server")];
/// To make a guest network (`--net tap`).
pub const NETWORK: &[Need] =
    &[need("ip", "iproute2"), need("dhcpd", "isc-dhcp-server"), need("nsenter", "util-linux")];
/// To run all tests.
pub const TEST: &[Need] = &[
    need("ping", "iputils-ping"),
    need("redis-cli", "redis-tools"),
    need("memcached", "memcached"),
    need("busybox", "busybox-static"),
    need("socat", "socat"),
    need("nc", "netcat-openbsd"),
    need("tshark", "tshark"),
    need("gdb", "gdb"),
];
/// To compare with a Linux guest, on top of all that the tests need.
pub const BENCH: &[Need] = &[need("depmod", "kmod")];
/// Packages whose service would start with the machine and hold a port.
const SERVICES: [&str; 3] = ["redis-server", "memcached", "isc-dhcp-server"];

/// Installs everything that any command needs.
pub fn all() -> Result<()> {
    for needs in [RUN, REDIS, NETWORK, TEST, BENCH] {
        require(needs)?;
    }
    let kernel = match toolchain::Toolchain::obtain()? {
        toolchain::Toolchain::Rustup => "rustup's prebuilt target",
        toolchain::Toolchain::Debian => "Debian's rustc-web with the library's sources",
    };
    println!("all programs are installed; the kernel is compiled with {kernel}");
    Ok(())
}

/// Installs what is missing of `needs`.
pub fn require(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> =
        needs.iter().filter(|need| host::find_program(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|need| need.program).collect();
    let packages: BTreeSet<&str> = missing.iter().map(|need| need.package).collect();
    install(&format!("not installed: {}", programs.join(", ")), &packages.into_iter().collect::<Vec<_>>())?;
    match missing.iter().find(|need| host::find_program(need.program).is_none()) {
        Some(need) => {
            bail!("{} is still missing after its package {} was installed", need.program, need.package)
        }
        None => Ok(()),
    }
}

/// Installs Debian packages, saying why.
pub fn install(why: &str, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if host::find_program("apt-get").is_none() {
        bail!("{why}. Install what Debian has in the packages: {list}");
    }
    eprintln!("{why}");
    if !agreed(&list)? {
        bail!("nothing was installed; it takes: apt-get install {list}");
    }
    let script = install_script(packages);
    let mut command = Command::new("sh");
    if !host::is_root() {
        host::find_program("sudo").with_context(|| format!("as root, type: apt-get install {list}"))?;
        command = Command::new("sudo");
        if !std::io::stdin().is_terminal() {
            command.arg("-n");
        }
        command.arg("sh");
    }
    let step = Step::new(format!("installing {list}"));
    command.args(["-c", &script]);
    // apt asks nothing, but sudo may ask for the password: not under a spinner, so that its question is seen.
    if !host::is_root() && std::io::stdin().is_terminal() {
        drop(step);
        let status = command.stdout(Stdio::null()).status()?;
        return if status.success() { Ok(()) } else { bail!("apt-get could not install {list}") };
    }
    process::run(&mut command, &step).with_context(|| format!("apt-get could not install {list}"))?;
    eprintln!("installed: {list}");
    Ok(())
}

/// One question on a terminal; elsewhere the answer is yes.
fn agreed(list: &str) -> Result<bool> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(true);
    }
    let how = if host::is_root() { "apt" } else { "sudo apt" };
    eprint!("Install {list} with {how}? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}

/// The shell script that installs packages and lets no service start, now or later: a policy-rc.d for the time of
/// the installation (see invoke-rc.d(8)), and a masked unit for later boots.
fn install_script(packages: &[&str]) -> String {
    let mut script = String::from(
        "set -e\n\
         export DEBIAN_FRONTEND=noninteractive\n\
         policy=/usr/sbin/policy-rc.d\n\
         if [ ! -e $policy ]; then\n\
         trap 'rm -f $policy' EXIT\n\
         trap 'exit 1' INT TERM HUP\n\
         printf '#!/bin/sh\\nexit 101\\n' >$policy; chmod 755 $policy\n\
         fi\n",
    );
    for service in SERVICES.iter().filter(|service| packages.contains(service)) {
        script.push_str(&format!(
            "mkdir -p /etc/systemd/system\n\
             [ -e /etc/systemd/system/{service}.service ] || ln -s /dev/null /etc/systemd/system/{service}.service\n"
        ));
    }
    script.push_str(&format!(
        "apt-get update -q >&2\napt-get install -q -y --no-install-recommends {} >&2\n",
        packages.join(" ")
    ));
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_sound_shell() {
        let script = install_script(&["redis-server", "socat"]);
        assert!(Command::new("sh").args(["-n", "-c", &script]).status().unwrap().success());
        assert!(script.contains("/etc/systemd/system/redis-server.service"));
        assert!(!script.contains("socat.service"));
    }

    #[test]
    fn nothing_happens_when_nothing_is_missing() {
        require(&[need("sh", "no-such-package")]).unwrap();
    }
}
