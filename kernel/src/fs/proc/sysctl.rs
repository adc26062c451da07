//! /proc/sys: what sysctl(8) reads. Most say what is so; a few can be written, and are then remembered but, being advice about
//! mechanisms that nrk does not have, change nothing.

use core::fmt::Write;
use core::sync::atomic::{AtomicI64, Ordering};

use super::text;
use crate::errno::Errno;
use crate::fs::pseudo::{Kind, Spec, Text, parse_number};
use crate::process::uts::{self, RELEASE, VERSION};
use crate::process::{self, MAX_GROUPS};

const fn directory(name: &'static str, entries: &'static [Spec<()>]) -> Spec<()> {
    Spec { name, mode: 0o555, kind: Kind::Directory(entries) }
}

macro_rules! constant {
    ($name:literal, $value:expr) => {
        text($name, |_, text| Ok(writeln!(text, "{}", $value)?))
    };
}

macro_rules! number {
    ($name:literal, $initial:literal, $range:expr) => {{
        static VALUE: AtomicI64 = AtomicI64::new($initial);
        fn show(_: &(), text: &mut Text) -> Result<(), Errno> {
            Ok(writeln!(text, "{}", VALUE.load(Ordering::Relaxed))?)
        }
        fn set(_: &(), value: &[u8]) -> Result<(), Errno> {
            let value =
                parse_number(value).ok().filter(|value| $range.contains(value)).ok_or(Errno::EINVAL)?;
            VALUE.store(value, Ordering::Relaxed);
            Ok(())
        }
        Spec { name: $name, mode: 0o644, kind: Kind::Setting(show, set) }
    }};
}

macro_rules! name {
    ($name:literal, $which:expr) => {{
        fn show(_: &(), text: &mut Text) -> Result<(), Errno> {
            let name = $which.get();
            text.push(name.as_bytes())?;
            text.push(b"\n")
        }
        fn set(_: &(), value: &[u8]) -> Result<(), Errno> {
            $which.set(value.split(|&byte| byte == b'\n').next().unwrap_or(value))
        }
        Spec { name: $name, mode: 0o644, kind: Kind::Setting(show, set) }
    }};
}

/// What /proc/sys holds.
pub const ENTRIES: &[Spec<()>] = &[
    directory("fs", FS),
    directory("kernel", KERNEL),
    directory("net", &[directory("core", NET_CORE), directory("ipv4", NET_IPV4)]),
    directory("vm", VM),
];

const FS: &[Spec<()>] = &[
    constant!("file-max", i64::MAX),
    constant!("nr_open", crate::fs::FD_LIMIT_MAX),
    constant!("pipe-max-size", 1 << 20),
    constant!("protected_hardlinks", 0),
    constant!("protected_symlinks", 0),
];

const KERNEL: &[Spec<()>] = &[
    constant!("cap_last_cap", 40),
    constant!("core_pattern", "core"),
    name!("domainname", uts::DOMAIN),
    name!("hostname", uts::HOST),
    constant!("ngroups_max", MAX_GROUPS),
    constant!("osrelease", RELEASE),
    constant!("ostype", "Linux"),
    constant!("overflowgid", 65534),
    constant!("overflowuid", 65534),
    constant!("pid_max", 32768),
    directory("random", &[text("boot_id", boot_id), text("uuid", uuid), constant!("entropy_avail", 256)]),
    text("randomize_va_space", |_, text| {
        Ok(writeln!(text, "{}", if process::exec::addresses_are_random() { 2 } else { 0 })?)
    }),
    constant!("sched_autogroup_enabled", 0),
    text("threads-max", |_, text| Ok(writeln!(text, "{}", process::max_tasks())?)),
    constant!("version", VERSION),
];

const NET_CORE: &[Spec<()>] = &[constant!("somaxconn", 4096)];

const NET_IPV4: &[Spec<()>] = &[
    constant!("ip_local_port_range", "32768\t60999"),
    constant!("ip_unprivileged_port_start", 1024),
    constant!("tcp_max_syn_backlog", 4096),
];

const VM: &[Spec<()>] = &[
    constant!("max_map_count", 65530),
    constant!("mmap_min_addr", 65536),
    number!("overcommit_memory", 1, 0..=2),
    number!("swappiness", 0, 0..=200),
];

/// A random identifier in the form of RFC 9562, version 4.
fn write_uuid(text: &mut Text, mut bytes: [u8; 16]) -> Result<(), Errno> {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push(b"-")?;
        }
        write!(text, "{byte:02x}")?;
    }
    text.push(b"\n")
}

fn uuid(_: &(), text: &mut Text) -> Result<(), Errno> {
    let mut bytes = [0; 16];
    crate::random::fill(&mut bytes);
    write_uuid(text, bytes)
}

fn boot_id(_: &(), text: &mut Text) -> Result<(), Errno> {
    static ID: spin::Once<[u8; 16]> = spin::Once::new();
    let id = ID.call_once(|| {
        let mut bytes = [0; 16];
        crate::random::fill(&mut bytes);
        bytes
    });
    write_uuid(text, *id)
}
