//! Where things lie in the workspace, and files that several processes write.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// The folder of the workspace.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The folder that everything built goes to.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The files of the tree, as paths from its folder: what git knows, and what it does not ignore.
pub fn files() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let output = git.output().context("cannot start git")?;
    if !output.status.success() {
        bail!("git does not list the files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = String::from_utf8(output.stdout).context("the name of a file is no UTF-8")?;
    Ok(names.split_terminator('\0').filter(|name| root().join(name).is_file()).map(String::from).collect())
}

/// A folder that is removed with the value; below target/, so that even a killed process leaves nothing elsewhere.
pub fn scratch() -> Result<TempDir> {
    let folder = target().join("tmp");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(TempDir::new_in(folder)?)
}

/// Holds an exclusive lock on `target/NAME.lock` until it is dropped (or the process dies).
///
/// Tests and commands run side by side; whoever builds or fills a cache holds the lock of that thing.
pub fn lock(name: &str) -> Result<File> {
    fs::create_dir_all(target())?;
    let path = target().join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Writes a file so that a reader sees the old or the new content, never a part.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let folder = path.parent().context("a file needs a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)
        .with_context(|| format!("cannot write in {}", folder.display()))?;
    write(file.as_file_mut())?;
    file.as_file_mut().flush()?;
    let kept = file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    rustix::fs::fchmod(&kept, rustix::fs::Mode::from_raw_mode(0o644))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/file");
        write_atomically(&path, |f| Ok(f.write_all(b"old")?)).unwrap();
        write_atomically(&path, |f| {
            f.write_all(b"half")?;
            anyhow::bail!("no")
        })
        .unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
