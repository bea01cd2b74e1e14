//! Who misbehaves: what step 2 of a request reads. Plain state in fixed memory, with the time given by the caller.

mod address_set;
mod bad_tries;
mod penalty_box;
mod source;

pub(crate) use address_set::AddressSet;
pub(crate) use bad_tries::BadTries;
pub(crate) use penalty_box::PenaltyBox;
pub(crate) use source::{SourceHash, source_of};
