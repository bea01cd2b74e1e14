//! Rates and requests open at once where several nodes share them: units are lent for a moment, spent from memory, and die with their lease. Class R of the protocols.
//!
//! `bucket` and `slots` are the authority's rules (and their specification), pure; stores keep their states.

pub(crate) mod bucket;
pub(crate) mod slots;

#[cfg(test)]
mod samples;
