//! Exhaustive models of the library, by loom: all interleavings, and all values that relaxed memory may show, of small
//! programs. What runs is the library's source, with loom's atomics in `sync`.

extern crate alloc;

include!("../common/modules.rs");

#[path = "../common/tuning.rs"]
pub mod tuning;

/// loom's atomics and cells in the place of the library's.
pub mod sync {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
}

/// Explores with at most `preemptions` forced switches per execution; waiting threads switch besides.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

mod logs;
mod replicas;
