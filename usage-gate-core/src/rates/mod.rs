//! Rates and requests open at once where several nodes share them: units are lent for a moment, spent from memory, and die with their lease. Class R of the protocols.
//!
//! `bucket` and `slots` are the authority's rules (and their specification), pure; stores keep their states. `held` and `held_slots` are what a node has of them, as requests
//! spend it; neither does I/O. `simulation` runs both sides together, through lost calls, crashes and authorities that forget.

pub(crate) mod bucket;
pub(crate) mod slots;

mod asking;
#[cfg_attr(not(test), expect(dead_code, reason = "no gate of several nodes is put together yet"))]
mod held;
#[cfg_attr(not(test), expect(dead_code, reason = "no gate of several nodes is put together yet"))]
mod held_slots;
mod lease;

#[cfg(not(loom))]
#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod samples;
#[cfg(not(loom))]
#[cfg(test)]
mod simulation;
