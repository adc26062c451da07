//! Why a thread or a replica could not come or go.

use core::fmt;

/// Why a thread was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// There is no such replica, or it is poisoned.
    Absent,
    /// All of the replica's slots ([`Config::threads`](crate::Config::threads)) are taken.
    Full,
}

/// Why a replica was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// There are [`Config::replicas`](crate::Config::replicas) already.
    Full,
    /// A dispatch panicked on every replica there is, so none is fit to be copied.
    Poisoned,
}

/// Why a replica was not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveError {
    /// There is no such replica.
    Absent,
    /// Threads are registered with it.
    InUse,
    /// It is the only one.
    Last,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "there is no such replica, or it is poisoned",
            Self::Full => "the replica has no free slot",
        })
    }
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "there is no room for another replica",
            Self::Poisoned => "every replica is poisoned",
        })
    }
}

impl fmt::Display for RemoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "there is no such replica",
            Self::InUse => "threads are registered with the replica",
            Self::Last => "it is the only replica",
        })
    }
}

impl core::error::Error for RegisterError {}
impl core::error::Error for AddError {}
impl core::error::Error for RemoveError {}
