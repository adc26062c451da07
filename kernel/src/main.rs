//! The nrk kernel.
fn main() {}
