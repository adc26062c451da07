//! A plugin for QEMU's translator: how many instructions a guest executed in which function, called by whom.
//!
//! `cargo xtask profile` builds it, has QEMU load it and reads what it leaves. QEMU says when it translates a block of
//! instructions and calls back whenever that block runs. A block ends with the instruction that leaves it (`block`): after a call the
//! next block is the callee's first, after a return it is where the caller goes on. That is enough to keep a copy of the
//! kernel's stack of calls (`tree`), without a look at registers or memory, which this interface does not give.
//!
//! The interface is that of QEMU 6.0 and later ("TCG plugins", version 1: docs/devel/tcg-plugins of QEMU); its functions are
//! declared in `ffi`, the only module with `unsafe` code. Arguments, as `-plugin file=...,out=FILE,switch=FILE`:
//!
//! - `out`: where the counts are written when QEMU ends, in the format of `Recorder::write`;
//! - `switch`: a file whose first byte says where to count: 0 nowhere, 1 to 7 into the profile of that number. It is mapped, so a
//!   write to the file takes effect at once. Bit 7 waits for the first instruction in user mode, to leave out the boot.

mod block;
#[cfg(not(test))]
mod ffi;
mod tree;
