//! Random histories of a few spaces against a model: for each page, what is allowed and what it holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::arch::paging::Attributes;

const WINDOW: usize = 40;
const FILE_PAGES: u8 = 24;

/// The window lies across the border of two tables.
fn page(number: usize) -> VirtAddr {
    at(0x7f00_0020_0000 - 16 * 4096) + number * PAGE_SIZE
}

#[derive(Clone, Debug)]
enum Step {
    Map { at: usize, len: usize, prot: u8, kind: Kind },
    Unmap { at: usize, len: usize },
    Protect { at: usize, len: usize, prot: u8 },
    Write { at: usize, value: u8 },
    Read { at: usize },
    Discard { at: usize, len: usize },
    Move { at: usize, len: usize, to: usize },
    Fork,
    Exit,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Anonymous,
    PrivateFile { offset: usize },
    SharedFile { offset: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..WINDOW, 1usize..12).prop_map(|(at, len)| (at, len.min(WINDOW - at)));
    let kind = prop_oneof![
        Just(Kind::Anonymous),
        (0usize..20).prop_map(|offset| Kind::PrivateFile { offset }),
        (0usize..20).prop_map(|offset| Kind::SharedFile { offset }),
    ];
    let prot = || prop_oneof![Just(3u8), 0u8..8];
    prop_oneof![
        4 => (range(), prot(), kind).prop_map(|((at, len), prot, kind)| Step::Map { at, len, prot, kind }),
        2 => range().prop_map(|(at, len)| Step::Unmap { at, len }),
        3 => (range(), prot()).prop_map(|((at, len), prot)| Step::Protect { at, len, prot }),
        8 => (0..WINDOW, any::<u8>()).prop_map(|(at, value)| Step::Write { at, value }),
        4 => (0..WINDOW).prop_map(|at| Step::Read { at }),
        1 => range().prop_map(|(at, len)| Step::Discard { at, len }),
        2 => (range(), 0..WINDOW).prop_map(|((at, len), to)| Step::Move { at, len, to }),
        1 => Just(Step::Fork),
        1 => Just(Step::Exit),
    ]
}

/// A page of the model. `own` is what a private page holds since it was written.
#[derive(Clone, Copy, Debug)]
struct Page {
    prot: Protection,
    file_page: Option<usize>,
    shared: bool,
    own: Option<u8>,
}

type Model = BTreeMap<usize, Page>;

struct World {
    source: Arc<TestFile>,
    file: Vec<u8>,
    spaces: Vec<(Arc<AddressSpace>, Model)>,
}

impl World {
    fn new() -> Self {
        let file = (1..=FILE_PAGES).collect();
        let spaces = vec![(AddressSpace::new().unwrap(), Model::new())];
        Self { source: TestFile::new(FILE_PAGES), file, spaces }
    }

    fn apply(&mut self, which: usize, step: &Step) {
        let count = self.spaces.len();
        let (space, model) = &mut self.spaces[which];
        match *step {
            Step::Map { at, len, prot, kind } => {
                let prot = Protection::from_bits(prot).unwrap();
                let (request, offset, shared) = match kind {
                    Kind::Anonymous => (MapRequest::anonymous(len * PAGE_SIZE, prot), None, false),
                    Kind::PrivateFile { offset } => {
                        (file(&self.source, offset, len, prot), Some(offset), false)
                    }
                    Kind::SharedFile { offset } => {
                        (file(&self.source, offset, len, prot).with(MapFlags::SHARED), Some(offset), true)
                    }
                };
                assert_eq!(space.map(request.at(page(at))), Ok(page(at)));
                for index in 0..len {
                    let file_page = offset.map(|offset| offset + index);
                    model.insert(at + index, Page { prot, file_page, shared, own: None });
                }
            }
            Step::Unmap { at, len } => {
                assert_eq!(space.unmap(page(at), len * PAGE_SIZE), Ok(()));
                model.retain(|number, _| !(at..at + len).contains(number));
            }
            Step::Protect { at, len, prot } => {
                let prot = Protection::from_bits(prot).unwrap();
                let done = (at..at + len).take_while(|number| model.contains_key(number)).count();
                assert_eq!(space.protect(page(at), len * PAGE_SIZE, prot).is_ok(), done == len);
                (at..at + done).for_each(|number| model.get_mut(&number).unwrap().prot = prot);
            }
            Step::Write { at, value } => {
                let expected = Self::write(&mut self.file, model.get_mut(&at), value);
                assert_eq!(space.write_initial(page(at), &[value]), expected);
            }
            Step::Read { at } => assert_eq!(read(space, page(at)), Self::read(&self.file, model.get(&at))),
            Step::Discard { at, len } => {
                let all = (at..at + len).all(|number| model.contains_key(&number));
                let advice = Advice::Discard { private_only: false };
                assert_eq!(space.advise(page(at), len * PAGE_SIZE, advice).is_ok(), all);
                model.range_mut(at..at + len).for_each(|(_, page)| page.own = None);
            }
            Step::Move { at, len, to } => Self::relocate(space, model, at, len, to),
            Step::Fork if count < 4 => {
                let child = (fork(space), model.clone());
                self.spaces.push(child);
            }
            Step::Exit if count > 1 => drop(self.spaces.swap_remove(which)),
            Step::Fork | Step::Exit => {}
        }
    }

    fn read(file: &[u8], page: Option<&Page>) -> Result<u8, Fault> {
        let page = page.ok_or(Fault::NotMapped)?;
        match (page.prot.is_empty(), page.own, page.file_page) {
            (true, ..) => Err(Fault::NotPermitted),
            (_, Some(own), _) => Ok(own),
            (_, None, Some(index)) => file.get(index).copied().ok_or(Fault::PastEnd),
            (_, None, None) => Ok(0),
        }
    }

    fn write(file: &mut [u8], page: Option<&mut Page>, value: u8) -> Result<(), Fault> {
        let page = page.ok_or(Fault::NotMapped)?;
        if !page.prot.contains(Protection::WRITE) {
            return Err(Fault::NotPermitted);
        }
        match page.file_page {
            Some(index) if page.own.is_none() && index >= file.len() => return Err(Fault::PastEnd),
            Some(index) if page.shared => file[index] = value,
            _ => page.own = Some(value),
        }
        Ok(())
    }

    /// mremap(2) to a fixed place, when the pages are of one area and the places do not overlap.
    fn relocate(space: &AddressSpace, model: &mut Model, at: usize, len: usize, to: usize) {
        if to + len > WINDOW || (at < to + len && to < at + len) {
            return;
        }
        let in_one_area = {
            let state = space.lock();
            let area = state.mappings.areas().find(page(at));
            area.is_some_and(|area| area.end >= page(at + len))
        };
        let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
        let moved = space.remap(page(at), len * PAGE_SIZE, len * PAGE_SIZE, flags, page(to));
        assert_eq!(moved.is_ok(), in_one_area);
        if in_one_area {
            for index in 0..len {
                let source = model.remove(&(at + index)).unwrap();
                model.insert(to + index, source);
            }
        }
    }

    /// What the page tables say, walked in software, agrees with the model, and with the counts.
    fn check(&self) {
        for (space, model) in &self.spaces {
            let state = space.lock();
            let mut resident = 0;
            for number in 0..WINDOW {
                let entry = state.mappings.tables().entry(page(number));
                let area = state.mappings.areas().find(page(number));
                let expected = model.get(&number);
                assert_eq!(area.map(|area| area.protection), expected.map(|page| page.prot));
                let (Some(entry), Some(expected)) = (entry, expected) else {
                    assert!(entry.is_none(), "a page without an area");
                    continue;
                };
                resident += 1;
                let attributes = entry.attributes();
                assert_eq!(attributes.contains(Attributes::PRESENT), !expected.prot.is_empty());
                assert_eq!(
                    attributes.contains(Attributes::NO_EXECUTE),
                    !expected.prot.contains(Protection::EXEC)
                );
                assert!(attributes.contains(Attributes::USER));
                assert!(!attributes.contains(Attributes::WRITE) || expected.prot.contains(Protection::WRITE));
                if let Ok(value) = Self::read(&self.file, Some(&Page { prot: READ, ..*expected })) {
                    let (frame, _) = state.mappings.tables().frame(page(number)).unwrap();
                    let mut byte = [0];
                    frame.read(0, &mut byte);
                    assert_eq!(byte[0], value, "page {number}");
                }
            }
            assert_eq!(state.mappings.resident().total(), resident);
            assert_eq!(state.mappings.areas().totals().mapped, model.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn spaces_behave_as_maps_from_pages_to_contents(
        steps in proptest::collection::vec((any::<Index>(), step()), 1..120),
    ) {
        let mut world = World::new();
        for (which, step) in &steps {
            let which = which.index(world.spaces.len());
            world.apply(which, step);
            world.check();
        }
        let World { source, file, spaces } = world;
        drop(spaces);
        prop_assert!(source.0.iter().all(Frame::is_unique), "no count of a frame is left behind");
        prop_assert!((0..file.len()).all(|index| source.byte(index) == file[index]));
    }
}
