//! The kernel's own table of functions and source lines, for the backtraces in its reports.
//!
//! The linker leaves room in the image (section `.ksyms`); `xtask` fills it once the addresses are known (feature `build`: `fill`, `Builder`);
//! the kernel looks addresses up ([`Table`]) when it has failed: without memory, without a lock, and without trust, for the table may
//! lie in the part that went wrong. All numbers are little-endian `u32`, and addresses offsets from the image's base:
//!
//! ```text
//! magic "KSY2"   number of functions   of blocks   of files   bytes of rows
//! functions x { offset, name }         ascending; names are offsets into the strings
//! blocks x { offset of the first row, where its rows begin }
//! files x { name }
//! rows: for each, as LEB128 numbers: how far its offset is from the last one's; its place in the function; its place in what was
//!       inlined. A place: twice the zigzag distance of its line from the last row's, plus 1 if the file changes, then the new
//!       file's number
//! strings, each with a NUL
//! ```
//!
//! A row says where in the source the code from its offset on comes from, up to the next row; line 0 stands for nowhere.
//! A block starts from its own offset, file 0 and line 0, so that a look-up reads [`ROWS_OF_BLOCK`] rows at most.
//!
//! Much code was inlined. Of the chain of functions that led to a piece of code, two places are kept: the one in the function that has
//! it now, and the innermost one in the workspace's own files.
#![cfg_attr(not(feature = "build"), no_std)]
#![deny(unsafe_code)]

#[cfg(feature = "build")]
mod builder;
#[cfg(feature = "build")]
mod image;
mod leb128;
#[cfg(feature = "build")]
mod lines;

#[cfg(feature = "build")]
pub use {builder::Builder, image::fill};

/// The first word of a table.
pub const MAGIC: u32 = u32::from_le_bytes(*b"KSY2");
/// Where the rows of the next block begin, at the latest.
pub const ROWS_OF_BLOCK: usize = 64;
/// Words before the functions.
const HEADER: usize = 5;

/// A place in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// The file: from the workspace's folder on, or how its package calls it.
    pub file: &'a str,
    /// The line, from 1.
    pub line: u32,
}

/// Where code comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The place in the function that has the code.
    pub own: Location<'a>,
    /// The place in a function that was inlined there, if it was.
    pub inlined: Option<Location<'a>>,
}

/// A file's number, and a line; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    file: u32,
    line: u32,
}

impl Place {
    /// The place that follows this one in the rows.
    fn next(self, rows: &mut &[u8]) -> Option<Self> {
        let change = leb128::read(rows)?;
        let line = self.line.wrapping_add_signed(leb128::from_zigzag(change >> 1));
        let file = if change & 1 != 0 { leb128::read(rows)? } else { self.file };
        Some(Self { file, line })
    }
}

/// A table, or what should be one: what makes no sense in it is not found.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    bytes: &'a [u8],
    functions: usize,
    blocks: usize,
    files: usize,
    rows: usize,
}

impl<'a> Table<'a> {
    /// The table in `bytes`, `None` if none was put there.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let word = |index| word(bytes, index).map(|word| word as usize);
        let (functions, blocks, files, rows) = (word(1)?, word(2)?, word(3)?, word(4)?);
        (word(0)? == MAGIC as usize).then_some(Self { bytes, functions, blocks, files, rows })
    }

    /// The function that contains the code at `offset`, and how far into it that is.
    pub fn function(&self, offset: u32) -> Option<(&'a str, u32)> {
        let (start, name) = self.last_pair(HEADER, self.functions, offset)?;
        Some((self.string(name)?, offset - start))
    }

    /// Where the code at `offset` comes from.
    pub fn origin(&self, offset: u32) -> Option<Origin<'a>> {
        let (mut at, position) = self.last_pair(self.first_block(), self.blocks, offset)?;
        let mut rows = self.rows()?.get(position as usize..)?;
        let (mut own, mut inlined) = (Place::default(), Place::default());
        for _ in 0..ROWS_OF_BLOCK {
            let Some(distance) = leb128::read(&mut rows) else { break };
            at = at.checked_add(distance)?;
            if at > offset {
                break;
            }
            (own, inlined) = (own.next(&mut rows)?, inlined.next(&mut rows)?);
        }
        Some(Origin { own: self.location(own)?, inlined: self.location(inlined) })
    }

    fn location(&self, place: Place) -> Option<Location<'a>> {
        let known = place.line != 0 && (place.file as usize) < self.files;
        let name = self.word(self.first_file().checked_add(place.file as usize)?).filter(|_| known)?;
        Some(Location { file: self.string(name)?, line: place.line })
    }

    fn word(&self, index: usize) -> Option<u32> {
        word(self.bytes, index)
    }

    fn first_block(&self) -> usize {
        self.functions.saturating_mul(2).saturating_add(HEADER)
    }

    fn first_file(&self) -> usize {
        self.blocks.saturating_mul(2).saturating_add(self.first_block())
    }

    /// Where in the bytes the rows begin.
    fn rows_at(&self) -> usize {
        self.files.saturating_add(self.first_file()).saturating_mul(4)
    }

    fn rows(&self) -> Option<&'a [u8]> {
        self.bytes.get(self.rows_at()..)?.get(..self.rows)
    }

    /// Of `count` pairs of words that begin at word `first`, ascending by their first, the last that is not above `offset`.
    fn last_pair(&self, first: usize, count: usize, offset: u32) -> Option<(u32, u32)> {
        let word_of =
            |pair: usize, which| self.word(pair.checked_mul(2)?.checked_add(first)?.checked_add(which)?);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if word_of(middle, 0)? <= offset { low = middle + 1 } else { high = middle }
        }
        let pair = low.checked_sub(1)?;
        Some((word_of(pair, 0)?, word_of(pair, 1)?))
    }

    fn string(&self, offset: u32) -> Option<&'a str> {
        let strings = self.bytes.get(self.rows_at().checked_add(self.rows)?..)?;
        let string = strings.get(offset as usize..)?;
        let end = string.iter().position(|&byte| byte == 0)?;
        core::str::from_utf8(&string[..end]).ok()
    }
}

fn word(bytes: &[u8], index: usize) -> Option<u32> {
    let bytes = bytes.get(index.checked_mul(4)?..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.function(0x1000, "first").function(0x2000, "second");
        builder.code(0x1000, Some(("a.rs", 10)), None).code(0x1004, Some(("a.rs", 9)), Some(("b.rs", 700)));
        builder.code(0x1800, None, None).code(0x2000, Some(("b.rs", 1)), None);
        builder.table().unwrap()
    }

    #[test]
    fn code_belongs_to_the_function_and_line_before_it() {
        let bytes = table();
        let table = Table::new(&bytes).unwrap();
        assert_eq!(table.function(0x1000), Some(("first", 0)));
        assert_eq!(table.function(0x1fff), Some(("first", 0xfff)));
        assert_eq!(table.function(0x2010), Some(("second", 0x10)));
        let origin = |offset| {
            let Origin { own, inlined } = table.origin(offset)?;
            Some(((own.file, own.line), inlined.map(|at| (at.file, at.line))))
        };
        assert_eq!(origin(0x1003), Some((("a.rs", 10), None)));
        assert_eq!(origin(0x1004), Some((("a.rs", 9), Some(("b.rs", 700)))));
        assert_eq!(origin(0x17ff), origin(0x1004));
        assert_eq!(origin(0x1900), None);
        assert_eq!(origin(u32::MAX), Some((("b.rs", 1), None)));
        assert_eq!((table.function(0xfff), origin(0xfff)), (None, None));
    }

    #[test]
    fn a_table_that_is_missing_or_cut_short_gives_nothing() {
        assert!(Table::new(&[0; 64]).is_none());
        let whole = table();
        for len in 0..whole.len() {
            // The strings come last, and "b.rs" behind the functions' names and "a.rs".
            let found = Table::new(&whole[..len]).and_then(|table| table.origin(0x2010));
            assert_eq!(found, None, "{len} of {} bytes", whole.len());
        }
        assert!(Table::new(&whole).unwrap().origin(0x2010).is_some());
    }

    type Spot = Option<(u8, u32)>;

    fn spot() -> impl Strategy<Value = Spot> {
        prop::option::of((0u8..5, 1u32..2000))
    }

    proptest! {
        #[test]
        fn what_was_put_in_is_found(
            rows in prop::collection::btree_map(0u32..50_000, (spot(), spot()), 0..400),
            offset in 0u32..60_000,
        ) {
            let mut builder = Builder::default();
            let names = ["a", "b", "c", "d", "e"];
            let named = |spot: Spot| spot.map(|(file, line)| (names[usize::from(file)], line));
            for (&at, &(own, inlined)) in &rows {
                builder.function(at, &format!("function {at}")).code(at, named(own), named(inlined));
            }
            let bytes = builder.table().unwrap();
            let table = Table::new(&bytes).unwrap();
            let expected = rows.range(..=offset).next_back();
            let function = expected.map(|(at, _)| (format!("function {at}"), offset - at));
            prop_assert_eq!(table.function(offset).map(|(name, into)| (name.to_string(), into)), function);
            let (own, inlined) = expected.map_or((None, None), |(_, &places)| places);
            let found = table.origin(offset);
            prop_assert_eq!(found.map(|found| (found.own.file, found.own.line)), named(own));
            if let Some(found) = found {
                prop_assert_eq!(found.inlined.map(|at| (at.file, at.line)), named(inlined));
            }
        }

        #[test]
        fn any_bytes_are_looked_up_in(mut bytes in prop::collection::vec(any::<u8>(), 0..400), counts: [u8; 4], offset: u32) {
            // Mostly tables with small numbers of everything.
            let header = [MAGIC].into_iter().chain(counts.map(u32::from)).flat_map(u32::to_le_bytes);
            bytes.iter_mut().zip(header).for_each(|(byte, of_header)| *byte = of_header);
            if let Some(table) = Table::new(&bytes) {
                let _ = (table.function(offset), table.origin(offset));
            }
        }

        #[test]
        fn damaged_tables_are_looked_up_in(at: prop::sample::Index, byte: u8, offset in 0u32..0x3000) {
            let mut bytes = table();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Some(table) = Table::new(&bytes) {
                let _ = (table.function(offset), table.origin(offset));
            }
        }
    }
}
