//! UsageGate for Axum: the layer with the client's address, extractors, and the APIs as routers to nest.
//!
//! ```
//! # use axum::{Router, routing::get}; use usage_gate_axum::{AdminTokens, Caller, Cost, Portal};
//! # use usage_gate_core::{UsageGate, clock::Clock, model::Meters, secret::Pepper, store::memory::MemoryStore};
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let gate = UsageGate::builder().store(MemoryStore::new(Clock::system())).pepper(Pepper::new(&[7; 32])).meter("rows").build().await?;
//! let portal = Portal::new().public_url("https://api.example.com")?.name("Northwind API");
//! async fn search(caller: Caller, cost: Cost) -> String {
//!     cost.set("rows", 40);
//!     format!("hello {}", caller.tenant)
//! }
//!
//! let app: Router = Router::new()
//!     .route("/v1/search", get(search))
//!     .layer(usage_gate_axum::layer(&gate))
//!     .merge(usage_gate_axum::portal(&gate, &portal));
//! let admin: Router = usage_gate_axum::admin(&gate, AdminTokens::new("a long random token"), &portal);
//! # drop((app, admin)); Ok(()) }
//! ```

mod admin;
mod answer;
mod client;
mod document;
mod extract;
mod health;
mod idempotency;
mod key_document;
mod options;
mod page;
mod parameters;
mod path;
mod portal;
mod portal_state;
mod requests;
mod reserved;
mod self_service;
mod session;
mod show;
mod usage;

pub use admin::{AdminTokens, admin};
pub use client::{GateLayer, GateService, layer};
pub use extract::{Caller, Cost, MissingLayer};
pub use health::health;
pub use options::{Portal, PortalError};
pub use reserved::portal;
pub use self_service::self_service_routes;
pub use session::Identity;
pub use usage_gate_tower::{ClientAddress, GateContext};
