//! Terminals (tty(4), tty_ioctl(2), termios(3)).
//!
//! A [`Terminal`] ties a keyboard to a screen: [`discipline`] turns typed bytes into lines and signals, [`termios`] has the settings, and
//! job control sees to it that only the foreground process group reads. The console is one ([`console`]).

pub mod console;
mod discipline;
mod ioctl;
mod termios;
#[cfg(test)]
mod tests;

use alloc::sync::{Arc, Weak};

use self::discipline::{ControlSignal, Discipline, process_output};
use self::termios::{Local, Termios, WindowSize, control};
use super::{DeviceNumber, File, FileType, Stat};
use crate::arch;
use crate::errno::{Errno, SysResult};
use crate::memory::PAGE_SIZE;
use crate::process::{self, ControllingTerminal, Process, Signal, SignalInfo};
use crate::sched::timer::Timer;
use crate::sched::{Events, WaitQueue};
use crate::sync::SpinLock;
use crate::uaccess::{ReadBuf, WriteBuf};

/// Bytes that one write hands to the screen, which takes them slowly: whoever has more comes again.
const CHUNK: usize = 128;
/// Nanoseconds in the unit of `VTIME`.
const TENTH_OF_SECOND: u64 = 100_000_000;

#[derive(Default)]
struct State {
    discipline: Discipline,
    termios: Termios,
    size: WindowSize,
    /// The session that it controls, 0 for none.
    session: u32,
    /// The foreground process group, 0 for none.
    foreground: u32,
    /// When a raw read without a minimum gives up, and what wakes it.
    read_limit: Option<(u64, Timer)>,
}

/// A terminal.
pub struct Terminal {
    device: DeviceNumber,
    state: SpinLock<State>,
    queue: Arc<WaitQueue>,
    screen: fn(&[u8]),
    this: Weak<Self>,
}

impl Terminal {
    /// The terminal with device number `device` whose output goes to `screen`.
    pub fn new(device: DeviceNumber, size: WindowSize, screen: fn(&[u8])) -> Arc<Self> {
        let state = SpinLock::new(State { size, ..State::default() });
        let queue = Arc::new(WaitQueue::new());
        Arc::new_cyclic(|this| Self { device, state, queue, screen, this: this.clone() })
    }

    /// Takes a byte from the keyboard.
    pub fn type_byte(&self, byte: u8) {
        let mut state = self.state.lock();
        let State { discipline, termios, .. } = &mut *state;
        let output = termios.output();
        let mut echo = |bytes: &[u8]| process_output(bytes, output, self.screen);
        let interrupt = discipline.input(byte, termios, &mut echo);
        let foreground = state.foreground;
        drop(state);
        if let (Some(interrupt), 1..) = (interrupt, foreground) {
            process::signal_group(foreground, signal_of(interrupt));
        }
        self.queue.wake(Events::IN | Events::RDNORM | Events::OUT | Events::WRNORM);
    }

    /// From now on what is typed is not shown, until a program wants it to be.
    pub fn stop_echo(&self) {
        let mut state = self.state.lock();
        state.termios = state.termios.without(Local::ECHO);
    }

    /// Types the character for the end of file.
    pub fn type_end(&self) {
        let end = self.state.lock().termios.control[control::VEOF];
        self.type_byte(end);
    }

    /// Makes it the controlling terminal of the session that `leader` leads, with the leader's group in the foreground.
    pub fn control(&self, leader: &Process) {
        let mut state = self.state.lock();
        state.session = leader.sid();
        state.foreground = leader.pgid();
        drop(state);
        let this = self.this.upgrade();
        leader.session().set_terminal(this.map(|this| this as _));
    }

    /// Job control: whether the caller may go on. A background process that may not has its group stopped by `signal`, and
    /// tries again when it continues (`ERESTARTSYS`).
    ///
    /// # Errors
    /// `EIO` when the group cannot be stopped: nobody would continue it.
    fn check_foreground(&self, signal: Signal) -> Result<(), Errno> {
        let Some(thread) = process::current() else { return Ok(()) };
        let state = self.state.lock();
        let (session, foreground) = (state.session, state.foreground);
        drop(state);
        let process = thread.process();
        let group = process.pgid();
        if process.sid() != session || group == foreground || foreground == 0 {
            return Ok(());
        }
        if thread.is_blocked_or_ignored(signal) {
            return if signal == Signal::TTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if process::is_orphaned_group(group) {
            return Err(Errno::EIO);
        }
        process::signal_group(group, signal);
        Err(Errno::ERESTARTSYS)
    }

    /// What a read without input does: waits, or gives up when `VMIN` and `VTIME` say so.
    fn nothing_to_read(&self, state: &mut State) -> SysResult {
        let termios = &state.termios;
        let (least, time) = (termios.control[control::VMIN], termios.control[control::VTIME]);
        if termios.local().contains(Local::ICANON) || least > 0 {
            return Err(Errno::EAGAIN);
        }
        let now = arch::now();
        let deadline = state.read_limit.as_ref().map(|limit| limit.0);
        if time == 0 || deadline.is_some_and(|deadline| deadline <= now) {
            state.read_limit = None;
            return Ok(0);
        }
        if deadline.is_none() {
            let deadline = now + u64::from(time) * TENTH_OF_SECOND;
            let waker = core::task::Waker::from(Arc::new(Alarm(self.queue.clone())));
            state.read_limit = Some((deadline, Timer::at(deadline, &waker)));
        }
        Err(Errno::EAGAIN)
    }
}

/// Wakes those who read from a terminal.
struct Alarm(Arc<WaitQueue>);

impl alloc::task::Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.wake(Events::IN);
    }
}

fn signal_of(interrupt: ControlSignal) -> Signal {
    match interrupt {
        ControlSignal::Interrupt => Signal::INT,
        ControlSignal::Quit => Signal::QUIT,
        ControlSignal::Suspend => Signal::TSTP,
    }
}

impl File for Terminal {
    fn read(&self, _offset: u64, buf: &mut ReadBuf<'_>) -> SysResult {
        self.check_foreground(Signal::TTIN)?;
        if buf.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.state.lock();
        let State { discipline, termios, .. } = &mut *state;
        let Some(available) = discipline.available(termios) else { return self.nothing_to_read(&mut state) };
        let moved = discipline.read(termios, buf);
        state.read_limit = None;
        if moved == 0 && available > 0 { Err(Errno::EFAULT) } else { Ok(moved) }
    }

    fn write(&self, _offset: u64, buf: &mut WriteBuf<'_>) -> SysResult {
        let state = self.state.lock();
        let (output, local, stopped) =
            (state.termios.output(), state.termios.local(), state.discipline.is_stopped());
        drop(state);
        if local.contains(Local::TOSTOP) {
            self.check_foreground(Signal::TTOU)?;
        }
        if stopped {
            return Err(Errno::EAGAIN);
        }
        let mut chunk = [0; CHUNK];
        let piece = buf.remaining().min(CHUNK);
        let taken = buf.pull(&mut chunk[..piece]);
        process_output(&chunk[..taken], output, self.screen);
        if taken == 0 && piece > 0 { Err(Errno::EFAULT) } else { Ok(taken) }
    }

    fn poll(&self) -> Events {
        let state = self.state.lock();
        let mut events = Events::empty();
        events.set(Events::IN | Events::RDNORM, state.discipline.available(&state.termios).is_some());
        events.set(Events::OUT | Events::WRNORM, !state.discipline.is_stopped());
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(&self, thread: &crate::process::Thread, request: u32, argument: u64) -> SysResult {
        ioctl::ioctl(self, thread, request, argument)
    }

    fn class(&self) -> &'static str {
        "tty"
    }

    fn stat(&self) -> Stat {
        Stat {
            mode: FileType::CharDevice.mode() | 0o620,
            links: 1,
            special_device: self.device.0,
            block_size: PAGE_SIZE as u32,
            ..Stat::default()
        }
    }
}

impl ControllingTerminal for Terminal {
    fn foreground(&self) -> u32 {
        self.state.lock().foreground
    }

    fn leader_exited(&self, session: u32) {
        let mut state = self.state.lock();
        if state.session != session {
            return;
        }
        state.session = 0;
        let group = core::mem::take(&mut state.foreground);
        drop(state);
        if group != 0 {
            process::signal_group(group, Signal::HUP);
            process::signal_group(group, Signal::CONT);
        }
    }
}

/// Tells the foreground group that the window has another size.
fn tell_of_size(group: u32) {
    if group != 0 {
        process::signal_group(group, Signal::WINCH);
    }
}

/// Sends `signal` to `process` as the kernel.
fn hang_up(process: &Process, signal: Signal) {
    // A process that is gone needs no signal.
    let _ = process.send_signal(SignalInfo::kernel(signal));
}
