//! A directory of one's own to work in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A fresh directory under /tmp that is the current one; removed when dropped, whatever became of its rights.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it and goes there.
    pub fn enter() -> Result<Self, String> {
        let path = PathBuf::from(format!("/tmp/torture.{}.d", std::process::id()));
        remove(&path);
        let made = fs::create_dir(&path).and_then(|()| std::env::set_current_dir(&path));
        made.map(|()| Self(path.clone())).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::env::set_current_dir("/");
        remove(&self.0);
    }
}

/// Removes a tree in which any directory may have lost its rights.
fn remove(path: &Path) {
    let _ = fs::set_permissions(path, Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => remove(&entry.path()),
            _ => {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_without_rights_goes_too() {
        let path = std::env::temp_dir().join(format!("scratch-test.{}", std::process::id()));
        fs::create_dir_all(path.join("inner/deep")).unwrap();
        fs::write(path.join("inner/file"), b"x").unwrap();
        fs::set_permissions(path.join("inner"), Permissions::from_mode(0o0)).unwrap();
        remove(&path);
        assert!(!path.exists());
    }
}
