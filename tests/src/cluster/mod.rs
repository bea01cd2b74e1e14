//! Several gateways on one PostgreSQL, with or without a Valkey: the servers of `DATABASE_URL` and `VALKEY_URL` (`tests/with-servers` starts some), or a test's own where
//! it stops them.

mod load;
mod servers;
mod stage;

pub use load::{Load, Passed, Shot};
pub use servers::{Database, OwnPostgres, OwnValkey};
pub use stage::{Cluster, Stores};
