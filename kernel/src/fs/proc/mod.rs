//! procfs, mounted on /proc: processes and the machine as text.
//!
//! - [`system`]: files about the machine; [`sysctl`]: /proc/sys; [`cpuinfo`];
//! - [`task`]: the directory of a process or thread and its files; [`status`], [`maps`], [`descriptors`]: the longer of them;
//! - /proc/net, whose files the network stack registers, and /proc/nrk, where others register theirs ([`register`]).
//!
//! All are made by functions when they are read; see [`pseudo`](super::pseudo).

mod cpuinfo;
mod descriptors;
mod maps;
mod registered;
mod status;
mod sysctl;
mod system;
mod task;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;

pub use descriptors::file_name;
pub use registered::{Folder, Generate, register};

use super::node::Target;
use super::pseudo::{Branch, EmitNumber, Entry, EntryName, Kind, PseudoFs, Spec};
use super::{FileType, Node};
use crate::errno::Errno;
use crate::process;

/// `PROC_SUPER_MAGIC` of statfs(2).
const MAGIC: u32 = 0x9fa0;

/// A new procfs.
pub fn new() -> PseudoFs {
    PseudoFs::new("proc", MAGIC, &ROOT)
}

static ROOT: Spec<()> = Spec { name: "", mode: 0o555, kind: Kind::Branch(&Root) };

const fn text(name: &'static str, show: super::pseudo::Show<()>) -> Spec<()> {
    Spec { name, mode: 0o444, kind: Kind::Text(show) }
}

const fn link(
    name: &'static str,
    target: fn(&()) -> Result<Target, Errno>,
    text: fn(&()) -> Result<Vec<u8>, Errno>,
) -> Spec<()> {
    Spec { name, mode: 0o777, kind: Kind::Link(target, text) }
}

/// Entries about the machine; then one directory for each process.
struct Root;

const FIXED: &[Spec<()>] = &[
    link("self", |()| by_text(self_name()), |()| self_name()),
    link("thread-self", |()| by_text(thread_self_name()), |()| thread_self_name()),
    text("cmdline", system::cmdline),
    text("cpuinfo", cpuinfo::show),
    text("devices", system::devices),
    text("diskstats", system::nothing),
    text("filesystems", system::filesystems),
    text("interrupts", system::nothing),
    text("loadavg", system::loadavg),
    text("meminfo", system::meminfo),
    text("modules", system::nothing),
    link("mounts", |()| by_text(Ok(b"self/mounts".to_vec())), |()| Ok(b"self/mounts".to_vec())),
    link("net", |()| by_text(Ok(b"self/net".to_vec())), |()| Ok(b"self/net".to_vec())),
    // What everybody is doing, and where in memory, is for root.
    Spec { name: "nrk", mode: 0o500, kind: Kind::Branch(&registered::Registered(Folder::Nrk)) },
    text("partitions", system::nothing),
    text("stat", system::stat),
    text("swaps", system::swaps),
    Spec { name: "sys", mode: 0o555, kind: Kind::Directory(sysctl::ENTRIES) },
    text("uptime", system::uptime),
    text("version", system::version),
    text("vmstat", system::vmstat),
];

fn by_text(text: Result<Vec<u8>, Errno>) -> Result<Target, Errno> {
    Ok(Target::Path(text?.into()))
}

/// `ENOENT` for the kernel itself, which is no process.
fn self_name() -> Result<Vec<u8>, Errno> {
    let thread = process::current().ok_or(Errno::ENOENT)?;
    Ok(alloc::format!("{}", thread.process().pid()).into_bytes())
}

fn thread_self_name() -> Result<Vec<u8>, Errno> {
    let thread = process::current().ok_or(Errno::ENOENT)?;
    Ok(alloc::format!("{}/task/{}", thread.process().pid(), thread.tid()).into_bytes())
}

impl Branch<()> for Root {
    fn fixed(&self) -> &'static [Spec<()>] {
        FIXED
    }

    fn find(&self, _: &(), parent: &Arc<Entry<()>>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        let pid = number(name)?;
        let process = process::find(pid).ok_or(Errno::ENOENT)?;
        let task = task::Task::of_process(process);
        Ok(Entry::new(parent, &task::PROCESS, EntryName::Number(pid), task))
    }

    fn list(&self, _: &(), from: u32, emit: &mut EmitNumber<'_>) -> Result<(), Errno> {
        let pids = process::list().into_iter().map(|process| process.pid()).filter(|&pid| pid >= from);
        for pid in pids {
            if !emit(pid, EntryName::Number(pid), FileType::Directory) {
                break;
            }
        }
        Ok(())
    }
}

/// The number that `name` is, written as numbers are (`ENOENT`).
fn number(name: &[u8]) -> Result<u32, Errno> {
    let canonical = name.iter().all(u8::is_ascii_digit) && (name.len() == 1 || name.first() != Some(&b'0'));
    let text = core::str::from_utf8(name).ok().filter(|_| canonical).ok_or(Errno::ENOENT)?;
    text.parse().map_err(|_| Errno::ENOENT)
}

#[cfg(test)]
mod number_tests {
    use super::*;

    #[test]
    fn only_canonical_numbers_name_processes() {
        assert_eq!(number(b"17"), Ok(17));
        assert_eq!(number(b"0"), Ok(0));
        for wrong in [&b""[..], b"017", b"+1", b"-1", b"1x", b"4294967296"] {
            assert_eq!(number(wrong), Err(Errno::ENOENT));
        }
    }
}
