//! Slabs: pages cut into objects of one class, and the depot that keeps those with free objects.
//!
//! What a slab knows of itself is in the metadata of its frame: the first free object and the number of free ones share the word that
//! counts owners elsewhere, and the two list links join the slabs that have free objects. A free object holds
//! the number of the next one. A slab whose objects are all free goes back to the frame allocator.

use core::ptr;
use core::sync::atomic::Ordering;

use super::class::{SIZES, objects};
use crate::arch;
use crate::memory::frame::{
    FrameNumber, Metadata, MetadataMap, NONE, Purpose, Sections, address_of, allocate, free,
};
use crate::memory::{PAGE_SIZE, PhysAddr};

/// No object: ends a slab's list.
const END: u16 = u16::MAX;

/// A free object, in the list of a core.
#[repr(C)]
pub struct FreeObject {
    next: *mut FreeObject,
}

/// Free objects of one class.
pub struct List {
    head: *mut FreeObject,
    count: u16,
}

// SAFETY: a list owns its objects, which are plain memory.
unsafe impl Send for List {}

impl List {
    /// No objects.
    pub const EMPTY: Self = Self { head: ptr::null_mut(), count: 0 };

    /// Number of objects.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Adds an object.
    ///
    /// # Safety
    /// `object` is free memory of at least 16 bytes, aligned to 16, and belongs to the caller.
    pub unsafe fn push(&mut self, object: *mut u8) {
        let object = object.cast::<FreeObject>();
        // SAFETY: the caller gives the memory away.
        unsafe { object.write(FreeObject { next: self.head }) };
        self.head = object;
        self.count += 1;
    }

    /// Takes an object.
    pub fn pop(&mut self) -> Option<*mut u8> {
        if self.head.is_null() {
            return None;
        }
        let object = self.head;
        // SAFETY: `push` wrote it, and nobody else has it.
        self.head = unsafe { (*object).next };
        self.count -= 1;
        Some(object.cast())
    }
}

/// What a slab knows of itself.
#[derive(Clone, Copy)]
struct Header {
    first: u16,
    free: u16,
}

impl Header {
    fn load(slab: &Metadata) -> Self {
        let word = slab.references.load(Ordering::Relaxed);
        Self { first: word as u16, free: (word >> 16) as u16 }
    }

    fn store(self, slab: &Metadata) {
        slab.references.store(u32::from(self.first) | u32::from(self.free) << 16, Ordering::Relaxed);
    }
}

/// The slabs of one class that have free objects.
pub struct Depot {
    class: usize,
    first: FrameNumber,
    /// All slabs of the class, also those without free objects.
    slabs: usize,
}

impl Depot {
    /// No slabs.
    pub const fn new(class: usize) -> Self {
        Self { class, first: NONE, slabs: 0 }
    }

    /// Pages that the class has.
    pub fn pages(&self) -> usize {
        self.slabs
    }

    /// Moves up to `count` objects to `list`; fewer, or none, when there is no memory.
    pub fn take(&mut self, list: &mut List, count: u16) {
        let mut wanted = count;
        while wanted > 0 {
            if self.first == NONE && !self.add_slab() {
                return;
            }
            let (number, slab) = (self.first, Sections.metadata(self.first));
            let mut header = Header::load(slab);
            while wanted > 0 && header.free > 0 {
                let object = self.object(number, header.first);
                // SAFETY: a free object of the slab holds the number of the next.
                header.first = unsafe { object.cast::<u16>().read() };
                header.free -= 1;
                wanted -= 1;
                // SAFETY: the object has just left the slab's list.
                unsafe { list.push(object) };
            }
            header.store(slab);
            if header.free == 0 {
                self.unlink(slab);
            }
        }
    }

    /// Takes `count` objects of `list` back to their slabs.
    pub fn put(&mut self, list: &mut List, count: u16) {
        for _ in 0..count {
            let Some(object) = list.pop() else { return };
            let (number, offset) = position(object);
            let slab = Sections.metadata(number);
            let header = Header::load(slab);
            // SAFETY: the object is free, and goes into its slab's list.
            unsafe { object.cast::<u16>().write(header.first) };
            let header =
                Header { first: (offset / usize::from(SIZES[self.class])) as u16, free: header.free + 1 };
            header.store(slab);
            if header.free == 1 {
                self.link(number, slab);
            }
            // The last slab with free objects is kept, lest one object come and go with its page.
            let alone = self.first == number && slab.next.load(Ordering::Relaxed) == NONE;
            if header.free == objects(self.class) && !alone {
                self.unlink(slab);
                self.slabs -= 1;
                free(number);
            }
        }
    }

    /// Cuts a new page. Returns whether there was one.
    fn add_slab(&mut self) -> bool {
        let Ok(number) = allocate(Purpose::Kernel) else { return false };
        let count = objects(self.class);
        for index in 0..count {
            let next = if index + 1 < count { index + 1 } else { END };
            // SAFETY: the page is ours, and the object lies in it.
            unsafe { self.object(number, index).cast::<u16>().write(next) };
        }
        let slab = Sections.metadata(number);
        Header { first: 0, free: count }.store(slab);
        self.link(number, slab);
        self.slabs += 1;
        true
    }

    fn object(&self, slab: FrameNumber, index: u16) -> *mut u8 {
        arch::phys_to_virt(address_of(slab)).wrapping_add(usize::from(index) * usize::from(SIZES[self.class]))
    }

    fn link(&mut self, number: FrameNumber, slab: &Metadata) {
        slab.next.store(self.first, Ordering::Relaxed);
        slab.previous.store(NONE, Ordering::Relaxed);
        if self.first != NONE {
            Sections.metadata(self.first).previous.store(number, Ordering::Relaxed);
        }
        self.first = number;
    }

    fn unlink(&mut self, slab: &Metadata) {
        let (next, previous) = (slab.next.load(Ordering::Relaxed), slab.previous.load(Ordering::Relaxed));
        match previous {
            NONE => self.first = next,
            _ => Sections.metadata(previous).next.store(next, Ordering::Relaxed),
        }
        if next != NONE {
            Sections.metadata(next).previous.store(previous, Ordering::Relaxed);
        }
    }
}

/// The frame that an object lies in, and its offset there.
pub fn position(object: *mut u8) -> (FrameNumber, usize) {
    let phys = object.addr() - arch::phys_to_virt(PhysAddr::new(0)).addr();
    ((phys / PAGE_SIZE) as FrameNumber, phys % PAGE_SIZE)
}
