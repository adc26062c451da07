//! The first process.

use alloc::sync::Arc;

use super::exec::arguments::Arguments;
use super::exec::{Image, Request, prepare};
use super::group::{INIT, NewProcess, Process};
use super::limits::{Limits, Resource};
use super::pace::{Pace, without_pause};
use super::registry::{enter_process, max_tasks, with_table};
use super::run;
use super::session::Session;
use super::signal::{SignalActions, SignalSet};
use super::thread::{NewThread, Resources, SharedFs, SharedSpace, Thread};
use super::{Credentials, hooks};
use crate::arch::{self, UserContext};
use crate::errno::Errno;
use crate::fs::path::{View, resolve};
use crate::fs::standard::Standard;
use crate::fs::{FdTable, FsContext, Identity, OpenFile, OpenFlags, open, setup};
use crate::sched::{NoRoom, Place};

/// Starts the program at `path` as process 1, with descriptors 0, 1 and 2 on the console, or what the hook `standard` has. When it ends, the hook
/// `init_exited` gets its status.
///
/// # Errors
/// As execve(2); `EBUSY` when there is a first process.
pub fn start_init(path: &[u8], argv: &[&[u8]], envp: &[&[u8]]) -> Result<(), Errno> {
    let pid = with_table(|table| table.reserve())?;
    let started = if pid == INIT { start(path, argv, envp) } else { Err(Errno::EBUSY) };
    started.inspect_err(|_| with_table(|table| table.release(pid)))
}

fn start(path: &[u8], argv: &[&[u8]], envp: &[&[u8]]) -> Result<(), Errno> {
    let mut arguments = Arguments::default();
    argv.iter().try_for_each(|string| arguments.argv.push(string))?;
    envp.iter().try_for_each(|string| arguments.envp.push(string))?;
    let process = Arc::new(new_process());
    let (root, credentials) = (setup::root(), Credentials::root());
    let view = View { who: Identity::of(&credentials), root: &root };
    let request = Request {
        location: resolve(view, &root, path, true)?,
        path,
        arguments,
        view,
        cwd: &root,
        credentials: &credentials,
        no_new_privileges: false,
        shares_fs: false,
        process: &process,
    };
    let mut pace = Pace::of_start();
    let prepared = without_pause(prepare(&mut pace, request)).ok_or(Errno::EAGAIN)??;
    process.set_image(Arc::new(prepared.image));
    let thread = Arc::new(Thread::new(NewThread {
        tid: INIT,
        process: process.clone(),
        resources: Resources {
            space: SharedSpace::new(prepared.space),
            files: standard_files(&process, view)?,
            fs: SharedFs::new(FsContext::new(root.clone())),
        },
        credentials: Arc::new(prepared.credentials),
        name: prepared.name,
        blocked: SignalSet::EMPTY,
    }));
    process.group().threads.push(thread.clone());
    enter_process(&process, &thread, None);
    let place = Place::on(arch::core_id()).map_err(|NoRoom| Errno::ENOMEM)?;
    run::spawn(thread, UserContext::new(prepared.entry, prepared.stack_pointer), place);
    Ok(())
}

fn new_process() -> Process {
    Process::new(NewProcess {
        pid: INIT,
        session: Arc::new(Session::new(INIT)),
        actions: Arc::new(SignalActions::new()),
        limits: Limits::initial(max_tasks() as u64 / 2),
        image: Arc::new(Image::default()),
        exit_signal: None,
        personality: 0,
    })
}

/// Descriptors 0, 1 and 2: what the hook has for them, else /dev/console, as the hook opens it where there is no such name; none when there is no
/// console.
fn standard_files(process: &Process, view: View<'_>) -> Result<Arc<FdTable>, Errno> {
    let files = FdTable::new();
    files.set_limit(process.rlimit(Resource::Files).soft);
    let named = open::open(view, view.root, b"/dev/console", OpenFlags::RDWR, 0);
    let console = named.or_else(|_| Ok(OpenFile::new((hooks::get().open_console)()?, OpenFlags::RDWR)));
    match console {
        Ok(open) => {
            for standard in Standard::ALL {
                let other = (hooks::get().standard)(standard);
                let file = other.map_or_else(|| open.clone(), |file| OpenFile::new(file, standard.access()));
                files.insert(file, false)?;
            }
        }
        Err::<_, Errno>(error) => log::warn!("the first process has no console: {error:?}"),
    }
    Ok(files)
}
