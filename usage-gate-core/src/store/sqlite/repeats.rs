//! Keeps which requests may be repeated for free; `store/repeats.rs` decides.

use rusqlite::{Connection, OptionalExtension};

use super::value::{instant, to_column};
use crate::model::Timestamp;
use crate::store::Batch;
use crate::store::repeats::{self, Repeats, kept_since};

/// Makes the repeats of a batch free, and remembers which were.
pub(super) fn make_free(connection: &Connection, batch: &mut Batch) -> rusqlite::Result<()> {
    let mut find = connection.prepare_cached("SELECT at, free FROM repeats WHERE tag = ?1")?;
    let mut keep = connection.prepare_cached("INSERT OR REPLACE INTO repeats (tag, at, free) VALUES (?1, ?2, ?3)")?;
    let freed = repeats::make_free(
        batch,
        |tag| {
            find.query_row([tag.to_be_bytes()], |row| Ok(Repeats { at: instant(row, 0)?, free: row.get(1)? }))
                .optional()
        },
        |tag, kept| keep.execute((tag.to_be_bytes(), kept.at.as_micros(), kept.free)).map(|_| ()),
    )?;
    let mut free = connection.prepare_cached("INSERT OR IGNORE INTO repeat_free (stream, sequence) VALUES (?1, ?2)")?;
    for sequence in freed {
        free.execute((batch.stream.as_u128().to_be_bytes(), to_column(sequence)))?;
    }
    Ok(())
}

pub(super) fn forget(connection: &Connection, through: Timestamp, most: usize) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM repeats WHERE tag IN (SELECT tag FROM repeats WHERE at < ?1 ORDER BY at LIMIT ?2)",
        )?
        .execute((kept_since(through).as_micros(), i64::try_from(most).unwrap_or(i64::MAX)))?;
    Ok(())
}
