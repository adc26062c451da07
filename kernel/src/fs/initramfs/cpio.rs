//! The archive format of an initramfs: cpio "newc" (cpio(5), "New ASCII Format"; Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! A header of 110 ASCII bytes: a magic number and thirteen numbers of eight hexadecimal digits; the name with its NUL; the data. Name and
//! data are padded to multiples of four bytes. The entry `TRAILER!!!` ends an archive; another may follow after zero bytes.

use core::fmt;

const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// What is wrong with an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It ends within the entry that begins at this byte.
    CutShort(usize),
    /// No entry begins at this byte, where one should.
    NoEntry(usize),
    /// A number of the entry at this byte is none.
    NoNumber(usize),
    /// The name of the entry at this byte is empty or does not end.
    NoName(usize),
    /// It is compressed, which is not supported.
    Compressed,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutShort(at) => write!(f, "it is cut short within the entry at byte {at}"),
            Self::NoEntry(at) => write!(f, "no cpio entry (newc) begins at byte {at}"),
            Self::NoNumber(at) => write!(f, "the header of the entry at byte {at} is damaged"),
            Self::NoName(at) => write!(f, "the entry at byte {at} has no proper name"),
            Self::Compressed => write!(f, "it is compressed; an uncompressed cpio archive (newc) is needed"),
        }
    }
}

/// A file in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What identifies the inode among entries with several names: device and number.
    pub inode: (u32, u32, u32),
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the inode.
    pub links: u32,
    /// Modification time, in seconds since the epoch.
    pub modified: u32,
    /// For a device node, what it names: major and minor.
    pub device: (u32, u32),
    /// Its name, without NUL.
    pub name: &'a [u8],
    /// Its bytes; the target of a symbolic link.
    pub data: &'a [u8],
}

/// The entries of an archive; after an error there are no more.
pub struct Entries<'a> {
    archive: &'a [u8],
    at: usize,
}

impl<'a> Entries<'a> {
    /// The entries of `archive`.
    pub fn new(archive: &'a [u8]) -> Self {
        Self { archive, at: 0 }
    }

    /// Skips the zero bytes between archives; false at the end.
    fn skip_padding(&mut self) -> bool {
        self.at += self.archive[self.at..].iter().take_while(|&&byte| byte == 0).count();
        self.at < self.archive.len()
    }

    fn read(&mut self) -> Result<Entry<'a>, Problem> {
        let start = self.at;
        let rest = &self.archive[start..];
        if start == 0 && is_compressed(rest) {
            return Err(Problem::Compressed);
        }
        if !MAGICS.iter().any(|magic| rest.starts_with(magic)) {
            let cut = rest.len() < 6 && MAGICS.iter().any(|magic| magic.starts_with(rest));
            return Err(if cut { Problem::CutShort(start) } else { Problem::NoEntry(start) });
        }
        let header = rest.get(..HEADER).ok_or(Problem::CutShort(start))?;
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
            *field = number(digits).ok_or(Problem::NoNumber(start))?;
        }
        let [
            inode,
            mode,
            uid,
            gid,
            links,
            modified,
            size,
            major,
            minor,
            special_major,
            special_minor,
            name_size,
            _,
        ] = fields;
        let name = self.take(start, start + HEADER, name_size)?;
        let (&nul, name) = name.split_last().ok_or(Problem::NoName(start))?;
        if nul != 0 || name.is_empty() || name.contains(&0) {
            return Err(Problem::NoName(start));
        }
        let data = self.take(start, self.at, size)?;
        Ok(Entry {
            inode: (major, minor, inode),
            mode,
            uid,
            gid,
            links,
            modified,
            device: (special_major, special_minor),
            name,
            data,
        })
    }

    /// The `len` bytes at `from`; goes on after their padding, of which the last may be missing.
    fn take(&mut self, start: usize, from: usize, len: u32) -> Result<&'a [u8], Problem> {
        let end = from.checked_add(len as usize).ok_or(Problem::CutShort(start))?;
        let bytes = self.archive.get(from..end).ok_or(Problem::CutShort(start))?;
        self.at = end.next_multiple_of(4).min(self.archive.len());
        Ok(bytes)
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.skip_padding() {
            match self.read() {
                Ok(entry) if entry.name == TRAILER => {}
                Ok(entry) => return Some(Ok(entry)),
                Err(problem) => {
                    self.at = self.archive.len();
                    return Some(Err(problem));
                }
            }
        }
        None
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number: u32, &digit| Some(number << 4 | char::from(digit).to_digit(16)?))
}

/// gzip, bzip2, xz, lzma, lzo, lz4 and zstd.
fn is_compressed(bytes: &[u8]) -> bool {
    let magics: [&[u8]; 7] = [
        b"\x1f\x8b",
        b"BZh",
        b"\xfd7zXZ",
        b"\x5d\x00\x00",
        b"\x89LZO",
        b"\x02\x21\x4c\x18",
        b"\x28\xb5\x2f\xfd",
    ];
    magics.iter().any(|magic| bytes.starts_with(magic))
}

/// Builds archives for tests.
#[cfg(test)]
pub fn write(entries: &[Entry<'_>]) -> alloc::vec::Vec<u8> {
    let mut archive = alloc::vec::Vec::new();
    let trailer = Entry {
        inode: (0, 0, 0),
        mode: 0,
        uid: 0,
        gid: 0,
        links: 1,
        modified: 0,
        device: (0, 0),
        name: TRAILER,
        data: b"",
    };
    for entry in entries.iter().chain([&trailer]) {
        let (major, minor, inode) = entry.inode;
        let fields = [
            inode,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.links,
            entry.modified,
            entry.data.len() as u32,
            major,
            minor,
            entry.device.0,
            entry.device.1,
            entry.name.len() as u32 + 1,
            0,
        ];
        archive.extend_from_slice(MAGICS[0]);
        fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
        archive.extend_from_slice(entry.name);
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(entry.data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// An entry of type and permissions `mode`.
    pub fn entry<'a>(inode: u32, name: &'a str, mode: u32, data: &'a [u8]) -> Entry<'a> {
        Entry {
            inode: (0, 1, inode),
            mode,
            uid: 1,
            gid: 2,
            links: 1,
            modified: 77,
            device: (0, 0),
            name: name.as_bytes(),
            data,
        }
    }

    #[test]
    fn what_is_written_is_read_also_from_archives_one_after_the_other() {
        let entries = [entry(1, "a", 0o100_644, b"hello"), entry(2, "dir", 0o040_755, b"")];
        let mut archive = write(&entries);
        archive.resize(archive.len().next_multiple_of(512), 0);
        archive.extend(write(&entries[..1]));
        let read: Result<Vec<_>, _> = Entries::new(&archive).collect();
        assert_eq!(read, Ok(vec![entries[0], entries[1], entries[0]]));
    }

    #[test]
    fn each_kind_of_damage_has_its_name() {
        let archive = write(&[entry(1, "a", 0o100_644, b"hello")]);
        fn first(bytes: &[u8]) -> Option<Result<Entry<'_>, Problem>> {
            Entries::new(bytes).next()
        }
        assert_eq!(first(b""), None);
        assert_eq!(first(&archive[..50]), Some(Err(Problem::CutShort(0))));
        assert_eq!(first(&archive[..3]), Some(Err(Problem::CutShort(0))));
        assert_eq!(first(b"\x1f\x8b\x08"), Some(Err(Problem::Compressed)));
        assert_eq!(first(b"garbage"), Some(Err(Problem::NoEntry(0))));
        let mut bad = archive.clone();
        bad[10] = b'x';
        assert_eq!(first(&bad), Some(Err(Problem::NoNumber(0))));
        let mut bad = archive;
        bad[HEADER + 1] = b'b';
        assert_eq!(first(&bad), Some(Err(Problem::NoName(0))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail_otherwise(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), magic: bool) {
            if magic && bytes.len() > 6 {
                bytes[..6].copy_from_slice(MAGICS[0]);
            }
            let _ = Entries::new(&bytes).count();
        }

        #[test]
        fn a_cut_archive_gives_a_prefix_and_a_problem(cut in 4usize..560) {
            let entries = [
                entry(1, "first", 0o100_644, b"some bytes"),
                entry(2, "second", 0o100_644, b"more"),
                entry(3, "third", 0o120_777, b"first"),
            ];
            let archive = write(&entries);
            let cut = cut.min(archive.len() - 1);
            let read: Vec<_> = Entries::new(&archive[..cut]).collect();
            let good: Vec<_> = read.iter().filter_map(|entry| entry.ok()).collect();
            prop_assert_eq!(&good[..], &entries[..good.len()]);
            // Damage is seen unless the cut lies between two entries or in the padding there.
            let trailer = write(&[]).len();
            let end = write(&good).len() - trailer;
            let between = (end.saturating_sub(3)..=end).contains(&cut) || cut > archive.len() - 4;
            prop_assert_eq!(read.len() == good.len(), between);
        }
    }
}
