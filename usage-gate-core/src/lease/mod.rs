//! Limits as a node keeps them: rates and concurrency in its own memory, quotas as leases from their authority.
//!
//! A node never asks "may I?" per request. It leases units, debited at the authority before use, and spends them from
//! memory. `ledger` is the authority's rule (and specification), `bucket` the rate's; `entry` is what a request spends from;
//! `counter` joins them per counter, `driver` talks to the authority.

mod bucket;
mod counter;
mod driver;
mod entry;
pub(crate) mod ledger;

pub(crate) use bucket::{RateBucket, RateSpec, RateTaken};
pub(crate) use counter::{Counter, CounterState, Counters, QuotaCounter, QuotaTerms, Return};
pub(crate) use driver::{LeaseDriver, LeaseQueue};
pub(crate) use entry::LeaseEntry;
