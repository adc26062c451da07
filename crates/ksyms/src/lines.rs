//! Which line of the source each piece of code comes from.
//!
//! Much of it was inlined: an index that is out of bounds fails in `core`. Of the chain of functions that led to a piece of code,
//! the outermost place and the innermost one in the workspace are taken.

use std::ops::Range;
use std::path::Path;

use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian, SectionId};
use anyhow::{Context, Result};
use object::{Object, ObjectSection, SectionKind};

use crate::Builder;
use crate::image::{Elf, offset};

type Reader<'a> = EndianSlice<'a, LittleEndian>;
type Lines<'a> = addr2line::Context<Reader<'a>>;

/// A file, and a line in it.
type Place<'a> = (&'a str, u32);

/// Adds where all code comes from, as far as the debug information says.
pub fn add(file: &Elf<'_>, base: u64, root: &Path, builder: &mut Builder) -> Result<()> {
    let section = |id: SectionId| -> Result<Reader<'_>> {
        let data = file.section_by_name(id.name()).map(|section| section.data()).transpose()?;
        Ok(EndianSlice::new(data.unwrap_or_default(), LittleEndian))
    };
    let context = Lines::from_dwarf(Dwarf::load(section)?)?;
    let root = format!("{}/", root.to_str().context("the workspace's path is no UTF-8")?);
    for text in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let (start, end) = (text.address(), text.address() + text.size());
        let mut covered = start;
        for (address, len, _) in context.find_location_range(start, end)? {
            // What no line says a thing about does not belong to the one before it.
            nowhere(covered..address, base, builder);
            covered = covered.max(address + len);
            if let Some(offset) = offset(address, base) {
                let (own, inlined) = origin(&context, address, &root)?;
                builder.code(offset, own, inlined);
            }
        }
        nowhere(covered..end, base, builder);
    }
    Ok(())
}

fn nowhere(range: Range<u64>, base: u64, builder: &mut Builder) {
    if let Some(offset) = offset(range.start, base).filter(|_| !range.is_empty()) {
        builder.code(offset, None, None);
    }
}

/// The place in the function that has the code at `address`, or the next inwards that is known; and the innermost in the
/// workspace, if that is another.
fn origin<'a>(
    context: &'a Lines<'_>,
    address: u64,
    root: &str,
) -> Result<(Option<Place<'a>>, Option<Place<'a>>)> {
    let (mut own, mut inlined) = (None, None);
    // From the innermost to the outermost.
    let mut frames = context.find_frames(address).skip_all_loads()?;
    while let Some(frame) = frames.next()? {
        // Line 0: code of the compiler's own.
        let place = frame.location.and_then(|at| at.file.zip(at.line)).filter(|(_, line)| *line != 0);
        inlined = inlined.or(place.filter(|(file, _)| file.starts_with(root)));
        own = place.or(own);
    }
    let short = |(file, line): Place<'a>| (short(file, root), line);
    Ok((own.map(short), inlined.filter(|_| inlined != own).map(short)))
}

/// A file's path without what differs between machines: where the workspace (`root`, with a slash), the packages and the
/// standard library lie.
fn short<'a>(file: &'a str, root: &str) -> &'a str {
    let package = || file.split_once("/registry/src/")?.1.split_once('/').map(|(_, path)| path);
    let library = || file.rfind("/library/").map(|at| &file[at + 1..]);
    file.strip_prefix(root).or_else(package).or_else(library).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use object::ObjectSymbol;

    use super::*;
    use crate::Table;

    #[inline(never)]
    fn line_within_the_function() -> u32 {
        line!()
    }

    /// The image is this test.
    #[test]
    fn the_lines_of_an_image_are_found() {
        // Not known at compile time, or there would be no function.
        let line = std::hint::black_box(line_within_the_function as fn() -> u32)();
        let image = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let file = Elf::parse(&*image).unwrap();
        let name = "line_within_the_function";
        let symbol =
            file.symbols().find(|symbol| symbol.name().is_ok_and(|mangled| mangled.contains(name))).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let mut builder = Builder::default();
        add(&file, 0, root, &mut builder).unwrap();
        let table = builder.table().unwrap();
        let origin = Table::new(&table).unwrap().origin(offset(symbol.address(), 0).unwrap()).unwrap();
        assert_eq!(origin.own.file, "crates/ksyms/src/lines.rs");
        assert!((line - 1..=line + 1).contains(&origin.own.line), "{origin:?}, not {line}");
        assert_eq!(origin.inlined, None);
    }

    #[test]
    fn paths_are_those_of_any_machine() {
        for (path, wanted) in [
            ("/src/nrk/kernel/src/boot.rs", "kernel/src/boot.rs"),
            ("/src/nrk2/kernel/src/boot.rs", "/src/nrk2/kernel/src/boot.rs"),
            ("/cargo/registry/src/index-19/smoltcp-0.14.0/src/lib.rs", "smoltcp-0.14.0/src/lib.rs"),
            ("/rustc/5980/library/core/src/panicking.rs", "library/core/src/panicking.rs"),
            ("/usr/src/rustc-1.96.0/library/alloc/src/vec/mod.rs", "library/alloc/src/vec/mod.rs"),
            ("/elsewhere/a.rs", "/elsewhere/a.rs"),
        ] {
            assert_eq!(short(path, "/src/nrk/"), wanted);
        }
    }
}
