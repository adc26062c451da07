//! The commands of the nrk workspace, as a library.
//!
//! `cargo xtask` (main.rs) is a thin parser above it; the integration tests in `kernel/tests` use the same
//! code to build the kernel, pack an initramfs, start QEMU and make a guest network.
//!
//! | Commands, one file each | Parts they are made of |
//! |---|---|
//! | [`setup`], [`build`], [`run`], [`mod@test`], [`conformance`], [`mod@bench`], [`profile`], [`check`] | [`toolchain`]: the kernel's target |
//! | | [`image`], [`pack`], [`elf`], [`cpio`]: the initramfs |
//! | | [`qemu`], [`accel`], [`cmdline`], [`gdb`], [`stdin`], [`exit`]: starting a guest and learning how it ended |
//! | | [`namespace`], [`guest`], [`watched`]: networks and the test harness |
//! | | [`relay`], [`capture`], [`monitor`], [`random`]: bad networks, and what a guest sent |
//! | | [`documents`]: links, commands and recipes of README, CONTRIBUTING and the book |
//! | | [`workspace`], [`host`], [`process`], [`progress`]: this machine |
#![deny(unsafe_code)]

pub mod accel;
pub mod backlog;
pub mod bench;
pub mod build;
pub mod capture;
pub mod check;
pub mod cmdline;
pub mod conformance;
pub mod cpio;
pub mod documents;
pub mod elf;
pub mod exit;
pub mod gdb;
pub mod guest;
pub mod host;
pub mod image;
pub mod monitor;
pub mod namespace;
pub mod pack;
pub mod process;
pub mod profile;
pub mod progress;
pub mod qemu;
pub mod random;
pub mod relay;
pub mod run;
pub mod setup;
pub mod stdin;
pub mod test;
pub mod toolchain;
pub mod watched;
pub mod workspace;
