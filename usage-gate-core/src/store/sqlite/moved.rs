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

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "only who moves it asks what it says"))]
pub(in crate::store) struct Mark {
    /// The number of the move.
    pub(in crate::store) id: u128,
    /// Whether all of it was moved.
    pub(in crate::store) is_done: bool,
}

/// The mark, if there is one.
pub(super) fn mark(connection: &Connection) -> rusqlite::Result<Option<Mark>> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'moved_up'";
    if !connection.prepare(sql)?.exists([])? {
        return Ok(None);
    }
    let sql = "SELECT id, done_at IS NOT NULL FROM moved_up";
    connection.query_row(sql, [], |row| Ok(Mark { id: id(row, 0)?, is_done: row.get(1)? })).optional()
}
