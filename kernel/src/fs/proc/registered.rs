//! Directories of procfs that other parts of the kernel fill: /proc/net and /proc/nrk.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::errno::Errno;
use crate::fs::pseudo::{Branch, EmitNumber, Entry, EntryName, Kind, Spec, Subject, Text};
use crate::fs::{FileType, Node};
use crate::sync::RwSpinLock;

/// Writes a file's text.
pub type Generate = fn(&mut dyn fmt::Write) -> fmt::Result;

/// A directory that can be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// /proc/net.
    Net,
    /// /proc/nrk.
    Nrk,
}

struct Registration {
    folder: Folder,
    name: &'static str,
    generate: Generate,
}

static FILES: RwSpinLock<Vec<Registration>> = RwSpinLock::new(Vec::new());

/// Puts the file `name` into `folder`; its text is made by `generate` for each read from its start. At boot.
pub fn register(folder: Folder, name: &'static str, generate: Generate) {
    FILES.write().push(Registration { folder, name, generate });
}

/// A folder, as an entry of procfs.
pub struct Registered(pub Folder);

/// A file of a folder, by its place in the list, which only grows.
#[derive(Clone, Copy)]
struct File(usize);

impl Subject for File {}

static FILE: Spec<File> = Spec { name: "", mode: 0o444, kind: Kind::Text(show) };

fn show(file: &File, text: &mut Text) -> Result<(), Errno> {
    let generate = FILES.read().get(file.0).map(|file| file.generate).ok_or(Errno::ENOENT)?;
    Ok(generate(text)?)
}

impl<S: Subject> Branch<S> for Registered {
    fn find(&self, _: &S, parent: &Arc<Entry<S>>, name: &[u8]) -> Result<Arc<dyn Node>, Errno> {
        let files = FILES.read();
        let found = files.iter().position(|file| file.folder == self.0 && file.name.as_bytes() == name);
        let index = found.ok_or(Errno::ENOENT)?;
        Ok(Entry::new(parent, &FILE, EntryName::Given(files[index].name), File(index)))
    }

    fn list(&self, _: &S, from: u32, emit: &mut EmitNumber<'_>) -> Result<(), Errno> {
        let files = FILES.read();
        for (index, file) in files.iter().enumerate().skip(from as usize) {
            let name = EntryName::Given(file.name);
            if file.folder == self.0 && !emit(index as u32, name, FileType::Regular) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::mount::{FileSystem, Mount};
    use crate::fs::path::{View, resolve};
    use crate::fs::{Identity, Location, OpenFlags};
    use crate::uaccess::ReadBuf;

    #[test]
    fn a_registered_file_is_found_listed_and_read() {
        register(Folder::Nrk, "greeting", |out| writeln!(out, "good morning"));
        let fs = Arc::new(crate::fs::proc::new());
        assert_eq!(fs.name(), "proc");
        let root = Location::root_of(Mount::detached(fs));
        let view = View { who: Identity::ROOT, root: &root };
        let file =
            resolve(view, &root, b"/nrk/greeting", true).unwrap().node.open(OpenFlags::empty()).unwrap();
        let mut out = [0; 32];
        assert_eq!(file.read(0, &mut ReadBuf::kernel(&mut out)), Ok(13));
        assert_eq!(&out[..13], b"good morning\n");
        let mut names = Vec::new();
        let folder = resolve(view, &root, b"/nrk", true).unwrap();
        folder
            .node
            .list(0, &mut |entry| {
                names.push(entry.name.to_vec());
                true
            })
            .unwrap();
        assert!(names.contains(&b"greeting".to_vec()));
        assert_eq!(resolve(view, &root, b"/nrk/other", true).err(), Some(Errno::ENOENT));
        let user = View { who: Identity { uid: 5, gid: 5, groups: &[], privileged: false }, root: &root };
        assert_eq!(resolve(user, &root, b"/nrk/greeting", true).err(), Some(Errno::EACCES));
    }
}
