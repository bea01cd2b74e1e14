//! The mark of a database that was moved to PostgreSQL: from then on nobody opens it to write, since it and its successor would come to differ.

use rusqlite::{Connection, OptionalExtension};

use super::open::WHAT;
use super::value::{Fault, id};
use crate::store::StoreError;

/// Refuses a database that was moved.
pub(super) fn refuse(connection: &Connection) -> Result<(), StoreError> {
    match mark(connection).map_err(|error| Fault::from(error).into_store(WHAT))? {
        None => Ok(()),
        Some(_) => Err(StoreError::unusable(
            WHAT,
            "it was moved to PostgreSQL, or is being moved: serve that database. If the move is given up, \
             `usage-gate migrate --from sqlite:… --take-back` opens this one again",
        )),
    }
}

/// The number of the move, if there is a mark.
pub(super) fn mark(connection: &Connection) -> rusqlite::Result<Option<u128>> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'moved_up'";
    if !connection.prepare(sql)?.exists([])? {
        return Ok(None);
    }
    connection.query_row("SELECT id FROM moved_up", [], |row| id(row, 0)).optional()
}
