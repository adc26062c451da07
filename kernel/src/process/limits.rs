//! Resource limits: getrlimit(2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::group::Process;
use super::memory::space_limits;
use crate::errno::Errno;
use crate::sync::SpinLock;

/// A limited resource, with the numbers of `RLIMIT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(dead_code, reason = "the table is the ABI's, whole")]
pub enum Resource {
    /// Processor time, in seconds; see `process/cpu_limit.rs`.
    Cpu = 0,
    /// Size of a file, in bytes.
    FileSize = 1,
    /// Size of the data segment and other private writable memory, in bytes.
    Data = 2,
    /// Size of the main stack, in bytes.
    Stack = 3,
    /// Size of a core file, in bytes.
    Core = 4,
    /// Resident set; without effect, as on Linux.
    Rss = 5,
    /// Processes and threads of the user.
    Processes = 6,
    /// One more than the highest descriptor.
    Files = 7,
    /// Locked memory, in bytes.
    LockedMemory = 8,
    /// Address space, in bytes.
    AddressSpace = 9,
    /// File locks; without effect, as on Linux.
    Locks = 10,
    /// Queued signals.
    PendingSignals = 11,
    /// Bytes in POSIX message queues.
    MessageQueues = 12,
    /// Ceiling of the nice value.
    Nice = 13,
    /// Ceiling of the real-time priority.
    RealTimePriority = 14,
    /// Real-time processor time without a blocking call, in microseconds.
    RealTimeTime = 15,
}

/// No limit.
pub const UNLIMITED: u64 = u64::MAX;
/// The ceiling of the hard limit on descriptors, Linux's `fs.nr_open`.
pub const MAX_FILES: u64 = 1 << 20;

/// `struct rlimit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// What the soft limit can be raised to.
    pub hard: u64,
}

impl Resource {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Cpu,
        Self::FileSize,
        Self::Data,
        Self::Stack,
        Self::Core,
        Self::Rss,
        Self::Processes,
        Self::Files,
        Self::LockedMemory,
        Self::AddressSpace,
        Self::Locks,
        Self::PendingSignals,
        Self::MessageQueues,
        Self::Nice,
        Self::RealTimePriority,
        Self::RealTimeTime,
    ];

    /// The resource of that number.
    ///
    /// # Errors
    /// `EINVAL`.
    pub fn new(number: u32) -> Result<Self, Errno> {
        Self::ALL.get(number as usize).copied().ok_or(Errno::EINVAL)
    }
}

/// The limits of a process.
pub struct Limits(SpinLock<[Limit; 16]>);

impl Limits {
    /// Those of the first process, as Linux has them; `tasks` is how many processes and queued signals a user gets.
    pub fn initial(tasks: u64) -> Self {
        let fixed = |value| Limit { soft: value, hard: value };
        let mut limits = [fixed(UNLIMITED); 16];
        let mut set = |resource: Resource, soft, hard| limits[resource as usize] = Limit { soft, hard };
        set(Resource::Stack, 8 << 20, UNLIMITED);
        set(Resource::Core, 0, UNLIMITED);
        set(Resource::Processes, tasks, tasks);
        set(Resource::Files, 1024, 4096);
        set(Resource::LockedMemory, 8 << 20, 8 << 20);
        set(Resource::PendingSignals, tasks, tasks);
        set(Resource::MessageQueues, 819_200, 819_200);
        set(Resource::Nice, 0, 0);
        set(Resource::RealTimePriority, 0, 0);
        Self(SpinLock::new(limits))
    }

    /// A copy, for a new process.
    pub fn fork(&self) -> Self {
        Self(SpinLock::new(*self.0.lock()))
    }

    /// The limit on `resource`.
    pub fn get(&self, resource: Resource) -> Limit {
        self.0.lock()[resource as usize]
    }

    /// Sets the limit on `resource`; returns the former.
    ///
    /// # Errors
    /// `EINVAL` when the soft limit is above the hard one; `EPERM` when the hard limit is raised without privilege, or
    /// that on descriptors beyond [`MAX_FILES`].
    pub fn set(&self, resource: Resource, new: Limit, privileged: bool) -> Result<Limit, Errno> {
        if new.soft > new.hard {
            return Err(Errno::EINVAL);
        }
        if resource == Resource::Files && new.hard > MAX_FILES {
            return Err(Errno::EPERM);
        }
        let mut limits = self.0.lock();
        let slot = &mut limits[resource as usize];
        if new.hard > slot.hard && !privileged {
            return Err(Errno::EPERM);
        }
        Ok(core::mem::replace(slot, new))
    }
}

impl Process {
    /// Sets a limit and puts it into effect where a copy of it is kept. Returns the former.
    ///
    /// # Errors
    /// As [`Limits::set`].
    pub fn change_limit(&self, resource: Resource, new: Limit, privileged: bool) -> Result<Limit, Errno> {
        let former = self.limits().set(resource, new, privileged)?;
        if resource == Resource::Cpu {
            self.watch_cpu_limit();
        }
        for thread in self.threads() {
            match resource {
                Resource::Files => thread.files().set_limit(new.soft),
                Resource::Data | Resource::Stack | Resource::LockedMemory | Resource::AddressSpace => {
                    thread.space().set_limits(space_limits(self, thread.credentials().is_privileged()));
                }
                _ => {}
            }
        }
        Ok(former)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_lowered_by_anyone_and_raised_by_root() {
        let limits = Limits::initial(100);
        let lower = Limit { soft: 10, hard: 20 };
        assert_eq!(limits.set(Resource::Files, lower, false), Ok(Limit { soft: 1024, hard: 4096 }));
        let raise = Limit { soft: 30, hard: 30 };
        assert_eq!(limits.set(Resource::Files, raise, false), Err(Errno::EPERM));
        assert_eq!(limits.set(Resource::Files, Limit { soft: 21, hard: 20 }, false), Err(Errno::EINVAL));
        assert_eq!(limits.set(Resource::Files, raise, true), Ok(lower));
        let huge = Limit { soft: 0, hard: MAX_FILES + 1 };
        assert_eq!(limits.set(Resource::Files, huge, true), Err(Errno::EPERM));
    }

    #[test]
    fn resources_are_numbered_as_listed() {
        for (number, resource) in Resource::ALL.into_iter().enumerate() {
            assert_eq!(resource as usize, number);
        }
        assert_eq!(Resource::new(16), Err(Errno::EINVAL));
    }
}
