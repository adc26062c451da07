//! Filling the table in an image.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::{Builder, lines};

/// An image: ELF for 64 bits, little-endian.
pub type Elf<'a> = ElfFile64<'a, LittleEndian>;

/// The section with the room for the table.
const SECTION: &str = ".ksyms";

/// Fills the table of an ELF image in place; returns its length in bytes. Offsets in it are those from `base`. `root` is the
/// folder of the workspace: a line in a file below it is preferred to one elsewhere.
///
/// # Errors
/// When the image is no ELF file with room enough in section `.ksyms`, or its debug information is damaged. An image without
/// debug information gets a table of names alone.
pub fn fill(elf: &mut [u8], base: u64, root: &Path) -> Result<usize> {
    let (range, table) = {
        let file = Elf::parse(&*elf).context("the image is no ELF file")?;
        let section =
            file.section_by_name(SECTION).with_context(|| format!("the image has no section {SECTION}"))?;
        let (start, size) =
            section.file_range().with_context(|| format!("section {SECTION} takes no room in the file"))?;
        let mut builder = Builder::default();
        functions(&file, base, &mut builder)?;
        lines::add(&file, base, root, &mut builder).context("the image's debug information is damaged")?;
        (usize::try_from(start)?..usize::try_from(start + size)?, builder.table()?)
    };
    let room = elf.get_mut(range).with_context(|| format!("section {SECTION} lies outside the file"))?;
    put(&table, room)?;
    Ok(table.len())
}

fn put(table: &[u8], room: &mut [u8]) -> Result<()> {
    ensure!(
        table.len() <= room.len(),
        "the table of functions and lines needs {} bytes, section {SECTION} has {}",
        table.len(),
        room.len()
    );
    room[..table.len()].copy_from_slice(table);
    Ok(())
}

/// The place of an address in the table. Boot code that runs before paging is linked low; a backtrace never ends up there.
pub fn offset(address: u64, base: u64) -> Option<u32> {
    address.checked_sub(base).and_then(|offset| u32::try_from(offset).ok())
}

/// Adds the functions; one name per address.
fn functions(file: &Elf<'_>, base: u64, builder: &mut Builder) -> Result<()> {
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.is_definition()) {
        let name = symbol.name().context("a symbol's name is no UTF-8")?;
        if let Some(offset) = offset(symbol.address(), base).filter(|_| !name.is_empty()) {
            builder.function(offset, &format!("{:#}", rustc_demangle::demangle(name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(fill(&mut [], 0, Path::new("/")).is_err());
        assert!(fill(&mut [0; 4096], 0, Path::new("/")).is_err());
        // An ELF file without the section: this test.
        let mut own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = fill(&mut own, 0, Path::new("/")).unwrap_err().to_string();
        assert_eq!(error, "the image has no section .ksyms");
    }

    #[test]
    fn a_table_that_does_not_fit_is_refused_with_both_sizes() {
        let mut room = [0; 4];
        put(&[1, 2, 3], &mut room).unwrap();
        assert_eq!(room, [1, 2, 3, 0]);
        let error = put(&[1; 5], &mut room).unwrap_err().to_string();
        assert_eq!(error, "the table of functions and lines needs 5 bytes, section .ksyms has 4");
        assert_eq!(room, [1, 2, 3, 0]);
    }
}
