//! What gdb is told about a guest: the kernel's symbols, those of the program where nrk loads it, and where QEMU listens.
//!
//! The guest gets `norandmaps` on its command line, so that the place is known, see [`elf::load_offset`]. The libraries of the program
//! are not known to gdb: /proc/PID/maps shows where they are.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::qemu::{self, Gdb};
use crate::watched::Watched;
use crate::{elf, process, workspace};

/// The port of 127.0.0.1 for a guest that a person debugs.
pub const PORT: u16 = 1234;
/// How long gdb may take to execute a script.
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
            let data = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
            let offset =
                elf::load_offset(&data).with_context(|| format!("{} is no program", program.display()))?;
            writeln!(script, "set confirm off")?;
            writeln!(script, "add-symbol-file {} -o {offset:#x}", quoted(program))?;
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
        fs::write(&script, self.script()? + &commands.join("\n") + "\n")?;
        if let Gdb::Socket(path) = self.server {
            qemu::await_socket(path)?;
        }
        let mut gdb = process::dies_with_us("gdb");
        gdb.args(["-nx", "--batch", "-x"]).arg(script);
        Ok(Watched::start(gdb, false)?.succeed(PATIENCE)?.join("\n"))
    }
}

/// A path as gdb's commands read it.
fn quoted(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
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
}
