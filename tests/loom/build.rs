//! Sets `cfg(loom)` for this crate alone: as a flag of the compiler it would reach tokio too, which then has other parts.

use std::io::Write;

fn main() -> std::io::Result<()> {
    writeln!(std::io::stdout(), "cargo:rustc-cfg=loom")
}
