//! What is to be done before anything else of a database is used: the schema is brought up to date, or compared, and a move that fills it must be at its end. At once, or with the first connection that succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::fault::of_pool;
use super::{Inner, PostgresStore, migrate, moved};
use crate::store::{StoreError, StoreErrorKind};

const WHAT: &str = "open the database";

/// How far it is.
#[derive(Debug)]
pub(super) struct Preparation {
    may_migrate: bool,
    /// Whether it is for who fills it, so that all of it need not have come.
    fills: bool,
    done: AtomicBool,
    /// A migration may take longer than any call, and goes on when the call that began it is given up: others wait for the same one.
    running: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
    /// Whether it was said what an operator must mend.
    told: AtomicBool,
}

impl Preparation {
    pub(super) fn new(may_migrate: bool) -> Self {
        let (done, told) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { may_migrate, fills: false, done, running: Mutex::default(), told }
    }

    /// For who fills the database.
    #[cfg(feature = "sqlite")]
    pub(super) fn to_fill(may_migrate: bool) -> Self {
        Self { fills: true, ..Self::new(may_migrate) }
    }

    /// For who only looks at the server, whatever the database is.
    pub(super) fn none() -> Self {
        Self { done: AtomicBool::new(true), ..Self::new(false) }
    }
}

impl PostgresStore {
    /// Connects, and brings the schema up to date or compares it, unless that was done: what every call waits for.
    ///
    /// Given up in the middle, it goes on by itself.
    ///
    /// # Errors
    /// As [`PostgresOptions::open`](super::PostgresOptions::open). It may be called again.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let preparation = &self.inner.preparation;
        if preparation.done.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut running = preparation.running.lock().await;
        if preparation.done.load(Ordering::Acquire) {
            return Ok(());
        }
        let task = running.get_or_insert_with(|| {
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move { run(&inner).await })
        });
        let outcome = task.await.unwrap_or_else(|ended| Err(StoreError::unavailable(WHAT, ended)));
        *running = None;
        match &outcome {
            Ok(()) => {
                preparation.told.store(false, Ordering::Relaxed);
                preparation.done.store(true, Ordering::Release);
            }
            Err(error)
                if error.kind() == StoreErrorKind::Unusable && !preparation.told.swap(true, Ordering::Relaxed) =>
            {
                tracing::error!(error = error as &dyn std::error::Error, "the database cannot be used as it is");
            }
            Err(_) => {}
        }
        outcome
    }
}

async fn run(inner: &Inner) -> Result<(), StoreError> {
    let mut client = inner.pool.get().await.map_err(|error| of_pool(error).into_store(WHAT))?;
    if let Err(fault) = migrate::migrate(&mut client, inner.preparation.may_migrate).await {
        // It may be in the middle of a transaction.
        drop(deadpool_postgres::Client::take(client));
        return Err(fault.into_store(WHAT));
    }
    if inner.preparation.fills { Ok(()) } else { moved::refuse_half_moved(&client).await }
}
