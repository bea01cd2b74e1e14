//! Keeps what was taken in of each segment: its running hash, and its sums.

use std::collections::BTreeMap;

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::value::{Id, to_column, unreadable};
use crate::flush::Chain;
use crate::model::{StreamId, Timestamp};
use crate::store::{AuditKey, Batch, RollupDelta, digests_kept_since};

/// The hash of a segment so far.
pub(super) async fn load(step: &Transaction<'_>, stream: StreamId, segment: u64) -> Result<Chain, Fault> {
    let sql = "SELECT hash FROM digest WHERE stream = $1 AND segment = $2";
    let place = [(&Id(stream.as_u128()) as _, Type::UUID), (&to_column(segment) as _, Type::INT8)];
    let Some(row) = step.query_typed_opt(sql, &place).await? else { return Ok(Chain::new(stream, segment)) };
    Ok(Chain(row.try_get::<_, &[u8]>(0)?.try_into().map_err(unreadable)?))
}

/// The hash as it is with this batch, and the batch's sums.
pub(super) async fn store(
    step: &Transaction<'_>,
    batch: &Batch,
    chain: Chain,
    items: u64,
    totals: &BTreeMap<AuditKey, RollupDelta>,
) -> Result<(), Fault> {
    if items == 0 {
        return Ok(());
    }
    tokio::try_join!(biased; extend(step, batch, chain, items), add_totals(step, batch, totals))?;
    Ok(())
}

async fn extend(step: &Transaction<'_>, batch: &Batch, chain: Chain, items: u64) -> Result<(), Fault> {
    step.execute_typed(
        "INSERT INTO digest AS kept (stream, segment, first, last, items, hash, until) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (stream, segment) DO UPDATE SET last = excluded.last, items = kept.items + excluded.items,
             hash = excluded.hash, until = greatest(kept.until, excluded.until)",
        &[
            (&Id(batch.stream.as_u128()), Type::UUID),
            (&to_column(batch.segment), Type::INT8),
            (&to_column(batch.first), Type::INT8),
            (&to_column(batch.last), Type::INT8),
            (&to_column(items), Type::INT8),
            (&&chain.0[..], Type::BYTEA),
            (&batch.through.as_micros(), Type::INT8),
        ],
    )
    .await?;
    Ok(())
}

async fn add_totals(
    step: &Transaction<'_>,
    batch: &Batch,
    totals: &BTreeMap<AuditKey, RollupDelta>,
) -> Result<(), Fault> {
    let tenants: Vec<Id> = totals.keys().map(|key| Id(key.tenant.as_u128())).collect();
    let buckets: Vec<i64> = totals.keys().map(|key| key.bucket.as_micros()).collect();
    let meters: Vec<&str> = totals.keys().map(|key| &*key.meter).collect();
    let outcomes: Vec<&str> = totals.keys().map(|key| &*key.outcome).collect();
    let units: Vec<i64> = totals.values().map(|delta| to_column(delta.units)).collect();
    let requests: Vec<i64> = totals.values().map(|delta| to_column(delta.requests)).collect();
    step.execute_typed(
        "INSERT INTO digest_total AS kept (stream, segment, tenant, bucket, meter, outcome, units, requests)
         SELECT $1, $2, * FROM unnest($3, $4, $5, $6, $7, $8)
         ON CONFLICT (stream, segment, tenant, bucket, meter, outcome) DO UPDATE SET
             units = least(kept.units, 9223372036854775807 - excluded.units) + excluded.units,
             requests = least(kept.requests, 9223372036854775807 - excluded.requests) + excluded.requests",
        &[
            (&Id(batch.stream.as_u128()), Type::UUID),
            (&to_column(batch.segment), Type::INT8),
            (&tenants, Type::UUID_ARRAY),
            (&buckets, Type::INT8_ARRAY),
            (&meters, Type::TEXT_ARRAY),
            (&outcomes, Type::TEXT_ARRAY),
            (&units, Type::INT8_ARRAY),
            (&requests, Type::INT8_ARRAY),
        ],
    )
    .await?;
    Ok(())
}

/// Forgets the oldest digest once it is too old: its sums first, some with each call, then what was made free of it, then itself.
pub(super) async fn forget(step: &Transaction<'_>, through: Timestamp, most: i64) -> Result<(), Fault> {
    let oldest = step
        .query_typed_opt(
            "SELECT stream, segment, first, last FROM digest WHERE until < $1 ORDER BY until LIMIT 1
             FOR UPDATE SKIP LOCKED",
            &[(&digests_kept_since(through).as_micros(), Type::INT8)],
        )
        .await?;
    let Some(oldest) = oldest else { return Ok(()) };
    let (stream, segment): (Id, i64) = (oldest.try_get(0)?, oldest.try_get(1)?);
    let (first, last): (i64, i64) = (oldest.try_get(2)?, oldest.try_get(3)?);
    let forgotten = step
        .execute_typed(
            "DELETE FROM digest_total WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM digest_total WHERE stream = $1 AND segment = $2 LIMIT $3))",
            &[(&stream, Type::UUID), (&segment, Type::INT8), (&most, Type::INT8)],
        )
        .await?;
    let freed = step
        .execute_typed(
            "DELETE FROM repeat_free WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM repeat_free WHERE stream = $1 AND sequence BETWEEN $2 AND $3 LIMIT $4))",
            &[(&stream, Type::UUID), (&first, Type::INT8), (&last, Type::INT8), (&most, Type::INT8)],
        )
        .await?;
    if forgotten == 0 && freed == 0 {
        let sql = "DELETE FROM digest WHERE stream = $1 AND segment = $2";
        step.execute_typed(sql, &[(&stream, Type::UUID), (&segment, Type::INT8)]).await?;
    }
    Ok(())
}
