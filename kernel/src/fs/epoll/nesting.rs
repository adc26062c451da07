//! Epoll instances that watch each other: never in a circle, and never more than four in a row, as on Linux.
//!
//! A chain is as long as what lies below the watched instance, plus what lies above the watching one, so each knows those
//! that watch it ([`Watchers`]). Both are found level by level; an instance counts once per level, however many ways
//! lead there, so a search costs no more than there are links.
//!
//! Lock order: [`NESTING`], then the items or the watchers of one instance.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::{Shared, as_epoll};
use crate::errno::Errno;
use crate::sync::SpinLock;

/// As many links may follow each other.
const MAX_LINKS: usize = 4;

/// One instance at a time begins to watch another, so that no two make a circle together.
static NESTING: SpinLock<()> = SpinLock::new(());

/// Instances by their address.
type Level = BTreeMap<usize, Arc<Shared>>;

/// The instances that watch an instance, once for each item of theirs.
#[derive(Default)]
pub(super) struct Watchers(SpinLock<Vec<Weak<Shared>>>);

impl Watchers {
    fn enter(&self, outer: &Arc<Shared>) -> Result<(), Errno> {
        let mut watchers = self.0.lock();
        watchers.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        watchers.push(Arc::downgrade(outer));
        Ok(())
    }

    /// `outer` watches through one item less.
    pub(super) fn leave(&self, outer: &Shared) {
        let mut watchers = self.0.lock();
        if let Some(at) = watchers.iter().position(|watcher| core::ptr::eq(watcher.as_ptr(), outer)) {
            watchers.swap_remove(at);
        }
    }

    fn all(&self) -> Vec<Arc<Shared>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// Has `insert` make `outer` watch `inner`.
///
/// # Errors
/// `ELOOP` when that would close a circle or make a chain too long; `ENOMEM`; those of `insert`.
pub(super) fn join(
    outer: &Arc<Shared>,
    inner: &Arc<Shared>,
    insert: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let _one_at_a_time = NESTING.lock();
    let below = links(inner, Some(outer), watched_by).ok_or(Errno::ELOOP)?;
    let above = links(outer, None, |instance| instance.watchers.all()).ok_or(Errno::ELOOP)?;
    if below + 1 + above > MAX_LINKS {
        return Err(Errno::ELOOP);
    }
    inner.watchers.enter(outer)?;
    insert().inspect_err(|_| inner.watchers.leave(outer))
}

/// The length of the longest chain that begins at `from` and goes on as `next` says; `None` if it is more than may be, or
/// `target` is on the way.
fn links(
    from: &Arc<Shared>,
    target: Option<&Arc<Shared>>,
    next: impl Fn(&Shared) -> Vec<Arc<Shared>>,
) -> Option<usize> {
    let address = |instance: &Arc<Shared>| Arc::as_ptr(instance).addr();
    let mut level = Level::from([(address(from), from.clone())]);
    for length in 0..=MAX_LINKS {
        if target.is_some_and(|target| level.contains_key(&address(target))) {
            return None;
        }
        let following = level.values().flat_map(|instance| next(instance));
        level = following.map(|instance| (address(&instance), instance)).collect();
        if level.is_empty() {
            return Some(length);
        }
    }
    None
}

/// The instances that `outer` watches.
fn watched_by(outer: &Shared) -> Vec<Arc<Shared>> {
    let items = outer.items.lock();
    items.values().filter_map(|item| as_epoll(&*item.file)).map(|epoll| epoll.shared.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Epoll, Event};
    use super::*;
    use crate::fs::eventfd::EventFd;
    use crate::fs::{File, OpenFile, OpenFlags};
    use crate::sched::{Events, WaitQueue};
    use alloc::task::Wake;
    use core::any::Any;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use core::task::Waker;

    fn instance() -> Arc<OpenFile> {
        OpenFile::new(Arc::new(Epoll::new()), OpenFlags::RDWR)
    }

    fn of(file: &OpenFile) -> &Epoll {
        (&*file.file as &dyn Any).downcast_ref().unwrap()
    }

    fn watch(outer: &OpenFile, inner: &Arc<OpenFile>) -> Result<(), Errno> {
        of(outer).add(7, inner, Event { events: Events::IN.bits(), data: 0 })
    }

    fn ready(epoll: &OpenFile) -> usize {
        of(epoll).collect(8, |_, _| Ok(())).unwrap()
    }

    #[test]
    fn instances_never_watch_each_other_in_circles() {
        let [a, b, c] = [(); 3].map(|()| instance());
        assert_eq!(watch(&a, &a), Err(Errno::ELOOP));
        assert_eq!((watch(&a, &b), watch(&b, &c)), (Ok(()), Ok(())));
        assert_eq!((watch(&b, &a), watch(&c, &a)), (Err(Errno::ELOOP), Err(Errno::ELOOP)));
    }

    #[test]
    fn a_chain_has_four_links_whichever_comes_first() {
        for inside_out in [false, true] {
            let chain: Vec<_> = (0..7).map(|_| instance()).collect();
            let mut links: Vec<_> = chain.windows(2).collect();
            if inside_out {
                links.reverse();
            }
            let made: Vec<bool> = links.iter().map(|link| watch(&link[0], &link[1]).is_ok()).collect();
            assert_eq!(made, [true, true, true, true, false, true]);
        }
    }

    #[test]
    fn what_is_no_longer_watched_does_not_count() {
        let chain: Vec<_> = (0..6).map(|_| instance()).collect();
        chain[..5].windows(2).for_each(|link| watch(&link[0], &link[1]).unwrap());
        assert_eq!(watch(&chain[4], &chain[5]), Err(Errno::ELOOP));
        of(&chain[1]).remove(7, &chain[2]).unwrap();
        assert_eq!(watch(&chain[4], &chain[5]), Ok(()));
        let mut chain = chain.into_iter().skip(2);
        let top = chain.next().unwrap();
        let bottom = chain.next_back().unwrap();
        let (below, above) = (instance(), instance());
        watch(&bottom, &below).unwrap();
        assert_eq!(watch(&above, &top), Err(Errno::ELOOP));
        drop((chain, top));
        assert_eq!(watch(&above, &bottom), Ok(()));
    }

    #[test]
    fn each_event_of_an_instance_that_is_ready_already_is_an_edge() {
        let (outer, inner) = (instance(), instance());
        let counter = OpenFile::new(Arc::new(EventFd::new(0, false)), OpenFlags::RDWR);
        watch(&inner, &counter).unwrap();
        let edge = Event { events: Events::IN.bits() | super::super::Mode::EDGE.bits(), data: 0 };
        of(&outer).add(7, &inner, edge).unwrap();
        let bump = || counter.file.write(0, &mut crate::uaccess::WriteBuf::kernel(&1u64.to_ne_bytes()));
        bump().unwrap();
        assert_eq!((ready(&outer), ready(&outer)), (1, 0));
        bump().unwrap();
        assert_eq!((ready(&outer), ready(&outer)), (1, 0));
    }

    #[test]
    fn an_event_is_told_through_an_instance_that_was_looked_at_in_vain() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (outer, inner) = (instance(), instance());
        let counter = OpenFile::new(Arc::new(EventFd::new(1, false)), OpenFlags::RDWR);
        watch(&outer, &inner).unwrap();
        watch(&inner, &counter).unwrap();
        assert_eq!(ready(&outer), 1);
        counter.file.read(0, &mut crate::uaccess::ReadBuf::kernel(&mut [0; 8])).unwrap();
        assert_eq!(ready(&outer), 0);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let queue: &WaitQueue = of(&outer).wait_queue().unwrap();
        let _registration = queue.register(Events::IN, &Waker::from(count.clone()));
        counter.file.write(0, &mut crate::uaccess::WriteBuf::kernel(&1u64.to_ne_bytes())).unwrap();
        assert_eq!((count.0.load(Ordering::Relaxed), ready(&outer)), (1, 1));
    }
}
