//! What processes ask of the memory module: sizes, limits, and what a futex's address stands for.

use alloc::sync::Arc;

use super::block::block_unless_dying;
use super::futex::Key;
use super::group::Process;
use super::limits::Resource;
use super::thread::Thread;
use crate::errno::Errno;
use crate::fs::PageSource;
use crate::memory::{Access, AddressSpace, PAGE_SIZE, SpaceLimits, Turn, VirtAddr};
use crate::uaccess::{is_user_range, resolve};

/// Pages that are there.
pub fn resident_pages(space: &AddressSpace) -> usize {
    let statistics = space.statistics();
    statistics.resident_anonymous + statistics.resident_object
}

/// The most that was there at once, in KiB: `ru_maxrss`.
pub fn peak_resident_kib(space: &AddressSpace) -> u64 {
    (space.statistics().peak_resident * (PAGE_SIZE / 1024)) as u64
}

/// The limits of `process` that its address space keeps.
pub fn space_limits(process: &Process, privileged: bool) -> SpaceLimits {
    let soft = |resource| process.rlimit(resource).soft;
    SpaceLimits {
        address_space: soft(Resource::AddressSpace),
        data: soft(Resource::Data),
        stack: soft(Resource::Stack),
        locked: if privileged { u64::MAX } else { soft(Resource::LockedMemory) },
    }
}

/// The right to change the areas of the caller's space, when it is the caller's turn.
///
/// # Errors
/// `EINTR` when the caller is about to end.
pub async fn turn<'a>(thread: &Thread, space: &'a AddressSpace) -> Result<Turn<'a>, Errno> {
    let mut turn = space.try_turn();
    if turn.is_none() {
        block_unless_dying(thread, space.turns(), || {
            turn = space.try_turn();
            turn.is_some()
        })
        .await?;
    }
    turn.ok_or(Errno::EINTR)
}

/// The futex at `address`. With `private`, the caller says that no other address space maps it; else its page has to be there.
///
/// # Errors
/// `EINVAL` unless the address is aligned; `EFAULT`.
pub fn futex_key(space: &Arc<AddressSpace>, address: VirtAddr, private: bool) -> Result<Key, Errno> {
    if !address.is_aligned(align_of::<u32>()) {
        return Err(Errno::EINVAL);
    }
    if !is_user_range(address, size_of::<u32>()) {
        return Err(Errno::EFAULT);
    }
    let shared = if private { None } else { find_shared(space, address)? };
    Ok(match shared {
        Some((object, page)) => Key::Shared {
            object: Arc::as_ptr(&object).cast::<()>().addr(),
            offset: page * PAGE_SIZE as u64 + address.page_offset() as u64,
        },
        None => Key::Private { space: Arc::as_ptr(space).addr(), address: address.as_u64() },
    })
}

/// A page of a shared object: the object, and the page's index in it.
type SharedPage = (Arc<dyn PageSource>, u64);

/// The page of a shared object at `address`; `None` when it is private.
fn find_shared(space: &AddressSpace, address: VirtAddr) -> Result<Option<SharedPage>, Errno> {
    let shared = space.shared_page(address);
    if shared.is_none() {
        resolve(space, address, Access::Read)?;
    }
    Ok(shared)
}
