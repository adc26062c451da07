//! The directory of a process, /proc/PID, and of a thread, /proc/PID/task/TID.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use super::registered::{Folder, Registered};
use super::{descriptors, maps, number, status};
use crate::errno::Errno;
use crate::fs::node::Target;
use crate::fs::pseudo::{Branch, EmitNumber, Entry, EntryName, Kind, NextRow, Show, Spec, Subject, Text};
use crate::fs::{FileType, Location, Node, mount};
use crate::memory::{AddressSpace, VirtAddr};
use crate::process::{self, ActingAs, Name, Process, Thread};

/// The process or thread that a directory is about.
#[derive(Clone)]
pub struct Task {
    pub process: Arc<Process>,
    /// `None`: the process as a whole.
    only: Option<Arc<Thread>>,
}

impl Task {
    /// A process as a whole.
    pub fn of_process(process: Arc<Process>) -> Self {
        Self { process, only: None }
    }

    /// Whether it is about one thread.
    pub fn is_thread(&self) -> bool {
        self.only.is_some()
    }

    /// Its thread; for a process the oldest. `ESRCH` for a zombie.
    pub fn thread(&self) -> Result<Arc<Thread>, Errno> {
        match &self.only {
            Some(thread) => Ok(thread.clone()),
            None => self.process.leader().ok_or(Errno::ESRCH),
        }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.only.as_ref().map_or(self.process.pid(), |thread| thread.tid())
    }

    /// As [`thread`](Self::thread), for what not everybody may see (`EACCES`): see [`process::may_inspect`].
    pub fn inspect(&self) -> Result<Arc<Thread>, Errno> {
        let thread = self.thread()?;
        let may = |who: Arc<Thread>| process::may_inspect(&who, ActingAs::FileUser, &thread);
        if process::current().is_none_or(may) { Ok(thread) } else { Err(Errno::EACCES) }
    }
}

impl Subject for Task {
    fn owner(&self) -> (u32, u32) {
        self.thread().map_or((0, 0), |thread| {
            let credentials = thread.credentials();
            (credentials.euid, credentials.egid)
        })
    }

    fn check(&self) -> Result<(), Errno> {
        let alive = match &self.only {
            Some(thread) => {
                process::find_thread(thread.tid()).is_some_and(|found| Arc::ptr_eq(&found, thread))
            }
            None => process::find(self.process.pid()).is_some_and(|found| Arc::ptr_eq(&found, &self.process)),
        };
        alive.then_some(()).ok_or(Errno::ENOENT)
    }
}

const fn file(name: &'static str, mode: u32, show: Show<Task>) -> Spec<Task> {
    Spec { name, mode, kind: Kind::Text(show) }
}

const fn rows(name: &'static str, next: NextRow<Task>) -> Spec<Task> {
    Spec { name, mode: 0o444, kind: Kind::Rows(next) }
}

const fn link(
    name: &'static str,
    target: fn(&Task) -> Result<Target, Errno>,
    text: fn(&Task) -> Result<Vec<u8>, Errno>,
) -> Spec<Task> {
    Spec { name, mode: 0o777, kind: Kind::Link(target, text) }
}

/// /proc/PID.
pub static PROCESS: Spec<Task> = Spec { name: "", mode: 0o555, kind: Kind::Branch(&ProcessDirectory) };
/// /proc/PID/task/TID.
static THREAD: Spec<Task> = Spec { name: "", mode: 0o555, kind: Kind::Directory(&ENTRIES) };

const TASK: Spec<Task> = Spec { name: "task", mode: 0o555, kind: Kind::Branch(&Threads) };

/// What processes and threads have.
static ENTRIES: [Spec<Task>; 29] = entries();

const fn entries() -> [Spec<Task>; 29] {
    [
        file("auxv", 0o400, auxv),
        file("cgroup", 0o444, |_, text| text.push(b"0::/\n")),
        file("cmdline", 0o444, cmdline),
        Spec { name: "comm", mode: 0o644, kind: Kind::Setting(comm, set_comm) },
        link("cwd", |task| place(cwd(task)), |task| path(cwd(task))),
        file("environ", 0o400, environ),
        link("exe", |task| place(executable(task)), |task| path(executable(task))),
        Spec { name: "fd", mode: 0o500, kind: Kind::Branch(&descriptors::Descriptors { info: false }) },
        Spec { name: "fdinfo", mode: 0o555, kind: Kind::Branch(&descriptors::Descriptors { info: true }) },
        file("io", 0o400, status::io),
        file("limits", 0o444, status::limits),
        Spec { name: "loginuid", mode: 0o644, kind: Kind::Setting(no_user, |_, _| Err(Errno::EPERM)) },
        rows("maps", maps::maps),
        file("mountinfo", 0o444, mountinfo),
        file("mounts", 0o444, mounts),
        Spec { name: "net", mode: 0o555, kind: Kind::Branch(&Registered(Folder::Net)) },
        file("oom_score", 0o444, |_, text| text.push(b"0\n")),
        Spec { name: "oom_score_adj", mode: 0o644, kind: Kind::Setting(oom_score_adj, set_oom_score_adj) },
        file("personality", 0o400, |_, text| text.push(b"00000000\n")),
        link("root", |task| place(root(task)), |task| path(root(task))),
        file("schedstat", 0o444, status::schedstat),
        file("sessionid", 0o444, no_user),
        rows("smaps", maps::smaps),
        rows("smaps_rollup", maps::smaps_rollup),
        file("stat", 0o444, status::stat),
        file("statm", 0o444, status::statm),
        file("status", 0o444, status::status),
        file("timerslack_ns", 0o444, |_, text| text.push(b"50000\n")),
        file("wchan", 0o444, |_, text| text.push(b"0")),
    ]
}

/// A process's directory: what threads have, and `task`.
struct ProcessDirectory;

impl Branch<Task> for ProcessDirectory {
    fn fixed(&self) -> &'static [Spec<Task>] {
        &ENTRIES
    }

    fn find(&self, task: &Task, parent: &Arc<Entry<Task>>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        static TASKS: Spec<Task> = TASK;
        if name != TASKS.name.as_bytes() {
            return Err(Errno::ENOENT);
        }
        Ok(Entry::new(parent, &TASKS, EntryName::Fixed, task.clone()))
    }

    fn list(&self, _: &Task, from: u32, emit: &mut EmitNumber<'_>) -> Result<(), Errno> {
        if from == 0 {
            emit(0, EntryName::Given(TASK.name), FileType::Directory);
        }
        Ok(())
    }
}

/// The threads of a process.
struct Threads;

impl Branch<Task> for Threads {
    fn find(&self, task: &Task, parent: &Arc<Entry<Task>>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        let tid = number(name)?;
        let thread = process::find_thread(tid).ok_or(Errno::ENOENT)?;
        if !Arc::ptr_eq(thread.process(), &task.process) {
            return Err(Errno::ENOENT);
        }
        let task = Task { process: task.process.clone(), only: Some(thread) };
        Ok(Entry::new(parent, &THREAD, EntryName::Number(tid), task))
    }

    fn list(&self, task: &Task, from: u32, emit: &mut EmitNumber<'_>) -> Result<(), Errno> {
        let mut ids: Vec<_> = task.process.threads().iter().map(|thread| thread.tid()).collect();
        ids.sort_unstable();
        for tid in ids.into_iter().filter(|&tid| tid >= from) {
            if !emit(tid, EntryName::Number(tid), FileType::Directory) {
                break;
            }
        }
        Ok(())
    }
}

fn place(location: Result<Location, Errno>) -> Result<Target, Errno> {
    location.map(Target::Place)
}

/// The path of a location, as the reader sees it.
fn path(location: Result<Location, Errno>) -> Result<Vec<u8>, Errno> {
    seen_path(&location?)
}

/// The path of `location`, as the reader sees it; in its own file system if the kernel itself reads.
pub fn seen_path(location: &Location) -> Result<Vec<u8>, Errno> {
    match process::current() {
        Some(thread) => thread.fs().with(|places| location.display_path(&places.root)),
        None => location.display_path(&Location::root_of(location.mount.clone())),
    }
}

/// The mounts, as the reader sees them.
fn seen_mounts() -> Result<Vec<mount::Mounted>, Errno> {
    match process::current() {
        Some(thread) => thread.fs().with(|places| mount::list(&places.root)),
        None => mount::list(&crate::fs::setup::root()),
    }
}

fn cwd(task: &Task) -> Result<Location, Errno> {
    Ok(task.inspect()?.fs().cwd())
}

fn root(task: &Task) -> Result<Location, Errno> {
    Ok(task.inspect()?.fs().root())
}

/// `ENOENT` for what runs no program.
fn executable(task: &Task) -> Result<Location, Errno> {
    task.inspect()?;
    let image = task.process.image();
    image.executable.as_ref().map(|executable| executable.location().clone()).ok_or(Errno::ENOENT)
}

/// Copies `range` of an address space; short where pages are gone.
fn copy(text: &mut Text, space: &AddressSpace, range: (u64, u64)) -> Result<(), Errno> {
    /// As much as execve takes.
    const LEN_MAX: u64 = 2 << 20;
    let (mut at, end) = (range.0, range.1.min(range.0.saturating_add(LEN_MAX)));
    let mut piece = [0; 512];
    while at < end {
        let len = piece.len().min((end - at) as usize);
        if space.read_at(VirtAddr::new(at), &mut piece[..len]).is_err() {
            break;
        }
        text.push(&piece[..len])?;
        at += len as u64;
    }
    Ok(())
}

/// The arguments, each with its NUL. Empty for a zombie.
fn cmdline(task: &Task, text: &mut Text) -> Result<(), Errno> {
    match task.thread() {
        Ok(thread) => copy(text, &thread.space(), task.process.image().arguments),
        Err(_) => Ok(()),
    }
}

fn environ(task: &Task, text: &mut Text) -> Result<(), Errno> {
    copy(text, &task.inspect()?.space(), task.process.image().environment)
}

fn auxv(task: &Task, text: &mut Text) -> Result<(), Errno> {
    task.inspect()?;
    task.process.image().auxiliary.iter().try_for_each(|word| text.push(&word.to_le_bytes()))
}

fn comm(task: &Task, text: &mut Text) -> Result<(), Errno> {
    text.push(task.thread()?.name().as_bytes())?;
    text.push(b"\n")
}

/// A process may name its own threads.
fn set_comm(task: &Task, name: &[u8]) -> Result<(), Errno> {
    let own = process::current().is_some_and(|thread| Arc::ptr_eq(thread.process(), &task.process));
    if !own {
        return Err(Errno::EINVAL);
    }
    let name = name.strip_suffix(b"\n").unwrap_or(name);
    task.thread()?.set_name(Name::new(name));
    Ok(())
}

/// No login has set a user: -1.
fn no_user(_: &Task, text: &mut Text) -> Result<(), Errno> {
    Ok(write!(text, "{}", u32::MAX)?)
}

/// Whom memory pressure ends first cannot be influenced: 0 is the only score, and the only one that can be set.
fn oom_score_adj(_: &Task, text: &mut Text) -> Result<(), Errno> {
    text.push(b"0\n")
}

fn set_oom_score_adj(_: &Task, value: &[u8]) -> Result<(), Errno> {
    match crate::fs::pseudo::parse_number(value)? {
        0 => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// Mounts in the form of fstab(5).
fn mounts(_: &Task, text: &mut Text) -> Result<(), Errno> {
    for (path, mount) in seen_mounts()? {
        write!(text, "{} ", Escaped(mount.source.as_bytes()))?;
        writeln!(text, "{} {} {} 0 0", Escaped(&path), mount.fs.name(), Options(mount.flags))?;
    }
    Ok(())
}

/// Mounts in the form of proc(5), "mountinfo".
fn mountinfo(_: &Task, text: &mut Text) -> Result<(), Errno> {
    for (id, (path, mount)) in seen_mounts()?.iter().enumerate() {
        let device = crate::fs::DeviceNumber(mount.root.stat().device);
        let (parent, name) = (if id == 0 { 1 } else { 21 }, mount.fs.name());
        write!(text, "{} {parent} {}:{} / ", id + 21, device.major(), device.minor())?;
        write!(text, "{} {} - {name} ", Escaped(path), Options(mount.flags))?;
        writeln!(text, "{} {}", Escaped(mount.source.as_bytes()), Options(mount.flags))?;
    }
    Ok(())
}

/// A name in which blanks and backslashes are octal numbers.
struct Escaped<'a>(&'a [u8]);

impl core::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|&byte| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => write!(f, "\\{byte:03o}"),
            _ => write!(f, "{}", char::from(byte)),
        })
    }
}

/// Options of a mount as mount(8) writes them.
struct Options(mount::MountFlags);

impl core::fmt::Display for Options {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        use mount::MountFlags;
        f.write_str(if self.0.contains(MountFlags::RDONLY) { "ro" } else { "rw" })?;
        let names =
            [(MountFlags::NOSUID, "nosuid"), (MountFlags::NODEV, "nodev"), (MountFlags::NOEXEC, "noexec")];
        for (flag, name) in names {
            if self.0.contains(flag) {
                write!(f, ",{name}")?;
            }
        }
        f.write_str(",relatime")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::mount::MountFlags;

    #[test]
    fn blanks_in_names_are_escaped_and_options_named() {
        assert_eq!(alloc::format!("{}", Escaped(b"a b\\c")), "a\\040b\\134c");
        let options = Options(MountFlags::RDONLY | MountFlags::NOEXEC);
        assert_eq!(alloc::format!("{options}"), "ro,noexec,relatime");
    }
}
