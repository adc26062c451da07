//! Function names and source lines for backtraces.
//!
//! The image has room for a table (section `.ksyms`), which xtask fills after linking: see the crate [`ksyms`]. An image without a
//! table only loses the names.

use core::fmt;

use ksyms::{Origin, Table};

use super::layout::KERNEL_BASE;

/// Bytes for the table. An image that is not optimised needs three times as many as the others.
const SIZE: usize = 2 << 20;

/// Aligned as the linker script aligns the section.
#[repr(C, align(16))]
struct Room([u8; SIZE]);

#[used]
#[unsafe(link_section = ".ksyms")]
static TABLE: Room = Room([0; SIZE]);

/// What a backtrace shows behind the address of code: ` nrk::memory::init + 0x1f (kernel/src/memory/mod.rs:90)`, or as much of
/// it as is known.
pub struct Code(
    /// The address.
    pub u64,
);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The compiler knows the table as zeroes; it was changed after it was compiled.
        match Table::new(core::hint::black_box(&TABLE.0)) {
            Some(table) => write(&table, self.0, f),
            None => Ok(()),
        }
    }
}

fn write(table: &Table<'_>, address: u64, f: &mut dyn fmt::Write) -> fmt::Result {
    let Some(offset) = address.checked_sub(KERNEL_BASE).and_then(|offset| offset.try_into().ok()) else {
        return Ok(());
    };
    if let Some((name, into)) = table.function(offset) {
        write!(f, " {name} + {into:#x}")?;
    }
    let Some(Origin { own, inlined }) = table.origin(offset) else { return Ok(()) };
    write!(f, " ({}:{}", own.file, own.line)?;
    if let Some(inlined) = inlined {
        write!(f, ", inlined {}:{}", inlined.file, inlined.line)?;
    }
    f.write_char(')')
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    #[test]
    fn code_has_a_name_and_a_line_as_far_as_the_table_says() {
        let mut builder = ksyms::Builder::default();
        builder.function(0x1000, "first").code(0x1000, Some(("a.rs", 7)), None);
        builder.code(0x1800, Some(("a.rs", 8)), Some(("b.rs", 9)));
        builder.function(0x2000, "second").code(0x2000, None, None);
        let bytes = builder.table().unwrap();
        let text = |address| {
            let mut text = String::new();
            write(&Table::new(&bytes).unwrap(), address, &mut text).unwrap();
            text
        };
        assert_eq!(text(KERNEL_BASE + 0x1010), " first + 0x10 (a.rs:7)");
        assert_eq!(text(KERNEL_BASE + 0x1800), " first + 0x800 (a.rs:8, inlined b.rs:9)");
        assert_eq!(text(KERNEL_BASE + 0x2000), " second + 0x0");
        // Before all functions, in the user half, and beyond the image.
        assert_eq!([text(KERNEL_BASE), text(0x1000), text(u64::MAX)].concat(), " second + 0x7fffdfff");
    }
}
