//! The decision, the leases and the metering of UsageGate, without an HTTP server.
//!
//! A [`UsageGate`] is put together from stores and routes by its [builder](UsageGate::builder). A request's path through it is
//! [`admission`], read from top to bottom; what stands behind it are the traits in [`store`], of which
//! [`memory`](store::memory) and (feature `sqlite`) `sqlite` are implementations.

mod abuse;
pub mod admission;
pub mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod feed;
mod flush;
mod gate;
mod invariant;
mod journal;
mod kernel;
mod lease;
pub mod management;
#[expect(dead_code, unused_imports, reason = "the journal, which is not there yet, uses all of it")]
mod mapped;
mod metrics;
pub mod model;
pub mod period;
pub mod price;
pub mod routes;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "requests take a seat once there is a journal"))]
mod seat;
pub mod secret;
pub mod store;

pub use gate::{BuildError, GateNumbers, GateStatus, UsageGate, UsageGateBuilder};
pub use lease::TableError;
pub use management::ManagementError;
