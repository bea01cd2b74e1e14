//! Limits as a node keeps them: rates and concurrency in its own memory, quotas as leases from their authority.
//!
//! A node never asks "may I?" per request. It leases units, debited at the authority before use, and spends them from
//! memory. `ledger` is the authority's rule (and specification) over the numbers of a `window`, `bucket` the rate's; `entry` is what a request spends from, on a word (`left`) of the
//! `table` (`slot` says what is where) that outlives the process; `counter` joins them per counter, with what is `owed`, `driver` talks to the authority. At the start
//! `forfeit` compares the table with the records of a dead life, `inherit` with what the authority has open, and `found` does it, early or late. `incarnations` is what the authority remembers of
//! rate stores.

mod bucket;
mod counter;
mod counters;
#[cfg(test)]
mod crashes;
mod demand;
mod driver;
mod entry;
#[cfg(not(loom))]
#[cfg(test)]
mod exhaustive;
mod forfeit;
mod found;
pub(crate) mod incarnations;
mod inherit;
pub(crate) mod ledger;
mod left;
mod owed;
mod slot;
mod table;
mod window;

pub(crate) use bucket::{RateBucket, RateSpec, RateTaken};
pub(crate) use counter::{Booking, Bookings, Counter, CounterState, QuotaCounter, QuotaTerms, Return};
pub(crate) use counters::{Counters, RatesKept, Untold};
#[cfg(test)]
pub(crate) use driver::Round;
pub(crate) use driver::{LeaseDriver, LeaseQueue};
pub(crate) use entry::LeaseEntry;
pub(crate) use forfeit::{Forfeit, reconcile};
pub(crate) use found::FoundLeases;
pub(crate) use owed::Debtor;
#[cfg(test)]
pub(crate) use slot::{SlotState, TableEntry};
pub use table::TableError;
#[cfg(test)]
pub(crate) use table::table_entries;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub(crate) use table::table_id;
pub(crate) use table::{Found, LeaseTable};

use table::Slot;
