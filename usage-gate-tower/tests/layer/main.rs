//! The layer over plain tower services.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod served;
mod stage;
mod tokens;
