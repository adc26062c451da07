//! The calls of one processor: which function runs, called by whom, and what each has executed.
//!
//! nrk has one kernel stack per core. A system call returns from `enter_user` into the thread's task, so the stack of calls stays as
//! it is while a program runs, and goes on from there. An interrupt in the kernel pushes nothing here: its handler's
//! calls and returns are balanced, and it appears below the function that it interrupted.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::block::{Block, Exit};

/// More calls than any kernel stack has room for; deeper ones are counted as their caller's.
const DEEPEST: usize = 512;
/// The index of the node that has no caller.
const ROOT: u32 = 0;

/// A function in the tree of calls.
#[derive(Debug, Clone, Copy)]
struct Node {
    parent: u32,
    /// The address of its first instruction.
    entry: u64,
}

/// A call that has not returned.
#[derive(Debug, Clone, Copy)]
struct Frame {
    node: u32,
    returns_to: u64,
}

/// Where a block's executions are counted at present.
#[derive(Debug, Clone, Copy)]
struct Place {
    profile: usize,
    node: u32,
    counter: usize,
}

/// A counter: how often a block ran in a function.
#[derive(Debug, Clone, Copy)]
struct Counter {
    profile: usize,
    node: u32,
    block: usize,
    times: u64,
}

/// What one processor did.
#[derive(Debug)]
pub struct Recorder {
    nodes: Vec<Node>,
    children: HashMap<(u32, u64), u32>,
    stack: Vec<Frame>,
    last: Option<Block>,
    counters: Vec<Counter>,
    places: HashMap<(usize, u32, usize), usize>,
    /// By block: the counter that was used last, to do without the map.
    recent: Vec<Option<Place>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            nodes: vec![Node { parent: ROOT, entry: 0 }],
            children: HashMap::new(),
            stack: Vec::new(),
            last: None,
            counters: Vec::new(),
            places: HashMap::new(),
            recent: Vec::new(),
        }
    }
}

impl Recorder {
    /// The block of index `index` begins to run; it counts for `profile`, unless that is 0.
    pub fn execute(&mut self, index: usize, block: &Block, profile: usize) {
        if block.is_kernel() {
            self.follow(block);
            self.last = Some(*block);
        } else {
            // What a program calls is not followed: each of its threads has a stack of its own.
            self.last = None;
        }
        if profile != 0 {
            self.count(index, profile);
        }
    }

    /// Keeps the stack of calls, now that `next` runs.
    fn follow(&mut self, next: &Block) {
        match self.last.map(|last| (last.exit, last.end)) {
            // An exception in the block would lead elsewhere before its call was made.
            Some((Exit::Call { target }, end)) if target == next.start => self.push(end, next.start),
            // Where QEMU reaches a device it may go on with the rest of the block as one of its own.
            Some((Exit::IndirectCall, end)) if !self.goes_on_in(next) => self.push(end, next.start),
            _ => self.pop_to(next.start),
        }
    }

    fn goes_on_in(&self, next: &Block) -> bool {
        self.last.is_some_and(|last| last.is_inside(next.start))
    }

    fn push(&mut self, returns_to: u64, entry: u64) {
        if self.stack.len() == DEEPEST {
            return;
        }
        let parent = self.node();
        let nodes = &mut self.nodes;
        let node = *self.children.entry((parent, entry)).or_insert_with(|| {
            nodes.push(Node { parent, entry });
            nodes.len() as u32 - 1
        });
        self.stack.push(Frame { node, returns_to });
    }

    /// After a return to `address`: the frames above the one that returns there are gone. Also where no return was seen: the way
    /// from a program back into the kernel is none.
    fn pop_to(&mut self, address: u64) {
        let returned = matches!(self.last, None | Some(Block { exit: Exit::Return, .. }));
        if returned && let Some(depth) = self.stack.iter().rposition(|frame| frame.returns_to == address) {
            self.stack.truncate(depth);
        }
    }

    fn node(&self) -> u32 {
        self.stack.last().map_or(ROOT, |frame| frame.node)
    }

    fn count(&mut self, block: usize, profile: usize) {
        let node = self.node();
        if self.recent.len() <= block {
            self.recent.resize(block + 1, None);
        }
        if let Some(place) = self.recent[block]
            && place.profile == profile
            && place.node == node
        {
            self.counters[place.counter].times += 1;
            return;
        }
        let counters = &mut self.counters;
        let counter = *self.places.entry((profile, node, block)).or_insert_with(|| {
            counters.push(Counter { profile, node, block, times: 0 });
            counters.len() - 1
        });
        self.counters[counter].times += 1;
        self.recent[block] = Some(Place { profile, node, counter });
    }

    /// Writes the tree and the counts of processor `processor`, a line each, all numbers hexadecimal:
    ///
    /// ```text
    /// processor P
    /// node PARENT ENTRY            by index, from 1 on; the parent 0 is nobody
    /// count PROFILE NODE ADDRESS INSTRUCTIONS TIMES
    /// ```
    pub fn write(&self, processor: usize, blocks: &[Block], out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "processor {processor:x}")?;
        for node in &self.nodes[1..] {
            writeln!(out, "node {:x} {:x}", node.parent, node.entry)?;
        }
        for counter in &self.counters {
            let Some(block) = blocks.get(counter.block) else { continue };
            let Counter { profile, node, times, .. } = counter;
            writeln!(out, "count {profile:x} {node:x} {:x} {:x} {times:x}", block.start, block.instructions)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const K: u64 = 0xffff_ffff_8000_0000;

    /// A block of ten bytes and one instruction.
    fn block(start: u64, exit: Exit) -> Block {
        Block { start, end: start + 10, instructions: 1, exit }
    }

    fn call(start: u64, target: u64) -> Block {
        block(start, Exit::Call { target })
    }

    /// Runs blocks; what each was counted under: the entries of the functions on the stack.
    fn stacks(blocks: &[Block]) -> Vec<Vec<u64>> {
        let mut recorder = Recorder::default();
        let run = |(index, block)| {
            recorder.execute(index, block, 1);
            recorder.stack.iter().map(|frame| recorder.nodes[frame.node as usize].entry - K).collect()
        };
        blocks.iter().enumerate().map(run).collect()
    }

    #[test]
    fn calls_nest_and_return() {
        let run = [
            call(K, K + 0x100),
            block(K + 0x100, Exit::IndirectCall),
            block(K + 0x200, Exit::Return),
            block(K + 0x10a, Exit::Return),
            block(K + 0xa, Exit::Other),
        ];
        assert_eq!(stacks(&run), [vec![], vec![0x100], vec![0x100, 0x200], vec![0x100], vec![]]);
    }

    #[test]
    fn a_program_runs_below_the_function_that_entered_it() {
        let run = [
            call(K, K + 0x100), // enters user mode
            block(K + 0x100, Exit::Other),
            call(0x1000, 0x2000), // the program's own calls are not followed
            block(0x2000, Exit::Other),
            block(K + 0x300, Exit::Return), // the entry returns from what was called above
            block(K + 0xa, Exit::Other),
        ];
        let expected: [&[u64]; 6] = [&[], &[0x100], &[0x100], &[0x100], &[0x100], &[]];
        assert_eq!(stacks(&run), expected);
    }

    #[test]
    fn a_call_that_an_exception_forestalls_is_none() {
        let run = [
            call(K, K + 0x100),
            block(K + 0x900, Exit::Other),
            call(K, K + 0x100),
            block(K + 0x100, Exit::Other),
        ];
        assert_eq!(stacks(&run), [vec![], vec![], vec![], vec![0x100]]);
    }

    #[test]
    fn the_rest_of_a_block_is_no_callee() {
        let rest = Block { start: K + 4, ..block(K, Exit::IndirectCall) };
        let run = [
            Block { end: K + 10, ..block(K, Exit::IndirectCall) },
            Block { end: K + 10, ..rest },
            block(K + 0x100, Exit::Return),
            block(K + 10, Exit::Other),
        ];
        assert_eq!(stacks(&run), [vec![], vec![], vec![0x100], vec![]]);
    }

    #[test]
    fn frames_that_never_returned_are_dropped_with_their_caller() {
        let run = [
            call(K, K + 0x100),
            call(K + 0x100, K + 0x200),
            block(K + 0x200, Exit::Other),
            block(K + 0x280, Exit::Return), // to the outermost
            block(K + 0xa, Exit::Other),
        ];
        assert_eq!(stacks(&run).last().unwrap(), &Vec::<u64>::new());
    }

    #[test]
    fn what_is_written_has_every_count() {
        let blocks = [call(K, K + 0x100), block(K + 0x100, Exit::Return), block(K + 0xa, Exit::Other)];
        let mut recorder = Recorder::default();
        for profile in [1, 1, 2, 0] {
            for (index, block) in blocks.iter().enumerate() {
                recorder.execute(index, block, profile);
            }
        }
        let mut text = Vec::new();
        recorder.write(3, &blocks, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["processor 3", "node 0 ffffffff80000100"]);
        lines[2..].sort_unstable();
        let expected = [
            "count 1 0 ffffffff80000000 1 2",
            "count 1 0 ffffffff8000000a 1 2",
            "count 1 1 ffffffff80000100 1 2",
            "count 2 0 ffffffff80000000 1 1",
            "count 2 0 ffffffff8000000a 1 1",
            "count 2 1 ffffffff80000100 1 1",
        ];
        assert_eq!(lines[2..], expected);
    }

    proptest! {
        /// Functions that call each other at random, told as blocks: the stack is that of the calls.
        #[test]
        fn the_stack_is_that_of_the_calls(steps in proptest::collection::vec((any::<bool>(), 1u64..20), 1..200)) {
            let (mut model, mut blocks) = (Vec::<(u64, u64)>::new(), Vec::new());
            let (mut at, mut expected) = (K, Vec::new());
            for (up, function) in steps {
                expected.push(model.iter().map(|(entry, _)| entry - K).collect::<Vec<_>>());
                if up || model.is_empty() {
                    let target = K + function * 0x1000;
                    blocks.push(call(at, target));
                    model.push((target, at + 10));
                    at = target;
                } else if let Some((_, back)) = model.pop() {
                    blocks.push(block(at, Exit::Return));
                    at = back;
                }
            }
            prop_assert_eq!(stacks(&blocks), expected);
        }
    }
}
