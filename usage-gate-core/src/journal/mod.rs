//! What requests used, between their end and the flush.
//!
//! A stream is what one process life records, in files that are mapped and survive it. A request reserves room when it is admitted, appends its record when it ends, and
//! can do both without a lock, an allocation or I/O. Refusals are not records: they are summed, so a flood of them is a few items.
//!
//! - [`slot`]: an item as words, and the CRC that vouches for it.
//! - [`segment`]: one file of a stream, which explains itself.
//! - [`append`]: the way in, for many threads.
//! - [`record`], [`schema`]: what items carry, and the names of what they call by number.
//! - [`read`]: the way out.
//! - [`keeper`]: the journal of this life, and the room in it; [`files`]: the segments of all lives, and which may go.
//! - [`group_sync`]: records that must survive power loss.
//! - [`recovery`]: streams of lives that are over.
//! - [`recorder`]: the queue in memory that the journal takes the place of; [`refusals`]: the sums.

mod append;
mod files;
mod group_sync;
mod keeper;
mod read;
mod record;
mod recorder;
mod recovery;
mod refusals;
mod schema;
mod segment;
#[cfg(test)]
mod simulation;
mod slot;

pub(crate) use append::Place;
pub(crate) use files::Files;
pub(crate) use group_sync::JournalEnded;
pub(crate) use keeper::{Journal, JournalDurability, JournalOptions, JournalState};
pub(crate) use read::{Chunk, Stream};
pub(crate) use record::{Record, Refused};
pub(crate) use recorder::{Recorded, Recorder};
pub(crate) use recovery::{DeadStream, LifeEnd};
pub(crate) use refusals::Refusals;
pub(crate) use schema::Schema;
pub(crate) use slot::Encoded;
