//! PostgreSQL: all six traits for many nodes. Works behind a PgBouncer that pools transactions: every statement is sent with the types of its values and prepared
//! nowhere, and nothing hangs on a session but the feed's own connection.
//!
//! What requests wait for is one statement: a call of a function of the schema, which commits by itself. A node that stops in the middle of a transaction
//! would keep its locks until a time-out; one that stops in the middle of a statement keeps nothing.

mod accounts;
mod audit;
mod connect;
mod days;
mod digests;
mod fault;
mod feed;
mod inspect;
mod keys;
mod ledger_call;
mod migrate;
mod months;
mod moved;
#[cfg(feature = "sqlite")]
mod moving;
mod prepare;
mod quota_use;
mod quotas;
mod rates;
mod reader;
mod repeats;
mod requests;
mod rollups;
mod rows;
mod sessions;
mod tls;
mod usage;
mod value;
mod write;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use deadpool_postgres::{Client, Pool};
use tokio_postgres::IsolationLevel;

pub use inspect::{OLDEST_POSTGRES, PostgresReport};
#[cfg(feature = "sqlite")]
pub(in crate::store) use moving::not_empty;

use crate::clock::Clock;
use crate::store::StoreError;
use connect::{Address, Lent};
use fault::Fault;
use feed::Listener;
use prepare::Preparation;

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
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if the address cannot be read, the login is refused, the schema is of a newer program, or a
    /// database of SQLite has not wholly been moved here;
    /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable) if the server is away.
    pub async fn open(self) -> Result<PostgresStore, StoreError> {
        let store = self.open_lazily()?;
        store.prepare().await?;
        Ok(store)
    }

    /// Opens it for who fills it, whole or not.
    #[cfg(feature = "sqlite")]
    pub(in crate::store) async fn open_to_fill(self) -> Result<PostgresStore, StoreError> {
        let preparation = Preparation::to_fill(self.migrate);
        let store = self.connect(preparation)?;
        store.prepare().await?;
        Ok(store)
    }

    /// As [`open`](Self::open), but connects with the first call: for a start while the server may be away. What `open` does is done then, before anything else;
    /// [`PostgresStore::prepare`] does it ahead.
    ///
    /// # Errors
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if the address cannot be read.
    ///
    /// ```
    /// # use usage_gate_core::store::PostgresStore;
    /// // Nobody is there, and nobody was asked.
    /// let store = PostgresStore::options("postgres://gate@127.0.0.1:1/gate").open_lazily()?;
    /// # Ok::<(), usage_gate_core::store::StoreError>(())
    /// ```
    pub fn open_lazily(self) -> Result<PostgresStore, StoreError> {
        let preparation = Preparation::new(self.migrate);
        self.connect(preparation)
    }

    /// Connections, made as they are needed.
    fn connect(self, preparation: Preparation) -> Result<PostgresStore, StoreError> {
        let address = Address::read(&self.url, self.call_timeout)?;
        Ok(PostgresStore {
            inner: Arc::new(Inner {
                pool: address.pool(self.connections)?,
                preparation,
                listener: Listener::new(address),
                clock: self.clock,
                call_timeout: self.call_timeout,
                ahead: AtomicI64::new(0),
                months: months::Months::default(),
            }),
        })
    }
}

/// Keeps everything in one PostgreSQL database. Cheap to clone; clones share the connections.
///
/// A PgBouncer that pools transactions may stand between. It does not pass on what the server tells of changes: those of other nodes are then seen within
/// about a second, and not at once.
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
    preparation: Preparation,
    listener: Listener,
    /// The server's without.
    clock: Option<Clock>,
    call_timeout: Duration,
    /// Microseconds by which the server's clock was ahead of ours at its last answer.
    ahead: AtomicI64,
    months: months::Months,
}

impl PostgresStore {
    /// Opens a database by its address, `postgres://user:password@host:port/database?sslmode=…`.
    ///
    /// `sslmode` means what it means for libpq: `disable`, `prefer` (the default), `require`, `verify-ca`, `verify-full`, which alone keeps out who pretends
    /// to be the server. Authorities are those of the PEM file `sslrootcert=…`, else the system's. Whatever encrypts needs the feature `postgres-tls`.
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

    /// A connection of the pool to a database that can be used, one that was not found closed.
    async fn client(&self, what: &'static str) -> Result<Client, StoreError> {
        self.prepare().await?;
        // What the server said last to connections that are idle, such as that it stops, is read before one of them is taken: on a runtime of one thread
        // the first turn finds out that there is something to read, and the second reads it.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        self.inner.pool.get().await.map_err(|error| fault::of_pool(error).into_store(what))
    }

    /// Runs one call on a connection, within the time that a call may take.
    async fn run<T>(
        &self,
        what: &'static str,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.within(what, async {
            let mut lent = Lent::default();
            let outcome = work(lent.hold(self.client(what).await?)).await;
            lent.give_back();
            outcome
        })
        .await
    }

    /// Runs one call that may be done twice: it is, if the connection turns out to be lost, as all are after a restart of the server.
    async fn ask<T>(
        &self,
        what: &'static str,
        work: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<T, Fault> + Clone,
    ) -> Result<T, StoreError> {
        self.within(what, async {
            let mut lent = Lent::default();
            let mut outcome = work.clone()(lent.hold(self.client(what).await?)).await;
            if outcome.as_ref().is_err_and(Fault::is_lost_connection) {
                lent.close();
                outcome = work(lent.hold(self.client(what).await?)).await;
            }
            lent.give_back();
            outcome
        })
        .await
    }

    /// Runs one transaction: what `work` does is done as a whole if it succeeds, and not at all if it fails.
    async fn change<T>(
        &self,
        what: &'static str,
        work: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.within(what, async {
            let mut lent = Lent::default();
            let mut client = lent.hold(self.client(what).await?);
            // Unlike a question, a change is not asked twice: therefore the connection is tried first.
            if client.check_connection().await.is_err() {
                lent.close();
                client = lent.hold(self.client(what).await?);
            }
            // Whatever is the database's default: what is read after a lock is to be what the holder before has written.
            let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?;
            let outcome = work(transaction.client()).await;
            match &outcome {
                Ok(_) => transaction.commit().await?,
                Err(_) => transaction.rollback().await?,
            }
            lent.give_back();
            outcome
        })
        .await
    }

    /// Bounds the time of a call.
    async fn within<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.inner.call_timeout, call).await {
            Ok(outcome) => outcome.map_err(|fault| fault.into_store(what)),
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
