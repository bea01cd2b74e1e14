//! Placeholder while dependencies resolve.
fn main() {}
