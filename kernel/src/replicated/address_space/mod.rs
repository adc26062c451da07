//! An address space as a sequential structure: the mapping database, and the page tables that follow from it.
//!
//! The database ([`VmaSet`]) says what a program may find at an address, the tables ([`PageTable`]) what the processor finds there now.
//! [`Mappings::plan`] reads what a fault at an address needs; the operations of [`operations`] change both together. Frames are
//! arguments of operations. The tables that a replica needs for itself come from its [`Reserve`], which [`Mappings::prepare`] tops up
//! before an operation starts, so that none fails half-way.
//!
//! Each replica's entries own a count of their frames: a frame that one program alone has is one with as many counts as
//! there are replicas, here one.
//!
//! Neighbours: `memory/space` holds the policy (where to map, what limits allow, how faults are answered).

mod operations;
mod vma;
mod vma_set;

use alloc::sync::Arc;
use core::ops::Range;

pub use operations::{
    Discard, Flag, Grow, Install, InstallRun, Map, Origin, Protect, Relocate, Removed, Replace, Unmap,
    Upgrade,
};
pub use vma::{Backing, MappingName, Protection, Vma, VmaFlags};
pub use vma_set::VmaSet;

use crate::arch::paging::{Attributes, Flush, PageTable, Reserve};
use crate::fs::PageSource;
use crate::memory::{Access, Fault, Frame, OutOfMemory, PhysAddr, Purpose, VirtAddr};

/// The mapping database and the page tables of one address space.
pub struct Mappings {
    areas: VmaSet,
    tables: PageTable,
    reserve: Reserve,
    resident: Resident,
    /// How many children were forked: what was owned alone before the last fork may be shared since.
    forks: u64,
}

/// Pages that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Private memory: zeroes and copies.
    pub anonymous: usize,
    /// Pages of files and other objects.
    pub object: usize,
}

impl Resident {
    /// Both.
    pub fn total(self) -> usize {
        self.anonymous + self.object
    }

    fn of(&mut self, attributes: Attributes) -> &mut usize {
        if attributes.contains(Attributes::OBJECT) { &mut self.object } else { &mut self.anonymous }
    }
}

/// What a fault needs.
pub enum Plan {
    /// Nothing: the access is allowed already.
    Ready,
    /// A zeroed frame, to be installed as [`Origin::Anonymous`].
    Zero,
    /// Page `index` of `source`, to be installed; with `copy`, a private copy of it.
    Object {
        /// The object.
        source: Arc<dyn PageSource>,
        /// Number of the page in it.
        index: u64,
        /// Whether a store to a private mapping asks for a copy.
        copy: bool,
        /// Whether the mapping lets stores reach the object.
        write: bool,
        /// How far neighbours may be mapped along: pages of the area.
        around: Range<VirtAddr>,
    },
    /// A copy of this frame in its place: copy on write.
    Copy {
        /// The frame that is there.
        old: Frame,
    },
    /// Leave to write to the frame that is there.
    Upgrade(Upgrade),
    /// The area that begins at `start` grows down to the address, if limits allow.
    Grow {
        /// First address of the area now.
        start: VirtAddr,
    },
    /// There is no helping it.
    Deny(Fault),
}

impl Mappings {
    /// A space in which nothing is mapped.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        Ok(Self {
            areas: VmaSet::default(),
            tables: PageTable::new()?,
            reserve: Reserve::default(),
            resident: Resident::default(),
            forks: 0,
        })
    }

    /// Puts aside what the operations of one call may need.
    ///
    /// # Errors
    /// [`OutOfMemory`], also when there are too many areas.
    pub fn prepare(&mut self) -> Result<(), OutOfMemory> {
        self.areas.reserve()?;
        self.reserve.fill(Purpose::User)
    }

    /// Puts aside what installing a page may need.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn prepare_install(&mut self, purpose: Purpose) -> Result<(), OutOfMemory> {
        self.reserve.fill(purpose)
    }

    /// The areas.
    pub fn areas(&self) -> &VmaSet {
        &self.areas
    }

    /// The tables.
    pub fn tables(&self) -> &PageTable {
        &self.tables
    }

    /// Pages that are there.
    pub fn resident(&self) -> Resident {
        self.resident
    }

    /// Where the root table is.
    pub fn root(&self) -> PhysAddr {
        self.tables.root_phys()
    }

    /// What an access to the page at `address` needs.
    pub fn plan(&self, address: VirtAddr, access: Access) -> Plan {
        let Some(area) = self.areas.find(address) else {
            return match self.areas.find_from(address) {
                Some(above) if above.flags.contains(VmaFlags::GROWS_DOWN) => {
                    Plan::Grow { start: above.start }
                }
                _ => Plan::Deny(Fault::NotMapped),
            };
        };
        if !area.allows(access) {
            return Plan::Deny(Fault::NotPermitted);
        }
        match self.tables.entry(address).map(|entry| (entry.phys(), entry.attributes())) {
            None => Self::plan_absent(area, address, access),
            Some((_, attributes)) if access != Access::Write || attributes.contains(Attributes::WRITE) => {
                Plan::Ready
            }
            Some((phys, attributes)) => self.plan_write(area, address, phys, attributes),
        }
    }

    fn plan_absent(area: &Vma, address: VirtAddr, access: Access) -> Plan {
        let shared = area.flags.contains(VmaFlags::SHARED);
        match area.object_page(address) {
            None => Plan::Zero,
            Some((source, index)) => Plan::Object {
                source: source.clone(),
                index,
                copy: access == Access::Write && !shared,
                write: shared && area.allows(Access::Write),
                around: area.range(),
            },
        }
    }

    /// A store to a page that is there, but only for reading.
    fn plan_write(&self, area: &Vma, address: VirtAddr, phys: PhysAddr, attributes: Attributes) -> Plan {
        let upgrade = || Plan::Upgrade(Upgrade { address, old: phys, forks: self.forks });
        if area.flags.contains(VmaFlags::SHARED) {
            return upgrade();
        }
        if !attributes.contains(Attributes::OBJECT) && self.tables.owns_alone(address) {
            return upgrade();
        }
        self.tables.frame(address).map_or(Plan::Ready, |(old, _)| Plan::Copy { old })
    }

    /// Begins a child: gives `child`, which is new, the same areas. Its pages follow with [`share_pages`](Self::share_pages); those of
    /// objects are left out: the child finds them by faults.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn share_areas(&self, child: &mut Self) -> Result<(), OutOfMemory> {
        child.areas.reserve_as(&self.areas)?;
        for area in self.areas.iter().filter(|area| !area.flags.contains(VmaFlags::DONT_FORK)) {
            let flags = area.flags - VmaFlags::LOCKED - VmaFlags::LOCK_ON_FAULT;
            child.areas.insert(Vma { flags, ..area.clone() });
        }
        Ok(())
    }

    /// Shares private pages from `at` on with `child`, until one of the two writes: as many as one batch has. Says from where to go
    /// on, if there are more.
    ///
    /// The flush is due in any case: stores of the parent must fault from now on.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the parent is as it was, but for pages that will be found writable again by a fault.
    pub fn share_pages(
        &mut self,
        child: &mut Self,
        mut at: VirtAddr,
    ) -> (Flush, Result<Option<VirtAddr>, OutOfMemory>) {
        self.forks += 1;
        let mut flush = Flush::NONE;
        let Self { areas, tables, .. } = self;
        let mut budget = FORK_BATCH;
        while let Some(area) = areas.find_from(at) {
            let range = area.start.max(at)..area.end;
            at = area.end;
            let not_shared = VmaFlags::SHARED | VmaFlags::WIPE_ON_FORK | VmaFlags::DONT_FORK;
            if area.flags.intersects(not_shared) {
                continue;
            }
            let before = budget;
            let (narrowed, result) = tables.share_into(&mut child.tables, range, &mut budget, |attributes| {
                (!attributes.contains(Attributes::OBJECT)).then_some(attributes - Attributes::WRITE)
            });
            child.resident.anonymous += before - budget;
            flush = flush.and(narrowed);
            match result {
                Ok(None) => {}
                more_or_error => return (flush, more_or_error),
            }
        }
        (flush, Ok(None))
    }
}

/// Pages that a child is given at a time.
const FORK_BATCH: usize = 256;

impl Vma {
    /// Whether `access` is allowed. On x86 whatever can be used can be read.
    pub fn allows(&self, access: Access) -> bool {
        match access {
            Access::Read => !self.protection.is_empty(),
            Access::Write => self.protection.contains(Protection::WRITE),
            Access::Execute => self.protection.contains(Protection::EXEC),
        }
    }

    /// Attributes of an entry in it; `writable` if the page may be written when the area may.
    fn attributes(&self, writable: bool, object: bool) -> Attributes {
        let mut attributes = Attributes::USER;
        attributes.set(Attributes::PRESENT, !self.protection.is_empty());
        attributes.set(Attributes::WRITE, writable && self.protection.contains(Protection::WRITE));
        attributes.set(Attributes::NO_EXECUTE, !self.protection.contains(Protection::EXEC));
        attributes.set(Attributes::OBJECT, object);
        attributes
    }
}
