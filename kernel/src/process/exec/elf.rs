//! Reading ELF headers: elf(5), System V ABI chapters 4 and 5.
//!
//! The bytes are the program's, or an attacker's: every field is checked before it is used, sums cannot overflow, and what is
//! allocated is bounded. The result, an [`ElfImage`], is consistent in itself: its segments are page-congruent,
//! ascending, disjoint, and lie in a span that fits the user half.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::memory::{PAGE_SIZE, Protection, USER_END};

/// Why a file is not a program for this machine: `ENOEXEC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotExecutable;

/// `Elf64_Ehdr`
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct FileHeader {
    magic: [u8; 4],
    class: u8,
    data: u8,
    ident_version: u8,
    ident_rest: [u8; 9],
    file_type: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    header_size: u16,
    program_header_size: u16,
    program_header_count: u16,
    section_header_size: u16,
    section_header_count: u16,
    section_names: u16,
}

/// `Elf64_Phdr`
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// Bytes of a program header: `AT_PHENT`.
pub const PROGRAM_HEADER_SIZE: usize = size_of::<ProgramHeader>();
/// Linux's limit: the table fits 64 KiB.
const MAX_PROGRAM_HEADERS: usize = 65536 / PROGRAM_HEADER_SIZE;
/// Longest path of an interpreter, with its NUL.
const MAX_INTERPRETER: u64 = 4096;
/// No alignment beyond this is honoured.
const MAX_ALIGN: u64 = 1 << 30;

const EM_X86_64: u16 = 62;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// A part of the file to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where, before the image is moved as a whole.
    pub address: u64,
    /// Bytes in memory; those beyond the file's are zero.
    pub memory_size: u64,
    /// Where in the file; congruent to `address` modulo the page size.
    pub offset: u64,
    /// Bytes from the file.
    pub file_size: u64,
    /// What the program may do there.
    pub protection: Protection,
}

/// What a file header and its program headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElfImage {
    /// Whether it can be put anywhere (`ET_DYN`).
    pub is_relocatable: bool,
    /// Where it begins to run.
    pub entry: u64,
    /// Ascending and disjoint.
    pub segments: Vec<Segment>,
    /// Where in the file the path of the interpreter is, and its length with the NUL.
    pub interpreter: Option<(u64, usize)>,
    /// Where the program headers are in memory, if they are: `AT_PHDR`.
    pub program_headers: Option<u64>,
    /// Their number.
    pub program_header_count: u16,
    /// Whether the stack is executable.
    pub executable_stack: bool,
    /// The largest alignment that a segment asks for.
    pub align: u64,
}

/// Where the program headers are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderTable {
    /// Offset.
    pub offset: u64,
    /// Bytes.
    pub size: usize,
}

/// A file header that was found good.
#[derive(Clone, Copy, Debug)]
pub struct Header(FileHeader);

impl Header {
    /// Checks the beginning of a file.
    ///
    /// # Errors
    /// [`NotExecutable`] unless it is an x86-64 program or shared object.
    pub fn parse(start: &[u8]) -> Result<Self, NotExecutable> {
        const CLASS_64: u8 = 2;
        const LITTLE_ENDIAN: u8 = 1;
        let (header, _) = FileHeader::read_from_prefix(start).map_err(|_| NotExecutable)?;
        let good = header.magic == *b"\x7fELF"
            && header.class == CLASS_64
            && header.data == LITTLE_ENDIAN
            && matches!(header.file_type, ET_EXEC | ET_DYN)
            && header.machine == EM_X86_64
            && usize::from(header.program_header_size) == PROGRAM_HEADER_SIZE
            && (1..=MAX_PROGRAM_HEADERS).contains(&usize::from(header.program_header_count))
            && header.program_headers.checked_add(65536).is_some();
        if good { Ok(Self(header)) } else { Err(NotExecutable) }
    }

    /// Where its program headers are.
    pub fn table(&self) -> HeaderTable {
        HeaderTable {
            offset: self.0.program_headers,
            size: usize::from(self.0.program_header_count) * PROGRAM_HEADER_SIZE,
        }
    }

    /// Makes sense of the program headers, the bytes at [`table`](Self::table).
    ///
    /// # Errors
    /// [`NotExecutable`] when they make none, or there is no memory for the list of segments.
    pub fn image(&self, table: &[u8]) -> Result<ElfImage, NotExecutable> {
        let mut image = ElfImage {
            is_relocatable: self.0.file_type == ET_DYN,
            entry: self.0.entry,
            segments: Vec::new(),
            interpreter: None,
            program_headers: None,
            program_header_count: self.0.program_header_count,
            executable_stack: true,
            align: PAGE_SIZE as u64,
        };
        for entry in table.chunks_exact(PROGRAM_HEADER_SIZE) {
            let header = ProgramHeader::read_from_bytes(entry).map_err(|_| NotExecutable)?;
            image.take(&header)?;
        }
        if image.segments.is_empty() || image.entry >= USER_END as u64 {
            return Err(NotExecutable);
        }
        if image.program_headers.is_none() {
            image.program_headers = image.find_in_memory(self.0.program_headers);
        }
        Ok(image)
    }
}

impl ElfImage {
    fn take(&mut self, header: &ProgramHeader) -> Result<(), NotExecutable> {
        match header.kind {
            PT_LOAD => self.add_segment(header),
            // Of several, the first counts, as on Linux.
            PT_INTERP if self.interpreter.is_none() => {
                let sane = (2..=MAX_INTERPRETER).contains(&header.file_size)
                    && header.offset.checked_add(header.file_size).is_some();
                let found = (header.offset, header.file_size as usize);
                self.interpreter = Some(sane.then_some(found).ok_or(NotExecutable)?);
                Ok(())
            }
            PT_PHDR => {
                self.program_headers = Some(header.address);
                Ok(())
            }
            PT_GNU_STACK => {
                self.executable_stack = header.flags & PF_X != 0;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add_segment(&mut self, header: &ProgramHeader) -> Result<(), NotExecutable> {
        let page = PAGE_SIZE as u64;
        if header.memory_size == 0 {
            return Ok(());
        }
        let end = header.address.checked_add(header.memory_size).ok_or(NotExecutable)?;
        let file_end = header.offset.checked_add(header.file_size).ok_or(NotExecutable)?;
        let previous_end =
            self.segments.last().map_or(0, |s| (s.address + s.memory_size).next_multiple_of(page));
        let good = header.file_size <= header.memory_size
            && header.address % page == header.offset % page
            && end <= USER_END as u64
            && file_end <= i64::MAX as u64
            && header.address - header.address % page >= previous_end;
        if !good || self.segments.try_reserve(1).is_err() {
            return Err(NotExecutable);
        }
        if header.align.is_power_of_two() && header.align <= MAX_ALIGN {
            self.align = self.align.max(header.align);
        }
        let mut protection = Protection::empty();
        protection.set(Protection::READ, header.flags & PF_R != 0);
        protection.set(Protection::WRITE, header.flags & PF_W != 0);
        protection.set(Protection::EXEC, header.flags & PF_X != 0);
        self.segments.push(Segment {
            address: header.address,
            memory_size: header.memory_size,
            offset: header.offset,
            file_size: header.file_size,
            protection,
        });
        Ok(())
    }

    /// Where the byte at `offset` of the file is in memory.
    fn find_in_memory(&self, offset: u64) -> Option<u64> {
        let holds = |s: &&Segment| (s.offset..s.offset + s.file_size).contains(&offset);
        self.segments.iter().find(holds).map(|s| s.address + (offset - s.offset))
    }

    /// The first page, and the number of bytes from there to the end of the last page.
    pub fn span(&self) -> (u64, u64) {
        let page = PAGE_SIZE as u64;
        let start = self.segments.first().map_or(0, |s| s.address - s.address % page);
        let end = self.segments.last().map_or(0, |s| (s.address + s.memory_size).next_multiple_of(page));
        (start, end - start)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A program of two segments, with an interpreter.
    pub fn sample() -> Vec<u8> {
        let header = FileHeader {
            magic: *b"\x7fELF",
            class: 2,
            data: 1,
            ident_version: 1,
            ident_rest: [0; 9],
            file_type: ET_DYN,
            machine: EM_X86_64,
            version: 1,
            entry: 0x1040,
            program_headers: 64,
            section_headers: 0,
            flags: 0,
            header_size: 64,
            program_header_size: 56,
            program_header_count: 4,
            section_header_size: 0,
            section_header_count: 0,
            section_names: 0,
        };
        let segment = |kind, flags, offset, address, file_size, memory_size| ProgramHeader {
            kind,
            flags,
            offset,
            address,
            physical: address,
            file_size,
            memory_size,
            align: 0x1000,
        };
        let mut bytes = header.as_bytes().to_vec();
        for header in [
            segment(PT_INTERP, PF_R, 0x300, 0x300, 12, 12),
            segment(PT_LOAD, PF_R | PF_X, 0, 0, 0x1100, 0x1100),
            segment(PT_LOAD, PF_R | PF_W, 0x1100, 0x2100, 0x80, 0x2000),
            segment(PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0),
        ] {
            bytes.extend_from_slice(header.as_bytes());
        }
        bytes.resize(0x300, 0);
        bytes.extend_from_slice(b"/lib/ld.so\0\0");
        bytes.resize(0x1180, 0);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<ElfImage, NotExecutable> {
        let header = Header::parse(bytes)?;
        let HeaderTable { offset, size } = header.table();
        let start = usize::try_from(offset).map_err(|_| NotExecutable)?;
        header.image(bytes.get(start..start + size).ok_or(NotExecutable)?)
    }

    #[test]
    fn a_good_file_is_understood() {
        let image = parse(&sample()).unwrap();
        assert!(image.is_relocatable && !image.executable_stack);
        assert_eq!((image.entry, image.interpreter), (0x1040, Some((0x300, 12))));
        assert_eq!(image.program_headers, Some(64));
        assert_eq!(image.span(), (0, 0x5000));
        assert_eq!(image.segments[1].protection, Protection::READ | Protection::WRITE);
    }

    /// Overwrites `bytes` at `at`, which must turn the file into no program.
    fn refused(at: usize, bytes: &[u8]) {
        let mut file = sample();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        assert_eq!(parse(&file), Err(NotExecutable), "offset {at}");
    }

    #[test]
    fn wrong_fields_are_refused() {
        refused(0, b"\x7fELG");
        refused(4, &[1]); // 32 bits
        refused(5, &[2]); // big-endian
        refused(16, &[1]); // relocatable object
        refused(18, &[40]); // ARM
        refused(24, &u64::MAX.to_le_bytes()); // entry in the kernel half
        refused(32, &u64::MAX.to_le_bytes()); // program headers beyond any file
        refused(54, &[57]); // size of a program header
        refused(56, &[0]); // number of program headers
        let load = 64 + 56;
        refused(load + 8, &1u64.to_le_bytes()); // offset not congruent to the address
        refused(load + 16, &(USER_END as u64).to_le_bytes());
        refused(load + 32, &0x1200u64.to_le_bytes()); // more in the file than in memory
        refused(load + 40, &u64::MAX.to_le_bytes());
        refused(load + 40, &0x3000u64.to_le_bytes()); // overlaps the next
        refused(64 + 32, &1u64.to_le_bytes()); // interpreter without a name
        refused(64 + 32, &5000u64.to_le_bytes());
    }

    #[test]
    fn a_file_cut_short_is_refused() {
        let file = sample();
        for len in 0..64 + 4 * 56 {
            assert_eq!(parse(&file[..len]), Err(NotExecutable));
        }
    }

    proptest! {
        /// Whatever the headers say, the image is consistent, or there is none.
        #[test]
        fn mutated_headers_give_errors_or_consistent_images(changes in prop::collection::vec((0usize..64 + 4 * 56, any::<u8>()), 1..12)) {
            let mut file = sample();
            for (at, value) in changes {
                file[at] = value;
            }
            if let Ok(image) = parse(&file) {
                let mut end = 0;
                for segment in &image.segments {
                    let page = segment.address - segment.address % PAGE_SIZE as u64;
                    prop_assert!(page >= end);
                    prop_assert!(segment.file_size <= segment.memory_size);
                    prop_assert_eq!(segment.address % 4096, segment.offset % 4096);
                    end = segment.address + segment.memory_size;
                    prop_assert!(end <= USER_END as u64);
                }
                let (start, len) = image.span();
                prop_assert!(start + len >= end && start + len <= USER_END as u64 + 4096);
                prop_assert!(image.align.is_power_of_two() && image.align <= MAX_ALIGN);
                prop_assert!(image.segments.len() <= MAX_PROGRAM_HEADERS);
            }
        }
    }
}
