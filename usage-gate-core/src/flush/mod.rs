//! Step 9, ship: what was recorded becomes rollups in a sink, every second and at the drain.

mod digest;
mod driver;
#[cfg_attr(not(test), expect(dead_code, reason = "the driver still ships from the queue in memory"))]
mod flusher;
mod rollup;

pub(crate) use digest::Chain;
pub(crate) use driver::{Flusher, Progress};
pub(crate) use rollup::{quota_use, rollup, totals};

#[cfg(test)]
mod simulation;
