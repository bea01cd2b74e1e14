//! `journal/` of the core: the way in, and what a reader sees of it.

#[path = "../../../../usage-gate-core/src/journal/append.rs"]
pub(crate) mod append;
#[path = "../../../../usage-gate-core/src/journal/segment.rs"]
pub(crate) mod segment;
#[path = "../../../../usage-gate-core/src/journal/slot.rs"]
pub(crate) mod slot;
