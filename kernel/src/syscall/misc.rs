//! What belongs to no family: uname(2), getrandom(2), syslog(2), reboot(2), unshare(2), setns(2), membarrier(2).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::Poll;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Caller;
use crate::arch::{self, CoreId};
use crate::errno::{Errno, SysResult};
use crate::fs::machine;
use crate::memory::VirtAddr;
use crate::process::Thread;
use crate::process::hooks::{self, PowerRequest};
use crate::process::pace::Pace;
use crate::process::uts::{self, Changeable};
use crate::sched::{self, Events, NoRoom, Place, Share, WaitQueue};
use crate::uaccess::{self, UserPtr};

type NameField = [u8; uts::NAME_MAX + 1];

/// `struct new_utsname`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Utsname {
    system: NameField,
    node: NameField,
    release: NameField,
    version: NameField,
    machine: NameField,
    domain: NameField,
}

impl Utsname {
    fn now() -> Self {
        Self {
            system: name_field(b"Linux"),
            node: name_field(uts::HOST.get().as_bytes()),
            release: name_field(uts::RELEASE.as_bytes()),
            version: name_field(uts::VERSION.as_bytes()),
            machine: name_field(b"x86_64"),
            domain: name_field(uts::DOMAIN.get().as_bytes()),
        }
    }
}

/// A name with the NUL behind it; none is longer than fits.
fn name_field(name: &[u8]) -> NameField {
    let mut field = [0; _];
    let len = name.len().min(uts::NAME_MAX);
    field[..len].copy_from_slice(&name[..len]);
    field
}

/// uname(2)
pub fn uname(c: &mut Caller<'_>, to: UserPtr<Utsname>) -> SysResult {
    to.write(&c.space, &Utsname::now())?;
    Ok(0)
}

/// sethostname(2)
pub fn sethostname(c: &mut Caller<'_>, name: VirtAddr, len: i32) -> SysResult {
    set_name(c, &uts::HOST, name, len)
}

/// setdomainname(2)
pub fn setdomainname(c: &mut Caller<'_>, name: VirtAddr, len: i32) -> SysResult {
    set_name(c, &uts::DOMAIN, name, len)
}

fn set_name(c: &Caller<'_>, which: &Changeable, from: VirtAddr, len: i32) -> SysResult {
    check_privilege(c.thread)?;
    let len = usize::try_from(len).ok().filter(|&len| len <= uts::NAME_MAX).ok_or(Errno::EINVAL)?;
    let mut name = [0; uts::NAME_MAX];
    uaccess::read_bytes(&c.space, from, &mut name[..len])?;
    which.set(&name[..len])?;
    Ok(0)
}

fn check_privilege(thread: &Thread) -> Result<(), Errno> {
    if thread.credentials().is_privileged() { Ok(()) } else { Err(Errno::EPERM) }
}

/// Bytes that getrandom(2) makes at a time.
const CHUNK: usize = 256;

/// getrandom(2). The generator is seeded before the first program runs, so no flag makes a difference.
pub async fn getrandom(c: &mut Caller<'_>, to: VirtAddr, count: usize, flags: u32) -> SysResult {
    check_random_flags(flags)?;
    let count = count.min(i32::MAX as usize);
    let (mut done, mut pace) = (0, Pace::new(c.thread));
    while done < count {
        let mut bytes = [0; CHUNK];
        let len = CHUNK.min(count - done);
        crate::random::fill(&mut bytes[..len]);
        let written = to.checked_add(done).ok_or(Errno::EFAULT);
        let written = written.and_then(|to| uaccess::write_bytes(&c.space, to, &bytes[..len]));
        match written {
            Ok(()) => done += len,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        // A dying thread is interrupted, too.
        let _ = pace.charge(CHUNK as u32).await;
        if c.thread.interrupted() {
            break;
        }
    }
    Ok(done)
}

fn check_random_flags(flags: u32) -> Result<(), Errno> {
    /// `GRND_NONBLOCK`
    const NON_BLOCKING: u32 = 1;
    /// `GRND_RANDOM`
    const RANDOM: u32 = 2;
    /// `GRND_INSECURE`
    const INSECURE: u32 = 4;
    let both = flags & (RANDOM | INSECURE) == RANDOM | INSECURE;
    if flags & !(NON_BLOCKING | RANDOM | INSECURE) != 0 || both { Err(Errno::EINVAL) } else { Ok(()) }
}

/// syslog(2): the log can be read as a whole. It is neither consumed nor cleared, and what the console shows is a matter of
/// the command line.
pub fn syslog(c: &mut Caller<'_>, action: i32, to: VirtAddr, len: i32) -> SysResult {
    const CLOSE: i32 = 0;
    const OPEN: i32 = 1;
    const READ_ALL: i32 = 3;
    const SIZE_UNREAD: i32 = 9;
    const SIZE_BUFFER: i32 = 10;
    if !matches!(action, READ_ALL | SIZE_BUFFER) {
        check_privilege(c.thread)?;
    }
    let read = hooks::get().read_log;
    match action {
        CLOSE | OPEN => Ok(0),
        READ_ALL if to.as_u64() == 0 => Err(Errno::EINVAL),
        READ_ALL => {
            let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
            copy_log(read, len, |at, bytes| uaccess::write_bytes(&c.space, to + at, bytes))
        }
        SIZE_UNREAD | SIZE_BUFFER => Ok(log_size(read)),
        _ => Err(Errno::EINVAL),
    }
}

type ReadLog = fn(usize, &mut [u8]) -> usize;

fn log_size(read: ReadLog) -> usize {
    let (mut size, mut chunk) = (0, [0; 1024]);
    loop {
        match read(size, &mut chunk) {
            0 => return size,
            len => size += len,
        }
    }
}

/// Hands the last `len` bytes of the log to `write`, piece by piece with where they belong.
fn copy_log(
    read: ReadLog,
    len: usize,
    mut write: impl FnMut(usize, &[u8]) -> Result<(), Errno>,
) -> SysResult {
    let start = log_size(read).saturating_sub(len);
    let (mut done, mut chunk) = (0, [0; 1024]);
    while done < len {
        let piece = chunk.len().min(len - done);
        let got = read(start + done, &mut chunk[..piece]);
        if got == 0 {
            break;
        }
        write(done, &chunk[..got])?;
        done += got;
    }
    Ok(done)
}

/// What reboot(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RebootCommand {
    Power(PowerRequest),
    /// What ctrl-alt-del does: there is no keyboard on which to press it.
    Keyboard,
}

fn reboot_command(magic: [u32; 2], command: u32) -> Result<RebootCommand, Errno> {
    const MAGIC: u32 = 0xfee1_dead;
    /// Birthdays, as reboot(2) lists them.
    const SECOND_MAGIC: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    if magic[0] != MAGIC || !SECOND_MAGIC.contains(&magic[1]) {
        return Err(Errno::EINVAL);
    }
    Ok(match command {
        0x0123_4567 => RebootCommand::Power(PowerRequest::Restart),
        0xcdef_0123 => RebootCommand::Power(PowerRequest::Halt),
        0x4321_fedc => RebootCommand::Power(PowerRequest::PowerOff),
        0 | 0x89ab_cdef => RebootCommand::Keyboard,
        _ => return Err(Errno::EINVAL),
    })
}

/// reboot(2)
pub fn reboot(c: &mut Caller<'_>, magic: u32, magic2: u32, command: u32) -> SysResult {
    check_privilege(c.thread)?;
    if let RebootCommand::Power(request) = reboot_command([magic, magic2], command)? {
        (hooks::get().power)(request);
    }
    Ok(0)
}

/// unshare(2)
pub async fn unshare(c: &mut Caller<'_>, flags: u64) -> SysResult {
    stop_sharing(c.thread, flags).await
}

/// `CLONE_NEWUSER`
const NEW_USER: u64 = 0x1000_0000;
/// The other namespaces: time, mount, cgroup, host name, IPC, process, network.
const NEW_OTHER: u64 = 0x80 | 0x2_0000 | 0x200_0000 | 0x400_0000 | 0x800_0000 | 0x2000_0000 | 0x4000_0000;

/// Namespaces are not there: `EPERM` for those who could not make one anyway, `EINVAL` for the others.
async fn stop_sharing(thread: &Thread, flags: u64) -> SysResult {
    const VM: u64 = 0x100;
    const FS: u64 = 0x200;
    const FILES: u64 = 0x400;
    const SIGNAL_HANDLERS: u64 = 0x800;
    const THREAD: u64 = 0x1_0000;
    /// There are no System V semaphores, so nothing to undo is shared.
    const SEMAPHORE_UNDO: u64 = 0x4_0000;
    const GROUP: u64 = VM | SIGNAL_HANDLERS | THREAD;
    if flags & !(GROUP | FS | FILES | SEMAPHORE_UNDO | NEW_USER | NEW_OTHER) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & NEW_OTHER != 0 && flags & NEW_USER == 0 {
        check_privilege(thread)?;
    }
    let alone = thread.process().thread_count() == 1;
    if flags & (NEW_USER | NEW_OTHER) != 0 || (flags & GROUP != 0 && !alone) {
        return Err(Errno::EINVAL);
    }
    if flags & FILES != 0 {
        thread.unshare_files().await?;
    }
    if flags & FS != 0 {
        thread.unshare_fs();
    }
    Ok(0)
}

/// setns(2): no descriptor is a namespace.
pub fn setns(c: &mut Caller<'_>, fd: i32, _kind: u32) -> SysResult {
    c.thread.files().get(fd)?;
    Err(Errno::EINVAL)
}

/// membarrier(2): `MEMBARRIER_CMD_GLOBAL` is there, and says so.
pub async fn membarrier(_: &mut Caller<'_>, command: i32, flags: u32) -> SysResult {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    match (command, flags) {
        (QUERY, 0) => return Ok(GLOBAL as usize),
        (GLOBAL, 0) => {}
        _ => return Err(Errno::EINVAL),
    }
    // Coming here ordered this core's accesses.
    let own = arch::core_id();
    let cores = (0..machine::get().cores as u16).map(CoreId).filter(|&core| core != own);
    barrier_on(cores.collect()).await?;
    Ok(0)
}

/// How many cores have not answered yet.
struct Answers {
    missing: AtomicUsize,
    all_there: WaitQueue,
}

/// Each of `cores` stops its program once, and so orders its memory accesses.
async fn barrier_on(cores: Vec<CoreId>) -> Result<(), Errno> {
    let answers = Answers { missing: AtomicUsize::new(cores.len()), all_there: WaitQueue::new() };
    let answers = Arc::new(answers);
    let places = cores.into_iter().map(Place::on).collect::<Result<Vec<Place>, NoRoom>>();
    let places = places.map_err(|NoRoom| Errno::ENOMEM)?;
    for place in places {
        let answers = answers.clone();
        sched::spawn_at(place, Share::URGENT, async move {
            if answers.missing.fetch_sub(1, Ordering::SeqCst) == 1 {
                answers.all_there.wake(Events::IN);
            }
        });
    }
    let mut registration = None;
    poll_fn(|context| {
        registration.get_or_insert_with(|| answers.all_there.register(Events::IN, context.waker()));
        if answers.missing.load(Ordering::SeqCst) == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Credentials;
    use crate::process::pace::without_pause;
    use crate::process::tests::{process, run_as_thread, second_thread};

    #[test]
    fn names_are_those_that_programs_look_for() {
        let names = Utsname::now();
        assert_eq!(&names.system[..6], b"Linux\0");
        assert_eq!(&names.machine[..7], b"x86_64\0");
        assert!(names.release.starts_with(b"6."));
        assert_eq!(size_of::<Utsname>(), 390);
        assert_eq!(name_field(&[b'x'; 100])[uts::NAME_MAX..], [0]);
    }

    #[test]
    fn flags_of_getrandom() {
        for flags in [0, 1, 2, 3, 4, 5] {
            assert_eq!(check_random_flags(flags), Ok(()), "{flags}");
        }
        for flags in [6, 7, 8, u32::MAX] {
            assert_eq!(check_random_flags(flags), Err(Errno::EINVAL), "{flags}");
        }
    }

    /// A log of 3,000 bytes, each of which says where it is.
    fn log(offset: usize, out: &mut [u8]) -> usize {
        let len = 3000_usize.saturating_sub(offset).min(out.len());
        (0..len).for_each(|index| out[index] = ((offset + index) % 251) as u8);
        len
    }

    #[test]
    fn the_end_of_the_log_is_what_fits() {
        for len in [0, 10, 1024, 2500, 3000, 5000] {
            let mut got = Vec::new();
            let result = copy_log(log, len, |at, bytes| {
                assert_eq!(at, got.len());
                got.extend_from_slice(bytes);
                Ok(())
            });
            assert_eq!((result, got.len()), (Ok(len.min(3000)), len.min(3000)));
            assert!(got.last().is_none_or(|&byte| byte == (2999 % 251) as u8));
        }
        assert_eq!(copy_log(log, 5, |_, _| Err(Errno::EFAULT)), Err(Errno::EFAULT));
    }

    #[test]
    fn reboot_needs_the_magic_numbers() {
        let magic = [0xfee1_dead, 672_274_793];
        let power_off = RebootCommand::Power(PowerRequest::PowerOff);
        assert_eq!(reboot_command(magic, 0x4321_fedc), Ok(power_off));
        assert_eq!(reboot_command([magic[0], 537_993_216], 0), Ok(RebootCommand::Keyboard));
        assert_eq!(reboot_command([1, magic[1]], 0x4321_fedc), Err(Errno::EINVAL));
        assert_eq!(reboot_command([magic[0], 5], 0x4321_fedc), Err(Errno::EINVAL));
        assert_eq!(reboot_command(magic, 1), Err(Errno::EINVAL));
    }

    #[test]
    fn namespaces_are_refused_and_tables_are_unshared() {
        let process = process();
        let thread = process.leader().unwrap();
        let shared = second_thread(&process);
        assert!(Arc::ptr_eq(&thread.fs(), &shared.fs()));
        assert_eq!(without_pause(stop_sharing(&thread, 0x200 | 0x400)), Some(Ok(0)));
        assert!(!Arc::ptr_eq(&thread.fs(), &shared.fs()));
        assert!(!Arc::ptr_eq(&thread.files(), &shared.files()));
        // Threads cannot leave their process.
        assert_eq!(without_pause(stop_sharing(&thread, 0x1_0000)), Some(Err(Errno::EINVAL)));
        assert_eq!(without_pause(stop_sharing(&thread, 1)), Some(Err(Errno::EINVAL)));
        assert_eq!(without_pause(stop_sharing(&thread, 0x2_0000)), Some(Err(Errno::EINVAL)));
        thread.set_credentials(Credentials::root().set_uid(5).unwrap());
        assert_eq!(without_pause(stop_sharing(&thread, 0x2_0000)), Some(Err(Errno::EPERM)));
        assert_eq!(without_pause(stop_sharing(&thread, NEW_USER | 0x2_0000)), Some(Err(Errno::EINVAL)));
    }

    #[test]
    fn a_barrier_waits_for_every_core() {
        let (tell, core) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            tell.send(arch::core_id()).unwrap();
            wait.recv().unwrap();
            sched::run_until_idle();
        });
        let cores = Vec::from([core.recv().unwrap()]);
        let done = run_as_thread(process().leader().unwrap(), barrier_on(cores));
        assert_eq!(done.result(), None);
        go.send(()).unwrap();
        other.join().unwrap();
        assert_eq!(done.result(), Some(Ok(())));
    }
}
