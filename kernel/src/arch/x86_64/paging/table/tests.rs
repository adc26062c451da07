//! The tables against a map from pages to frames.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Pages near the borders of tables of every level.
fn address(pick: usize) -> VirtAddr {
    let base = [0u64, 1 << 21, 1 << 30, 1 << 39, (1 << 47) - (1 << 14)][pick / 4 % 5];
    VirtAddr::new(base + (pick % 4 * PAGE_SIZE) as u64)
}

fn user(extra: Attributes) -> Attributes {
    Attributes::PRESENT | Attributes::USER | extra
}

fn full_reserve() -> Reserve {
    let mut reserve = Reserve::default();
    reserve.fill(Purpose::User).unwrap();
    reserve
}

/// Tables below the root that are linked.
fn count_tables(tables: &PageTable) -> usize {
    fn below(table: &Table, level: u32) -> usize {
        if level == 1 {
            return 0;
        }
        let links = table.0.iter().map(Slot::load).filter(|entry| !entry.is_empty());
        // SAFETY: entries above level 1 lead to tables, which nobody changes here.
        links.map(|entry| 1 + below(unsafe { table_at(entry.phys()) }, level - 1)).sum()
    }
    below(tables.root(), ROOT)
}

/// Tables that pages at these addresses need.
fn needed<'a>(pages: impl Iterator<Item = &'a VirtAddr>) -> usize {
    let mut prefixes = BTreeSet::new();
    for page in pages {
        (2..=ROOT).for_each(|level| _ = prefixes.insert((level, page.align_down(span(level)))));
    }
    prefixes.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Pages are where they were put, with their attributes; no table is there without need; no count is left behind.
    #[test]
    fn behave_as_a_map_from_pages_to_frames(
        steps in proptest::collection::vec((0u8..5, 0usize..20, 0usize..20), 1..80),
    ) {
        let mut tables = PageTable::new().unwrap();
        let mut model: BTreeMap<VirtAddr, (Frame, Attributes)> = BTreeMap::new();
        for (kind, one, other) in steps {
            let (at, to) = (address(one), address(other));
            let mut retired = Retired::new();
            match kind {
                0 | 1 => {
                    let frame = Frame::zeroed().unwrap();
                    let attributes = user(if kind == 0 { Attributes::WRITE } else { Attributes::NO_EXECUTE });
                    let result = tables.install(at, frame.clone(), attributes, &mut full_reserve());
                    prop_assert_eq!(result.is_ok(), !model.contains_key(&at));
                    model.entry(at).or_insert((frame, attributes));
                }
                2 => {
                    let range = at.min(to)..at.max(to) + PAGE_SIZE;
                    let (done, flush) = tables.remove(range.clone(), &mut retired, |_| true);
                    flush.ignore();
                    prop_assert_eq!(done, range.end);
                    model.retain(|page, _| !range.contains(page));
                }
                3 => {
                    let range = at.min(to)..at.max(to) + PAGE_SIZE;
                    let narrowed = tables.protect(range.clone(), |_, before| before - Attributes::WRITE);
                    let mut any = false;
                    for (_, (_, attributes)) in model.range_mut(range) {
                        any |= attributes.contains(Attributes::WRITE);
                        attributes.remove(Attributes::WRITE);
                    }
                    prop_assert_eq!(narrowed != Flush::NONE, any);
                }
                _ if !model.contains_key(&to) => {
                    tables.relocate(at, to, &mut full_reserve(), &mut retired).ignore();
                    if let Some(moved) = model.remove(&at) {
                        model.insert(to, moved);
                    }
                }
                _ => {}
            }
            drop(retired);
            let mut seen = BTreeMap::new();
            let all = VirtAddr::new(0)..VirtAddr::new(1 << 47);
            tables.visit(all.clone(), |page, entry| _ = seen.insert(page, (entry.phys(), entry.attributes())));
            let expected = model.iter().map(|(page, (frame, attributes))| (*page, (frame.phys(), *attributes)));
            prop_assert_eq!(seen, expected.collect());
            prop_assert_eq!(count_tables(&tables), needed(model.keys()));
            prop_assert_eq!(tables.next_page(all), model.keys().next().copied());
        }
        drop(tables);
        prop_assert!(model.values().all(|(frame, _)| frame.is_unique()));
    }
}

#[test]
fn a_removal_stops_when_its_batch_is_full_and_goes_on() {
    let mut tables = PageTable::new().unwrap();
    let frame = Frame::zeroed().unwrap();
    for page in 0..300 {
        let at = VirtAddr::new(0x1f_f000 + page * 4096);
        tables.install(at, frame.clone(), user(Attributes::WRITE), &mut full_reserve()).unwrap();
    }
    let (mut at, end, mut batches) = (VirtAddr::new(0), VirtAddr::new(1 << 47), 0);
    while at < end {
        let mut retired = Retired::new();
        let (done, flush) = tables.remove(at..end, &mut retired, |_| true);
        flush.ignore();
        (at, batches) = (done, batches + 1);
    }
    assert_eq!((batches, count_tables(&tables)), (3, 0));
    assert!(frame.is_unique());
}

#[test]
fn a_frame_is_replaced_only_if_it_is_the_one_that_was_meant() {
    let mut tables = PageTable::new().unwrap();
    let (at, old, new) = (VirtAddr::new(0x5000), Frame::zeroed().unwrap(), Frame::zeroed().unwrap());
    tables.install(at, old.clone(), user(Attributes::empty()), &mut full_reserve()).unwrap();
    let refused = tables.replace(at, new.phys(), new.clone(), user(Attributes::WRITE));
    assert_eq!(refused.err(), Some(new.clone()));
    let (before, flush) = tables.replace(at, old.phys(), new.clone(), user(Attributes::WRITE)).unwrap();
    assert_eq!((before, flush), (old, Flush::page(at)));
    assert_eq!(tables.frame(at), Some((new, user(Attributes::WRITE))));
}

#[test]
fn a_child_shares_what_it_is_given() {
    let (mut parent, mut child) = (PageTable::new().unwrap(), PageTable::new().unwrap());
    let frame = Frame::zeroed().unwrap();
    for page in [0, 511, 512, 1000] {
        let extra = if page == 511 { Attributes::OBJECT } else { Attributes::WRITE };
        let at = VirtAddr::new(page * 4096);
        parent.install(at, frame.clone(), user(extra), &mut full_reserve()).unwrap();
    }
    let all = VirtAddr::new(0)..VirtAddr::new(1 << 30);
    let sharing = |attributes: Attributes| {
        (!attributes.contains(Attributes::OBJECT)).then_some(attributes - Attributes::WRITE)
    };
    let (flush, first) = parent.share_into(&mut child, all.clone(), &mut 2, sharing);
    assert_eq!((flush != Flush::NONE, first), (true, Ok(Some(VirtAddr::new(1000 * 4096)))));
    let rest = VirtAddr::new(1000 * 4096)..all.end;
    assert_eq!(parent.share_into(&mut child, rest, &mut 2, sharing).1, Ok(None));
    let mut pages = Vec::new();
    child.visit(all, |page, entry| pages.push((page.as_usize() / PAGE_SIZE, entry.attributes())));
    let narrowed = user(Attributes::empty());
    assert_eq!(pages, [(0, narrowed), (512, narrowed), (1000, narrowed)]);
    assert_eq!(parent.entry(VirtAddr::new(0)).unwrap().attributes(), narrowed);
    drop(parent);
    assert!(!frame.is_unique());
    assert_eq!(count_tables(&child), 4);
    drop(child);
    assert!(frame.is_unique());
}
