//! Models of what threads share without a lock, a file each.
//!
//! The files of the core are compiled here once more, as they are, with the atomics of loom in place of the standard ones. A model is run for each order in which its
//! threads can meet, and for each value that a load may see.
#![cfg(test)]

#[path = "../../../usage-gate-core/src/invariant.rs"]
mod invariant;
#[path = "../../../usage-gate-core/src/sync.rs"]
mod sync;

#[expect(dead_code, reason = "models use parts of it")]
mod journal;
#[expect(dead_code, reason = "models use parts of it")]
mod mapped;

#[expect(dead_code, reason = "models use parts of it")]
#[path = "../../../usage-gate-core/src/seat/free_list.rs"]
mod free_list;
#[expect(dead_code, reason = "models use parts of it")]
#[path = "../../../usage-gate-core/src/lease/left.rs"]
mod left;

mod appending;
mod leases;
mod seats;
