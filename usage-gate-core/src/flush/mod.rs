//! Step 9, ship: what was recorded becomes rollups in a sink, every second and at the drain.

mod digest;
mod driver;
mod flusher;
mod rollup;

pub(crate) use digest::Chain;
pub(crate) use driver::{Shipper, Turn};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use rollup::debt_use;
pub(crate) use rollup::{quota_use, rollup, totals};

#[cfg(test)]
mod simulation;
