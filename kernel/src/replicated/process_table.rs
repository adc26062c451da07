//! The process table: which ids are taken, and how processes belong together.
//!
//! A sequential structure: each method is one operation with a response type of its own, deterministic in the
//! table's state and the arguments, so that it can be replicated. It knows processes and threads
//! only as values `P` and `T` that it hands back.
//!
//! Three things take an id: a thread, a process (that of its first thread, until the process is reaped), and a process group or
//! session that still has members, although the process that founded it may be gone. The relations are those of credentials(7):
//! process in group in session, and parent of children.

use alloc::vec::Vec;

use hashbrown::HashMap;

/// Ids are below this, as Linux's default `pid_max` has it.
pub const MAX_ID: u32 = 32768;
/// After a wrap, allocation goes on here: low ids belong to what was started at boot.
const FIRST_REUSED_ID: u32 = 300;

/// The table; see the module.
pub struct ProcessTable<P, T> {
    entries: HashMap<u32, Entry<P, T>>,
    groups: HashMap<u32, Vec<u32>>,
    /// Number of member processes.
    sessions: HashMap<u32, usize>,
    last_id: u32,
    max_tasks: usize,
}

struct Entry<P, T> {
    process: Option<Node<P>>,
    thread: Option<T>,
}

struct Node<P> {
    object: P,
    parent: u32,
    children: Vec<u32>,
    group: u32,
    session: u32,
}

/// Why ids or relations cannot be changed as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Every id is taken, or as many tasks exist as may.
    Full,
    /// No such process.
    NoProcess,
    /// The process is not the caller or one of its children.
    NotRelated,
    /// The change would break the nesting of groups and sessions.
    NotPermitted,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations {
    /// Its parent, 0 for none.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
}

impl<P: Clone, T: Clone> ProcessTable<P, T> {
    /// An empty table that will hold at most `max_tasks` threads and zombies.
    pub fn new(max_tasks: usize) -> Self {
        Self {
            entries: HashMap::new(),
            groups: HashMap::new(),
            sessions: HashMap::new(),
            last_id: 0,
            max_tasks,
        }
    }

    /// Takes the next free id, round robin, so that an id is not used again soon.
    ///
    /// # Errors
    /// [`TableError::Full`].
    pub fn reserve(&mut self) -> Result<u32, TableError> {
        if self.entries.len() >= self.max_tasks.min(MAX_ID as usize - 1) {
            return Err(TableError::Full);
        }
        self.entries.try_reserve(1).map_err(|_| TableError::Full)?;
        let mut id = self.last_id;
        for _ in 0..MAX_ID {
            id = if id + 1 >= MAX_ID { FIRST_REUSED_ID } else { id + 1 };
            if self.is_free(id) {
                self.last_id = id;
                self.entries.insert(id, Entry { process: None, thread: None });
                return Ok(id);
            }
        }
        Err(TableError::Full)
    }

    fn is_free(&self, id: u32) -> bool {
        !self.entries.contains_key(&id) && !self.groups.contains_key(&id) && !self.sessions.contains_key(&id)
    }

    /// Gives back an id that was reserved but not used.
    pub fn release(&mut self, id: u32) {
        self.drop_if_unused(id);
    }

    fn drop_if_unused(&mut self, id: u32) {
        if self.entries.get(&id).is_some_and(|e| e.process.is_none() && e.thread.is_none()) {
            self.entries.remove(&id);
        }
    }

    /// Enters a process and its first thread under the reserved id `pid`, in the group and session of its parent, or, without a
    /// parent, in a group and session of its own.
    pub fn add_process(&mut self, pid: u32, object: P, leader: T, parent: Option<u32>) -> Relations {
        let from = parent.and_then(|parent| Some((parent, self.relations(parent)?)));
        let relations = match from {
            Some((parent, relations)) => Relations { parent, ..relations },
            None => Relations { parent: 0, group: pid, session: pid },
        };
        if let Some(parent) = self.node_mut(relations.parent) {
            parent.children.push(pid);
        }
        self.groups.entry(relations.group).or_default().push(pid);
        *self.sessions.entry(relations.session).or_default() += 1;
        let Relations { parent, group, session } = relations;
        let node = Node { object, parent, children: Vec::new(), group, session };
        self.entries.insert(pid, Entry { process: Some(node), thread: Some(leader) });
        relations
    }

    /// Enters a further thread under the reserved id `tid`.
    pub fn add_thread(&mut self, tid: u32, thread: T) {
        self.entries.insert(tid, Entry { process: None, thread: Some(thread) });
    }

    /// A thread is gone. Its id stays taken while it is that of a process.
    pub fn remove_thread(&mut self, tid: u32) -> Option<T> {
        let thread = self.entries.get_mut(&tid)?.thread.take();
        self.drop_if_unused(tid);
        thread
    }

    /// The thread `tid` becomes the first thread of process `pid`, whose former one is gone (execve(2) by another thread).
    pub fn promote_thread(&mut self, tid: u32, pid: u32) {
        let Some(thread) = self.remove_thread(tid) else { return };
        if let Some(entry) = self.entries.get_mut(&pid) {
            entry.thread = Some(thread);
        }
    }

    /// Gives the children of `from` to `to`, and returns them.
    pub fn reparent_children(&mut self, from: u32, to: u32) -> Vec<P> {
        let Some(node) = self.node_mut(from) else { return Vec::new() };
        let children = core::mem::take(&mut node.children);
        let mut moved = Vec::with_capacity(children.len());
        for &child in &children {
            if let Some(node) = self.node_mut(child) {
                node.parent = to;
                moved.push(node.object.clone());
            }
        }
        if let Some(node) = self.node_mut(to) {
            node.children.extend(children);
        }
        moved
    }

    /// A process is gone for good: reaped, or nobody wanted its status.
    pub fn remove_process(&mut self, pid: u32) -> Option<P> {
        let node = self.entries.get_mut(&pid)?.process.take()?;
        if let Some(parent) = self.node_mut(node.parent) {
            parent.children.retain(|&child| child != pid);
        }
        self.leave_group(pid, node.group);
        self.leave_session(node.session);
        self.drop_if_unused(pid);
        Some(node.object)
    }

    fn leave_group(&mut self, pid: u32, group: u32) {
        if let Some(members) = self.groups.get_mut(&group) {
            members.retain(|&member| member != pid);
            if members.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    fn leave_session(&mut self, session: u32) {
        if let Some(count) = self.sessions.get_mut(&session) {
            *count -= 1;
            if *count == 0 {
                self.sessions.remove(&session);
            }
        }
    }

    /// setpgid(2) by `caller` for `pid`: moves it into `group`, which is its own id or a group of the same session.
    ///
    /// # Errors
    /// As listed there; that a child has called execve is for the caller to check.
    pub fn set_group(&mut self, caller: u32, pid: u32, group: u32) -> Result<(), TableError> {
        let of_caller = self.relations(caller).ok_or(TableError::NoProcess)?;
        let target = self.relations(pid).ok_or(TableError::NoProcess)?;
        if pid != caller && target.parent != caller {
            return Err(TableError::NotRelated);
        }
        let leads_session = target.session == pid;
        if target.session != of_caller.session || leads_session {
            return Err(TableError::NotPermitted);
        }
        if group != pid && !self.is_group_of_session(group, target.session) {
            return Err(TableError::NotPermitted);
        }
        if group != target.group {
            self.leave_group(pid, target.group);
            self.groups.entry(group).or_default().push(pid);
            if let Some(node) = self.node_mut(pid) {
                node.group = group;
            }
        }
        Ok(())
    }

    /// Whether `group` has a member in `session`; groups lie in one session, so one member tells.
    pub fn is_group_of_session(&self, group: u32, session: u32) -> bool {
        let member = self.groups.get(&group).and_then(|members| members.first());
        member.and_then(|&pid| self.relations(pid)).is_some_and(|r| r.session == session)
    }

    /// setsid(2): `pid` founds a session and a group, both of its number.
    ///
    /// # Errors
    /// [`TableError::NotPermitted`] when there is a group of that number already.
    pub fn new_session(&mut self, pid: u32) -> Result<(), TableError> {
        let old = self.relations(pid).ok_or(TableError::NoProcess)?;
        if self.groups.contains_key(&pid) {
            return Err(TableError::NotPermitted);
        }
        self.leave_group(pid, old.group);
        self.leave_session(old.session);
        self.groups.entry(pid).or_default().push(pid);
        *self.sessions.entry(pid).or_default() += 1;
        if let Some(node) = self.node_mut(pid) {
            node.group = pid;
            node.session = pid;
        }
        Ok(())
    }

    fn node(&self, pid: u32) -> Option<&Node<P>> {
        self.entries.get(&pid)?.process.as_ref()
    }

    fn node_mut(&mut self, pid: u32) -> Option<&mut Node<P>> {
        self.entries.get_mut(&pid)?.process.as_mut()
    }

    /// The process `pid`.
    pub fn process(&self, pid: u32) -> Option<&P> {
        self.node(pid).map(|node| &node.object)
    }

    /// The live thread `tid`.
    pub fn thread(&self, tid: u32) -> Option<&T> {
        self.entries.get(&tid)?.thread.as_ref()
    }

    /// Where the process `pid` stands.
    pub fn relations(&self, pid: u32) -> Option<Relations> {
        self.node(pid).map(|n| Relations { parent: n.parent, group: n.group, session: n.session })
    }

    /// The children of `pid`, oldest first.
    pub fn children(&self, pid: u32) -> impl Iterator<Item = &P> {
        let children = self.node(pid).map_or(&[][..], |node| &node.children);
        children.iter().filter_map(|&child| self.process(child))
    }

    /// The members of a process group.
    pub fn group(&self, group: u32) -> impl Iterator<Item = &P> {
        let members = self.groups.get(&group).map_or(&[][..], Vec::as_slice);
        members.iter().filter_map(|&pid| self.process(pid))
    }

    /// All processes, in no order.
    pub fn processes(&self) -> impl Iterator<Item = &P> {
        self.entries.values().filter_map(|entry| entry.process.as_ref()).map(|node| &node.object)
    }

    /// All live threads, in no order.
    pub fn threads(&self) -> impl Iterator<Item = &T> {
        self.entries.values().filter_map(|entry| entry.thread.as_ref())
    }

    /// Ids in use by threads and processes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The id given out last.
    pub fn last_id(&self) -> u32 {
        self.last_id
    }

    /// Whether `group` is orphaned: no member, other than `except`, has a parent in another group of the same session, so
    /// nobody is left who would let a stopped member go on (POSIX, "orphaned process group").
    pub fn is_orphaned(&self, group: u32, except: Option<u32>) -> bool {
        let members = self.groups.get(&group).map_or(&[][..], Vec::as_slice);
        !members.iter().filter(|&&pid| Some(pid) != except).any(|&pid| {
            let Some(member) = self.node(pid) else { return false };
            self.relations(member.parent).is_some_and(|p| p.group != group && p.session == member.session)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Table = ProcessTable<u32, u32>;

    fn table_with_init() -> Table {
        let mut table = Table::new(1000);
        assert_eq!(table.reserve(), Ok(1));
        table.add_process(1, 1, 1, None);
        table
    }

    fn fork(table: &mut Table, parent: u32) -> u32 {
        let pid = table.reserve().unwrap();
        table.add_process(pid, pid, pid, Some(parent));
        pid
    }

    #[test]
    fn children_inherit_group_and_session() {
        let mut table = table_with_init();
        let child = fork(&mut table, 1);
        assert_eq!(table.relations(child), Some(Relations { parent: 1, group: 1, session: 1 }));
        table.new_session(child).unwrap();
        let grandchild = fork(&mut table, child);
        assert_eq!(
            table.relations(grandchild),
            Some(Relations { parent: child, group: child, session: child })
        );
        assert_eq!(table.new_session(child), Err(TableError::NotPermitted));
    }

    #[test]
    fn an_id_lives_as_long_as_a_group_of_that_name() {
        let mut table = table_with_init();
        let leader = fork(&mut table, 1);
        table.set_group(1, leader, leader).unwrap();
        let member = fork(&mut table, leader);
        table.remove_thread(leader);
        table.reparent_children(leader, 1);
        assert_eq!(table.remove_process(leader), Some(leader));
        assert!(table.process(leader).is_none());
        assert!(!table.is_free(leader));
        table.remove_thread(member);
        table.remove_process(member);
        assert!(table.is_free(leader));
    }

    #[test]
    fn ids_wrap_past_those_in_use_and_run_out() {
        let mut table = Table::new(MAX_ID as usize);
        let init = table.reserve().unwrap();
        table.add_process(init, 1, 1, None);
        table.last_id = MAX_ID - 2;
        assert_eq!(table.reserve(), Ok(MAX_ID - 1));
        assert_eq!(table.reserve(), Ok(FIRST_REUSED_ID));
        table.release(FIRST_REUSED_ID);
        assert!(table.is_free(FIRST_REUSED_ID));
        table.max_tasks = 2;
        assert_eq!(table.reserve(), Err(TableError::Full));
    }

    #[test]
    fn setpgid_keeps_to_the_session_and_the_family() {
        let mut table = table_with_init();
        let (a, b) = (fork(&mut table, 1), fork(&mut table, 1));
        let grandchild = fork(&mut table, a);
        assert_eq!(table.set_group(1, grandchild, grandchild), Err(TableError::NotRelated));
        assert_eq!(table.set_group(a, b, b), Err(TableError::NotRelated));
        assert_eq!(table.set_group(1, a, b), Err(TableError::NotPermitted));
        table.set_group(1, b, b).unwrap();
        table.set_group(1, a, b).unwrap();
        assert_eq!(table.group(b).copied().collect::<Vec<_>>(), [b, a]);
        table.new_session(a).unwrap();
        assert_eq!(table.set_group(1, a, b), Err(TableError::NotPermitted));
        assert_eq!(table.set_group(a, a, a), Err(TableError::NotPermitted));
        assert_eq!(table.set_group(1, 999, 1), Err(TableError::NoProcess));
    }

    #[test]
    fn a_group_is_orphaned_when_its_last_outside_parent_goes() {
        let mut table = table_with_init();
        let shell = fork(&mut table, 1);
        table.new_session(shell).unwrap();
        let job = fork(&mut table, shell);
        table.set_group(shell, job, job).unwrap();
        assert!(!table.is_orphaned(job, None));
        table.reparent_children(shell, 1);
        assert!(table.is_orphaned(job, None));
        assert!(table.is_orphaned(shell, None));
    }

    #[test]
    fn another_thread_takes_the_first_ones_place() {
        let mut table = table_with_init();
        let tid = table.reserve().unwrap();
        table.add_thread(tid, 77);
        table.remove_thread(1);
        table.promote_thread(tid, 1);
        assert_eq!((table.thread(1), table.thread(tid)), (Some(&77), None));
        assert_eq!(table.len(), 1);
    }

    proptest! {
        /// Against a plain map of relations, with everything recomputed from it.
        #[test]
        fn relations_follow_a_simple_model(operations in prop::collection::vec((0u8..5, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..80)) {
            let mut table = table_with_init();
            let mut model = BTreeMap::from([(1, Relations { parent: 0, group: 1, session: 1 })]);
            for (operation, first, second) in operations {
                let pids: Vec<u32> = model.keys().copied().collect();
                let (a, b) = (*first.get(&pids), *second.get(&pids));
                match operation {
                    0 | 1 => {
                        let pid = fork(&mut table, a);
                        model.insert(pid, Relations { parent: a, ..model[&a] });
                    }
                    2 => {
                        let expected = !model.values().any(|r| r.group == a);
                        prop_assert_eq!(table.new_session(a).is_ok(), expected);
                        if expected {
                            let r = model.get_mut(&a).unwrap();
                            (r.group, r.session) = (a, a);
                        }
                    }
                    3 => {
                        let caller = model[&a].parent;
                        if caller != 0 && table.set_group(caller, a, b).is_ok() {
                            prop_assert!(b == a || model.values().any(|r| r.group == b && r.session == model[&a].session));
                            model.get_mut(&a).unwrap().group = b;
                        }
                    }
                    _ if a != 1 => {
                        table.remove_thread(a);
                        table.reparent_children(a, 1);
                        prop_assert_eq!(table.remove_process(a), Some(a));
                        model.remove(&a);
                        model.values_mut().filter(|r| r.parent == a).for_each(|r| r.parent = 1);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
                for (&pid, &relations) in &model {
                    prop_assert_eq!(table.relations(pid), Some(relations));
                    let mut children: Vec<u32> = table.children(pid).copied().collect();
                    children.sort_unstable();
                    let expected: Vec<u32> = model.iter().filter(|(_, r)| r.parent == pid).map(|(&p, _)| p).collect();
                    prop_assert_eq!(children, expected);
                    let mut members: Vec<u32> = table.group(relations.group).copied().collect();
                    members.sort_unstable();
                    let expected: Vec<u32> = model.iter().filter(|(_, r)| r.group == relations.group).map(|(&p, _)| p).collect();
                    prop_assert_eq!(members, expected);
                }
            }
        }
    }
}
