//! Descriptors under way in messages (`SCM_RIGHTS`): counted per user, and known by where they wait, so that sockets that hold
//! each other in a circle are found and let go ([`garbage`](super::garbage)).
//!
//! Every reference from a queue to a socket is in the [`Register`], from before the message is queued until its descriptors have
//! been taken out; so a copy of it, made under its lock, is a state that was: what is garbage in it stays garbage, since nobody can get
//! hold of it. The copy is searched by a task of the kernel ([`collect_forever`]), in pieces, when a
//! descriptor of a socket under way is closed, or a socket is while some are.
//!
//! Lock order: a socket, then the register.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::UnixSocket;
use super::garbage::{Reference, Search};
use crate::errno::Errno;
use crate::fs::OpenFile;
use crate::net::socket::Socket;
use crate::process::Resource;
use crate::sched;
use crate::sync::SpinLock;

/// Sockets whose queues the search looks at before it lets others run.
const SEARCH_PIECE: usize = 256;

/// Where descriptors wait: a socket, known without keeping it.
pub struct Place {
    socket: Weak<UnixSocket>,
    /// The listener that a connection waits at, which nobody has accepted yet; 0 for none. It lives as long as that one does.
    listener: AtomicUsize,
}

impl Place {
    /// The place that `socket` is.
    pub fn new(socket: Weak<UnixSocket>) -> Self {
        Self { socket, listener: AtomicUsize::new(0) }
    }

    /// The connection waits to be accepted.
    pub fn wait_at(&self, listener: &UnixSocket) {
        self.listener.store(core::ptr::from_ref(listener).addr(), Ordering::Release);
    }

    /// It has been accepted. The listener still has a descriptor.
    pub fn accepted(&self) {
        self.listener.store(0, Ordering::Release);
    }

    /// Whose end ends it too.
    fn holder(&self) -> usize {
        match self.listener.load(Ordering::Acquire) {
            0 => self.socket.as_ptr().addr(),
            listener => listener,
        }
    }
}

/// A reference to a socket from the queue of one.
struct Entry {
    place: Arc<Place>,
    /// The address of the socket.
    target: usize,
    file: Weak<OpenFile>,
}

/// What is under way.
struct Register {
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// Descriptors under way of each user that has some.
    users: Vec<(u32, usize)>,
}

static REGISTER: SpinLock<Register> =
    SpinLock::new(Register { entries: Vec::new(), free: Vec::new(), users: Vec::new() });

impl Register {
    fn of_user(&self, uid: u32) -> usize {
        self.users.iter().find(|(user, _)| *user == uid).map_or(0, |&(_, count)| count)
    }

    fn charge(&mut self, uid: u32, more: usize) -> Result<(), Errno> {
        match self.users.iter_mut().find(|(user, _)| *user == uid) {
            Some((_, count)) => *count += more,
            None => {
                self.users.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.users.push((uid, more));
            }
        }
        Ok(())
    }

    fn uncharge(&mut self, uid: u32, less: usize) {
        if let Some(at) = self.users.iter().position(|(user, _)| *user == uid) {
            self.users[at].1 -= less;
            if self.users[at].1 == 0 {
                self.users.swap_remove(at);
            }
        }
    }

    /// Enters what refers to sockets among `files`; nothing unless there is memory for all.
    fn enter(
        &mut self,
        place: &Arc<Place>,
        files: &[Arc<OpenFile>],
        slots: &mut Vec<usize>,
    ) -> Result<(), Errno> {
        slots.try_reserve(files.len()).map_err(|_| Errno::ENOMEM)?;
        self.entries.try_reserve(files.len()).map_err(|_| Errno::ENOMEM)?;
        // Whatever is in use now has a place among the free ones later.
        let all = self.entries.len() + files.len();
        let more = all.saturating_sub(self.free.len());
        self.free.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
        for (target, file) in files.iter().filter_map(|file| Some((address_of(file)?, file))) {
            let entry = Some(Entry { place: place.clone(), target, file: Arc::downgrade(file) });
            match self.free.pop() {
                Some(slot) => {
                    self.entries[slot] = entry;
                    slots.push(slot);
                }
                None => {
                    slots.push(self.entries.len());
                    self.entries.push(entry);
                }
            }
            file.enter_flight();
        }
        Ok(())
    }

    fn leave(&mut self, slots: &mut Vec<usize>) {
        for slot in slots.drain(..) {
            if let Some(entry) = self.entries[slot].take()
                && let Some(file) = entry.file.upgrade()
            {
                file.leave_flight();
                // Not the last reference: who leaves still has it.
                drop(file);
            }
            self.free.push(slot);
        }
        if self.free.len() == self.entries.len() {
            self.entries.clear();
            self.free.clear();
        }
    }

    fn copy(&self) -> Option<(Vec<Reference>, Vec<Arc<Place>>)> {
        let count = self.entries.len() - self.free.len();
        let (mut references, mut places) = (Vec::new(), Vec::new());
        references.try_reserve_exact(count).ok()?;
        places.try_reserve_exact(count).ok()?;
        for entry in self.entries.iter().flatten() {
            let holder = entry.place.holder();
            references.push(Reference {
                holder,
                target: entry.target,
                references: entry.file.strong_count(),
            });
            places.push(entry.place.clone());
        }
        Some((references, places))
    }
}

/// The address of the unix-domain socket that `file` is.
fn address_of(file: &OpenFile) -> Option<usize> {
    let socket = Socket::of(&*file.file).ok()?;
    socket.protocol.as_unix().map(|socket| core::ptr::from_ref(socket).addr())
}

/// Descriptors on their way.
pub struct Files {
    files: Vec<Arc<OpenFile>>,
    uid: u32,
    slots: Vec<usize>,
}

impl Files {
    /// Takes over what a message carries into the queue of `place`; `None` for nothing.
    ///
    /// # Errors
    /// `ETOOMANYREFS` when the running thread's user has more under way than `RLIMIT_NOFILE`, unless it is privileged; `ENOMEM`.
    pub fn new(files: Vec<Arc<OpenFile>>, place: &Arc<Place>) -> Result<Option<Box<Self>>, Errno> {
        if files.is_empty() {
            return Ok(None);
        }
        let (uid, limit) = sender();
        let mut register = REGISTER.lock();
        if register.of_user(uid) as u64 > limit {
            return Err(Errno::ETOOMANYREFS);
        }
        let mut slots = Vec::new();
        register.charge(uid, files.len())?;
        if let Err(error) = register.enter(place, &files, &mut slots) {
            register.uncharge(uid, files.len());
            return Err(error);
        }
        drop(register);
        Ok(Some(Box::new(Self { files, uid, slots })))
    }

    /// They have arrived.
    pub fn arrive(mut self) -> Vec<Arc<OpenFile>> {
        self.leave()
    }

    /// What a peek shows.
    pub fn copy(&self) -> Vec<Arc<OpenFile>> {
        self.files.clone()
    }

    fn leave(&mut self) -> Vec<Arc<OpenFile>> {
        let mut register = REGISTER.lock();
        register.leave(&mut self.slots);
        register.uncharge(self.uid, self.files.len());
        drop(register);
        core::mem::take(&mut self.files)
    }
}

/// Whose descriptors they are, and how many may be under way.
fn sender() -> (u32, u64) {
    let Some(thread) = crate::process::current() else { return (0, u64::MAX) };
    let own = thread.credentials();
    let limit = if own.is_privileged() { u64::MAX } else { thread.process().rlimit(Resource::Files).soft };
    (own.uid, limit)
}

impl Drop for Files {
    /// Nobody wants them. A socket among them may hold others, and so on without end: they are closed one after the other,
    /// not one within the other.
    fn drop(&mut self) {
        static UNWANTED: SpinLock<VecDeque<Arc<OpenFile>>> = SpinLock::new(VecDeque::new());
        static CLOSING: SpinLock<()> = SpinLock::new(());
        if self.files.is_empty() {
            return;
        }
        let files = self.leave();
        UNWANTED.lock().extend(files);
        // Who finds somebody at work, be it further down on this stack, leaves it to them; who ends looks once more.
        while !UNWANTED.lock().is_empty() {
            let Some(_closing) = CLOSING.try_lock() else { return };
            loop {
                let next = UNWANTED.lock().pop_front();
                match next {
                    Some(file) => drop(file),
                    None => break,
                }
            }
        }
    }
}

/// A socket was closed: if some are under way, that may have been the last way to them.
pub fn socket_closed() {
    let register = REGISTER.lock();
    let any = register.entries.len() > register.free.len();
    drop(register);
    if any {
        crate::fs::flight::ask();
    }
}

/// Lets garbage go whenever there may be some: the task.
pub async fn collect_forever() {
    loop {
        crate::fs::flight::asked().await;
        collect().await;
    }
}

/// Lets go what nobody can reach. Without memory for the search nothing; the next close tries again.
pub async fn collect() {
    let copied = REGISTER.lock().copy();
    let Some((references, places)) = copied else { return };
    let Ok(mut search) = Search::new(&references) else { return };
    while !search.advance(SEARCH_PIECE) {
        sched::yield_now().await;
    }
    for (reference, place) in references.iter().zip(&places) {
        if search.is_garbage(reference.holder)
            && let Some(socket) = place.socket.upgrade()
        {
            socket.forget_messages();
            drop(socket);
            sched::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{File, OpenFlags, Stat};
    use crate::net::socket::message::PeerCredentials;
    use crate::net::socket::{Control, Kind, Outgoing, SocketAddress, address::UnixName};
    use crate::process::Credentials;
    use crate::process::tests::{process, run_as_thread};
    use crate::uaccess::WriteBuf;
    use linux_raw_sys::net::{AF_UNIX, SOCK_DGRAM, SOCK_STREAM};

    /// Something worth its memory.
    struct Treasure;

    impl File for Treasure {
        fn stat(&self) -> Stat {
            Stat::default()
        }
    }

    fn treasure() -> (Arc<OpenFile>, Weak<Treasure>) {
        let treasure = Arc::new(Treasure);
        let weak = Arc::downgrade(&treasure);
        (OpenFile::new(treasure, OpenFlags::RDWR), weak)
    }

    const ME: PeerCredentials = PeerCredentials { pid: 1, uid: 0, gid: 0 };

    fn kind(socket_type: u32) -> Kind {
        Kind { family: AF_UNIX, socket_type, protocol: 0 }
    }

    fn open(socket: Socket) -> Arc<OpenFile> {
        OpenFile::new(Arc::new(socket), OpenFlags::RDWR)
    }

    fn pair(socket_type: u32) -> [Arc<OpenFile>; 2] {
        Socket::pair(kind(socket_type), ME).unwrap().map(open)
    }

    fn pass(through: &OpenFile, files: &[&Arc<OpenFile>]) -> Result<usize, Errno> {
        let control =
            Control { files: files.iter().map(|&file| file.clone()).collect(), ..Control::default() };
        let message = Outgoing { control: Some(&control), ..Outgoing::PLAIN };
        Socket::of(&*through.file).unwrap().protocol.send(&mut WriteBuf::kernel(b"x"), message)
    }

    fn collect_now() {
        // Searches of other tests run beside this one.
        let running = run_as_thread(process().leader().unwrap(), collect());
        assert_eq!(running.result(), Some(()));
    }

    #[test]
    fn sockets_that_wait_in_each_other_are_let_go_with_all_that_waits_there() {
        for socket_type in [SOCK_STREAM, SOCK_DGRAM] {
            let ([a, b], (file, weak)) = (pair(socket_type), treasure());
            assert_eq!(pass(&a, &[&a, &b, &file]), Ok(1));
            drop((a, file));
            collect_now();
            assert!(weak.upgrade().is_some(), "one end is open still");
            drop(b);
            assert!(weak.upgrade().is_some());
            collect_now();
            assert!(weak.upgrade().is_none());
        }
    }

    #[test]
    fn what_waits_in_a_circle_that_can_be_received_stays() {
        let ([a, b], [c, d], (file, weak)) = (pair(SOCK_STREAM), pair(SOCK_STREAM), treasure());
        pass(&a, &[&a, &b, &file]).unwrap();
        // Who has `d` gets `b`, and from that the rest.
        pass(&c, &[&b]).unwrap();
        drop((a, b, c, file));
        collect_now();
        assert!(weak.upgrade().is_some());
        drop(d);
        collect_now();
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_connection_that_nobody_accepted_goes_with_its_listener() {
        let who = Credentials::root();
        let name = SocketAddress::Unix(UnixName::Abstract(b"garbage-listener".to_vec()));
        let listener = Socket::new(crate::net::stack(), kind(SOCK_STREAM), &who).unwrap();
        listener.protocol.bind(&name, &who).unwrap();
        listener.protocol.listen(1, &who).unwrap();
        let client = Socket::new(crate::net::stack(), kind(SOCK_STREAM), &who).unwrap();
        client.protocol.connect(&name, &who).unwrap();
        let (listener, client, (file, weak)) = (open(listener), open(client), treasure());
        pass(&client, &[&listener, &file]).unwrap();
        drop((client, file));
        collect_now();
        assert!(weak.upgrade().is_some(), "the listener may accept it");
        drop(listener);
        collect_now();
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_user_has_no_more_under_way_than_it_may_have_open() {
        let mut register = Register { entries: Vec::new(), free: Vec::new(), users: Vec::new() };
        register.charge(7, 5).unwrap();
        register.charge(8, 1).unwrap();
        register.charge(7, 2).unwrap();
        assert_eq!((register.of_user(7), register.of_user(8), register.of_user(9)), (7, 1, 0));
        register.uncharge(7, 7);
        assert_eq!((register.of_user(7), register.users.len()), (0, 1));
    }
}
