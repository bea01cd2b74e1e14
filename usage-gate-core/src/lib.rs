//! The decision, the leases and the metering of UsageGate, without an HTTP server.

pub mod clock;
pub mod flush;
pub mod management;
pub mod model;
pub mod period;
pub mod price;
pub mod secret;
pub mod store;
