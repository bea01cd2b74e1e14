//! Takes usage in, all of it in one transaction (B4): rollups by hour and by day, what was taken of quotas, digest, request log, watermark.

use rusqlite::{Connection, OptionalExtension};

use super::SqliteStore;
use super::value::{Fault, to_column, units};
use super::{days, debts, digests, quotas, repeats, requests};
use crate::flush::{Chain, debt_use, quota_use};
use crate::model::{StreamId, Timestamp};
use crate::store::days::day_rows;
use crate::store::watermark::after_watermark;
use crate::store::{Batch, RollupDelta, RollupKey, StoreError, UsageSink};

#[async_trait::async_trait]
impl UsageSink for SqliteStore {
    fn backend(&self) -> &'static str {
        "sqlite"
    }

    async fn accept(&self, batch: Batch) -> Result<u64, StoreError> {
        let clock = self.inner.clock.clone();
        self.write("take usage in", move |connection| accept(connection, batch, clock.wall())).await
    }

    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError> {
        self.read("read a watermark", move |connection| Ok(watermark(connection, stream)?)).await
    }
}

/// The steps of the contract, in their order. There is one writer, in a transaction: nothing else locks the stream's row.
fn accept(connection: &Connection, batch: Batch, now: Timestamp) -> Result<u64, Fault> {
    let before = watermark(connection, batch.stream)?;
    let Some(mut batch) = after_watermark(batch, before) else { return Ok(before) };
    // Of the items as they came, before any is made free: as the journal has them.
    let mut digest = digests::load(connection, batch.stream, batch.segment)?;
    let items = digest.take(&batch);
    repeats::make_free(connection, &mut batch)?;
    let rows = batch.rollups();
    add_rollups(connection, &rows)?;
    add_quota_use(connection, &batch)?;
    for (debt, units) in debt_use(&batch) {
        debts::record(connection, &debt, units, now)?;
    }
    if items > 0 {
        keep_digest(connection, &batch, digest, items, &rows)?;
    }
    requests::add(connection, &batch)?;
    let after = before.max(batch.last);
    connection
        .prepare_cached(
            "INSERT INTO stream (stream, watermark, through) VALUES (?1, ?2, ?3)
             ON CONFLICT (stream) DO UPDATE SET watermark = excluded.watermark, through = max(through, excluded.through)",
        )?
        .execute((batch.stream.as_u128().to_be_bytes(), to_column(after), batch.through.as_micros()))?;
    forget(connection, &batch)?;
    Ok(after)
}

fn keep_digest(
    connection: &Connection,
    batch: &Batch,
    digest: Chain,
    items: u64,
    rows: &[(RollupKey, RollupDelta)],
) -> Result<(), Fault> {
    digests::store(connection, batch, digest, items)?;
    digests::add_totals(connection, batch, rows)
}

/// What is kept for a time.
fn forget(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let step = batch.forgotten_at_most();
    repeats::forget(connection, batch.through, step)?;
    requests::forget(connection, batch.through, step)?;
    digests::forget(connection, batch.through, step)
}

fn watermark(connection: &Connection, stream: StreamId) -> rusqlite::Result<u64> {
    let found = connection
        .prepare_cached("SELECT watermark FROM stream WHERE stream = ?1")?
        .query_row([stream.as_u128().to_be_bytes()], |row| units(row, 0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

fn add_quota_use(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    // Negative where a batch credits more than it takes: the sum is of all batches.
    let mut statement = connection.prepare_cached(
        "INSERT INTO counter_use (tag, period_start, tenant, units) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET units = CASE WHEN excluded.units > 0
             THEN min(units, 9223372036854775807 - excluded.units)
             ELSE max(units, -9223372036854775807 - excluded.units) END + excluded.units",
    )?;
    let late = !quotas::is_of_a_node(connection, batch.stream)?;
    for ((tag, period), (tenant, units)) in quota_use(batch) {
        if late {
            // A life that has died: the windows may have been compared before these records were there.
            quotas::heal_again(connection, tenant, period)?;
        }
        statement.execute((tag.0.to_be_bytes(), period.as_micros(), tenant.as_u128().to_be_bytes(), units))?;
    }
    Ok(())
}

fn add_rollups(connection: &Connection, rows: &[(RollupKey, RollupDelta)]) -> rusqlite::Result<()> {
    let days = days::begin(connection, rows)?;
    let mut hours = connection.prepare_cached(ADD_TO_HOUR)?;
    for (key, delta) in rows {
        add(&mut hours, key.bucket, key, *delta)?;
    }
    let mut rows_of_days = connection.prepare_cached(ADD_TO_DAY)?;
    for (day, key, delta) in day_rows(rows, &days) {
        add(&mut rows_of_days, day, key, delta)?;
    }
    Ok(())
}

/// The sum ends at the largest number that a column holds, instead of becoming a float.
macro_rules! add_sql {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (tenant, bucket, user, key, environment, route, meter, outcome, limit_name, units, requests)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT DO UPDATE SET
                 units = min(units, 9223372036854775807 - excluded.units) + excluded.units,
                 requests = min(requests, 9223372036854775807 - excluded.requests) + excluded.requests"
        )
    };
}
const ADD_TO_HOUR: &str = add_sql!("rollup_hour");
const ADD_TO_DAY: &str = add_sql!("rollup_day");

fn add(
    statement: &mut rusqlite::Statement<'_>,
    bucket: Timestamp,
    key: &RollupKey,
    delta: RollupDelta,
) -> rusqlite::Result<()> {
    let user = key.user.map(|user| user.as_u128().to_be_bytes());
    statement.execute((
        key.tenant.as_u128().to_be_bytes(),
        bucket.as_micros(),
        user.as_ref().map_or(&[][..], |bytes| &bytes[..]),
        key.key.as_u128().to_be_bytes(),
        key.environment.as_str(),
        &*key.route,
        &*key.meter,
        &*key.outcome,
        key.limit.as_deref().unwrap_or_default(),
        to_column(delta.units),
        to_column(delta.requests),
    ))?;
    Ok(())
}
