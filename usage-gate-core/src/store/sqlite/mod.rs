//! The embedded store: all six traits in one SQLite file, for one node. Every commit is synced: an answer survives power loss.
//!
//! Writes of all callers go through one thread that commits many of them at once (`writer`), because a synced commit takes
//! milliseconds and one thread needs no lock. Reads run beside it on connections of their own (`readers`), each in one snapshot.
//! The rules of quotas are not written in SQL: rows are read, `lease/ledger.rs` decides, rows are written.

mod accounts;
mod audit;
mod checkpoint;
mod days;
mod debts;
mod digests;
mod incarnations;
mod keys;
mod moved;
#[cfg(feature = "postgres")]
mod moving;
mod open;
mod quotas;
mod reader;
mod readers;
mod repeats;
mod requests;
mod rows;
mod sessions;
mod sums;
mod usage;
mod value;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::store::StoreError;
#[cfg(feature = "postgres")]
pub(in crate::store) use moved::Mark;
use readers::Readers;
use value::Fault;
use writer::Writer;

/// How to open a [`SqliteStore`].
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    path: PathBuf,
    clock: Clock,
    read_only: bool,
}

impl SqliteOptions {
    /// Only reads: nothing is made, migrated or changed, whoever else has the file open. Calls that write fail.
    #[must_use]
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The clock by which periods are told; the system's without.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the file, makes it if there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`Unusable`](crate::store::StoreErrorKind::Unusable) if the file is no database, or of a newer program;
    /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable) if it cannot be opened or written.
    pub async fn open(self) -> Result<SqliteStore, StoreError> {
        let opened = tokio::task::spawn_blocking(move || SqliteStore::open_blocking(self)).await;
        opened.map_err(|error| StoreError::unavailable(open::WHAT, error))?
    }
}

/// Keeps everything in one SQLite file. Cheap to clone; clones share the connections.
///
/// ```no_run
/// # use usage_gate_core::store::{SqliteStore, StoreError};
/// # async fn f() -> Result<(), StoreError> {
/// let store = SqliteStore::open("/var/lib/usage-gate/usage-gate.db").await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    clock: Clock,
    writer: Writer,
    readers: Arc<Readers>,
    /// Rings when a change was committed to the feed.
    fed: watch::Sender<()>,
    calls: AtomicU64,
    quota_calls: AtomicU64,
}

impl SqliteStore {
    /// Opens a file with the system's clock.
    ///
    /// # Errors
    /// As [`SqliteOptions::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::options(path).open().await
    }

    /// Says how to open a file.
    #[must_use]
    pub fn options(path: impl AsRef<Path>) -> SqliteOptions {
        SqliteOptions { path: path.as_ref().to_owned(), clock: Clock::system(), read_only: false }
    }

    /// Copies what is in the write-ahead log into the file, and empties the log: until the next write the file alone is the whole database.
    ///
    /// For the end, after [`UsageGate::drain`](crate::UsageGate::drain), so that whoever copies the file need not know of the log. Without it nothing is lost:
    /// the log is read at the next start.
    ///
    /// # Errors
    /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable) if others have read or written for two seconds, or what the system says.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        let path = self.inner.path.clone();
        let done = tokio::task::spawn_blocking(move || checkpoint::checkpoint(&path)).await;
        done.map_err(|error| StoreError::unavailable("copy the log into the database", error))?
    }

    /// Calls of any kind that this handle and its clones have made to the database.
    #[must_use]
    pub fn calls(&self) -> u64 {
        // Relaxed: a count orders nothing.
        self.inner.calls.load(Ordering::Relaxed)
    }

    /// Calls that leased, reported or returned units: the round trips that requests could have to wait for.
    #[must_use]
    pub fn quota_calls(&self) -> u64 {
        self.inner.quota_calls.load(Ordering::Relaxed)
    }

    fn open_blocking(options: SqliteOptions) -> Result<Self, StoreError> {
        let open = if options.read_only { open::looker } else { open::writer };
        let connection = open(&options.path)?;
        let fed = watch::Sender::new(());
        let writer =
            Writer::start(connection, fed.clone()).map_err(|error| StoreError::unavailable(open::WHAT, error))?;
        let readers = Arc::new(Readers::new(options.path.clone()));
        Ok(Self {
            inner: Arc::new(Inner {
                path: options.path,
                clock: options.clock,
                writer,
                readers,
                fed,
                calls: AtomicU64::new(0),
                quota_calls: AtomicU64::new(0),
            }),
        })
    }

    /// Runs a job in the writer's transaction; answers once it is committed and synced.
    async fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.writer.run(what, work).await
    }

    /// Runs a question on one snapshot.
    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.readers.run(what, work).await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
