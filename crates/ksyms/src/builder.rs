//! Making a table.

use std::collections::{BTreeMap, HashMap};
use std::num::TryFromIntError;

use crate::{MAGIC, Place, ROWS_OF_BLOCK, leb128};

/// What is to be in a table, in any order.
#[derive(Debug, Default)]
pub struct Builder {
    functions: BTreeMap<u32, u32>,
    /// For each piece of code, its place in the function, and in what was inlined.
    code: BTreeMap<u32, [Place; 2]>,
    /// Names of the files, by their numbers.
    files: Vec<u32>,
    numbers: HashMap<String, u32>,
    strings: Strings,
}

/// Strings, each once.
#[derive(Debug, Default)]
struct Strings {
    bytes: Vec<u8>,
    known: HashMap<String, u32>,
}

impl Strings {
    fn add(&mut self, string: &str) -> u32 {
        // What comes behind a NUL would not be read.
        let string = string.split('\0').next().unwrap_or_default();
        if let Some(&offset) = self.known.get(string) {
            return offset;
        }
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(string.as_bytes());
        self.bytes.push(0);
        self.known.insert(string.into(), offset);
        offset
    }
}

impl Builder {
    /// A function begins at `offset`; of several, the first that is named stays.
    pub fn function(&mut self, offset: u32, name: &str) -> &mut Self {
        let name = self.strings.add(name);
        self.functions.entry(offset).or_insert(name);
        self
    }

    /// From `offset` on, code comes from this file and line of its function, or from nowhere; and from those of a function that was
    /// inlined, if it was.
    pub fn code(&mut self, offset: u32, own: Option<(&str, u32)>, inlined: Option<(&str, u32)>) -> &mut Self {
        let places = [own, inlined].map(|place| place.map_or_else(Place::default, |place| self.place(place)));
        self.code.insert(offset, places);
        self
    }

    /// No file is as long as the longest; a distance between two lines has to fit its number.
    fn place(&mut self, (file, line): (&str, u32)) -> Place {
        Place { file: self.file(file), line: line.min(1 << 28) }
    }

    fn file(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.files.len() as u32;
        let offset = self.strings.add(name);
        self.files.push(offset);
        self.numbers.insert(name.into(), number);
        number
    }

    /// The bytes of the table.
    ///
    /// # Errors
    /// When something is larger than its number.
    pub fn table(self) -> Result<Vec<u8>, TryFromIntError> {
        let mut rows = Rows::default();
        self.code.into_iter().for_each(|(offset, places)| rows.add(offset, places));
        let counts = [self.functions.len(), rows.blocks.len() / 2, self.files.len(), rows.bytes.len()];
        let mut words = vec![MAGIC];
        for count in counts {
            words.push(u32::try_from(count)?);
        }
        u32::try_from(self.strings.bytes.len())?;
        words.extend(self.functions.into_iter().flat_map(|(offset, name)| [offset, name]));
        words.extend(rows.blocks.into_iter().chain(self.files));
        let bytes = words.into_iter().flat_map(u32::to_le_bytes);
        Ok(bytes.chain(rows.bytes).chain(self.strings.bytes).collect())
    }
}

/// Rows as they are stored.
#[derive(Debug, Default)]
struct Rows {
    blocks: Vec<u32>,
    bytes: Vec<u8>,
    in_block: usize,
    offset: u32,
    places: [Place; 2],
}

impl Rows {
    /// What comes from where the code before it does needs no row.
    fn add(&mut self, offset: u32, places: [Place; 2]) {
        let is_first = self.bytes.is_empty();
        if !is_first && places == self.places {
            return;
        }
        if is_first || self.in_block == ROWS_OF_BLOCK {
            self.blocks.extend([offset, self.bytes.len() as u32]);
            (self.in_block, self.offset, self.places) = (0, offset, Default::default());
        }
        leb128::write(offset - self.offset, &mut self.bytes);
        for (last, next) in self.places.into_iter().zip(places) {
            let distance = leb128::to_zigzag(next.line as i32 - last.line as i32);
            leb128::write(distance << 1 | u32::from(next.file != last.file), &mut self.bytes);
            if next.file != last.file {
                leb128::write(next.file, &mut self.bytes);
            }
        }
        (self.offset, self.places) = (offset, places);
        self.in_block += 1;
    }
}
