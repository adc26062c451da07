//! Maps the vDSO into programs: a page of data, which all share, and behind it the image.

use alloc::sync::Arc;

use spin::Once;

use super::{AddressSpace, Frame, MapRequest, MappingName, OutOfMemory, PAGE_SIZE, Protection, VirtAddr};
use crate::arch::vdso::{Parameters, image};
use crate::fs::PageSource;

/// The two pages, as an object that can be mapped: 0 is the data, 1 the image.
struct Pages {
    frames: [Frame; 2],
    names: [Arc<MappingName>; 2],
}

static PAGES: Once<Arc<Pages>> = Once::new();

impl Pages {
    fn new() -> Result<Arc<Self>, OutOfMemory> {
        let frames = [Frame::zeroed()?, Frame::zeroed()?];
        frames[1].write(0, image());
        let name = |path: &[u8]| Arc::new(MappingName { path: path.to_vec(), device: 0, inode: 0 });
        Ok(Arc::new(Self { frames, names: [name(b"[vvar]"), name(b"[vdso]")] }))
    }

    /// The pages of the machine, made at the first use.
    fn get() -> Result<&'static Arc<Self>, OutOfMemory> {
        PAGES.try_call_once(Self::new)
    }
}

impl PageSource for Pages {
    fn page(&self, index: u64, _write: bool) -> Result<Option<Frame>, OutOfMemory> {
        Ok(self.frames.get(index as usize).cloned())
    }

    fn pages_present(&self, first: u64, frames: &mut [Option<Frame>]) {
        for (index, frame) in (first as usize..).zip(frames) {
            *frame = self.frames.get(index).cloned();
        }
    }
}

/// Says how time is computed, for all programs; again when the date is set. Until then they make system calls.
///
/// # Errors
/// [`OutOfMemory`].
pub fn set_parameters(parameters: Parameters) -> Result<(), OutOfMemory> {
    Pages::get()?.frames[0].write(0, &parameters.to_bytes());
    Ok(())
}

/// Maps the vDSO. Returns where its ELF header is: `AT_SYSINFO_EHDR`. `None` if there is no memory for it: the program makes
/// system calls instead.
pub fn map(space: &AddressSpace) -> Option<VirtAddr> {
    let pages = Pages::get().ok()?;
    let part = |index: usize, count: usize, prot| {
        let (offset, name) = ((index * PAGE_SIZE) as u64, pages.names[index].clone());
        MapRequest::file(pages.clone(), offset, Some(name), count * PAGE_SIZE, prot)
    };
    let data = space.map(part(0, 2, Protection::READ)).ok()?;
    space.map(part(1, 1, Protection::READ | Protection::EXEC).at(data + PAGE_SIZE)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Access;

    #[test]
    fn programs_get_the_image_behind_the_data() {
        let space = AddressSpace::new().unwrap();
        let header = map(&space).unwrap();
        let parameters = Parameters { base: 5, multiplier: 6, wall_offset: 7, core_in_tsc_aux: false };
        set_parameters(parameters).unwrap();
        space.fault(header, Access::Execute).unwrap();
        let mut bytes = vec![0; PAGE_SIZE + image().len()];
        space.read_at(VirtAddr::new(header.as_u64() - PAGE_SIZE as u64), &mut bytes).unwrap();
        assert_eq!((&bytes[..32], &bytes[PAGE_SIZE..]), (&parameters.to_bytes()[..], image()));
        let regions = space.regions(false).unwrap();
        let names: Vec<_> = regions.iter().map(|region| &region.name.as_ref().unwrap().path[..]).collect();
        assert_eq!(names, [&b"[vvar]"[..], b"[vdso]"]);
        assert!(space.write_initial(header, b"x").is_err());
    }
}
