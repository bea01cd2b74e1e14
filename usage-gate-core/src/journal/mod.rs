//! What requests used, between their end and the flush.
//!
//! Records are kept in memory here: synchronous, lock-free, in room that their seat reserved. The crash-proof segments take the
//! place of the queue behind the same calls. Refusals are not records: they are summed, so a flood of them is a few rows.

mod recorder;
mod refusals;

#[allow(dead_code)]
mod append;
#[allow(dead_code)]
mod files;
#[allow(dead_code)]
mod group_sync;
#[allow(dead_code)]
mod keeper;
#[allow(dead_code)]
mod read;
#[allow(dead_code)]
mod record;
#[allow(dead_code)]
mod recovery;
#[allow(dead_code)]
mod schema;
#[allow(dead_code)]
mod segment;
#[allow(dead_code)]
mod slot;

pub(crate) use recorder::{Recorded, Recorder};
pub(crate) use refusals::Refusals;
