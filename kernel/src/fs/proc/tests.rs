//! The directories of processes, as programs read them.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use crate::errno::Errno;
use crate::fs::fixture::{Fixture, rest};
use crate::fs::mount::Mount;
use crate::fs::path::{View, resolve};
use crate::fs::{FileType, Identity, Location, OpenFile, OpenFlags, open};
use crate::process::tests::{child_of, process, run_as_thread, second_thread};
use crate::process::{Credentials, Process};
use crate::uaccess::{ReadBuf, WriteBuf};

struct Proc {
    root: Location,
}

impl Proc {
    fn new() -> Self {
        Self { root: Location::root_of(Mount::detached(Arc::new(super::new()))) }
    }

    fn view(&self) -> View<'_> {
        View { who: Identity::ROOT, root: &self.root }
    }

    fn open(&self, path: &str) -> Result<Arc<OpenFile>, Errno> {
        open::open(self.view(), &self.root, path.as_bytes(), OpenFlags::RDWR, 0)
    }

    fn read(&self, path: &str) -> String {
        let file = open::open(self.view(), &self.root, path.as_bytes(), OpenFlags::empty(), 0).unwrap();
        String::from_utf8(rest(&file)).unwrap()
    }

    fn link(&self, path: &str) -> Result<String, Errno> {
        let text = resolve(self.view(), &self.root, path.as_bytes(), false)?.node.link_text()?;
        Ok(String::from_utf8(text.to_vec()).unwrap())
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        let directory = resolve(self.view(), &self.root, path.as_bytes(), true).unwrap();
        directory
            .node
            .list(0, &mut |entry| {
                names.push(String::from_utf8(entry.name.to_vec()).unwrap());
                true
            })
            .unwrap();
        names
    }
}

/// The line `name:` of a table.
fn line<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name} in {text}")).trim()
}

#[test]
fn stat_has_its_fifty_two_fields_in_their_places() {
    let parent = process();
    let child = child_of(&parent);
    let text = Proc::new().read(&format!("/{}/stat", child.pid()));
    let (head, tail) = text.rsplit_once(") ").unwrap();
    assert_eq!(head, format!("{} (test", child.pid()));
    let fields: Vec<&str> = tail.split_whitespace().collect();
    assert_eq!(fields.len() + 2, 52);
    assert_eq!(fields[0], "R");
    assert_eq!(fields[1], parent.pid().to_string());
    assert_eq!((fields[2], fields[3]), (&*child.pgid().to_string(), &*child.sid().to_string()));
    assert_eq!((fields[15], fields[17]), ("20", "1"));
    assert_eq!(fields[35], "17");
}

#[test]
fn status_tells_who_and_how_big() {
    let process = process();
    second_thread(&process);
    let text = Proc::new().read(&format!("/{}/status", process.pid()));
    assert_eq!(line(&text, "Name"), "test");
    assert_eq!(line(&text, "Pid"), process.pid().to_string());
    assert_eq!(line(&text, "Uid"), "0\t0\t0\t0");
    assert_eq!(line(&text, "Threads"), "2");
    assert_eq!(line(&text, "VmRSS"), "0 kB");
    assert_eq!(line(&text, "SigCgt"), "0000000000000000");
}

#[test]
fn threads_have_directories_of_their_own_that_a_thread_may_name() {
    let (process, proc) = (process(), Proc::new());
    let thread = second_thread(&process);
    let tasks = format!("/{}/task", process.pid());
    assert_eq!(proc.names(&tasks), [process.pid().to_string(), thread.tid().to_string()]);
    let comm = format!("{tasks}/{}/comm", thread.tid());
    let file = proc.open(&comm).unwrap();
    // From outside: not that of another process.
    assert_eq!(file.write(&mut WriteBuf::kernel(b"worker\n")), Err(Errno::EINVAL));
    let running = run_as_thread(thread, async move { file.write(&mut WriteBuf::kernel(b"worker\n")) });
    assert_eq!(running.result(), Some(Ok(7)));
    assert_eq!(proc.read(&comm), "worker\n");
    assert_eq!(proc.read(&format!("/{}/comm", process.pid())), "test\n");
    assert_eq!(proc.open(&format!("{tasks}/4000000")).err(), Some(Errno::ENOENT));
}

fn with_open(process: &Arc<Process>, file: Arc<OpenFile>) -> String {
    let fd = process.leader().unwrap().files().insert(file, true).unwrap();
    format!("/{}/fd/{fd}", process.pid())
}

#[test]
fn descriptors_are_links_to_the_very_file() {
    let (process, proc, files) = (process(), Proc::new(), Fixture::new());
    let file = files.file("/file", b"content");
    crate::fs::tree::unlink(files.view(), files.at("/file")).unwrap();
    let path = with_open(&process, file.clone());
    assert_eq!(proc.link(&path), Ok("/file (deleted)".to_string()));
    // The name is gone, the file is not.
    assert_eq!(proc.read(&path), "content");
    let info = proc.read(&path.replace("/fd/", "/fdinfo/"));
    assert_eq!((line(&info, "pos"), line(&info, "flags")), ("0", "02100002"));
    assert_eq!(proc.names(&format!("/{}/fd", process.pid())), ["0"]);
    assert_eq!(proc.link(&format!("/{}/fd/1", process.pid())), Err(Errno::ENOENT));
}

#[test]
fn objects_without_a_path_show_what_they_are() {
    let (process, proc) = (process(), Proc::new());
    let [reader, _writer] = crate::fs::pipe::create();
    let inode = reader.stat().inode;
    let path = with_open(&process, OpenFile::new(reader, OpenFlags::empty()));
    assert_eq!(proc.link(&path), Ok(format!("pipe:[{inode}]")));
    let node = resolve(proc.view(), &proc.root, path.as_bytes(), true).unwrap().node;
    assert_eq!(node.file_type(), FileType::Fifo);
}

#[test]
fn what_a_process_holds_is_shown_to_those_who_may_look_into_it() {
    let (own, other, proc) =
        (process().leader().unwrap(), process().leader().unwrap(), Arc::new(Proc::new()));
    let user = Credentials::root().set_group_ids(5, 5, 5).unwrap().set_uid(5).unwrap();
    let look = || {
        let (proc, pid) = (proc.clone(), other.process().pid());
        let running = run_as_thread(own.clone(), async move {
            let maps =
                open::open(proc.view(), &proc.root, format!("/{pid}/maps").as_bytes(), OpenFlags::empty(), 0);
            let maps = maps.and_then(|file| file.read(&mut ReadBuf::kernel(&mut [0; 16])));
            (maps.err(), proc.link(&format!("/{pid}/cwd")).err())
        });
        running.result().unwrap()
    };
    let (shown, hidden) = ((None, None), (Some(Errno::EACCES), Some(Errno::EACCES)));
    assert_eq!(look(), shown);
    own.set_credentials(user.clone());
    assert_eq!(look(), hidden);
    other.set_credentials(user.clone());
    assert_eq!(look(), shown);
    other.process().dumpable.store(0, Ordering::Relaxed);
    assert_eq!(look(), hidden);
}

#[test]
fn a_process_that_is_gone_has_no_directory() {
    let (process, proc) = (process(), Proc::new());
    let directory = proc.open(&format!("/{}", process.pid())).err();
    assert_eq!(directory, Some(Errno::EISDIR));
    assert!(proc.names("/").contains(&process.pid().to_string()));
    assert_eq!(proc.open("/4000000").err(), Some(Errno::ENOENT));
}

#[test]
fn files_about_the_machine_have_the_shape_that_programs_take_apart() {
    let proc = Proc::new();
    let meminfo = proc.read("/meminfo");
    let total: u64 = line(&meminfo, "MemTotal").strip_suffix(" kB").unwrap().parse().unwrap();
    assert_eq!(total, crate::memory::statistics().total * 4);
    assert_eq!(proc.read("/uptime").split_whitespace().count(), 2);
    assert_eq!(proc.read("/loadavg").split_whitespace().count(), 5);
    let stat = proc.read("/stat");
    assert!(stat.starts_with("cpu  ") && stat.contains("\nbtime "));
    assert!(proc.read("/cpuinfo").starts_with("processor\t: 0\n"));
    assert_eq!(proc.read("/sys/kernel/ngroups_max"), "65536\n");
    let uuid = proc.read("/sys/kernel/random/uuid");
    assert_eq!((uuid.len(), &uuid[14..15]), (37, "4"));
    let (first, second) = (proc.read("/sys/kernel/random/boot_id"), proc.read("/sys/kernel/random/boot_id"));
    assert_eq!(first, second);
    // There is no process here for these to be about.
    assert_eq!(proc.link("/self"), Err(Errno::ENOENT));
}
