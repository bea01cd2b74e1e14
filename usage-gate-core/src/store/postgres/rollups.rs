//! Adds to rollups: many rows with one statement, as columns.

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::value::{Id, to_column};
use crate::model::Timestamp;
use crate::store::{RollupDelta, RollupKey};

/// The sum ends at the largest number that a column holds, instead of in an error. Rows are taken in the order in which they come, and so are
/// their locks: whoever adds to several does it in the order of keys, and waits for others without ever being waited for by the same.
macro_rules! add_sql {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " AS kept (tenant, bucket, user_id, key, environment, route, meter, outcome, limit_name, units, requests)
             SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (tenant, meter, bucket, key, outcome, limit_name, route, environment, user_id) DO UPDATE SET
                 units = least(kept.units, 9223372036854775807 - excluded.units) + excluded.units,
                 requests = least(kept.requests, 9223372036854775807 - excluded.requests) + excluded.requests"
        )
    };
}

/// A row: its bucket, what else it is told apart by, and what is added to it.
pub(super) type Row<'r> = (Timestamp, &'r RollupKey, RollupDelta);

pub(super) async fn add_to_hours(step: &Transaction<'_>, rows: &[Row<'_>]) -> Result<(), Fault> {
    add(step, add_sql!("rollup_hour"), rows).await
}

pub(super) async fn add_to_days(step: &Transaction<'_>, rows: &[Row<'_>]) -> Result<(), Fault> {
    add(step, add_sql!("rollup_day"), rows).await
}

async fn add(step: &Transaction<'_>, sql: &str, rows: &[Row<'_>]) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let ids = |of: fn(&RollupKey) -> u128| rows.iter().map(|(_, key, _)| Id(of(key))).collect::<Vec<Id>>();
    let texts = |of: fn(&RollupKey) -> &str| rows.iter().map(|(_, key, _)| of(key)).collect::<Vec<&str>>();
    let numbers = |of: fn(&Row<'_>) -> i64| rows.iter().map(of).collect::<Vec<i64>>();
    step.execute_typed(
        sql,
        &[
            (&ids(|key| key.tenant.as_u128()), Type::UUID_ARRAY),
            (&numbers(|(bucket, ..)| bucket.as_micros()), Type::INT8_ARRAY),
            (&ids(|key| key.user.map_or(0, |user| user.as_u128())), Type::UUID_ARRAY),
            (&ids(|key| key.key.as_u128()), Type::UUID_ARRAY),
            (&texts(|key| key.environment.as_str()), Type::TEXT_ARRAY),
            (&texts(|key| &key.route), Type::TEXT_ARRAY),
            (&texts(|key| &key.meter), Type::TEXT_ARRAY),
            (&texts(|key| &key.outcome), Type::TEXT_ARRAY),
            (&texts(|key| key.limit.as_deref().unwrap_or_default()), Type::TEXT_ARRAY),
            (&numbers(|(_, _, delta)| to_column(delta.units)), Type::INT8_ARRAY),
            (&numbers(|(_, _, delta)| to_column(delta.requests)), Type::INT8_ARRAY),
        ],
    )
    .await?;
    Ok(())
}
