//! Takes usage in: rollups by hour and by day, and the watermark, in one transaction (B4).

use rusqlite::{Connection, OptionalExtension};

use super::SqliteStore;
use super::days::TenantDays;
use super::value::{Fault, to_column, units};
use crate::model::{StreamId, Timestamp};
use crate::store::watermark::after_watermark;
use crate::store::{Batch, RollupDelta, RollupKey, StoreError, UsageSink};

#[async_trait::async_trait]
impl UsageSink for SqliteStore {
    async fn accept(&self, batch: &Batch) -> Result<u64, StoreError> {
        let batch = batch.clone();
        self.write("take usage in", move |connection| accept(connection, &batch)).await
    }

    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError> {
        self.read("read a watermark", move |connection| Ok(watermark(connection, stream)?)).await
    }
}

fn accept(connection: &Connection, batch: &Batch) -> Result<u64, Fault> {
    let before = watermark(connection, batch.stream)?;
    let mut days: Option<TenantDays> = None;
    // In the order of tenant and bucket, as `TenantDays` wants them.
    for (key, delta) in after_watermark(batch, before).rollups() {
        let days = match days.take().filter(|days| days.tenant() == key.tenant) {
            Some(same) => days.insert(same),
            None => days.insert(TenantDays::load(connection, key.tenant)?),
        };
        let day = days.of(connection, key.bucket)?;
        add(connection, ADD_TO_HOUR, key.bucket, &key, delta)?;
        if let Some(day) = day {
            add(connection, ADD_TO_DAY, day, &key, delta)?;
        }
    }
    let after = before.max(batch.last);
    connection
        .prepare_cached(
            "INSERT INTO stream (stream, watermark, through) VALUES (?1, ?2, ?3)
             ON CONFLICT (stream) DO UPDATE SET watermark = excluded.watermark, through = max(through, excluded.through)",
        )?
        .execute((batch.stream.as_u128().to_be_bytes(), to_column(after), batch.through.as_micros()))?;
    Ok(after)
}

fn watermark(connection: &Connection, stream: StreamId) -> rusqlite::Result<u64> {
    let found = connection
        .prepare_cached("SELECT watermark FROM stream WHERE stream = ?1")?
        .query_row([stream.as_u128().to_be_bytes()], |row| units(row, 0))
        .optional()?;
    Ok(found.unwrap_or(0))
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
    connection: &Connection,
    sql: &'static str,
    bucket: Timestamp,
    key: &RollupKey,
    delta: RollupDelta,
) -> rusqlite::Result<()> {
    let user = key.user.map(|user| user.as_u128().to_be_bytes());
    connection.prepare_cached(sql)?.execute((
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
