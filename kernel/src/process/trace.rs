//! `log=syscall=trace`: each system call as strace(1) would print it, with raw arguments.

use super::thread::Thread;
use crate::arch::UserContext;
use crate::errno::SysResult;
use crate::syscall::name;

const TARGET: &str = "syscall";

/// A call that is to be logged when it returns.
pub(super) struct Traced([u64; 6]);

/// Whether calls are logged, and then what is to be kept of this one, about to be made.
pub(super) fn begin(context: &UserContext) -> Option<Traced> {
    log::log_enabled!(target: TARGET, log::Level::Trace).then(|| Traced(context.system_call().1))
}

impl Traced {
    /// The call has returned.
    #[cold]
    pub fn end(&self, thread: &Thread, number: u32, result: SysResult) {
        let [a, b, c, d, e, f] = self.0;
        let (call, tid) = (name(number), thread.tid());
        match result {
            Ok(value) => {
                log::trace!(target: TARGET, "{tid} {call}({a:#x}, {b:#x}, {c:#x}, {d:#x}, {e:#x}, {f:#x}) = {value:#x}");
            }
            Err(error) => {
                log::trace!(target: TARGET, "{tid} {call}({a:#x}, {b:#x}, {c:#x}, {d:#x}, {e:#x}, {f:#x}) = -1 {error:?}");
            }
        }
    }
}
