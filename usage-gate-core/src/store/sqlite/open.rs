//! Opening the file: settings of a connection, and the schema.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::moved;
use super::value::Fault;
use crate::store::StoreError;
use crate::store::migrate::{Applied, Migration, next};

pub(super) const WHAT: &str = "open the database";

/// How long a connection waits for another process that writes, such as the command line.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept a connection: more than there are.
const MOST_STATEMENTS: usize = 128;

/// Room for the connection that writes. A batch of usage touches some thousand pages: they are to stay in memory (64 MiB of them at most), what a
/// job that fails would undo is kept there too, and the log is copied back every 32 MiB, not at every batch.
const ROOM: &str = "PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = 8192;";

const MIGRATIONS: [Migration; 9] = [
    Migration { version: 1, name: "first", sql: include_str!("migrations/0001_first.sql") },
    Migration { version: 2, name: "sessions", sql: include_str!("migrations/0002_sessions.sql") },
    Migration { version: 3, name: "days", sql: include_str!("migrations/0003_days.sql") },
    Migration { version: 4, name: "tables", sql: include_str!("migrations/0004_tables.sql") },
    Migration { version: 5, name: "counted once", sql: include_str!("migrations/0005_counted_once.sql") },
    Migration { version: 6, name: "debts", sql: include_str!("migrations/0006_debts.sql") },
    Migration { version: 7, name: "recalls", sql: include_str!("migrations/0007_recalls.sql") },
    Migration { version: 8, name: "tokens", sql: include_str!("migrations/0008_tokens.sql") },
    Migration { version: 9, name: "calls", sql: include_str!("migrations/0009_calls.sql") },
];

/// Opens the one connection that writes, and migrates.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    if path == Path::new(":memory:") {
        return Err(StoreError::unusable(
            WHAT,
            "a database without a file cannot be read beside its writer: use MemoryStore",
        ));
    }
    make_private(path).map_err(|error| StoreError::unavailable(WHAT, error))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    prepare(&connection).map_err(failed)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(StoreError::unusable(
            WHAT,
            format!("the file system allows only journal mode {mode}: WAL is needed"),
        ));
    }
    // FULL: the log is synced at every commit, so that granted units survive power loss.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(failed)?;
    connection.execute_batch(ROOM).map_err(failed)?;
    moved::refuse(&connection)?;
    migrate(connection)
}

/// Opens a connection that only reads, in the place of the one that writes. The schema must be this program's.
pub(super) fn looker(path: &Path) -> Result<Connection, StoreError> {
    let connection = reader(path).map_err(failed)?;
    match next(&MIGRATIONS, &applied(&connection).map_err(failed)?)? {
        None => Ok(connection),
        Some(_) => Err(StoreError::unusable(
            WHAT,
            "its schema is of an earlier version: start `usage-gate serve` on it once, which brings it up to date",
        )),
    }
}

/// Opens a connection that only reads.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(MOST_STATEMENTS);
    Ok(())
}

fn failed(error: rusqlite::Error) -> StoreError {
    Fault::from(error).into_store(WHAT)
}

/// Makes the file readable for its owner only: it holds hashes and addresses. SQLite's own files beside it take its mode over.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn migrate(mut connection: Connection) -> Result<Connection, StoreError> {
    connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_migration (
                 version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL
             ) STRICT",
        )
        .map_err(failed)?;
    // One more round than there are migrations finds nothing left to do.
    for _ in 0..=MIGRATIONS.len() {
        // The lock is taken before reading: of two processes that open at once one migrates, the other finds it done.
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let Some(migration) = next(&MIGRATIONS, &applied(&step).map_err(failed)?)? else { break };
        step.execute_batch(migration.sql).map_err(failed)?;
        step.execute(
            "INSERT INTO schema_migration (version, name, checksum) VALUES (?1, ?2, ?3)",
            (migration.version, migration.name, migration.checksum()),
        )
        .map_err(failed)?;
        step.commit().map_err(failed)?;
    }
    Ok(connection)
}

fn applied(connection: &Connection) -> rusqlite::Result<Vec<Applied>> {
    connection
        .prepare("SELECT version, checksum FROM schema_migration ORDER BY version")?
        .query_map([], |row| Ok(Applied { version: row.get(0)?, checksum: row.get(1)? }))?
        .collect()
}
