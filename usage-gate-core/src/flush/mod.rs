//! Step 9, ship: what was recorded becomes rollups in a sink, every second and at the drain.

mod driver;
mod rollup;

pub(crate) use driver::{Flusher, Progress};
pub(crate) use rollup::rollup;
