//! Rates and requests open at once where several nodes share them: units are lent for a moment, spent from memory, and die with their lease. Class R of the protocols.
//!
//! `bucket` and `slots` are the authority's rules (and their specification), pure; stores keep their states. `held` and `held_slots` are what a node has of them, as requests
//! spend it; neither does I/O. `shared` is that with what a node does alone, `driver` talks to the authority. `simulation` runs both sides together, through lost calls, crashes
//! and authorities that forget.

mod asking;
pub(crate) mod bucket;
mod driver;
mod held;
mod held_slots;
mod lease;
mod shared;
pub(crate) mod slots;

#[cfg(not(loom))]
#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod samples;
#[cfg(not(loom))]
#[cfg(test)]
mod simulation;

pub(crate) use driver::{RateDriver, RateDrivers};
pub(crate) use held::{Low, RateUnits};
pub(crate) use shared::{Look, SharedRate, SharedSlots};
