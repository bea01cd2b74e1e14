//! The harness: what tests start and talk to, a file a thing. Everything is real: processes, sockets, files.
#![expect(clippy::unwrap_used, clippy::panic, reason = "what a test cannot go on without fails it")]

mod admin;
pub mod browser;
mod client;
pub mod cluster;
pub mod crash;
mod folder;
mod gateway;
mod tour;
mod upstream;

pub use admin::Admin;
pub use browser::Browser;
pub use client::{Answer, Client};
pub use folder::Folder;
pub use gateway::{Gateway, Setup, binary, run};
pub use tour::{Stop, Tour};
pub use upstream::{Seen, Upstream};
