//! Function names for backtraces.
//!
//! The image has room for a table (section `.ksyms`), which `cargo xtask build` fills after linking: a magic number, a count, and for
//! each function its offset from the kernel's base and the offset of its name, in ascending order; then the names,
//! each ending in NUL. An image without a table only loses the names.

use super::layout::KERNEL_BASE;

const MAGIC: u32 = 0x4d59_534b;
/// Bytes of the table.
const SIZE: usize = 1 << 20;

/// Aligned as the linker script aligns the section.
#[repr(C, align(16))]
struct Table([u8; SIZE]);

#[used]
#[unsafe(link_section = ".ksyms")]
static TABLE: Table = Table([0; SIZE]);

fn bytes() -> &'static [u8] {
    // The compiler knows the table as zeroes; it was changed after it was compiled.
    core::hint::black_box(&TABLE.0)
}

fn word(table: &[u8], index: usize) -> Option<u32> {
    let bytes = table.get(index * 4..index * 4 + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The function that contains `address`, and how far into it the address is.
pub fn resolve(address: u64) -> Option<(&'static str, u64)> {
    find(bytes(), address.checked_sub(KERNEL_BASE)?)
}

fn find(table: &[u8], offset: u64) -> Option<(&str, u64)> {
    if word(table, 0)? != MAGIC {
        return None;
    }
    let count = word(table, 1)? as usize;
    let start_of = |index: usize| word(table, 2 + 2 * index).map(u64::from);
    // The last function that starts at or before the offset.
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        if start_of(middle)? <= offset { low = middle + 1 } else { high = middle }
    }
    let index = low.checked_sub(1)?;
    let names = table.get(8 + 8 * count..)?;
    let name = names.get(word(table, 3 + 2 * index)? as usize..)?;
    let end = name.iter().position(|&byte| byte == 0)?;
    Some((core::str::from_utf8(&name[..end]).ok()?, offset - start_of(index)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<u8> {
        let mut table: Vec<u8> =
            [MAGIC, 2, 0x1000, 0, 0x2000, 6].iter().flat_map(|w| w.to_le_bytes()).collect();
        table.extend_from_slice(b"first\0second\0");
        table
    }

    #[test]
    fn an_address_belongs_to_the_function_before_it() {
        let table = table();
        assert_eq!(find(&table, 0x1000), Some(("first", 0)));
        assert_eq!(find(&table, 0x1fff), Some(("first", 0xfff)));
        assert_eq!(find(&table, 0x2010), Some(("second", 0x10)));
        assert_eq!(find(&table, 0xfff), None);
    }

    #[test]
    fn a_table_that_is_missing_or_cut_short_gives_nothing() {
        assert_eq!(find(&[0; 64], 0x1000), None);
        let table = table();
        for len in 0..table.len() - 7 {
            assert_eq!(find(&table[..len], 0x2010), None, "{len} bytes");
        }
    }
}
