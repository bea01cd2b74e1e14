//! PostgreSQL: all six traits for many nodes. Works behind a PgBouncer that pools transactions: every statement is sent with the types of its values and prepared
//! nowhere, and nothing hangs on a session but the feed's own connection.
//!
//! What requests wait for is one statement: a call of a function of the schema, which commits by itself. A node that stops in the middle of a transaction
//! would keep its locks until a time-out; one that stops in the middle of a statement keeps nothing.

mod audit;
mod connect;
mod days;
mod digests;
mod fault;
mod migrate;
mod months;
mod quota_use;
mod reader;
mod repeats;
mod requests;
mod rollups;
mod usage;
mod value;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Pool};

use crate::clock::Clock;
use crate::store::StoreError;
use fault::Fault;

/// How to open a [`PostgresStore`].
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    url: String,
    clock: Option<Clock>,
    connections: usize,
    call_timeout: Duration,
    migrate: bool,
}

impl PostgresOptions {
    /// Connections at most, beside the one of the feed; default 8.
    #[must_use]
    pub const fn connections(mut self, most: usize) -> Self {
        self.connections = most;
        self
    }

    /// How long one call may take, connecting included; default 5 s. What takes longer has an unknown outcome.
    #[must_use]
    pub const fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// Whether to bring the schema up to date; default yes. If not, an older one is an error.
    #[must_use]
    pub const fn migrate(mut self, yes: bool) -> Self {
        self.migrate = yes;
        self
    }

    /// Tells periods by this clock and not by the server's, which is the authority: for tests.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if the address cannot be read, the login is refused, or the schema is of a newer program;
    /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable) if the server is away.
    pub async fn open(self) -> Result<PostgresStore, StoreError> {
        const WHAT: &str = "open the database";
        let pool = connect::pool(&self.url, self.connections, self.call_timeout)?;
        let (clock, call_timeout, months) = (self.clock, self.call_timeout, months::Months::default());
        let store = PostgresStore { inner: Arc::new(Inner { pool, clock, call_timeout, months }) };
        let mut client = store.client(WHAT).await?;
        migrate::migrate(&mut client, self.migrate).await.map_err(|fault| fault.into_store(WHAT))?;
        Ok(store)
    }
}

/// Keeps everything in one PostgreSQL database. Cheap to clone; clones share the connections.
///
/// ```no_run
/// # use usage_gate_core::store::{PostgresStore, StoreError};
/// # async fn f() -> Result<(), StoreError> {
/// let store = PostgresStore::open("postgres://gate@127.0.0.1/gate").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool,
    /// The server's without.
    clock: Option<Clock>,
    call_timeout: Duration,
    months: months::Months,
}

impl PostgresStore {
    /// Opens a database by its address, `postgres://user:password@host:port/database?sslmode=…`.
    ///
    /// # Errors
    /// As [`PostgresOptions::open`].
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        Self::options(url).open().await
    }

    /// Says how to open a database.
    #[must_use]
    pub fn options(url: &str) -> PostgresOptions {
        PostgresOptions {
            url: url.to_owned(),
            clock: None,
            connections: 8,
            call_timeout: Duration::from_secs(5),
            migrate: true,
        }
    }

    /// A connection of the pool.
    async fn client(&self, what: &'static str) -> Result<Client, StoreError> {
        self.inner.pool.get().await.map_err(|error| fault::of_pool(error).into_store(what))
    }

    /// Runs one call on a connection, within the time that a call may take.
    async fn run<T>(
        &self,
        what: &'static str,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let call = async {
            let mut client = self.client(what).await?;
            work(&mut client).await.map_err(|fault| fault.into_store(what))
        };
        match tokio::time::timeout(self.inner.call_timeout, call).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(StoreError::unavailable(what, elapsed)),
        }
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the address: it holds a password.
        f.debug_struct("PostgresStore").field("pool", &self.inner.pool.status()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
