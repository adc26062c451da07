//! Conformance program.
fn main() {}
