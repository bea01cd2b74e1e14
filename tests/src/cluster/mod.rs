//! Several gateways on one PostgreSQL, with or without a Valkey: the servers of `DATABASE_URL` and `VALKEY_URL` (`tests/with-servers` starts some), or a test's own where
//! it stops them.

mod curve;
mod failover;
mod fault;
mod load;
mod servers;
mod stage;

pub use curve::{Curve, Extra};
pub use failover::ValkeyPair;
pub use fault::{Fault, FaultProxy};
pub use load::{Load, Passed, Shot};
pub use servers::{Database, OwnPostgres, OwnValkey};
pub use stage::{Cluster, Stores};
