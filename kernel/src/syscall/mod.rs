//! System calls: the table, and one file per family.
//!
//! The entry decodes raw registers into typed values ([`FromRegister`]) and calls the handler of `table.rs`; handlers that need
//! logic worth testing hand over to a second function on typed values that needs no user process.

mod clock;
mod clock_id;
mod copy;
mod credentials;
mod dir;
mod event;
mod fd;
mod file;
mod futex;
mod itimer;
mod memory;
mod meta;
mod misc;
mod path;
mod pidfd;
mod poll;
mod prctl;
mod process;
#[cfg(test)]
mod readiness;
mod resource;
mod sched;
mod signal;
mod socket;
mod splice;
mod table;
mod time;
mod timer;
mod transfer;

pub use table::{dispatch, dispatch_now, may_wait, name};

use alloc::sync::Arc;

use crate::arch::UserContext;
use crate::memory::{AddressSpace, VirtAddr};
use crate::process::Thread;
use crate::uaccess::UserPtr;

/// Who makes a system call.
pub struct Caller<'a> {
    /// The calling thread.
    pub thread: &'a Arc<Thread>,
    /// Its registers.
    pub context: &'a mut UserContext,
    /// Its address space, at hand without a lock.
    pub space: Arc<AddressSpace>,
}

/// For tests: lets `with` make system calls as `thread`.
#[cfg(test)]
fn with_caller<R>(thread: &Arc<Thread>, with: impl FnOnce(&mut Caller<'_>) -> R) -> R {
    let mut context = UserContext::new(0x40_0000, 0x7000);
    with(&mut Caller { thread, context: &mut context, space: thread.space() })
}

/// A type that an argument register holds.
pub trait FromRegister {
    /// The value in the register; upper bits that the type lacks are ignored, as Linux does.
    fn from_register(register: u64) -> Self;
}

macro_rules! from_register {
    ($($int:ty),*) => {
        $(impl FromRegister for $int {
            fn from_register(register: u64) -> Self {
                register as Self
            }
        })*
    };
}
from_register!(u8, u16, u32, u64, usize, i32, i64, isize);

impl FromRegister for VirtAddr {
    fn from_register(register: u64) -> Self {
        Self::new(register)
    }
}

impl<T> FromRegister for UserPtr<T> {
    fn from_register(register: u64) -> Self {
        Self::new(VirtAddr::new(register))
    }
}
