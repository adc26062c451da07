//! What a program needs in order to start: its interpreter and its shared libraries, found as ld.so(8) finds them; and where nrk puts
//! it.
//!
//! The files are read, not run: `ldd` would execute the program's interpreter.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::LittleEndian;
use object::elf::{
    DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRTAB, DynamicTag, EM_X86_64, ET_DYN, FileHeader64, PT_LOAD,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};

type Header = FileHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;

const PAGE: u64 = 4096;
/// Where nrk, like Linux, puts a program that can be put anywhere (`kernel/src/process/exec/load.rs`).
pub const PROGRAM_BASE: u64 = 0x5555_5555_4000;

/// Where ld.so looks last; the first three are Debian's and Fedora's homes of 64-bit libraries.
pub const DEFAULT_FOLDERS: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// What an ELF file says about its own linking.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Linkage {
    /// PT_INTERP: the dynamic loader.
    pub interpreter: Option<PathBuf>,
    /// DT_NEEDED, in order.
    pub needed: Vec<String>,
    /// Folders of DT_RUNPATH, or of DT_RPATH where there is none, with `$ORIGIN` replaced.
    pub search: Vec<PathBuf>,
}

/// The linkage of a file, `None` if it is no ELF file.
///
/// An ELF file for another machine than x86-64 is an error.
pub fn linkage(path: &Path) -> Result<Option<Linkage>> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !data.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    parse(&data, path).with_context(|| format!("{} is no x86-64 ELF file", path.display())).map(Some)
}

fn parse(data: &[u8], path: &Path) -> Result<Linkage> {
    let header = Header::parse(data)?;
    if header.e_machine(LE) != EM_X86_64 {
        bail!("it is for another machine");
    }
    let segments = header.program_headers(LE, data)?;
    let mut linkage = Linkage::default();
    for segment in segments {
        if let Some(interpreter) = segment.interpreter(LE, data)? {
            linkage.interpreter = Some(OsString::from_vec(interpreter.to_vec()).into());
        }
        let Some(entries) = segment.dynamic(LE, data)? else { continue };
        let of = |tag: DynamicTag| entries.iter().filter(move |e| e.d_tag(LE) == tag).map(|e| e.d_val(LE));
        let strings =
            of(DT_STRTAB).next().and_then(|address| at_address(data, segments, address)).unwrap_or_default();
        linkage.needed = of(DT_NEEDED).filter_map(|offset| string(strings, offset)).collect();
        let search = of(DT_RUNPATH).next().or_else(|| of(DT_RPATH).next());
        let search = search.and_then(|offset| string(strings, offset)).unwrap_or_default();
        let origin = path.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        linkage.search = search
            .split(':')
            .filter(|folder| !folder.is_empty())
            .map(|folder| folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin).into())
            .collect();
    }
    Ok(linkage)
}

/// The bytes of the file that are loaded at an address and behind it.
fn at_address<'d>(
    data: &'d [u8],
    segments: &[<Header as FileHeader>::ProgramHeader],
    address: u64,
) -> Option<&'d [u8]> {
    segments.iter().filter(|s| s.p_type(LE) == PT_LOAD).find_map(|segment| {
        let within = address.checked_sub(segment.p_vaddr(LE))?;
        segment.data(LE, data).ok()?.get(usize::try_from(within).ok()?..).filter(|rest| !rest.is_empty())
    })
}

fn string(strings: &[u8], offset: u64) -> Option<String> {
    let bytes = strings.get(usize::try_from(offset).ok()?..)?;
    let end = bytes.iter().position(|b| *b == 0)?;
    String::from_utf8(bytes[..end].to_vec()).ok()
}

/// By how much nrk moves a program from the addresses in its file, if it does not choose at random.
pub fn load_offset(data: &[u8]) -> Result<u64> {
    let header = Header::parse(data)?;
    if header.e_type(LE) != ET_DYN {
        return Ok(0);
    }
    let loaded = header.program_headers(LE, data)?.iter().filter(|segment| segment.p_type(LE) == PT_LOAD);
    let start = loaded.clone().map(|segment| segment.p_vaddr(LE)).next().unwrap_or(0);
    let align = loaded.map(|segment| segment.p_align(LE)).max().unwrap_or(0).max(PAGE);
    Ok(PROGRAM_BASE.next_multiple_of(align).wrapping_sub(start - start % PAGE))
}

/// Finds the files that programs need to start on this machine.
pub struct Linker {
    folders: Vec<PathBuf>,
}

impl Linker {
    /// A linker that searches where this machine's ld.so does.
    pub fn of_this_machine() -> Self {
        let mut folders = Vec::new();
        read_configuration(Path::new("/etc/ld.so.conf"), 0, &mut folders);
        folders.extend(DEFAULT_FOLDERS.iter().map(PathBuf::from));
        Self { folders }
    }

    /// The interpreter and all shared libraries, direct and indirect, of an ELF file.
    pub fn files_of(&self, program: &Path) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        let mut open = vec![program.to_path_buf()];
        while let Some(path) = open.pop() {
            let Some(linkage) = linkage(&path)? else { continue };
            let mut wanted: Vec<PathBuf> = linkage.interpreter.clone().into_iter().collect();
            for name in &linkage.needed {
                wanted.push(self.find(name, &linkage.search).with_context(|| {
                    format!("{} needs the library {name}, which is not on this machine", path.display())
                })?);
            }
            open.extend(wanted.into_iter().filter(|file| found.insert(file.clone())));
        }
        Ok(found)
    }

    /// The path of a library by its name.
    pub fn find(&self, name: &str, search: &[PathBuf]) -> Option<PathBuf> {
        if name.contains('/') {
            return Path::new(name).is_file().then(|| name.into());
        }
        let folders = search.iter().chain(&self.folders);
        folders.map(|folder| folder.join(name)).find(|path| is_library(path))
    }
}

/// Whether ld.so would take the file: 64-bit, little-endian, x86-64.
fn is_library(path: &Path) -> bool {
    let mut start = [0; 20];
    let read = fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start));
    read.is_ok() && start.starts_with(b"\x7fELF\x02\x01") && start[18..20] == EM_X86_64.0.to_le_bytes()
}

/// Folders of an ld.so.conf(5) file and of what it includes (`include PATTERN`, with `*` in the last part).
fn read_configuration(path: &Path, depth: usize, folders: &mut Vec<PathBuf>) {
    let Ok(text) = fs::read_to_string(path) else { return };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if let Some(pattern) = line.strip_prefix("include").map(str::trim).filter(|_| depth < 8) {
            let base = path.parent().unwrap_or(Path::new("/"));
            included(&base.join(pattern))
                .iter()
                .for_each(|file| read_configuration(file, depth + 1, folders));
        } else if line.starts_with('/') {
            folders.push(line.into());
        }
    }
}

fn included(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let (start, end) = name.split_once('*').unwrap_or((&name, ""));
    let folder = pattern.parent().and_then(|folder| fs::read_dir(folder).ok());
    let mut files: Vec<PathBuf> = folder
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.len() >= start.len() + end.len() && file.starts_with(start) && file.ends_with(end)
        })
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_brings_its_loader_and_libc() {
        let files = Linker::of_this_machine().files_of(&std::env::current_exe().unwrap()).unwrap();
        let names: Vec<_> = files.iter().map(|f| f.file_name().unwrap().to_str().unwrap()).collect();
        assert!(names.contains(&"libc.so.6") && names.iter().any(|n| n.starts_with("ld-linux")), "{names:?}");
        assert!(files.iter().all(|file| file.is_file()));
    }

    #[test]
    fn what_is_no_elf_has_no_linkage() {
        assert_eq!(linkage(Path::new("/etc/passwd")).unwrap(), None);
        assert!(linkage(Path::new("/does/not/exist")).is_err());
    }

    #[test]
    fn damaged_programs_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let whole = fs::read("/proc/self/exe").unwrap();
        fs::write(&path, &whole[..48]).unwrap();
        assert!(linkage(&path).is_err());
        let mut arm = whole[..4096].to_vec();
        arm[18] = 183;
        fs::write(&path, arm).unwrap();
        assert!(linkage(&path).is_err());
    }

    #[test]
    fn only_what_can_be_put_anywhere_is_moved() {
        // Cargo's tests can, and are linked to address 0.
        let mut data = fs::read("/proc/self/exe").unwrap();
        assert_eq!(load_offset(&data).unwrap(), PROGRAM_BASE);
        data[16] = 2; // ET_EXEC
        assert_eq!(load_offset(&data).unwrap(), 0);
        assert!(load_offset(b"#!/bin/sh").is_err());
    }

    #[test]
    fn configuration_files_include_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("conf.d")).unwrap();
        fs::write(at("ld.so.conf"), "include conf.d/*.conf\n/opt/last # why\n").unwrap();
        fs::write(at("conf.d/a.conf"), "/opt/a\n").unwrap();
        fs::write(at("conf.d/b.conf"), "# nothing\n/opt/b\n").unwrap();
        fs::write(at("conf.d/c.off"), "/opt/c\n").unwrap();
        let mut folders = Vec::new();
        read_configuration(&at("ld.so.conf"), 0, &mut folders);
        assert_eq!(folders, ["/opt/a", "/opt/b", "/opt/last"].map(PathBuf::from));
    }
}
