//! Keeps what was taken in of each segment: its running hash, and its sums.

use rusqlite::{Connection, OptionalExtension};

use super::value::{Fault, to_column};
use crate::flush::{Chain, totals};
use crate::model::{StreamId, Timestamp};
use crate::store::{Batch, RollupDelta, RollupKey, digests_kept_since, quota_use_kept_since};

/// The hash of a segment so far.
pub(super) fn load(connection: &Connection, stream: StreamId, segment: u64) -> rusqlite::Result<Chain> {
    let found = connection
        .prepare_cached("SELECT hash FROM digest WHERE stream = ?1 AND segment = ?2")?
        .query_row((stream.as_u128().to_be_bytes(), to_column(segment)), |row| row.get(0).map(Chain))
        .optional()?;
    Ok(found.unwrap_or(Chain::new(stream, segment)))
}

pub(super) fn store(connection: &Connection, batch: &Batch, chain: Chain, items: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO digest (stream, segment, first, last, items, hash, until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET last = excluded.last, items = items + excluded.items, hash = excluded.hash,
                 until = max(until, excluded.until)",
        )?
        .execute((
            batch.stream.as_u128().to_be_bytes(),
            to_column(batch.segment),
            to_column(batch.first),
            to_column(batch.last),
            to_column(items),
            chain.0,
            batch.through.as_micros(),
        ))?;
    Ok(())
}

pub(super) fn add_totals(
    connection: &Connection,
    batch: &Batch,
    rows: &[(RollupKey, RollupDelta)],
) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO digest_total (stream, segment, tenant, bucket, meter, outcome, units, requests)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT DO UPDATE SET
             units = min(units, 9223372036854775807 - excluded.units) + excluded.units,
             requests = min(requests, 9223372036854775807 - excluded.requests) + excluded.requests",
    )?;
    for (key, delta) in totals(rows) {
        statement.execute((
            batch.stream.as_u128().to_be_bytes(),
            to_column(batch.segment),
            key.tenant.as_u128().to_be_bytes(),
            key.bucket.as_micros(),
            &*key.meter,
            &*key.outcome,
            to_column(delta.units),
            to_column(delta.requests),
        ))?;
    }
    Ok(())
}

/// Forgets the oldest digest once it is too old: its sums first, some with each call, then what was made free of it, then itself.
pub(super) fn forget(connection: &Connection, through: Timestamp, most: usize) -> rusqlite::Result<()> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "DELETE FROM counter_use WHERE (tag, period_start) IN
                 (SELECT tag, period_start FROM counter_use WHERE period_start < ?1 ORDER BY period_start LIMIT ?2)",
        )?
        .execute((quota_use_kept_since(through).as_micros(), most))?;
    let oldest = connection
        .prepare_cached("SELECT stream, segment, first, last FROM digest WHERE until < ?1 ORDER BY until LIMIT 1")?
        .query_row([digests_kept_since(through).as_micros()], |row| {
            Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
        })
        .optional()?;
    let Some((stream, segment, first, last)) = oldest else { return Ok(()) };
    let forgotten = connection
        .prepare_cached(
            "DELETE FROM digest_total WHERE (stream, segment, tenant, bucket, meter, outcome) IN
                 (SELECT stream, segment, tenant, bucket, meter, outcome FROM digest_total
                  WHERE stream = ?1 AND segment = ?2 LIMIT ?3)",
        )?
        .execute((stream, segment, most))?;
    let freed = connection
        .prepare_cached(
            "DELETE FROM repeat_free WHERE (stream, sequence) IN
                 (SELECT stream, sequence FROM repeat_free WHERE stream = ?1 AND sequence BETWEEN ?2 AND ?3 LIMIT ?4)",
        )?
        .execute((stream, first, last, most))?;
    if forgotten == 0 && freed == 0 {
        connection
            .prepare_cached("DELETE FROM digest WHERE stream = ?1 AND segment = ?2")?
            .execute((stream, segment))?;
    }
    Ok(())
}
