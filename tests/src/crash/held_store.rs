//! A database that somebody else holds: everything reads, nobody writes. It keeps usage from being shipped without touching the gateway.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

/// A write lock on an SQLite file, given back when dropped.
#[derive(Debug)]
pub struct HeldStore(Connection);

impl HeldStore {
    /// Waits for its turn and takes the lock.
    ///
    /// # Panics
    /// If the file cannot be opened, or is busy for longer than 10 seconds.
    #[must_use]
    pub fn hold(database: &Path) -> Self {
        let connection = Connection::open(database).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }
}

impl Drop for HeldStore {
    fn drop(&mut self) {
        let _ = self.0.execute_batch("ROLLBACK");
    }
}
