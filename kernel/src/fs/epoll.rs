//! Event polling (epoll(7)).
//!
//! An [`Epoll`] has an [`Item`] per watched descriptor. The item is itself the waker that sits in the file's wait queue: a wake
//! puts it on the *ready list*, once, and wakes those who wait for the epoll instance. epoll_wait(2) takes items from the list and asks
//! each file whether it is still ready; level-triggered items that are go back to the end of the list.
//!
//! The ready list has room for every item, reserved when the item is added, so a wake allocates nothing.
//!
//! An item does not keep its open file alive: the last close ([`CloseHook`]) removes it.
//!
//! Instances may watch each other: [`nesting`] sees to it that they never do so in a circle, nor too deep.
//!
//! Lock order: nesting, items, then a file's wait queue, then the ready list, then the epoll's own wait queue, which is
//! "a file's wait queue" to an epoll that watches this one; such nesting has no cycles.

mod nesting;

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::task::Waker;

use super::open_file::CloseHook;
use super::{File, FileType, OpenFile, Stat, anon};
use crate::errno::{Errno, SysResult};
use crate::sched::leftovers::{Leftover, leave};
use crate::sched::{Events, Registration, Slots, WaitQueue};
use crate::sync::SpinLock;
use nesting::Watchers;

bitflags::bitflags! {
    /// The bits of `epoll_event.events` that are not events.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mode: u32 {
        /// One waiter is woken per event.
        const EXCLUSIVE = 1 << 28;
        /// Accepted and without effect: nrk does not suspend.
        const WAKEUP = 1 << 29;
        /// Disarmed once reported.
        const ONESHOT = 1 << 30;
        /// Reported when something happens, not while something is so.
        const EDGE = 1 << 31;
    }
}

/// What is asked of, or reported about, a descriptor: `struct epoll_event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Events and [`Mode`] bits.
    pub events: u32,
    /// The program's own number for the descriptor.
    pub data: u64,
}

/// A descriptor is watched under the open file that it named and its number, since the number may be used anew.
type Key = (usize, i32);

/// A file as the owner of its wait queue.
struct Watched(Arc<dyn File>);

impl AsRef<WaitQueue> for Watched {
    fn as_ref(&self) -> &WaitQueue {
        /// For files that are always ready, which are never watched.
        static NOBODY: WaitQueue = WaitQueue::new();
        self.0.wait_queue().unwrap_or(&NOBODY)
    }
}

struct Item {
    key: Key,
    file: Arc<dyn File>,
    epoll: Weak<Shared>,
    /// What is asked for; no events once a one-shot item has been reported.
    wanted: SpinLock<Event>,
    listed: AtomicBool,
    /// Where in the ready list it is, or was.
    place: AtomicUsize,
    registration: SpinLock<Option<Registration<Watched>>>,
}

struct Shared {
    items: SpinLock<BTreeMap<Key, Arc<Item>>>,
    ready: SpinLock<Slots<Arc<Item>>>,
    queue: WaitQueue,
    /// The instances that watch this one.
    watchers: Watchers,
}

/// How many items of a closed instance are forgotten at a time.
const ITEMS_AT_ONCE: usize = 128;

/// An epoll instance.
pub struct Epoll {
    shared: Arc<Shared>,
}

impl Item {
    fn wanted_events(&self) -> (Events, Mode, u64) {
        let Event { events, data } = *self.wanted.lock();
        (Events::from_bits_truncate(events), Mode::from_bits_truncate(events), data)
    }

    /// What of the wanted is so now. Errors are always wanted, except of a disarmed item.
    fn poll(&self) -> Events {
        let (wanted, _, _) = self.wanted_events();
        if wanted.is_empty() {
            return wanted;
        }
        self.file.poll() & wanted
    }

    /// Puts the item on the ready list unless it is there. Returns whether it was not.
    fn list(self: &Arc<Self>, epoll: &Shared) -> bool {
        let new = !self.listed.swap(true, Ordering::AcqRel);
        if new {
            let mut ready = epoll.ready.lock();
            self.place.store(ready.push(self.clone()), Ordering::Relaxed);
        }
        new
    }

    /// Takes the item off the ready list, if it is there.
    fn unlist(self: &Arc<Self>, epoll: &Shared) {
        let mut ready = epoll.ready.lock();
        let place = self.place.load(Ordering::Relaxed);
        if ready.get(place).is_some_and(|listed| Arc::ptr_eq(listed, self)) {
            ready.remove(place);
            // From here on a wake lists the item again.
            self.listed.store(false, Ordering::Release);
        }
    }

    /// Joins the file's wait queue, for the events that are asked for; leaves it first, if it was there for others.
    fn watch(self: &Arc<Self>) {
        let (wanted, mode, _) = self.wanted_events();
        let waker = Waker::from(self.clone());
        let file = Watched(self.file.clone());
        let exclusive = mode.contains(Mode::EXCLUSIVE);
        let registration = WaitQueue::register_owned(file, with_synonyms(wanted), exclusive, &waker);
        let former = self.registration.lock().replace(registration);
        drop(former);
    }

    /// Takes the item out of its file's wait queue, which holds the item.
    fn unwatch(&self) {
        let registration = self.registration.lock().take();
        drop(registration);
    }
}

impl Wake for Item {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Some(epoll) = self.epoll.upgrade() else { return };
        self.list(&epoll);
        // Also when it was listed: to who watches this instance for edges, each event is one.
        epoll.queue.wake(Events::IN);
    }
}

impl CloseHook for Shared {
    fn closed(&self, file: usize) {
        let mut items = self.items.lock();
        let gone: Vec<Key> = items.range((file, i32::MIN)..=(file, i32::MAX)).map(|(key, _)| *key).collect();
        let gone: Vec<_> = gone.iter().filter_map(|key| items.remove(key)).collect();
        drop(items);
        gone.iter().for_each(|item| self.forget(item));
    }
}

impl Shared {
    /// Stops watching for an item that is none any more.
    fn detach(&self, item: &Item) {
        item.unwatch();
        if let Some(inner) = as_epoll(&*item.file) {
            inner.shared.watchers.leave(self);
        }
    }

    fn forget(&self, item: &Arc<Item>) {
        self.detach(item);
        item.unlist(self);
    }
}

fn key_of(fd: i32, file: &Arc<OpenFile>) -> Key {
    (Arc::as_ptr(file).addr(), fd)
}

impl Epoll {
    /// What every operation of epoll_ctl(2) wants of the file it is about.
    ///
    /// # Errors
    /// `EPERM` for files that are always ready.
    pub fn check_target(file: &OpenFile) -> Result<(), Errno> {
        file.file.wait_queue().map(drop).ok_or(Errno::EPERM)
    }

    /// An instance that watches nothing.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                items: SpinLock::new(BTreeMap::new()),
                ready: SpinLock::new(Slots::new()),
                queue: WaitQueue::new(),
                watchers: Watchers::default(),
            }),
        }
    }

    /// Watches the open file `file` under the number `fd`.
    ///
    /// # Errors
    /// `EEXIST`; `ELOOP` for instances that would watch each other in a circle or too deep; `EINVAL` for `EPOLLEXCLUSIVE` with
    /// flags or files that it does not go with; `ENOMEM`.
    pub fn add(&self, fd: i32, file: &Arc<OpenFile>, event: Event) -> Result<(), Errno> {
        let inner = as_epoll(&*file.file);
        if Mode::from_bits_truncate(event.events).contains(Mode::EXCLUSIVE)
            && (inner.is_some() || event.events & !EXCLUSIVE_OK != 0)
        {
            return Err(Errno::EINVAL);
        }
        match inner {
            Some(inner) => nesting::join(&self.shared, &inner.shared, || self.insert(fd, file, event)),
            None => self.insert(fd, file, event),
        }
    }

    fn insert(&self, fd: i32, file: &Arc<OpenFile>, event: Event) -> Result<(), Errno> {
        let key = key_of(fd, file);
        let item = Arc::new(Item {
            key,
            file: file.file.clone(),
            epoll: Arc::downgrade(&self.shared),
            wanted: SpinLock::new(with_errors(event)),
            listed: AtomicBool::new(false),
            place: AtomicUsize::new(usize::MAX),
            registration: SpinLock::new(None),
        });
        let mut items = self.shared.items.lock();
        if items.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        // Room for all items, this one included, whatever the list holds now.
        let mut ready = self.shared.ready.lock();
        let room = items.len() + 1 - ready.len().min(items.len());
        ready.try_reserve(room).map_err(|_| Errno::ENOMEM)?;
        drop(ready);
        let hook: Weak<dyn CloseHook> = Arc::downgrade(&self.shared) as _;
        file.on_close(hook)?;
        items.insert(key, item.clone());
        // Under the lock, so that an item that is removed at once does not stay in the queue.
        item.watch();
        drop(items);
        self.look_at(&item);
        Ok(())
    }

    /// Changes what is asked of a watched descriptor.
    ///
    /// # Errors
    /// `EINVAL` when it is watched exclusively, or was to be; `ENOENT` when it is not watched.
    pub fn modify(&self, fd: i32, file: &Arc<OpenFile>, event: Event) -> Result<(), Errno> {
        if Mode::from_bits_truncate(event.events).contains(Mode::EXCLUSIVE) {
            return Err(Errno::EINVAL);
        }
        let items = self.shared.items.lock();
        let item = items.get(&key_of(fd, file)).ok_or(Errno::ENOENT)?;
        if item.wanted_events().1.contains(Mode::EXCLUSIVE) {
            return Err(Errno::EINVAL);
        }
        let item = item.clone();
        *item.wanted.lock() = with_errors(event);
        // Under the lock, as in `insert`.
        item.watch();
        drop(items);
        self.look_at(&item);
        Ok(())
    }

    /// Stops watching a descriptor.
    ///
    /// # Errors
    /// `ENOENT` when it is not watched.
    pub fn remove(&self, fd: i32, file: &Arc<OpenFile>) -> Result<(), Errno> {
        let item = self.shared.items.lock().remove(&key_of(fd, file)).ok_or(Errno::ENOENT)?;
        self.shared.forget(&item);
        Ok(())
    }

    /// Lists an item that is ready now, though no wake has said so since it was added, changed, or taken off the list.
    /// Whether it is ready.
    fn look_at(&self, item: &Arc<Item>) -> bool {
        let ready = !item.poll().is_empty();
        if ready && item.list(&self.shared) {
            self.shared.queue.wake(Events::IN);
        }
        ready
    }

    /// Gives up to `max` events to `deliver`, with their index. Returns their number, 0 when nothing is ready.
    ///
    /// # Errors
    /// That of the first delivery, if it fails. An event that was not delivered is not lost.
    pub fn collect(
        &self,
        max: usize,
        mut deliver: impl FnMut(usize, Event) -> Result<(), Errno>,
    ) -> SysResult {
        let mut count = 0;
        // Items that go back to the list are not looked at again.
        let mut left = self.shared.ready.lock().len();
        while left > 0 && count < max {
            left -= 1;
            let Some(item) = self.shared.ready.lock().pop_front() else { break };
            // From here on a wake lists the item again, so what happens after this poll is not lost.
            item.listed.store(false, Ordering::Release);
            let now = item.poll();
            if now.is_empty() {
                continue;
            }
            let (_, mode, data) = item.wanted_events();
            if let Err(error) = deliver(count, Event { events: now.bits(), data }) {
                item.list(&self.shared);
                return if count == 0 { Err(error) } else { Ok(count) };
            }
            count += 1;
            if mode.contains(Mode::ONESHOT) {
                item.wanted.lock().events &= Mode::all().bits();
            } else if !mode.contains(Mode::EDGE) && self.is_watched(&item) {
                item.list(&self.shared);
            }
        }
        Ok(count)
    }

    /// Another core may have removed the item while it was off the list.
    fn is_watched(&self, item: &Arc<Item>) -> bool {
        item.registration.lock().is_some() && self.shared.items.lock().contains_key(&item.key)
    }
}

/// What may stand beside `EPOLLEXCLUSIVE`.
const EXCLUSIVE_OK: u32 = Events::IN.bits()
    | Events::OUT.bits()
    | Events::ERR.bits()
    | Events::HUP.bits()
    | Mode::EXCLUSIVE.union(Mode::EDGE).union(Mode::WAKEUP).bits();

fn as_epoll(file: &dyn File) -> Option<&Epoll> {
    (file as &dyn Any).downcast_ref()
}

/// `events`, and those that files use in place of one of them when they tell of a change.
fn with_synonyms(events: Events) -> Events {
    const SAME: [Events; 2] = [Events::IN.union(Events::RDNORM), Events::OUT.union(Events::WRNORM)];
    SAME.into_iter()
        .filter(|same| events.intersects(*same))
        .fold(events | Events::ERR | Events::HUP, |all, same| all | same)
}

fn with_errors(event: Event) -> Event {
    Event { events: event.events | (Events::ERR | Events::HUP).bits(), ..event }
}

impl File for Epoll {
    fn poll(&self) -> Events {
        // As many as are listed now; what comes meanwhile comes with a wake.
        let listed = self.shared.ready.lock().len();
        for _ in 0..listed {
            let Some(item) = self.shared.ready.lock().iter().next().cloned() else { break };
            if !item.poll().is_empty() {
                return Events::IN | Events::RDNORM;
            }
            // Off the list, so that the next wake is noticed. What happened since the look above was not: look again.
            item.unlist(&self.shared);
            if self.look_at(&item) {
                return Events::IN | Events::RDNORM;
            }
        }
        Events::empty()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn class(&self) -> &'static str {
        "[eventpoll]"
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let items: Vec<_> = self.shared.items.lock().values().cloned().collect();
        items.iter().try_for_each(|item| {
            let (fd, (wanted, mode, data)) = (item.key.1, item.wanted_events());
            let listed = if item.listed.load(Ordering::Relaxed) { "listed" } else { "not listed" };
            writeln!(out, "    {fd} for {wanted:?} {mode:?} as {data:#x}: has {:?}, {listed}", item.poll())
        })
    }

    fn stat(&self) -> Stat {
        anon::for_current(FileType::Anonymous)
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let items = core::mem::take(&mut *self.shared.items.lock());
        leave(Remains { shared: self.shared.clone(), items });
    }
}

/// The items of an instance that is closed.
struct Remains {
    shared: Arc<Shared>,
    items: BTreeMap<Key, Arc<Item>>,
}

impl Leftover for Remains {
    fn take_apart(&mut self) -> bool {
        for _ in 0..ITEMS_AT_ONCE {
            let Some((_, item)) = self.items.pop_first() else { break };
            // An item in a wait queue holds itself.
            self.shared.forget(&item);
        }
        !self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::eventfd::EventFd;
    use super::super::{OpenFlags, memfs, pipe};
    use super::*;
    use crate::sched::fixture::Waiter;
    use crate::uaccess::{ReadBuf, WriteBuf};

    fn event(events: u32, data: u64) -> Event {
        Event { events, data }
    }

    fn counter(initial: u32) -> Arc<OpenFile> {
        OpenFile::new(Arc::new(EventFd::new(initial, false)), OpenFlags::RDWR)
    }

    fn bump(file: &OpenFile) {
        file.file.write(0, &mut WriteBuf::kernel(&1u64.to_ne_bytes())).unwrap();
    }

    fn empty(file: &OpenFile) {
        file.file.read(0, &mut ReadBuf::kernel(&mut [0; 8])).unwrap();
    }

    fn collect(epoll: &Epoll) -> Vec<Event> {
        let mut events = Vec::new();
        let deliver = |_, event| {
            events.push(event);
            Ok(())
        };
        assert_eq!(epoll.collect(8, deliver), Ok(events.len()));
        events
    }

    const IN: u32 = 1;
    const OUT: u32 = 4;

    #[test]
    fn level_triggered_items_are_reported_while_they_are_ready() {
        let (epoll, file) = (Epoll::new(), counter(0));
        epoll.add(3, &file, event(IN, 7)).unwrap();
        assert_eq!(collect(&epoll), []);
        bump(&file);
        assert_eq!(collect(&epoll), [event(IN, 7)]);
        assert_eq!(collect(&epoll), [event(IN, 7)]);
        assert_eq!(epoll.poll(), Events::IN | Events::RDNORM);
        empty(&file);
        assert_eq!(collect(&epoll), []);
        assert_eq!(epoll.poll(), Events::empty());
    }

    #[test]
    fn edge_triggered_items_are_reported_once_per_event() {
        let (epoll, file) = (Epoll::new(), counter(1));
        epoll.add(3, &file, event(IN | Mode::EDGE.bits(), 7)).unwrap();
        assert_eq!(collect(&epoll), [event(IN, 7)]);
        assert_eq!(collect(&epoll), []);
        bump(&file);
        assert_eq!(collect(&epoll), [event(IN, 7)]);
        assert_eq!(collect(&epoll), []);
    }

    #[test]
    fn an_event_that_cannot_be_delivered_is_kept() {
        let (epoll, file) = (Epoll::new(), counter(1));
        epoll.add(3, &file, event(IN | Mode::EDGE.bits(), 7)).unwrap();
        assert_eq!(epoll.collect(8, |_, _| Err(Errno::EFAULT)), Err(Errno::EFAULT));
        assert_eq!(collect(&epoll), [event(IN, 7)]);
    }

    #[test]
    fn one_shot_items_need_rearming() {
        let (epoll, file) = (Epoll::new(), counter(1));
        epoll.add(3, &file, event(IN | Mode::ONESHOT.bits(), 7)).unwrap();
        assert_eq!(collect(&epoll), [event(IN, 7)]);
        bump(&file);
        assert_eq!(collect(&epoll), []);
        epoll.modify(3, &file, event(IN, 8)).unwrap();
        assert_eq!(collect(&epoll), [event(IN, 8)]);
    }

    #[test]
    fn the_errors_are_those_of_linux() {
        let (epoll, file) = (Epoll::new(), counter(1));
        epoll.add(3, &file, event(OUT, 0)).unwrap();
        assert_eq!(epoll.add(3, &file, event(IN, 0)), Err(Errno::EEXIST));
        assert_eq!(epoll.add(4, &file, event(IN, 0)), Ok(()));
        assert_eq!(epoll.remove(5, &file), Err(Errno::ENOENT));
        assert_eq!(epoll.modify(5, &file, event(IN, 0)), Err(Errno::ENOENT));
        let memory = memfs::anonymous_file_for_tests();
        let regular = OpenFile::new(memory, OpenFlags::RDWR);
        assert_eq!(Epoll::check_target(&regular), Err(Errno::EPERM));
        assert_eq!(Epoll::check_target(&file), Ok(()));
    }

    #[test]
    fn the_last_close_removes_the_item() {
        let epoll = Epoll::new();
        let [reader, writer] = pipe::create();
        let reader = OpenFile::new(reader, OpenFlags::empty());
        epoll.add(3, &reader, event(IN, 0)).unwrap();
        drop(writer);
        assert_eq!(collect(&epoll), [event(Events::HUP.bits(), 0)]);
        drop(reader);
        assert_eq!(collect(&epoll), []);
        assert!(epoll.shared.items.lock().is_empty());
    }

    #[test]
    fn edge_triggered_items_are_told_only_of_what_they_ask_for() {
        let epoll = Epoll::new();
        let ends = pipe::create().map(|end| OpenFile::new(end, OpenFlags::RDWR));
        let [reader, writer] = &ends;
        epoll.add(3, reader, event(IN | Mode::EDGE.bits(), 7)).unwrap();
        writer.file.write(0, &mut WriteBuf::kernel(b"xyz")).unwrap();
        assert_eq!(collect(&epoll), [event(IN, 7)]);
        // A read makes room, which is an event of the writing end.
        reader.file.read(0, &mut ReadBuf::kernel(&mut [0])).unwrap();
        assert_eq!(collect(&epoll), []);
        epoll.modify(3, reader, event(OUT | Mode::EDGE.bits(), 8)).unwrap();
        epoll.modify(3, reader, event(IN | Mode::EDGE.bits(), 9)).unwrap();
        assert_eq!(collect(&epoll), [event(IN, 9)]);
        writer.file.write(0, &mut WriteBuf::kernel(b"x")).unwrap();
        assert_eq!(collect(&epoll), [event(IN, 9)]);
    }

    #[test]
    fn exclusive_items_have_their_own_rules() {
        let (epoll, file) = (Epoll::new(), counter(1));
        let exclusive = IN | Mode::EXCLUSIVE.bits();
        let set = OpenFile::new(Arc::new(Epoll::new()), OpenFlags::RDWR);
        assert_eq!(epoll.add(4, &set, event(exclusive, 0)), Err(Errno::EINVAL));
        assert_eq!(epoll.add(3, &file, event(exclusive | Mode::ONESHOT.bits(), 0)), Err(Errno::EINVAL));
        assert_eq!(epoll.add(3, &file, event(exclusive, 0)), Ok(()));
        assert_eq!(epoll.modify(3, &file, event(IN, 0)), Err(Errno::EINVAL));
        assert_eq!(epoll.modify(5, &file, event(exclusive, 0)), Err(Errno::EINVAL));
    }

    #[test]
    fn a_dropped_instance_leaves_no_waiter_behind() {
        let file = counter(0);
        let epoll = Epoll::new();
        epoll.add(3, &file, event(IN, 0)).unwrap();
        let item = Arc::downgrade(epoll.shared.items.lock().values().next().unwrap());
        drop(epoll);
        assert!(item.upgrade().is_none());
        bump(&file);
    }

    #[test]
    fn whoever_waits_for_an_instance_is_told_of_each_event() {
        let (epoll, file) = (Epoll::new(), counter(0));
        let waiter = Waiter::new(epoll.wait_queue().unwrap(), Events::IN);
        epoll.add(3, &file, event(IN, 7)).unwrap();
        assert!(!waiter.was_woken());
        bump(&file);
        assert!(waiter.was_woken());
        // What is ready already when it is added, or when more is asked of it.
        let full = counter(1);
        epoll.add(4, &full, event(IN, 8)).unwrap();
        assert!(waiter.was_woken());
        empty(&full);
        collect(&epoll);
        waiter.was_woken();
        epoll.modify(4, &full, event(IN | OUT, 8)).unwrap();
        assert!(waiter.was_woken());
    }
}
