//! Faults: demand paging and copy on write; and access to a space from the kernel.
//!
//! A fault is answered in three steps: the plan is read under the lock, the frame is got ready without it (zeroed, copied, or fetched
//! from the object), and an operation installs it. If the space has changed in between, the operation does nothing, the
//! program faults again, and finds what is there then.

use alloc::sync::Arc;
use core::ops::Range;

use super::{AddressSpace, State};
use crate::fs::PageSource;
use crate::memory::{Frame, Mappers, OutOfMemory, PAGE_SIZE, Purpose, USER_END, VirtAddr};
use crate::replicated::Operation;
use crate::replicated::address_space::{Grow, Install, InstallRun, Origin, Plan, Replace, VmaFlags};

/// Kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Execute,
}

/// Why a fault cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped there: `SIGSEGV`, `SEGV_MAPERR`.
    NotMapped,
    /// The mapping does not allow it: `SIGSEGV`, `SEGV_ACCERR`.
    NotPermitted,
    /// The page lies past the end of its file: `SIGBUS`, `BUS_ADRERR`.
    PastEnd,
    /// There is no memory for the page.
    OutOfMemory,
}

impl From<OutOfMemory> for Fault {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Pages that one fault on a file maps at most, so that a program does not fault on each: 64 KiB, aligned.
const FAULT_AROUND: usize = 16;

/// A stack keeps this distance from what is mapped below it (Linux's `stack_guard_gap`).
const STACK_GUARD_GAP: usize = 256 * PAGE_SIZE;

impl AddressSpace {
    /// Makes the page at `address` accessible, if it may be.
    ///
    /// # Errors
    /// Why it may not.
    pub fn fault(&self, address: VirtAddr, access: Access) -> Result<(), Fault> {
        if address.as_usize() >= USER_END {
            return Err(Fault::NotMapped);
        }
        let page = address.align_down(PAGE_SIZE);
        loop {
            match self.plan(page, access)? {
                Plan::Ready => return Ok(()),
                Plan::Deny(fault) => return Err(fault),
                Plan::Zero => {
                    let frame = Frame::zeroed()?;
                    return self.install(Install { address: page, frame, origin: Origin::Anonymous });
                }
                Plan::Object { source, index, copy: true, .. } => {
                    if self.install_copy(page, &source, index)? {
                        return Ok(());
                    }
                }
                Plan::Object { source, index, write, around, .. } => {
                    if self.install_object(page, &source, index, write, around)? {
                        return Ok(());
                    }
                }
                Plan::Copy { old } => return self.copy_on_write(page, old),
                // Applied already, under the lock.
                Plan::Upgrade(_) => return Ok(()),
                Plan::Grow { start } => self.grow_stack(start, page)?,
            }
        }
    }

    /// The plan for an access. An upgrade is applied at once: it holds for the moment only.
    fn plan(&self, page: VirtAddr, access: Access) -> Result<Plan, OutOfMemory> {
        let mut state = self.lock();
        state.mappings.prepare_install(Purpose::User)?;
        match state.mappings.plan(page, access) {
            Plan::Upgrade(upgrade) => {
                upgrade.apply(&mut state.mappings);
                Ok(Plan::Ready)
            }
            plan => Ok(plan),
        }
    }

    fn install(&self, operation: Install<'_>) -> Result<(), Fault> {
        self.install_in(&mut self.lock(), operation)
    }

    fn install_in(&self, state: &mut State, operation: Install<'_>) -> Result<(), Fault> {
        // Another thread may have used it up since the plan.
        state.mappings.prepare_install(Purpose::User)?;
        operation.apply(&mut state.mappings);
        state.note_peak();
        Ok(())
    }

    /// A store to a page of a private mapping that is not there yet. False when the object has lost pages meanwhile.
    fn install_copy(&self, page: VirtAddr, source: &Arc<dyn PageSource>, index: u64) -> Result<bool, Fault> {
        let generation = generation(source);
        let original = source.page(index, false)?.ok_or(Fault::PastEnd)?;
        let frame = Frame::uninit()?;
        frame.copy_from(&original);
        let mut state = self.lock();
        if generation != self::generation(source) {
            return Ok(false);
        }
        self.install_in(&mut state, Install { address: page, frame, origin: Origin::Copied(source, index) })?;
        Ok(true)
    }

    /// Maps a page of an object, and with it those of its neighbours that are there. False when the object has lost pages meanwhile.
    fn install_object(
        &self,
        page: VirtAddr,
        source: &Arc<dyn PageSource>,
        index: u64,
        write: bool,
        around: Range<VirtAddr>,
    ) -> Result<bool, Fault> {
        let generation = generation(source);
        let frame = source.page(index, write)?.ok_or(Fault::PastEnd)?;
        let (first, first_index) = around_window(page, index, &around);
        let count = ((around.end - first) / PAGE_SIZE).min(FAULT_AROUND);
        let mut frames = [const { None }; FAULT_AROUND];
        source.pages_present(first_index, &mut frames[..count]);
        frames[(page - first) / PAGE_SIZE] = Some(frame);

        let mut state = self.lock();
        if generation != self::generation(source) {
            return Ok(false);
        }
        state.mappings.prepare_install(Purpose::User)?;
        let run = InstallRun { first, frames: &mut frames[..count], source, index: first_index };
        run.apply(&mut state.mappings);
        state.note_peak();
        Ok(true)
    }

    /// A store to a private page that others hold, too.
    fn copy_on_write(&self, page: VirtAddr, old: Frame) -> Result<(), Fault> {
        let frame = Frame::uninit()?;
        frame.copy_from(&old);
        let mut state = self.lock();
        let replaced = Replace { address: page, old: old.phys(), frame }.apply(&mut state.mappings);
        if let Some((before, flush)) = replaced {
            flush.perform(&self.cores);
            drop(before);
        }
        Ok(())
    }

    /// Lets the stack whose area begins at `start` reach down to `page`.
    fn grow_stack(&self, start: VirtAddr, page: VirtAddr) -> Result<(), Fault> {
        let mut state = self.lock();
        let Some(area) = state.mappings.areas().find(start) else { return Ok(()) };
        let (size, added) = (area.end - page, (start - page) / PAGE_SIZE);
        let below = state.mappings.areas().find_below(start);
        let crowded = below.is_some_and(|below| {
            below.end.as_usize() + STACK_GUARD_GAP > page.as_usize()
                && !below.flags.contains(VmaFlags::GROWS_DOWN)
        });
        if size as u64 > state.limits.stack || crowded || state.check_mapped(added).is_err() {
            return Err(Fault::NotMapped);
        }
        Grow { start, lower: page }.apply(&mut state.mappings)
    }

    /// Stores `data` at `address`, though the space may not be active: exec(2) builds the first stack so.
    ///
    /// # Errors
    /// A fault, as a store of the program would meet; what was stored until then stays.
    pub fn write_initial(&self, address: VirtAddr, data: &[u8]) -> Result<(), Fault> {
        self.for_each_piece(address, data.len(), Access::Write, |frame, offset, piece| {
            frame.write(offset, &data[piece]);
        })
    }

    /// Stores `len` zeroes at `address`, as [`write_initial`](Self::write_initial) does: the rest of a page behind a segment.
    ///
    /// # Errors
    /// A fault, as a store of the program would meet.
    pub fn clear_initial(&self, address: VirtAddr, len: usize) -> Result<(), Fault> {
        self.for_each_piece(address, len, Access::Write, |frame, offset, piece| {
            frame.clear(offset, piece.len())
        })
    }

    /// Reads `out.len()` bytes at `address`, though the space may not be active: /proc/PID/cmdline.
    ///
    /// # Errors
    /// A fault, as a load of the program would meet.
    pub fn read_at(&self, address: VirtAddr, out: &mut [u8]) -> Result<(), Fault> {
        self.for_each_piece(address, out.len(), Access::Read, |frame, offset, piece| {
            frame.read(offset, &mut out[piece]);
        })
    }

    /// Calls `act(frame, offset in it, which of the bytes)` for each page of a range, faulted in.
    fn for_each_piece(
        &self,
        address: VirtAddr,
        len: usize,
        access: Access,
        mut act: impl FnMut(&Frame, usize, Range<usize>),
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = address.checked_add(done).ok_or(Fault::NotMapped)?;
            let offset = at.page_offset();
            let piece = (PAGE_SIZE - offset).min(len - done);
            self.fault(at, access)?;
            let found = self.lock().mappings.tables().frame(at.align_down(PAGE_SIZE));
            // Unmapped again by another thread: the next turn says so.
            if let Some((frame, _)) = found {
                act(&frame, offset, done..done + piece);
                done += piece;
            }
        }
        Ok(())
    }

    /// The shared object that the page at `address` belongs to, and the page's number in it; `None` for private memory.
    /// It tells futexes in shared memory apart.
    pub fn shared_page(&self, address: VirtAddr) -> Option<(Arc<dyn PageSource>, u64)> {
        let state = self.lock();
        let area =
            state.mappings.areas().find(address).filter(|area| area.flags.contains(VmaFlags::SHARED))?;
        area.object_page(address).map(|(source, index)| (source.clone(), index))
    }
}

/// Changes when `source` loses pages, before they are unmapped.
fn generation(source: &Arc<dyn PageSource>) -> u64 {
    source.mappers().map_or(0, Mappers::generation)
}

/// First page, and its number in the object, of the aligned window around `page`, within the area.
fn around_window(page: VirtAddr, index: u64, area: &Range<VirtAddr>) -> (VirtAddr, u64) {
    let first = page.align_down(FAULT_AROUND * PAGE_SIZE).max(area.start);
    (first, index - ((page - first) / PAGE_SIZE) as u64)
}

impl State {
    pub(super) fn note_peak(&mut self) {
        self.peak_resident = self.peak_resident.max(self.mappings.resident().total());
    }
}
