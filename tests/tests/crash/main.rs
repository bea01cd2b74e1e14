//! What is left of usage when the gateway dies, its disk is full, or its database is held by somebody else: compared by request id.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what a test cannot go on without fails it; numbers are told"
)]

mod backlog;
mod disk_full;
mod kill;
