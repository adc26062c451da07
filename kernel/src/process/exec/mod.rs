//! Executing programs: execve(2).
//!
//! A new program is made ready beside the old one: its file is found and checked ([`elf`]; a script leads to its interpreter,
//! [`script`]), and a whole new address space is filled with its segments ([`load`]), its stack ([`stack`], with the strings of
//! [`arguments`]) and the vDSO. Everything that can fail does so here, and is an error of execve. Only then the other threads of the
//! process are ended, and the thread puts the new space, and what else a program starts with, in place of the old.

pub mod arguments;
pub mod elf;
mod load;
mod script;
mod stack;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use arguments::Arguments;
use elf::PROGRAM_HEADER_SIZE;
use load::{ElfFile, Loaded, Role};
use stack::{Contents, Stack, key};

use super::block::block_unless_dying;
use super::exit::clear_memory;
use super::group::Process;
use super::limits::Resource;
use super::memory::space_limits;
use super::pace::Pace;
use super::registry::with_table;
use super::signal::{AlternateStack, Signal};
use super::thread::{Name, Thread, attention};
use super::{Credentials, hooks};
use crate::arch;
use crate::arch::signal_frame;
use crate::errno::Errno;
use crate::fs::mount::MountFlags;
use crate::fs::open::Executable;
use crate::fs::path::{View, resolve};
use crate::fs::{FdTable, File, Location, Wanted};
use crate::memory::{AddressSpace, MappingName, PAGE_SIZE, VirtAddr};
use crate::syscall::Caller;

/// How many scripts may be interpreted by scripts.
const MAX_SCRIPTS: usize = 5;
/// `ADDR_NO_RANDOMIZE` of personality(2).
const NO_RANDOMIZE: u32 = 0x004_0000;
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;
/// Clock ticks per second: `AT_CLKTCK`.
const TICKS_PER_SECOND: u64 = 100;

/// Whether no program's addresses are random.
static ADDRESSES_ARE_FIXED: AtomicBool = AtomicBool::new(false);

/// From now on programs are loaded at the same addresses each time: `norandmaps` on the kernel's command line.
pub fn fix_addresses() {
    ADDRESSES_ARE_FIXED.store(true, Ordering::Relaxed);
}

/// Whether addresses are random, unless a process asks for other ones: /proc/sys/kernel/randomize_va_space.
pub fn addresses_are_random() -> bool {
    !ADDRESSES_ARE_FIXED.load(Ordering::Relaxed)
}

/// The program that a process runs, for /proc.
#[derive(Default)]
pub struct Image {
    /// The file, which /proc/PID/exe leads to.
    pub executable: Option<Executable>,
    /// First and past-the-last address of the arguments' strings (/proc/PID/cmdline).
    pub arguments: (u64, u64),
    /// Those of the environment's (/proc/PID/environ).
    pub environment: (u64, u64),
    /// The auxiliary vector (/proc/PID/auxv).
    pub auxiliary: Vec<u64>,
    /// Where the stack pointer was at the start.
    pub stack_start: u64,
}

/// What is to be executed, for whom.
pub struct Request<'a> {
    /// The file.
    pub location: Location,
    /// The path by which it was called.
    pub path: &'a [u8],
    /// Its arguments and environment.
    pub arguments: Arguments,
    /// Who executes it: paths of interpreters are seen from there.
    pub view: View<'a>,
    /// Where relative paths of interpreters begin.
    pub cwd: &'a Location,
    /// The credentials of the thread that executes it.
    pub credentials: &'a Credentials,
    /// Set-id bits have no effect (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// Other processes use the thread's directories and umask: neither do they then, for those could be changed under the program.
    pub shares_fs: bool,
    /// The process, for its limits and personality.
    pub process: &'a Process,
}

/// A program that is ready to run.
pub struct Prepared {
    /// Its memory.
    pub space: Arc<AddressSpace>,
    /// Where it begins.
    pub entry: u64,
    /// Its stack pointer.
    pub stack_pointer: u64,
    /// For /proc.
    pub image: Image,
    /// Its credentials.
    pub credentials: Credentials,
    /// Who executes it may read its file, and so may see its memory.
    pub readable: bool,
    /// Its name.
    pub name: Name,
}

/// Makes a program ready.
///
/// # Errors
/// As execve(2) lists them; `EINTR` when the caller is about to end.
pub async fn prepare(pace: &mut Pace<'_>, mut request: Request<'_>) -> Result<Prepared, Errno> {
    let stack_limit = request.process.rlimit(Resource::Stack).soft;
    let mut start = [0; script::FIRST_BYTES];
    let mut scripts = 0;
    loop {
        let (executable, file) = Executable::open(&request.view, request.location.clone())?;
        let len = load::read_start(&*file, &mut start)?;
        let Some(line) = script::parse(&start[..len])? else {
            let program = ElfFile::read(&*file, &start[..len], name_of(&request.location, &request.view))?;
            return fill(pace, &request, executable, &*file, &program).await;
        };
        scripts += 1;
        if scripts > MAX_SCRIPTS {
            return Err(Errno::ELOOP);
        }
        if scripts == 1 {
            request.arguments.argv.remove_first();
            request.arguments.argv.prepend(&[request.path])?;
        }
        // From the second script on, the script is already there: it was the interpreter of the one before.
        match line.argument {
            Some(argument) => request.arguments.argv.prepend(&[line.interpreter, argument])?,
            None => request.arguments.argv.prepend(&[line.interpreter])?,
        }
        request.arguments.check(stack_limit)?;
        request.location = resolve(request.view, request.cwd, line.interpreter, true)?;
    }
}

/// What /proc/PID/maps calls the file.
fn name_of(location: &Location, view: &View<'_>) -> Arc<MappingName> {
    let stat = location.stat();
    let path = location.display_path(view.root).unwrap_or_default();
    Arc::new(MappingName { path, device: stat.device, inode: stat.inode })
}

/// Bytes of the initial stack that are written at a time.
const INITIAL_PIECE: usize = 16 * PAGE_SIZE;

/// Fills a new address space.
async fn fill(
    pace: &mut Pace<'_>,
    request: &Request<'_>,
    executable: Executable,
    file: &dyn File,
    program: &ElfFile,
) -> Result<Prepared, Errno> {
    let interpreter = program.interpreter.as_ref().map(|path| open_interpreter(request, path)).transpose()?;
    let space = AddressSpace::new()?;
    space.set_limits(space_limits(request.process, request.credentials.is_privileged()));
    let random =
        addresses_are_random() && request.process.personality.load(Ordering::Relaxed) & NO_RANDOMIZE == 0;
    let seed = || if random { crate::random::next_u64() } else { 0 };
    let top = space.map_stack(program.image.executable_stack, seed())?;
    let loaded = load::load(&space, program, Role::Program { seed: seed() })?;
    let interpreter =
        interpreter.map(|(_held, file)| load::load(&space, &file, Role::Interpreter)).transpose()?;
    space.set_brk_start(VirtAddr::new(loaded.end));
    let credentials = credentials_after(request, file);
    let vdso = (hooks::get().map_vdso)(&space);
    let auxiliary =
        auxiliary(program, &loaded, interpreter.as_ref(), vdso, request.credentials, &credentials);
    let mut random = [0; 16];
    crate::random::fill(&mut random);
    let contents =
        Contents { arguments: &request.arguments, path: request.path, random, auxiliary: &auxiliary };
    let Stack { pointer, bytes, argv, envp, auxiliary } = stack::build(pace, top.as_u64(), &contents).await?;
    // The stack may grow to its limit, which leaves room for the arguments: `Arguments::copy` checked.
    for (piece, bytes) in bytes.chunks(INITIAL_PIECE).enumerate() {
        let at = VirtAddr::new(pointer) + piece * INITIAL_PIECE;
        space.write_initial(at, bytes).map_err(|_| Errno::E2BIG)?;
        pace.pause().await?;
    }
    Ok(Prepared {
        space,
        entry: interpreter.map_or(loaded.entry, |interpreter| interpreter.entry),
        stack_pointer: pointer,
        image: Image {
            executable: Some(executable),
            arguments: argv,
            environment: envp,
            auxiliary,
            stack_start: pointer,
        },
        credentials,
        readable: request.location.node.check(&request.view.who, Wanted::READ).is_ok(),
        name: Name::new(request.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()),
    })
}

/// The interpreter that a program names. It cannot be written while it is loaded; once it runs, it can.
fn open_interpreter(request: &Request<'_>, path: &[u8]) -> Result<(Executable, ElfFile), Errno> {
    let location = resolve(request.view, request.cwd, path, true)?;
    let name = name_of(&location, &request.view);
    let (executable, file) = Executable::open(&request.view, location)?;
    let mut start = [0; script::FIRST_BYTES];
    let len = load::read_start(&*file, &mut start)?;
    let image = ElfFile::read(&*file, &start[..len], name).map_err(|error| match error {
        Errno::ENOEXEC => Errno::ELIBBAD,
        error => error,
    })?;
    Ok((executable, image))
}

/// Set-user-id and set-group-id.
fn credentials_after(request: &Request<'_>, file: &dyn File) -> Credentials {
    let may_change = !request.no_new_privileges
        && !request.shares_fs
        && !request.location.mount.flags.contains(MountFlags::NOSUID);
    let stat = file.stat();
    let set_uid = may_change && stat.mode & S_ISUID != 0;
    // Without execution by the group, the bit means mandatory locking.
    let set_gid = may_change && stat.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP;
    request.credentials.after_exec(set_uid.then_some(stat.uid), set_gid.then_some(stat.gid))
}

fn auxiliary(
    program: &ElfFile,
    loaded: &Loaded,
    interpreter: Option<&Loaded>,
    vdso: Option<VirtAddr>,
    before: &Credentials,
    after: &Credentials,
) -> Vec<(u64, u64)> {
    let minimum_stack = signal_frame::minimum_stack(arch::extended_layout()) as u64;
    let changed = (before.euid, before.egid) != (after.euid, after.egid);
    let secure = changed || after.uid != after.euid || after.gid != after.egid;
    let mut vector = Vec::with_capacity(20);
    vector.extend(vdso.map(|at| (key::SYSINFO_EHDR, at.as_u64())));
    vector.extend([
        (key::MINSIGSTKSZ, minimum_stack),
        (key::HWCAP, arch::hardware_capabilities().into()),
        (key::PAGESZ, PAGE_SIZE as u64),
        (key::CLKTCK, TICKS_PER_SECOND),
        (key::PHDR, loaded.program_headers),
        (key::PHENT, PROGRAM_HEADER_SIZE as u64),
        (key::PHNUM, program.image.program_header_count.into()),
        (key::BASE, interpreter.map_or(0, |interpreter| interpreter.bias)),
        (key::FLAGS, 0),
        (key::ENTRY, loaded.entry),
        (key::UID, after.uid.into()),
        (key::EUID, after.euid.into()),
        (key::GID, after.gid.into()),
        (key::EGID, after.egid.into()),
        (key::SECURE, secure.into()),
        (key::HWCAP2, 0),
    ]);
    vector
}

/// Runs `prepared` in place of the caller's program.
///
/// # Errors
/// `ENOMEM` for a copy of shared descriptors; `EINTR` when the process is ending, or another of its threads executes a program.
pub async fn replace(caller: &mut Caller<'_>, prepared: Prepared) -> Result<(), Errno> {
    let thread = caller.thread;
    let files = own_files(thread).await?;
    become_only_thread(thread).await?;
    let process = thread.process();
    process.delete_timers();
    clear_memory(thread, &caller.space).await;
    prepared.space.activate();
    caller.space = prepared.space.clone();
    thread.replace_space(prepared.space);
    if let Some(files) = files {
        thread.replace_files(files);
    }
    thread.files().close_on_exec(&mut Pace::new(thread)).await;
    process.set_actions(Arc::new(process.actions().after_exec()));
    agree_on_sigchld(process);
    process.has_execed.store(true, Ordering::Relaxed);
    let (before, after) = (thread.credentials(), &prepared.credentials);
    let same_user = after.acts_as(&before) && (after.uid, after.gid) == (after.euid, after.egid);
    process.dumpable.store((same_user && prepared.readable).into(), Ordering::Relaxed);
    if !same_user {
        // Another thread may have made a process with `CLONE_FS` since the program was made ready.
        thread.unshare_fs();
    }
    process.set_image(Arc::new(prepared.image));
    thread.set_alternate_stack(AlternateStack::default());
    thread.set_credentials(prepared.credentials);
    thread.set_name(prepared.name);
    caller.context.restart_at(prepared.entry, prepared.stack_pointer);
    Ok(())
}

/// The new program ends with `SIGCHLD`, and so do its children: other signals were agreed on with the old one.
fn agree_on_sigchld(process: &Process) {
    process.tell_end_by(Signal::CHLD);
    with_table(|table| table.children(process.pid()).for_each(|child| child.tell_end_by(Signal::CHLD)));
}

/// A copy of the thread's descriptors, if others share them.
async fn own_files(thread: &Thread) -> Result<Option<Arc<FdTable>>, Errno> {
    let files = thread.files();
    // One count is the thread's, one is ours.
    if Arc::strong_count(&files) <= 2 {
        return Ok(None);
    }
    files.fork(&mut Pace::new(thread)).await.map(Some)
}

/// Ends the other threads of the process, and takes the first one's place.
async fn become_only_thread(thread: &Arc<Thread>) -> Result<(), Errno> {
    let process = thread.process();
    {
        let mut group = process.group();
        if group.exit.is_some() || group.survivor.is_some() {
            return Err(Errno::EINTR);
        }
        group.survivor = Some(thread.tid());
        for other in group.threads.iter().filter(|other| !Arc::ptr_eq(other, thread)) {
            other.notify(attention::EXIT);
        }
    }
    let alone = || process.thread_count() == 1;
    let result = block_unless_dying(thread, &process.threads_changed, alone).await;
    if result.is_ok() && thread.tid() != process.pid() {
        with_table(|table| table.promote_thread(thread.tid(), process.pid()));
        thread.set_tid(process.pid());
    }
    process.group().survivor = None;
    result
}

#[cfg(test)]
mod tests {
    use super::super::tests::{end, process, run_as_thread, second_thread};
    use super::*;

    #[test]
    fn the_other_threads_end_before_a_program_begins() {
        let process = process();
        let (first, second) = (process.leader().unwrap(), second_thread(&process));
        let caller = second.clone();
        let alone = run_as_thread(second.clone(), async move { become_only_thread(&caller).await });
        assert_eq!(alone.result(), None);
        assert!(first.is_dying() && !second.is_dying());
        end(&first);
        assert_eq!(alone.result(), Some(Ok(())));
        assert_eq!(second.tid(), process.pid());
    }
}
