//! Which sockets nobody can reach any more, of those under way in messages: unix(7), `SCM_RIGHTS`.
//!
//! A socket that waits in the queue of another lives as long as that one does. When sockets wait in each other's queues in a
//! circle, and no descriptor is left, none of them can be received ever again, and their references keep each other. This is
//! mark and sweep over such references, as sequential code: what is referred to from outside of the queues is
//! alive, and so is what waits in the queue of something alive; the rest is garbage.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// A socket under way.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// The socket in whose queue it waits.
    pub holder: usize,
    /// The socket.
    pub target: usize,
    /// References to the target in all, this one included.
    pub references: usize,
}

/// A search for garbage that may be interrupted.
pub struct Search<'a> {
    /// By holder.
    by_holder: Vec<&'a Reference>,
    /// The sockets under way, in order, each with whether it is alive.
    sockets: Vec<(usize, bool)>,
    /// Alive, their queues not looked at yet: indices of `sockets`.
    unseen: Vec<usize>,
}

impl<'a> Search<'a> {
    /// Marks what is alive at first sight: what is referred to from outside, and what somebody who is not under way himself holds.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(references: &'a [Reference]) -> Result<Self, TryReserveError> {
        let mut sorted: Vec<&Reference> = with_room(references.len())?;
        sorted.extend(references.iter());
        sorted.sort_unstable_by_key(|reference| reference.target);
        let mut sockets: Vec<(usize, bool)> = with_room(references.len())?;
        for group in sorted.chunk_by(|a, b| a.target == b.target) {
            let outside = group.iter().any(|reference| reference.references > group.len());
            sockets.push((group[0].target, outside));
        }
        sorted.sort_unstable_by_key(|reference| reference.holder);
        let unseen = with_room(sockets.len())?;
        let mut search = Self { by_holder: sorted, sockets, unseen };
        search.mark_roots(references);
        Ok(search)
    }

    fn mark_roots(&mut self, references: &[Reference]) {
        for reference in references {
            if self.index(reference.holder).is_none()
                && let Some(at) = self.index(reference.target)
            {
                self.sockets[at].1 = true;
            }
        }
        self.unseen.extend((0..self.sockets.len()).filter(|&at| self.sockets[at].1));
    }

    fn index(&self, socket: usize) -> Option<usize> {
        self.sockets.binary_search_by_key(&socket, |&(known, _)| known).ok()
    }

    /// Looks at the queues of up to `count` living sockets. Whether all have been seen.
    pub fn advance(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some(at) = self.unseen.pop() else { return true };
            let holder = self.sockets[at].0;
            let first = self.by_holder.partition_point(|reference| reference.holder < holder);
            for next in first..self.by_holder.len() {
                let reference = self.by_holder[next];
                if reference.holder != holder {
                    break;
                }
                if let Some(at) = self.index(reference.target)
                    && !core::mem::replace(&mut self.sockets[at].1, true)
                {
                    self.unseen.push(at);
                }
            }
        }
        self.unseen.is_empty()
    }

    /// Once all have been seen: whether `socket` is under way and cannot be reached.
    pub fn is_garbage(&self, socket: usize) -> bool {
        self.index(socket).is_some_and(|at| !self.sockets[at].1)
    }
}

fn with_room<T>(len: usize) -> Result<Vec<T>, TryReserveError> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len)?;
    Ok(vec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    const SOCKETS: usize = 8;

    fn garbage(references: &[Reference]) -> BTreeSet<usize> {
        let mut search = Search::new(references).unwrap();
        while !search.advance(1) {}
        (0..SOCKETS).filter(|&socket| search.is_garbage(socket)).collect()
    }

    /// The same by definition: who holds a descriptor of a socket can receive what waits there, and so on.
    fn unreachable(descriptors: &[usize; SOCKETS], waiting: &[(usize, usize)]) -> BTreeSet<usize> {
        let under_way: BTreeSet<usize> = waiting.iter().map(|&(_, target)| target).collect();
        let mut reached: BTreeSet<usize> =
            (0..SOCKETS).filter(|socket| descriptors[*socket] > 0 || !under_way.contains(socket)).collect();
        for _ in 0..SOCKETS {
            let more: Vec<usize> = waiting
                .iter()
                .filter(|(holder, _)| reached.contains(holder))
                .map(|&(_, target)| target)
                .collect();
            reached.extend(more);
        }
        under_way.difference(&reached).copied().collect()
    }

    proptest! {
        #[test]
        fn what_cannot_be_received_any_more_is_found_and_nothing_else(
            descriptors in prop::array::uniform8(prop_oneof![3 => Just(0_usize), 1 => 1_usize..3]),
            waiting in prop::collection::vec((0..SOCKETS, 0..SOCKETS), 0..16),
        ) {
            let count = |socket| waiting.iter().filter(|&&(_, target)| target == socket).count();
            let references: Vec<Reference> = waiting
                .iter()
                .map(|&(holder, target)| Reference { holder, target, references: descriptors[target] + count(target) })
                .collect();
            prop_assert_eq!(garbage(&references), unreachable(&descriptors, &waiting));
        }
    }

    #[test]
    fn a_circle_lives_while_one_of_it_is_referred_to_from_outside() {
        let circle = |outside: usize| {
            [(0, 1, 1), (1, 2, 1), (2, 0, 1 + outside)].map(|(holder, target, references)| Reference {
                holder,
                target,
                references,
            })
        };
        assert_eq!(garbage(&circle(1)), BTreeSet::new());
        assert_eq!(garbage(&circle(0)), BTreeSet::from([0, 1, 2]));
    }
}
