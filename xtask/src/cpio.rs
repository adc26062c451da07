//! The archive format of an initramfs: cpio "newc" (cpio(5), "New ASCII Format"), written and read.
//!
//! An archive is a row of entries: a header of fourteen fields in hexadecimal, the name with its NUL, padding to four
//! bytes, the content, padding again. The entry `TRAILER!!!` ends it.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const MAGIC: &[u8] = b"070701";
/// The same with a checksum per file, which nothing here needs.
const MAGIC_CHECKSUM: &[u8] = b"070702";
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";

/// What a header says about a file, but for its name and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Device numbers (major, minor) of a device node.
    pub device: (u32, u32),
}

/// Writes an archive, entry by entry. Owners are root: whoever packs it, the files belong to the guest.
pub struct Writer<W> {
    to: W,
    written: u64,
    entries: u32,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `to`.
    pub fn new(to: W) -> Self {
        Self { to, written: 0, entries: 0 }
    }

    /// Adds an entry of `size` bytes, read from `content`; the name has no leading slash.
    pub fn add(&mut self, name: &Path, meta: Meta, size: u64, content: impl Read) -> Result<()> {
        self.entries += 1;
        self.header(name.as_os_str(), meta, self.entries, size)?;
        let copied = std::io::copy(&mut content.take(size), &mut self.to)?;
        ensure!(copied == size, "{} became shorter while it was read", name.display());
        self.written += copied;
        self.pad()
    }

    /// Ends the archive and hands its stream back.
    pub fn finish(mut self) -> Result<W> {
        self.header(OsStr::new(TRAILER), Meta::default(), 0, 0)?;
        self.pad()?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn header(&mut self, name: &OsStr, meta: Meta, inode: u32, size: u64) -> Result<()> {
        let size = u32::try_from(size).context("a file of 4 GiB or more does not fit into an initramfs")?;
        let name = name.as_bytes();
        let fields = [
            inode,
            meta.mode,
            0,
            0,
            1,
            meta.mtime,
            size,
            0,
            0,
            meta.device.0,
            meta.device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.to.write_all(MAGIC)?;
        for field in fields {
            write!(self.to, "{field:08x}")?;
        }
        self.to.write_all(name)?;
        self.to.write_all(&[0])?;
        self.written += (HEADER + name.len() + 1) as u64;
        self.pad()
    }

    fn pad(&mut self) -> Result<()> {
        let padding = self.written.wrapping_neg() % 4;
        self.to.write_all(&[0; 3][..padding as usize])?;
        self.written += padding;
        Ok(())
    }
}

/// An entry that was read. Of hard links, the content stands with one of them (mostly the last), so `inode` and
/// `links` tell which belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it is in the archive.
    pub name: PathBuf,
    /// Mode, time, device.
    pub meta: Meta,
    /// The inode's number.
    pub inode: u32,
    /// The number of names that the inode has.
    pub links: u32,
    /// The content (of a link, its target).
    pub content: Vec<u8>,
}

/// Reads an archive to its trailer.
pub fn read(mut from: impl Read) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    loop {
        let entry = read_entry(&mut from).context("the cpio archive is damaged or cut short")?;
        if entry.name == Path::new(TRAILER) {
            return Ok(entries);
        }
        entries.push(entry);
    }
}

/// Whether bytes begin like an archive that [`read`] understands.
pub fn is_archive(start: &[u8]) -> bool {
    start.starts_with(MAGIC) || start.starts_with(MAGIC_CHECKSUM)
}

fn read_entry(from: &mut impl Read) -> Result<Entry> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header)?;
    ensure!(is_archive(&header), "an entry does not begin with 070701");
    let field = |index: usize| -> Result<u32> {
        let start = MAGIC.len() + 8 * index;
        Ok(u32::from_str_radix(std::str::from_utf8(&header[start..start + 8])?, 16)?)
    };
    let meta = Meta { mode: field(1)?, mtime: field(5)?, device: (field(9)?, field(10)?) };
    let (size, name_size) = (field(6)?, field(11)?);
    let mut name = read_padded(from, name_size, HEADER as u32)?;
    ensure!(name.pop() == Some(0), "a name has no end");
    Ok(Entry {
        name: PathBuf::from(OsString::from_vec(name)),
        meta,
        inode: field(0)?,
        links: field(4)?,
        content: read_padded(from, size, 0)?,
    })
}

/// Reads `size` bytes, and the padding to four bytes of what began `before` bytes earlier.
fn read_padded(from: &mut impl Read, size: u32, before: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(u64::from(size)).read_to_end(&mut bytes)?;
    ensure!(bytes.len() == size as usize, "the end is missing");
    let padding = size.wrapping_add(before).wrapping_neg() % 4;
    from.read_exact(&mut [0; 3][..padding as usize])?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn archive(files: &[(String, Meta, Vec<u8>)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (name, meta, content) in files {
            writer.add(Path::new(name), *meta, content.len() as u64, content.as_slice()).unwrap();
        }
        writer.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            files in proptest::collection::vec(
                ("[a-z/]{1,20}", any::<u32>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..50)), 0..8),
        ) {
            let files: Vec<_> = files
                .into_iter()
                .map(|(name, mode, mtime, content)| (name, Meta { mode, mtime, device: (mode >> 3, 7) }, content))
                .collect();
            let bytes = archive(&files);
            prop_assert_eq!(bytes.len() % 4, 0);
            let read: Vec<_> = read(bytes.as_slice())
                .unwrap()
                .into_iter()
                .map(|e| (e.name.to_str().unwrap().to_string(), e.meta, e.content))
                .collect();
            prop_assert_eq!(read, files);
        }

        #[test]
        fn an_archive_cut_short_is_an_error(cut in 1usize..200) {
            let bytes = archive(&[("a".into(), Meta::default(), vec![1; 99])]);
            prop_assert!(read(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        assert!(writer.add(Path::new("a"), Meta::default(), 3, &b"12"[..]).is_err());
    }

    #[test]
    fn other_programs_read_it() {
        let Some(busybox) = crate::host::find_program("busybox") else { return };
        let meta = Meta { mode: 0o100644, ..Meta::default() };
        let bytes = archive(&[("one".into(), meta, b"1".to_vec()), ("three".into(), meta, b"333".to_vec())]);
        let mut child = Command::new(busybox)
            .args(["cpio", "-t"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "one\nthree\n");
    }
}
