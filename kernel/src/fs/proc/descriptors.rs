//! /proc/PID/fd and /proc/PID/fdinfo: what a process has open.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use super::number;
use super::task::{Task, seen_path};
use crate::errno::Errno;
use crate::fs::anon::AnonymousNode;
use crate::fs::node::Target;
use crate::fs::pseudo::{Branch, EmitNumber, Entry, EntryName, Kind, Spec, Subject, Text};
use crate::fs::{FdTable, FileType, Node, OpenFile, OpenFlags};

/// The descriptors of a process, as links to what they refer to, or with `info` as files that tell about it.
pub struct Descriptors {
    pub info: bool,
}

/// A descriptor of a process.
#[derive(Clone)]
struct Descriptor {
    task: Task,
    fd: i32,
}

static LINK: Spec<Descriptor> = Spec { name: "", mode: 0o700, kind: Kind::Link(target, link_text) };
static INFO: Spec<Descriptor> = Spec { name: "", mode: 0o444, kind: Kind::Text(info) };

impl Descriptor {
    fn table(&self) -> Result<Arc<FdTable>, Errno> {
        Ok(self.task.inspect()?.files())
    }

    fn file(&self) -> Result<Arc<OpenFile>, Errno> {
        self.table()?.get_any(self.fd).map_err(|_| Errno::ENOENT)
    }
}

impl Subject for Descriptor {
    fn owner(&self) -> (u32, u32) {
        self.task.owner()
    }
}

impl Branch<Task> for Descriptors {
    fn find(&self, task: &Task, parent: &Arc<Entry<Task>>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        let fd = number(name)?;
        let descriptor = Descriptor { task: task.clone(), fd: i32::try_from(fd).map_err(|_| Errno::ENOENT)? };
        descriptor.file()?;
        let spec = if self.info { &INFO } else { &LINK };
        Ok(Entry::new(parent, spec, EntryName::Number(fd), descriptor))
    }

    fn list(&self, task: &Task, from: u32, emit: &mut EmitNumber<'_>) -> Result<(), Errno> {
        let files = task.inspect()?.files();
        let file_type = if self.info { FileType::Regular } else { FileType::Symlink };
        let mut next = from;
        while let Some((fd, _)) = files.next(next) {
            if !emit(fd, EntryName::Number(fd), file_type) {
                break;
            }
            next = fd + 1;
        }
        Ok(())
    }
}

/// The very file, whether or not its name still leads there; and objects without a name.
fn target(descriptor: &Descriptor) -> Result<Target, Errno> {
    let open = descriptor.file()?;
    Ok(Target::Place(match open.location() {
        Some(location) => location.clone(),
        None => AnonymousNode::place(open.file.clone()),
    }))
}

fn link_text(descriptor: &Descriptor) -> Result<Vec<u8>, Errno> {
    file_name(&*descriptor.file()?)
}

/// The path of an open file, as the running thread sees it, or the name of an object without a path.
pub fn file_name(open: &OpenFile) -> Result<Vec<u8>, Errno> {
    match open.location() {
        Some(location) => seen_path(location),
        None => Ok(anonymous_name(open)),
    }
}

/// `pipe:[7]`, `socket:[8]`, `anon_inode:[eventfd]`.
fn anonymous_name(open: &OpenFile) -> Vec<u8> {
    let stat = open.file.stat();
    match stat.file_type() {
        FileType::Fifo => alloc::format!("pipe:[{}]", stat.inode),
        FileType::Socket => alloc::format!("socket:[{}]", stat.inode),
        _ => alloc::format!("anon_inode:{}", open.file.class()),
    }
    .into_bytes()
}

fn info(descriptor: &Descriptor, text: &mut Text) -> Result<(), Errno> {
    let (table, open) = (descriptor.table()?, descriptor.file()?);
    let cloexec = table.cloexec(descriptor.fd).unwrap_or(false);
    let flags = open.flags() | if cloexec { OpenFlags::CLOEXEC } else { OpenFlags::empty() };
    writeln!(text, "pos:\t{}\nflags:\t0{:o}", open.position_if_free(), flags.bits() | 0o100_000)?;
    writeln!(text, "mnt_id:\t0\nino:\t{}", open.stat().inode)?;
    Ok(())
}
