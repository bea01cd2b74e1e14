//! Valkey, or Redis 7: the authority of rates and of requests open at once for many nodes, and a bell that says when something has changed.
//!
//! What is kept here may be lost at any time: a server that starts anew, or a replica that takes over, is another incarnation, and owns nothing that was lent before.
//! Every decision is one script on the keys of one counter, so that it works with a cluster's rules for keys too.

mod bell;
mod connect;
mod incarnations;
mod inspect;
mod rates;
mod scripts;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use redis::Client;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::store::{QuotaStore, StoreError};
use connect::Connection;
use incarnations::Incarnations;

pub use inspect::ValkeyReport;

/// How to open a [`ValkeyStore`].
#[derive(Debug, Clone)]
pub struct ValkeyOptions {
    url: String,
    clock: Option<Clock>,
    call_timeout: Duration,
    namespace: String,
    ledger: Option<Arc<dyn QuotaStore>>,
}

impl ValkeyOptions {
    /// How long one call may take, connecting included; default 1 s. What takes longer has an unknown outcome.
    #[must_use]
    pub const fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// What names of keys and channels begin with; default `usage-gate`. Nodes of one gate have the same.
    #[must_use]
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = name.into();
        self
    }

    /// Where it is written how long an incarnation of the server is known. Without, each process counts from when it saw it first, and a bucket that is used for
    /// the first time may begin empty instead of full.
    #[must_use]
    pub fn ledger(mut self, ledger: Arc<dyn QuotaStore>) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Tells time by this clock and not by the server's, which is the authority: for tests. Nothing is forgotten then.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Connects, and checks that the server can be what it is to be.
    ///
    /// # Errors
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if the address cannot be read, the login is refused, scripts may not ask `INFO`, or `maxmemory-policy`
    /// may delete counters; [`Unavailable`](crate::store::StoreErrorKind::Unavailable) if the server is away.
    pub async fn open(self) -> Result<ValkeyStore, StoreError> {
        let store = self.open_lazily()?;
        store.inspect().await?;
        Ok(store)
    }

    /// As [`open`](Self::open), but connects with the first call: for a start while the server is away. What `open` checks is checked then, before the first units are lent, unless
    /// [`ValkeyStore::inspect`] was called.
    ///
    /// # Errors
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if the address cannot be read.
    pub fn open_lazily(self) -> Result<ValkeyStore, StoreError> {
        let client = connect::client(&self.url)?;
        Ok(ValkeyStore {
            inner: Arc::new(Inner {
                connection: Connection::new(client.clone(), self.call_timeout),
                client,
                incarnations: Incarnations::new(self.ledger, self.clock.clone().unwrap_or_default()),
                clock: self.clock,
                namespace: self.namespace,
                rung: watch::Sender::default(),
                listening: std::sync::Once::new(),
                inspected: AtomicBool::new(false),
            }),
        })
    }
}

/// Keeps rates and requests open at once in a Valkey. Cheap to clone; clones share the connection.
///
/// ```no_run
/// # use usage_gate_core::store::{StoreError, ValkeyStore};
/// # async fn f() -> Result<(), StoreError> {
/// let rates = ValkeyStore::options("redis://127.0.0.1:6379").open().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ValkeyStore {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    connection: Connection,
    incarnations: Incarnations,
    /// The server's without.
    clock: Option<Clock>,
    namespace: String,
    /// Marked as changed when the bell rings.
    rung: watch::Sender<()>,
    /// Begun with the first who listens.
    listening: std::sync::Once,
    /// Whether it was found to be what it is to be.
    inspected: AtomicBool,
}

impl ValkeyStore {
    /// Says how to open a server, by its address `redis://user:password@host:port/database`, or `rediss://…` for TLS.
    #[must_use]
    pub fn options(url: &str) -> ValkeyOptions {
        ValkeyOptions {
            url: url.to_owned(),
            clock: None,
            call_timeout: Duration::from_secs(1),
            namespace: "usage-gate".to_owned(),
            ledger: None,
        }
    }
}

impl fmt::Debug for ValkeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the address: it holds a password.
        f.debug_struct("ValkeyStore").field("namespace", &self.inner.namespace).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
