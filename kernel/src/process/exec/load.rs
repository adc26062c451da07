//! Mapping ELF images into an address space: the program, and the interpreter (dynamic loader) that it names.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::elf::{ElfImage, Header, NotExecutable, Segment};
use crate::errno::Errno;
use crate::fs::{File, PageSource};
use crate::memory::{
    AddressSpace, Fault, MapFlags, MapRequest, MappingName, PAGE_SIZE, Protection, VirtAddr, page_round_up,
};
use crate::uaccess::ReadBuf;

/// Where relocatable programs go: two thirds up the user half, as on Linux.
const PROGRAM_BASE: u64 = 0x5555_5555_4000;
/// Pages by which that may be moved up at random.
const PROGRAM_RANDOM_PAGES: u64 = 1 << 28;

impl From<NotExecutable> for Errno {
    fn from(_: NotExecutable) -> Self {
        Self::ENOEXEC
    }
}

/// A file that holds an ELF image.
pub struct ElfFile {
    pages: Arc<dyn PageSource>,
    name: Arc<MappingName>,
    /// What its headers say.
    pub image: ElfImage,
    /// Path of the interpreter that it names.
    pub interpreter: Option<Vec<u8>>,
}

/// Reads exactly `bytes.len()` bytes at `offset`. Whether there were as many.
fn read_exactly(file: &dyn File, offset: u64, bytes: &mut [u8]) -> Result<bool, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        let Some(at) = offset.checked_add(done as u64) else { return Ok(false) };
        match file.read(at, &mut ReadBuf::kernel(&mut bytes[done..]))? {
            0 => return Ok(false),
            count => done += count,
        }
    }
    Ok(true)
}

/// The first bytes of `file`, as many as there are up to `bytes.len()`.
///
/// # Errors
/// Those of reading.
pub fn read_start(file: &dyn File, bytes: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read(done as u64, &mut ReadBuf::kernel(&mut bytes[done..]))? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

fn read_vec(file: &dyn File, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    if read_exactly(file, offset, &mut bytes)? { Ok(bytes) } else { Err(Errno::ENOEXEC) }
}

impl ElfFile {
    /// Reads the headers of `file`, which begins with `start` and is called `name` in /proc.
    ///
    /// # Errors
    /// `ENOEXEC` when it is no program; those of reading.
    pub fn read(file: &dyn File, start: &[u8], name: Arc<MappingName>) -> Result<Self, Errno> {
        let header = Header::parse(start)?;
        let table = header.table();
        let image = header.image(&read_vec(file, table.offset, table.size)?)?;
        let interpreter = image.interpreter.map(|(offset, len)| read_path(file, offset, len)).transpose()?;
        let pages = file.pages().ok_or(Errno::EACCES)?;
        Ok(Self { pages, name, image, interpreter })
    }
}

/// The interpreter's path, which must end in a NUL.
fn read_path(file: &dyn File, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut path = read_vec(file, offset, len)?;
    let end = path.iter().position(|&byte| byte == 0).ok_or(Errno::ENOEXEC)?;
    path.truncate(end);
    Ok(path)
}

/// Where an image was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// By how much it was moved: `AT_BASE` for an interpreter.
    pub bias: u64,
    /// Where it begins to run.
    pub entry: u64,
    /// Its program headers in memory; 0 when they are not there.
    pub program_headers: u64,
    /// First address past its last segment.
    pub end: u64,
}

/// Which part an image plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The program; `seed` moves a relocatable one.
    Program {
        /// Random.
        seed: u64,
    },
    /// The interpreter: goes where there is room.
    Interpreter,
}

/// Maps `file`'s segments into `space`.
///
/// # Errors
/// `ENOMEM`, `EEXIST` and whatever mapping says; `EFAULT` for a file that is shorter than its headers say.
pub fn load(space: &AddressSpace, file: &ElfFile, role: Role) -> Result<Loaded, Errno> {
    let image = &file.image;
    let (start, len) = image.span();
    let bias = if image.is_relocatable { find_place(space, image, role)?.wrapping_sub(start) } else { 0 };
    for segment in &image.segments {
        let moved = Segment { address: segment.address.wrapping_add(bias), ..*segment };
        map_segment(space, file, &moved)?;
    }
    Ok(Loaded {
        bias,
        entry: image.entry.wrapping_add(bias),
        program_headers: image.program_headers.map_or(0, |at| at.wrapping_add(bias)),
        end: (start + len).wrapping_add(bias),
    })
}

/// Finds room for a relocatable image: maps all of its span and lets go again, so that gaps between segments stay unmapped.
fn find_place(space: &AddressSpace, image: &ElfImage, role: Role) -> Result<u64, Errno> {
    let (_, len) = image.span();
    let slack = image.align - PAGE_SIZE as u64;
    let size = len.checked_add(slack).ok_or(Errno::ENOMEM)?;
    let hint = match role {
        Role::Program { seed } => PROGRAM_BASE + seed % PROGRAM_RANDOM_PAGES * PAGE_SIZE as u64,
        Role::Interpreter => 0,
    };
    let request = MapRequest::anonymous(size as usize, Protection::empty()).with(MapFlags::NORESERVE);
    let place = space.map(MapRequest { hint: VirtAddr::new(hint), ..request })?;
    space.unmap(place, size as usize)?;
    Ok(place.as_u64().next_multiple_of(image.align))
}

fn map_segment(space: &AddressSpace, file: &ElfFile, segment: &Segment) -> Result<(), Errno> {
    let page = PAGE_SIZE as u64;
    let within = segment.address % page;
    let start = segment.address - within;
    let file_end = segment.address + segment.file_size;
    let memory_end = (segment.address + segment.memory_size).next_multiple_of(page);
    let mut mapped_end = start;
    if segment.file_size > 0 {
        let len = page_round_up((file_end - start) as usize).ok_or(Errno::ENOMEM)?;
        let request = MapRequest::file(
            file.pages.clone(),
            segment.offset - within,
            Some(file.name.clone()),
            len,
            segment.protection,
        );
        fix(space, request, start)?;
        mapped_end = start + len as u64;
        clear_tail(space, segment, file_end, mapped_end)?;
    }
    if memory_end > mapped_end {
        let request = MapRequest::anonymous((memory_end - mapped_end) as usize, segment.protection);
        fix(space, request, mapped_end)?;
    }
    Ok(())
}

/// Maps exactly at `address`, where nothing may be.
fn fix(space: &AddressSpace, request: MapRequest, address: u64) -> Result<(), Errno> {
    let hint = VirtAddr::new(address);
    space.map(MapRequest { hint, ..request }.with(MapFlags::FIXED_NOREPLACE))?;
    Ok(())
}

/// Zeroes what the last page of the file part holds beyond it, where the program has variables there.
fn clear_tail(space: &AddressSpace, segment: &Segment, from: u64, to: u64) -> Result<(), Errno> {
    let has_variables =
        segment.memory_size > segment.file_size && segment.protection.contains(Protection::WRITE);
    if !has_variables || from == to {
        return Ok(());
    }
    space.clear_initial(VirtAddr::new(from), (to - from) as usize).map_err(|fault| match fault {
        Fault::OutOfMemory => Errno::ENOMEM,
        _ => Errno::EFAULT,
    })
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::sample;
    use super::*;
    use crate::fs::Stat;
    use crate::memory::{Frame, OutOfMemory};

    /// A file in memory.
    pub struct Bytes(pub Arc<Vec<u8>>);

    impl File for Bytes {
        fn read(&self, offset: u64, buf: &mut ReadBuf<'_>) -> crate::errno::SysResult {
            let rest = self.0.get(offset as usize..).unwrap_or(&[]);
            Ok(buf.push(&rest[..rest.len().min(buf.remaining())]))
        }

        fn pages(&self) -> Option<Arc<dyn PageSource>> {
            Some(Arc::new(Bytes(self.0.clone())))
        }

        fn stat(&self) -> Stat {
            Stat::default()
        }
    }

    impl PageSource for Bytes {
        fn page(&self, index: u64, _write: bool) -> Result<Option<Frame>, OutOfMemory> {
            let start = index as usize * PAGE_SIZE;
            let Some(rest) = self.0.get(start..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
            let frame = Frame::zeroed()?;
            frame.write(0, &rest[..rest.len().min(PAGE_SIZE)]);
            Ok(Some(frame))
        }
    }

    fn file(bytes: Vec<u8>) -> (Bytes, Vec<u8>) {
        let start = bytes[..bytes.len().min(256)].to_vec();
        (Bytes(Arc::new(bytes)), start)
    }

    fn read(bytes: Vec<u8>) -> Result<ElfFile, Errno> {
        let (file, start) = file(bytes);
        ElfFile::read(&file, &start, Arc::default())
    }

    #[test]
    fn segments_are_mapped_and_variables_zeroed() {
        let mut bytes = sample();
        bytes[0x1100..0x1180].fill(0x11);
        // What lies behind the second segment in the file must not show up in memory.
        bytes.resize(0x2000, 0xee);
        let elf = read(bytes).unwrap();
        assert_eq!(elf.interpreter.as_deref(), Some(&b"/lib/ld.so"[..]));
        let space = AddressSpace::new().unwrap();
        let loaded = load(&space, &elf, Role::Program { seed: 5 }).unwrap();
        assert_eq!(loaded.bias, PROGRAM_BASE + 5 * 4096);
        assert_eq!(loaded.entry, loaded.bias + 0x1040);
        assert_eq!(loaded.program_headers, loaded.bias + 64);
        assert_eq!(loaded.end, loaded.bias + 0x5000);
        let byte = |at: u64| {
            let mut byte = [0xaa];
            space.read_at(VirtAddr::new(loaded.bias + at), &mut byte).map(|()| byte[0])
        };
        assert_eq!(byte(1), Ok(b'E'));
        assert_eq!(
            (byte(0x2100), byte(0x217f), byte(0x2180), byte(0x2fff)),
            (Ok(0x11), Ok(0x11), Ok(0), Ok(0))
        );
        assert_eq!((byte(0x3000), byte(0x4fff)), (Ok(0), Ok(0)));
        assert_eq!(byte(0x5000), Err(Fault::NotMapped));
    }

    #[test]
    fn an_interpreter_goes_where_there_is_room() {
        let elf = read(sample()).unwrap();
        let space = AddressSpace::new().unwrap();
        let program = load(&space, &elf, Role::Program { seed: 0 }).unwrap();
        let interpreter = load(&space, &elf, Role::Interpreter).unwrap();
        assert!(interpreter.bias != program.bias && interpreter.bias.is_multiple_of(4096));
    }

    #[test]
    fn a_truncated_file_is_an_error() {
        let whole = sample();
        for len in [0, 63, 64, 200, 0x300, 0x305] {
            assert_eq!(read(whole[..len].to_vec()).err(), Some(Errno::ENOEXEC), "{len} bytes");
        }
        // The headers are whole, the data of the second segment is not there.
        let elf = read(whole[..0x1000].to_vec()).unwrap();
        let space = AddressSpace::new().unwrap();
        assert_eq!(load(&space, &elf, Role::Program { seed: 0 }), Err(Errno::EFAULT));
    }
}
