//! Incarnations of rate stores in SQLite: a note that is made once and read again.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::value::instant;
use crate::lease::incarnations::{MOST_OLD, age, incarnations_kept_since, seen_since};
use crate::model::Timestamp;

/// The age of one, which is noted if it is new.
pub(super) fn incarnation_age(
    connection: &Connection,
    incarnation: &str,
    now: Timestamp,
) -> rusqlite::Result<Duration> {
    let first_seen = connection
        .prepare_cached("SELECT first_seen FROM incarnation WHERE id = ?1")?
        .query_row([incarnation], |row| instant(row, 0))
        .optional()?;
    if let Some(first_seen) = first_seen {
        return Ok(age(first_seen, now));
    }
    let known = connection.prepare_cached("SELECT 1 FROM incarnation LIMIT 1")?.exists([])?;
    let first_seen = seen_since(!known, now);
    connection
        .prepare_cached("INSERT INTO incarnation (id, first_seen) VALUES (?1, ?2)")?
        .execute((incarnation, first_seen.as_micros()))?;
    connection
        .prepare_cached(
            "DELETE FROM incarnation WHERE first_seen < ?1
             AND id IN (SELECT id FROM incarnation ORDER BY first_seen DESC, id DESC LIMIT -1 OFFSET ?2)",
        )?
        .execute((incarnations_kept_since(now).as_micros(), MOST_OLD))?;
    Ok(age(first_seen, now))
}
