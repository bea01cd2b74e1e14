//! Connections that only read, beside the writer: each question sees one snapshot.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::open;
use super::value::Fault;
use crate::store::StoreError;

/// Questions at once.
const MOST_READERS: usize = 2;

/// A few connections, opened when they are first needed.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), turns: Arc::new(Semaphore::new(MOST_READERS)) }
    }

    /// Runs a question on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = |error| StoreError::unavailable(what, error);
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|error| failed(error.to_string()))?;
        let readers = Arc::clone(self);
        let answer = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            readers.ask(work)
        });
        answer.await.map_err(|error| failed(error.to_string()))?.map_err(|fault| fault.into_store(what))
    }

    fn ask<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => open::reader(&self.path)?,
        };
        let snapshot = connection.unchecked_transaction()?;
        let outcome = work(&snapshot);
        snapshot.finish()?;
        idle().push(connection);
        outcome
    }
}
