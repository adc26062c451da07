//! The kernel's own symbol table, so that its backtraces carry names.
//!
//! The linker leaves a zero-filled section `.ksyms` in the image; it is filled in the file once the addresses are
//! known. All numbers are little-endian `u32`:
//!
//! ```text
//! magic 0x4d59534b ("KSYM")   count
//! count x { address - 0xffff_ffff_8000_0000, offset of the name from the start of the strings }   by address
//! strings: NUL-terminated demangled names, without the hash
//! ```

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// The first word of a filled table.
pub const MAGIC: u32 = 0x4d59_534b;
/// Where the kernel image's 2 GiB begin.
pub const BASE: u64 = 0xffff_ffff_8000_0000;
/// The section's name.
pub const SECTION: &str = ".ksyms";

/// Fills the table of an ELF image in place; returns the number of functions in it.
pub fn fill(elf: &mut [u8]) -> Result<usize> {
    let (range, table, count) = {
        let file = object::File::parse(&*elf).context("the kernel image is no ELF file")?;
        let section = file
            .section_by_name(SECTION)
            .with_context(|| format!("the kernel image has no section {SECTION}"))?;
        let (start, size) =
            section.file_range().with_context(|| format!("section {SECTION} takes no room in the file"))?;
        let functions = functions(&file)?;
        (usize::try_from(start)?..usize::try_from(start + size)?, table(&functions)?, functions.len())
    };
    let room = elf.get_mut(range).with_context(|| format!("section {SECTION} lies outside the file"))?;
    if table.len() > room.len() {
        bail!(
            "the kernel's symbol table needs {} bytes, section {SECTION} has {}: enlarge it in the linker script",
            table.len(),
            room.len()
        );
    }
    room[..table.len()].copy_from_slice(&table);
    Ok(count)
}

/// Address (relative to [`BASE`]) and name of each function; one name per address.
fn functions(file: &object::File<'_>) -> Result<BTreeMap<u32, String>> {
    let mut functions = BTreeMap::new();
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.is_definition()) {
        let name = symbol.name().context("a symbol's name is no UTF-8")?;
        let offset = symbol.address().checked_sub(BASE).and_then(|offset| u32::try_from(offset).ok());
        // Boot code that runs before paging is linked low; a backtrace never ends up there.
        let Some(offset) = offset else { continue };
        if !name.is_empty() {
            functions.entry(offset).or_insert_with(|| format!("{:#}", rustc_demangle::demangle(name)));
        }
    }
    Ok(functions)
}

/// The bytes of a table.
fn table(functions: &BTreeMap<u32, String>) -> Result<Vec<u8>> {
    let (mut entries, mut strings, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
    for (address, name) in functions {
        ensure!(!name.contains('\0'), "a symbol's name holds a NUL");
        let offset = *seen.entry(name).or_insert_with(|| {
            let offset = strings.len();
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
            offset
        });
        entries.extend_from_slice(&address.to_le_bytes());
        entries.extend_from_slice(&u32::try_from(offset)?.to_le_bytes());
    }
    let header = [MAGIC, u32::try_from(functions.len())?].map(u32::to_le_bytes).concat();
    Ok([header, entries, strings].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_can_be_searched_by_address() {
        let functions =
            BTreeMap::from([(0x10, "a".to_string()), (0x200, "b::c".into()), (0x300, "a".into())]);
        let bytes = table(&functions).unwrap();
        let word = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
        assert_eq!((word(0), word(1)), (MAGIC, 3));
        assert_eq!([word(2), word(4), word(6)], [0x10, 0x200, 0x300]);
        let strings = &bytes[8 + 3 * 8..];
        let name = |i: usize| {
            strings[word(3 + 2 * i) as usize..].split(|b| *b == 0).next().map(|n| n.to_vec()).unwrap()
        };
        assert_eq!([name(0), name(1), name(2)], [b"a".to_vec(), b"b::c".to_vec(), b"a".to_vec()]);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(fill(&mut []).is_err());
        assert!(fill(&mut [0; 4096]).is_err());
    }
}
