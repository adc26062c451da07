//! What the machine calls itself: uname(2), sethostname(2).

use heapless::Vec;

use crate::errno::Errno;
use crate::sync::SpinLock;

/// The release: programs compare it with those of Linux.
pub const RELEASE: &str = "6.1.0-nrk";
/// The version.
pub const VERSION: &str = "#1 SMP";

/// The longest name, in bytes.
pub const NAME_MAX: usize = 64;

/// A name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name(Vec<u8, NAME_MAX>);

impl Name {
    /// Without an end mark.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A name that can be changed.
pub struct Changeable {
    /// What it is until set.
    initial: &'static [u8],
    name: SpinLock<Option<Name>>,
}

/// The host name.
pub static HOST: Changeable = Changeable::new(b"nrk");
/// The NIS domain.
pub static DOMAIN: Changeable = Changeable::new(b"(none)");

impl Changeable {
    const fn new(initial: &'static [u8]) -> Self {
        Self { initial, name: SpinLock::new(None) }
    }

    /// The name.
    pub fn get(&self) -> Name {
        let name = self.name.lock().clone();
        name.unwrap_or_else(|| Name(Vec::from_slice(self.initial).unwrap_or_default()))
    }

    /// Changes it.
    ///
    /// # Errors
    /// `EINVAL` when it is longer than [`NAME_MAX`].
    pub fn set(&self, name: &[u8]) -> Result<(), Errno> {
        let name = Name(Vec::from_slice(name).map_err(|_| Errno::EINVAL)?);
        *self.name.lock() = Some(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_was_set_last_and_not_too_long() {
        let name = Changeable::new(b"first");
        assert_eq!(name.get().as_bytes(), b"first");
        name.set(&[b'x'; NAME_MAX]).unwrap();
        assert_eq!(name.set(&[b'y'; NAME_MAX + 1]), Err(Errno::EINVAL));
        assert_eq!(name.get().as_bytes(), [b'x'; NAME_MAX]);
        name.set(b"").unwrap();
        assert_eq!(name.get().as_bytes(), b"");
    }
}
