//! ioctl(2) on terminals (ioctl_tty(2)).

use linux_raw_sys::ioctl::{
    FIONREAD, TCFLSH, TCGETS, TCSBRK, TCSBRKP, TCSETS, TCSETSF, TCSETSW, TCXONC, TIOCEXCL, TIOCGPGRP,
    TIOCGSID, TIOCGWINSZ, TIOCNOTTY, TIOCNXCL, TIOCOUTQ, TIOCSCTTY, TIOCSPGRP, TIOCSWINSZ,
};

use super::termios::{Local, Termios, WindowSize};
use super::{Terminal, hang_up, tell_of_size};
use crate::errno::{Errno, SysResult};
use crate::memory::VirtAddr;
use crate::process::{self, Signal, Thread};
use crate::sched::Events;
use crate::uaccess::UserPtr;

/// Performs `request` on `terminal` for `thread`.
pub fn ioctl(terminal: &Terminal, thread: &Thread, request: u32, argument: u64) -> SysResult {
    let space = &*thread.space();
    let address = VirtAddr::new(argument);
    match request {
        TCGETS => UserPtr::new(address).write(space, &terminal.state.lock_copy(|state| state.termios))?,
        TCSETS | TCSETSW | TCSETSF => {
            let termios = UserPtr::<Termios>::new(address).read(space)?;
            terminal.check_foreground(Signal::TTOU)?;
            set_termios(terminal, termios, request == TCSETSF);
        }
        TIOCGWINSZ => UserPtr::new(address).write(space, &terminal.state.lock_copy(|state| state.size))?,
        TIOCSWINSZ => set_size(terminal, UserPtr::<WindowSize>::new(address).read(space)?),
        TIOCGPGRP => {
            require_controlling(terminal, thread)?;
            let group = terminal.state.lock_copy(|state| state.foreground);
            UserPtr::new(address).write(space, &group)?;
        }
        TIOCSPGRP => {
            let group = UserPtr::<i32>::new(address).read(space)?;
            set_foreground(terminal, thread, group)?;
        }
        TIOCGSID => {
            require_controlling(terminal, thread)?;
            let session = terminal.state.lock_copy(|state| state.session);
            UserPtr::new(address).write(space, &session)?;
        }
        TIOCSCTTY => become_controlling(terminal, thread, argument)?,
        TIOCNOTTY => give_up(terminal, thread)?,
        FIONREAD => {
            let count =
                terminal.state.lock_copy(|state| state.discipline.available(&state.termios).unwrap_or(0));
            UserPtr::new(address).write(space, &(count as i32))?;
        }
        // Output is on its way when a write returns.
        TIOCOUTQ => UserPtr::new(address).write(space, &0i32)?,
        TCFLSH => match argument {
            0 | 2 => terminal.state.lock().discipline.flush(),
            1 => {}
            _ => return Err(Errno::EINVAL),
        },
        TCSBRK | TCSBRKP | TCXONC | TIOCEXCL | TIOCNXCL => {}
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// A look at the state that is over before user memory is touched.
trait LockCopy {
    fn lock_copy<T>(&self, look: impl FnOnce(&super::State) -> T) -> T;
}

impl LockCopy for crate::sync::SpinLock<super::State> {
    fn lock_copy<T>(&self, look: impl FnOnce(&super::State) -> T) -> T {
        look(&self.lock())
    }
}

pub(super) fn set_termios(terminal: &Terminal, termios: Termios, flush: bool) {
    let mut state = terminal.state.lock();
    let canonical = |termios: &Termios| termios.local().contains(Local::ICANON);
    let (was, is) = (canonical(&state.termios), canonical(&termios));
    state.termios = termios;
    if flush {
        state.discipline.flush();
    } else if was != is {
        state.discipline.mode_changed(is);
    }
    drop(state);
    terminal.queue.wake(Events::IN | Events::OUT);
}

fn set_size(terminal: &Terminal, size: WindowSize) {
    let mut state = terminal.state.lock();
    let changed = core::mem::replace(&mut state.size, size) != size;
    let group = state.foreground;
    drop(state);
    if changed {
        tell_of_size(group);
    }
}

/// `ENOTTY` unless the terminal controls the caller's session.
fn require_controlling(terminal: &Terminal, thread: &Thread) -> Result<(), Errno> {
    let session = terminal.state.lock().session;
    if session == thread.process().sid() { Ok(()) } else { Err(Errno::ENOTTY) }
}

fn set_foreground(terminal: &Terminal, thread: &Thread, group: i32) -> Result<(), Errno> {
    require_controlling(terminal, thread)?;
    terminal.check_foreground(Signal::TTOU)?;
    let group = u32::try_from(group).map_err(|_| Errno::EINVAL)?;
    if process::group_members(group).is_empty() {
        return Err(Errno::ESRCH);
    }
    if !process::is_group_of_session(group, thread.process().sid()) {
        return Err(Errno::EPERM);
    }
    terminal.state.lock().foreground = group;
    Ok(())
}

fn become_controlling(terminal: &Terminal, thread: &Thread, steal: u64) -> Result<(), Errno> {
    let process = thread.process();
    let is_leader = process.pid() == process.sid();
    let session = terminal.state.lock().session;
    if is_leader && session == process.sid() {
        return Ok(());
    }
    if !is_leader || process.terminal().is_some() {
        return Err(Errno::EPERM);
    }
    if session != 0 {
        let root = thread.credentials().is_privileged();
        if steal != 1 || !root {
            return Err(Errno::EPERM);
        }
        if let Some(old) = process::find(session) {
            old.session().set_terminal(None);
        }
    }
    terminal.control(process);
    Ok(())
}

fn give_up(terminal: &Terminal, thread: &Thread) -> Result<(), Errno> {
    require_controlling(terminal, thread)?;
    let process = thread.process();
    if process.pid() != process.sid() {
        return Ok(());
    }
    process.session().set_terminal(None);
    let mut state = terminal.state.lock();
    state.session = 0;
    let group = core::mem::take(&mut state.foreground);
    drop(state);
    for member in process::group_members(group) {
        hang_up(&member, Signal::HUP);
        hang_up(&member, Signal::CONT);
    }
    Ok(())
}
