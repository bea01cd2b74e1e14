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
pub mod journal;
mod kernel;
mod lease;
pub mod management;
mod mapped;
mod metrics;
pub mod model;
pub mod period;
pub mod price;
mod rates;
pub mod routes;
mod seat;
pub mod secret;
#[cfg(not(loom))]
#[cfg(test)]
mod simulation;
pub mod store;
mod sync;
pub mod verify;

pub use gate::{BuildError, GateNumbers, GateStatus, JournalConfig, UsageGate, UsageGateBuilder, WhenFull};
pub use journal::JournalDurability;
pub use lease::TableError;
pub use management::ManagementError;
pub use mapped::{FolderLock, LockError};
