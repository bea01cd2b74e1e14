//! The portal's sessions and the self-service API as browsers meet them.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not test functions, and a failed unwrap fails the test")]

#[path = "../answer/mod.rs"]
mod answer;
mod cross_site;
mod identity;
mod isolation;
mod keys;
mod requests;
mod sessions;
mod stage;
mod usage;
