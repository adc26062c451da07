//! Device registers and device memory, as `crates/hw` wants them: the unsafe ends of `device/hardware.rs`.

use alloc::sync::Arc;
use core::ptr::NonNull;

use hw::dma::{BusAddress, Dma, DmaRelease};
use hw::mmio::{Mmio, MmioRegion, PortRegion};
use hw::pci::Bar;

use super::boot;
use crate::memory::{FrameRange, PhysAddr};
use crate::sync::SpinLock;

/// Makes the registers behind a base address register accessible. `None` when there is no room to map them.
pub fn map_registers(bar: Bar) -> Option<Arc<dyn Mmio>> {
    match bar {
        Bar::Io { port, size } => {
            // SAFETY: the ports are the device's, by its base address register.
            Some(Arc::new(unsafe { PortRegion::new(port, size) }))
        }
        Bar::Memory { address, size, .. } => {
            let size = usize::try_from(size).ok()?;
            let base = boot::map_mmio(PhysAddr::new(address), size)?;
            let base = NonNull::new(base.as_u64() as *mut u8)?;
            // SAFETY: the registers were just mapped, uncached, and stay so.
            Some(Arc::new(unsafe { MmioRegion::new(base, size) }))
        }
    }
}

/// Keeps the frames until the driver lets go of them.
struct Frames(SpinLock<Option<FrameRange>>);

impl DmaRelease for Frames {
    fn release(&self, _memory: NonNull<u8>, _bus: BusAddress, _length: usize) {
        let frames = self.0.lock().take();
        drop(frames);
    }
}

/// Frames as memory that a device and its driver share. Bus addresses are physical ones: there is no IOMMU in between.
pub fn dma_memory(frames: FrameRange) -> Dma {
    let (pointer, bus, size) = (frames.as_mut_ptr(), BusAddress(frames.phys().as_u64()), frames.size());
    let owner = Arc::new(Frames(SpinLock::new(Some(frames))));
    // The direct map has no null pointer.
    let pointer = NonNull::new(pointer).unwrap_or(NonNull::dangling());
    // SAFETY: the frames are zeroed, contiguous, mapped, owned by `owner`, and nobody else knows them.
    unsafe { Dma::from_raw_parts(pointer, bus, size, owner) }
}
