//! Host memory in the role of DMA memory, with bus addresses of its own.
//!
//! Bus addresses differ from host addresses, so a driver that confuses them is found out; accesses by the
//! modelled device are checked against what is allocated at that moment, so one that frees memory too early is, too.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use std::sync::Mutex;

use crate::dma::{BusAddress, Dma, DmaAllocator, DmaRelease, NoMemory, PAGE_SIZE};

/// The device used an address where no memory is allocated for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError(pub u64);

/// The memory that one or more modelled devices can reach. Clones share it.
#[derive(Clone, Default)]
pub struct FakeMemory {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Bus address to host address and length.
    pieces: BTreeMap<u64, (usize, usize)>,
    allocated: u64,
    remaining: Option<usize>,
}

/// Bus addresses begin above 4 GiB, so that a driver that cuts off the upper half is found out.
const FIRST_BUS_ADDRESS: u64 = 0x1_2340_0000;

impl FakeMemory {
    /// Memory with nothing allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets only `count` more allocations succeed.
    pub fn limit_allocations(&self, count: usize) {
        self.state.lock().unwrap().remaining = Some(count);
    }

    /// How many pieces are allocated now.
    pub fn live(&self) -> usize {
        self.state.lock().unwrap().pieces.len()
    }

    /// The device reads `length` bytes.
    pub fn read(&self, bus: u64, length: usize) -> Result<Vec<u8>, BusError> {
        let state = self.state.lock().unwrap();
        let source = locate(&state, bus, length)?;
        let mut bytes = alloc::vec![0; length];
        // SAFETY: `locate` found the range inside of one live allocation; the lock keeps it from being freed.
        unsafe { source.copy_to_nonoverlapping(bytes.as_mut_ptr(), length) };
        Ok(bytes)
    }

    /// The device writes `bytes`.
    pub fn write(&self, bus: u64, bytes: &[u8]) -> Result<(), BusError> {
        let state = self.state.lock().unwrap();
        let target = locate(&state, bus, bytes.len())?;
        // SAFETY: as in `read`; tests drive model and driver in turn, so no reference to the bytes is in use.
        unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// The device reads a 16-bit word.
    pub fn read_u16(&self, bus: u64) -> Result<u16, BusError> {
        Ok(self.read(bus, 2)?.iter().rev().fold(0, |value, &byte| value << 8 | u16::from(byte)))
    }

    /// The device reads a 32-bit word.
    pub fn read_u32(&self, bus: u64) -> Result<u32, BusError> {
        Ok(self.read(bus, 4)?.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }

    /// The device reads a 64-bit word.
    pub fn read_u64(&self, bus: u64) -> Result<u64, BusError> {
        Ok(self.read(bus, 8)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }
}

fn locate(state: &State, bus: u64, length: usize) -> Result<*mut u8, BusError> {
    let (&start, &(host, size)) = state.pieces.range(..=bus).next_back().ok_or(BusError(bus))?;
    let offset = (bus - start) as usize;
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(BusError(bus));
    }
    Ok(core::ptr::with_exposed_provenance_mut(host + offset))
}

fn layout(length: usize) -> Option<Layout> {
    Layout::from_size_align(length, PAGE_SIZE).ok()
}

impl DmaAllocator for FakeMemory {
    fn allocate(&self, length: usize) -> Result<Dma, NoMemory> {
        let length = length.max(1).checked_next_multiple_of(PAGE_SIZE).ok_or(NoMemory)?;
        let layout = layout(length).filter(|_| length <= 1 << 30).ok_or(NoMemory)?;
        let mut state = self.state.lock().unwrap();
        if let Some(remaining) = &mut state.remaining {
            *remaining = remaining.checked_sub(1).ok_or(NoMemory)?;
        }
        // SAFETY: the layout's size is not zero.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(NoMemory)?;
        let bus = FIRST_BUS_ADDRESS + state.allocated;
        // A gap, so that running over the end of one piece does not end in the next.
        state.allocated += (length + PAGE_SIZE) as u64;
        state.pieces.insert(bus, (memory.as_ptr().expose_provenance(), length));
        // SAFETY: fresh zeroed pages, which `release` frees once they come back.
        Ok(unsafe { Dma::from_raw_parts(memory, BusAddress(bus), length, Arc::new(self.clone())) })
    }
}

impl DmaRelease for FakeMemory {
    fn release(&self, memory: NonNull<u8>, bus: BusAddress, length: usize) {
        let known = self.state.lock().unwrap().pieces.remove(&bus.0);
        assert_eq!(known, Some((memory.as_ptr().addr(), length)), "memory is released once");
        let layout = layout(length).expect("the layout it was allocated with");
        // SAFETY: allocated with this layout, and `remove` above made sure that it is freed once.
        unsafe { dealloc(memory.as_ptr(), layout) };
    }
}
