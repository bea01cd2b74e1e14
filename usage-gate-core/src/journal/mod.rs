//! What requests used, from their end to the flush, and for a while after it: a log on this node's disk that survives the end of the process.
//!
//! A request leaves a record in room that was reserved when it was admitted: synchronous, lock-free, without a system call. Refusals are not
//! records: they are summed, so a flood of them is a few items. One stream a process life; the [flusher](crate::store::UsageSink) reads it in order, and a
//! segment may go once the sink has it. In the order of the data:
//!
//! - `recorder`: from a request's seat to its place. `refusals`, `samples`, `unrecorded`: what is summed in memory first.
//! - `record`, `slot`, `schema`, `segment`: an item in words, its place, the names it uses, the file.
//! - `append`, `keeper`, `files`, `known`: the way in, and room for it.
//! - `group_sync`: durability `disk`.
//! - `read`: the way out. [`entries`]: for those who only look.
//! - `recovery`: the end of a stream whose process was killed.

mod append;
mod entries;
mod files;
mod group_sync;
mod keeper;
mod known;
mod read;
mod record;
mod recorder;
mod recovery;
mod refusals;
mod samples;
mod schema;
mod segment;
#[cfg(not(loom))]
#[cfg(test)]
mod simulation;
mod slot;
mod unrecorded;

#[cfg(test)]
pub(crate) use append::Place;
pub use entries::{Entries, Entry, Item, entries, in_flight};
pub(crate) use files::Files;
pub use keeper::JournalDurability;
pub(crate) use keeper::{Journal, JournalOptions, JournalState};
pub(crate) use read::Stream;
pub(crate) use record::{MOST_QUOTAS, Record, Refused, of_record};
pub(crate) use recorder::Recorder;
pub use recorder::Synced;
pub(crate) use recovery::{DeadStream, LifeEnd};
pub(crate) use refusals::Refusals;
pub(crate) use samples::Samples;
pub(crate) use schema::Schema;
#[cfg(test)]
pub(crate) use segment::{Segment, place_of};
#[cfg(test)]
pub(crate) use slot::Encoded;
pub(crate) use unrecorded::Unrecorded;
