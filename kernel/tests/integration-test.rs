//! Integration tests: each starts the kernel in QEMU, reads its console and checks how it ended.
//!
//! Run them in kernel/ with `cargo test --test integration-test`, one by name behind `--`; `--nocapture` prints the
//! line that starts the same guest by hand. They need no root, leave nothing behind and run side by side: one build of
//! the kernel serves them all, the command line chooses, and each guest network is a namespace of its own.
//!
//! Names: s00 core, s01 to s03 kernel, s04 networking from user space, s05 user applications, s06 what must not bring the
//! kernel down, s07 what the documents say, s10 benchmarks. The harness is in xtask (`xtask::guest`, `xtask::namespace`, `xtask::relay`). To add a test, write it in the file of its group; if it needs a main
//! in the kernel, add that to kernel/src/integration_main.rs under the same name.

mod common;
mod frames;
mod s00_core;
mod s01_gdb;
mod s01_kernel;
mod s02_kernel;
mod s03_pipes;
mod s03_smoltcp;
mod s03_userspace;
mod s04_interfaces;
mod s04_network;
mod s05_apps;
mod s05_transfer;
mod s06_fair;
mod s06_network;
mod s06_robust;
mod s07_documents;
mod s10_path;
mod s10_profile;
mod s10_redis;
