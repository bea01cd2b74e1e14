//! Copying the write-ahead log back into the file, all of it, for who copies the file.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::value::Fault;
use crate::store::StoreError;

const WHAT: &str = "copy the log into the database";
/// How long others are waited for that read or write.
const PATIENCE: Duration = Duration::from_secs(2);

/// On a connection of its own: the one that writes is always in a transaction, in which SQLite does not do it.
pub(super) fn checkpoint(path: &Path) -> Result<(), StoreError> {
    let busy = truncate(path).map_err(|error| Fault::from(error).into_store(WHAT))?;
    if busy { Err(StoreError::unavailable(WHAT, "somebody else reads or writes it")) } else { Ok(()) }
}

fn truncate(path: &Path) -> rusqlite::Result<bool> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(PATIENCE)?;
    // FULL: the file is synced before the log is cut.
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
}
