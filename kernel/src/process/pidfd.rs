//! Descriptors for processes: pidfd_open(2).

use alloc::sync::Arc;
use core::any::Any;

use super::group::Process;
use crate::errno::Errno;
use crate::fs::{File, FileType, OpenFile, OpenFlags, Stat, anon};
use crate::sched::{Events, WaitQueue};

/// A process, whatever its id is used for later. Readable when it has ended.
pub struct PidFd {
    process: Arc<Process>,
}

impl PidFd {
    /// An open one.
    pub fn open(process: Arc<Process>, flags: OpenFlags) -> Arc<OpenFile> {
        OpenFile::new(Arc::new(Self { process }), flags | OpenFlags::RDWR)
    }

    /// The process that `file` stands for.
    ///
    /// # Errors
    /// `EBADF` when it stands for none.
    pub fn process_of(file: &OpenFile) -> Result<Arc<Process>, Errno> {
        let object: &dyn Any = &*file.file;
        object.downcast_ref::<Self>().map(|this| this.process.clone()).ok_or(Errno::EBADF)
    }
}

impl File for PidFd {
    fn poll(&self) -> Events {
        if self.process.is_zombie() { Events::IN | Events::RDNORM } else { Events::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.process.threads_changed)
    }

    fn stat(&self) -> Stat {
        anon::for_current(FileType::Anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{child_of, end, process};
    use super::*;
    use crate::sched::fixture::Waiter;

    #[test]
    fn it_is_readable_once_the_process_has_ended() {
        let child = child_of(&process());
        let open = PidFd::open(child.clone(), OpenFlags::empty());
        assert!(open.file.poll().is_empty());
        let waiter = Waiter::new(open.file.wait_queue().unwrap(), Events::IN);
        end(&child.leader().unwrap());
        assert!(waiter.was_woken() && open.file.poll().contains(Events::IN));
        assert!(Arc::ptr_eq(&PidFd::process_of(&open).unwrap(), &child));
        let other = OpenFile::new(crate::fs::memfs::anonymous_file_for_tests(), OpenFlags::empty());
        assert_eq!(PidFd::process_of(&other).err(), Some(Errno::EBADF));
    }
}
