//! What gdb is told about a guest: the kernel's symbols, those of the program where nrk loads it, and where QEMU listens.
//!
//! The guest gets `norandmaps` on its command line, so that the place is known: programs that are linked to an address lie there,
//! and those that can be put anywhere at [`PROGRAM_BASE`]. Its libraries are not known to gdb: /proc/PID/maps shows where they are.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use object::LittleEndian;
use object::elf::{ET_DYN, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::qemu::Gdb;
use crate::watched::Watched;
use crate::{process, workspace};

/// Where nrk puts a program that can be put anywhere (`kernel/src/process/exec/load.rs`).
const PROGRAM_BASE: u64 = 0x5555_5555_4000;
const PAGE: u64 = 4096;
/// The port of 127.0.0.1 for a guest that a person debugs.
pub const PORT: u16 = 1234;
/// How long QEMU may take to start, and gdb to execute a script.
const PATIENCE: Duration = Duration::from_secs(180);

/// What gdb is to know.
#[derive(Debug)]
pub struct Session<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The init program's file on this machine, if it is one of this machine.
    pub program: Option<&'a Path>,
    /// Where QEMU listens.
    pub server: &'a Gdb,
}

impl Session<'_> {
    /// The commands for `gdb -x`: symbols, and the connection.
    pub fn script(&self) -> Result<String> {
        let mut script = String::from("# Written by `cargo xtask run --debug`.\n");
        // Breakpoints are set while other things lie where the code will be: gdb looks for a function's first line in the files.
        writeln!(script, "set trust-readonly-sections on")?;
        writeln!(script, "file {}", quoted(self.kernel))?;
        if let Some(program) = self.program {
            writeln!(script, "set confirm off")?;
            writeln!(script, "add-symbol-file {} -o {:#x}", quoted(program), load_offset(program)?)?;
            writeln!(script, "set confirm on")?;
        }
        match self.server {
            Gdb::Port(port) => writeln!(script, "target remote 127.0.0.1:{port}")?,
            Gdb::Socket(path) => writeln!(script, "target remote {}", path.display())?,
        }
        Ok(script)
    }

    /// Has gdb execute commands; returns what it wrote. Its script is left in `folder`.
    pub fn execute(&self, commands: &[&str], folder: &Path) -> Result<String> {
        let script = folder.join("script.gdb");
        std::fs::write(&script, self.script()? + &commands.join("\n") + "\n")?;
        if let Gdb::Socket(path) = self.server {
            await_socket(path)?;
        }
        let mut gdb = process::dies_with_us("gdb");
        gdb.args(["-nx", "--batch", "-x"]).arg(script);
        Ok(Watched::start(gdb, false)?.succeed(PATIENCE)?.join("\n"))
    }
}

/// Waits until QEMU, just started, listens on a socket: gdb would not.
fn await_socket(path: &Path) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !path.exists() {
        ensure!(Instant::now() < end, "QEMU does not listen on {}", path.display());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A path as gdb's commands read it.
fn quoted(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// By how much nrk moves a program from the addresses in its file, when it does not choose at random.
pub fn load_offset(program: &Path) -> Result<u64> {
    let data = std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    offset_of(&data).with_context(|| format!("{} is no program", program.display()))
}

fn offset_of(data: &[u8]) -> Result<u64> {
    let header = FileHeader64::<LittleEndian>::parse(data)?;
    if header.e_type(LittleEndian) != ET_DYN {
        return Ok(0);
    }
    let segments = header.program_headers(LittleEndian, data)?;
    let loaded = segments.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
    let start = loaded.clone().map(|segment| segment.p_vaddr(LittleEndian)).next().unwrap_or(0);
    let align = loaded.map(|segment| segment.p_align(LittleEndian)).max().unwrap_or(0).max(PAGE);
    Ok(PROGRAM_BASE.next_multiple_of(align).wrapping_sub(start - start % PAGE))
}

/// The script's place for a guest that a person debugs.
pub fn script_path() -> PathBuf {
    workspace::target().join("nrk.gdb")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(program: Option<&Path>, server: &Gdb) -> String {
        Session { kernel: Path::new("/a b/nrk"), program, server }.script().unwrap()
    }

    #[test]
    fn a_script_names_the_files_and_the_server() {
        let exe = std::env::current_exe().unwrap();
        let script = session(Some(&exe), &Gdb::Port(1234));
        let lines: Vec<&str> = script.lines().skip(1).collect();
        // Cargo's tests are relocatable, linked to address 0.
        let program = format!("add-symbol-file \"{}\" -o 0x555555554000", exe.display());
        assert_eq!(lines[1], "file \"/a b/nrk\"");
        assert!(lines.contains(&program.as_str()), "{script}");
        assert_eq!(lines.last(), Some(&"target remote 127.0.0.1:1234"));
        assert!(session(None, &Gdb::Socket("/s".into())).ends_with("\ntarget remote /s\n"));
    }

    #[test]
    fn only_what_can_be_moved_is_moved() {
        let mut data = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(offset_of(&data).unwrap(), PROGRAM_BASE);
        data[16] = 2; // ET_EXEC
        assert_eq!(offset_of(&data).unwrap(), 0);
        assert!(offset_of(b"#!/bin/sh").is_err() && load_offset(Path::new("/does/not/exist")).is_err());
    }
}
