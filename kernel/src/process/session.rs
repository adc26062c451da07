//! Sessions and their controlling terminals: credentials(7), tty_ioctl(4).

use alloc::sync::Arc;

use crate::fs::File;
use crate::sync::SpinLock;

/// A terminal, as far as sessions are concerned. `fs/tty` implements it.
pub trait ControllingTerminal: File {
    /// The foreground process group, 0 for none.
    fn foreground(&self) -> u32;

    /// The leader of `session` has ended: the foreground group gets `SIGHUP` and `SIGCONT`, and the terminal has no session any more.
    fn leader_exited(&self, session: u32);
}

/// A session.
pub struct Session {
    id: u32,
    terminal: SpinLock<Option<Arc<dyn ControllingTerminal>>>,
}

impl Session {
    /// A session without a terminal.
    pub fn new(id: u32) -> Self {
        Self { id, terminal: SpinLock::new(None) }
    }

    /// The pid of the process that founded it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its controlling terminal.
    pub fn terminal(&self) -> Option<Arc<dyn ControllingTerminal>> {
        self.terminal.lock().clone()
    }

    /// Gives it a controlling terminal, or takes it away; returns the former.
    pub fn set_terminal(
        &self,
        terminal: Option<Arc<dyn ControllingTerminal>>,
    ) -> Option<Arc<dyn ControllingTerminal>> {
        core::mem::replace(&mut self.terminal.lock(), terminal)
    }
}
