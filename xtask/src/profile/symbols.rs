//! Names for addresses: the kernel's functions, the program's, and what lies elsewhere.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, SymbolKind};

use crate::elf;

/// Addresses from here on are the kernel's.
const KERNEL: u64 = 1 << 63;

/// Who runs at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The kernel.
    Kernel,
    /// A program.
    User,
}

/// The side on which an address lies.
pub fn side(address: u64) -> Side {
    if address >= KERNEL { Side::Kernel } else { Side::User }
}

/// An image's functions by address, and where the image ends.
#[derive(Debug, Default, Clone)]
struct Functions {
    names: BTreeMap<u64, String>,
    range: std::ops::Range<u64>,
}

/// The names of a guest's functions.
#[derive(Debug, Clone)]
pub struct Names {
    kernel: Functions,
    program: Functions,
    program_name: String,
    /// Whether the program's functions are told apart.
    user: bool,
}

impl Names {
    /// Reads the symbols of both images. A program without symbols has one name for all.
    pub fn read(kernel: &Path, program: &Path, user: bool) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            kernel: functions(kernel)?,
            // A script is run by another program.
            program: functions(program).unwrap_or_default(),
            program_name: name,
            user,
        })
    }

    /// The program's name.
    pub fn program(&self) -> &str {
        &self.program_name
    }

    /// What the instructions at an address belong to.
    pub fn name(&self, address: u64) -> String {
        match side(address) {
            Side::Kernel => self.kernel.find(address).map_or_else(|| format!("{address:#x}"), str::to_string),
            Side::User if !self.program.range.contains(&address) => "libraries and other programs".into(),
            Side::User if !self.user => self.program_name.clone(),
            Side::User => self.program.find(address).unwrap_or(&self.program_name).to_string(),
        }
    }
}

impl Functions {
    fn find(&self, address: u64) -> Option<&str> {
        self.names.range(..=address).next_back().map(|(_, name)| name.as_str())
    }
}

/// The functions of an ELF image, at the addresses that they have in a guest.
fn functions(path: &Path) -> Result<Functions> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
    let base = elf::load_offset(&bytes)?;
    let code: HashSet<_> = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .map(|section| section.index())
        .collect();
    let mut functions = Functions::default();
    for symbol in file.symbols().chain(file.dynamic_symbols()) {
        // What assembler code names is a function without a type.
        let is_code = match symbol.kind() {
            SymbolKind::Text => symbol.is_definition(),
            SymbolKind::Unknown | SymbolKind::Label => {
                symbol.section_index().is_some_and(|index| code.contains(&index))
            }
            _ => false,
        };
        let name = symbol.name().unwrap_or_default();
        if is_code && !name.is_empty() && !name.starts_with(".L") {
            let name = format!("{:#}", rustc_demangle::demangle(name));
            functions.names.entry(base.wrapping_add(symbol.address())).or_insert(name);
        }
    }
    let ends = || file.segments().map(|segment| (segment.address(), segment.address() + segment.size()));
    let (start, end) = (ends().map(|(start, _)| start).min(), ends().map(|(_, end)| end).max());
    functions.range = base.wrapping_add(start.unwrap_or(0))..base.wrapping_add(end.unwrap_or(0));
    Ok(functions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(user: bool) -> Names {
        let functions = |list: &[(u64, &str)], range| Functions {
            names: list.iter().map(|(address, name)| (*address, (*name).to_string())).collect(),
            range,
        };
        Names {
            kernel: functions(&[(KERNEL + 0x10, "nrk::a"), (KERNEL + 0x20, "nrk::b")], KERNEL..u64::MAX),
            program: functions(&[(0x1000, "main")], 0xf00..0x2000),
            program_name: "prog".into(),
            user,
        }
    }

    #[test]
    fn an_address_has_the_name_of_the_function_before_it() {
        let names = names(true);
        assert_eq!(names.name(KERNEL + 0x1f), "nrk::a");
        assert_eq!(names.name(KERNEL + 0x20), "nrk::b");
        assert_eq!((names.name(0x1004).as_str(), names.name(0xf80).as_str()), ("main", "prog"));
        assert_eq!(names.name(0x2000), "libraries and other programs");
        assert_eq!(names.name(KERNEL), format!("{KERNEL:#x}"));
    }

    #[test]
    fn without_user_the_program_is_one() {
        assert_eq!(names(false).name(0x1004), "prog");
    }

    #[test]
    fn this_tests_own_functions_are_found_where_a_guest_would_have_them() {
        let program = std::env::current_exe().unwrap();
        let functions = functions(&program).unwrap();
        let main = functions.names.iter().find(|(_, name)| *name == "main").unwrap();
        assert!(functions.range.contains(main.0) && *main.0 > elf::PROGRAM_BASE, "{:#x}", main.0);
    }
}
