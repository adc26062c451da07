// The modules of the library, but for `sync` and `tuning`, which whoever includes this has of its own.

#[path = "../../src/all.rs"]
pub mod all;
#[path = "../../src/backoff.rs"]
pub mod backoff;
#[path = "../../src/combine.rs"]
pub mod combine;
#[path = "../../src/command.rs"]
pub mod command;
#[path = "../../src/concurrent.rs"]
pub mod concurrent;
#[path = "../../src/counters.rs"]
pub mod counters;
#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/face.rs"]
pub mod face;
#[path = "../../src/group.rs"]
pub mod group;
#[path = "../../src/hooks.rs"]
pub mod hooks;
#[path = "../../src/lane.rs"]
pub mod lane;
#[path = "../../src/log.rs"]
pub mod log;
#[path = "../../src/mutex.rs"]
pub mod mutex;
#[path = "../../src/node.rs"]
pub mod node;
#[path = "../../src/owner.rs"]
pub mod owner;
#[path = "../../src/pad.rs"]
pub mod pad;
#[path = "../../src/port.rs"]
pub mod port;
#[path = "../../src/recorder.rs"]
pub mod recorder;
#[path = "../../src/slot.rs"]
pub mod slot;
#[path = "../../src/structure.rs"]
pub mod structure;

pub use concurrent::{ConcurrentHandle, ConcurrentReplicated};
pub use group::Config;
pub use hooks::Hooks;
pub use node::{Handle, NodeReplicated};
pub use structure::{Concurrent, Read, Replicated, Route, Routed, Write, WriteShared};

/// As in `lib.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReplicaId(pub usize);
