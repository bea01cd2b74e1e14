//! The gateway from outside: the built binary over real sockets, with the admin API as operators use it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test cannot go on without fails it")]

mod clients;
mod commands;
mod contract;
mod demo;
mod embedded;
mod faults;
mod guard;
mod journal;
mod limits;
mod portal;
mod sample;
mod streams;
mod usage;
