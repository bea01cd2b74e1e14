//! Journals that are killed at every step.
