//! Keeps what records say was taken of quotas: by counter and period, and of debts one by one.
//!
//! Windows are locked before debts, and each in order, as a call for units does it.

use std::collections::BTreeMap;

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::value::Id;
use crate::lease::ledger::DebtKey;
use crate::model::{StreamId, TenantId, Timestamp};
use crate::store::{CounterTag, quota_use_kept_since};

/// Whether this is the stream of a node's latest life, which it stays to the end of the transaction: a next life of the node would have windows
/// compared with what the transaction is about to add. Calls for units go on meanwhile.
pub(super) async fn is_of_a_node(step: &Transaction<'_>, stream: StreamId) -> Result<bool, Fault> {
    let sql = "SELECT FROM node WHERE boot = $1 FOR KEY SHARE";
    Ok(step.query_typed_opt(sql, &[(&Id(stream.as_u128()), Type::UUID)]).await?.is_some())
}

/// What was taken of each counter in a period.
pub(super) type QuotaUses = BTreeMap<(CounterTag, Timestamp), (TenantId, i64)>;

/// Adds what was taken. If records come late, from a life that has died, windows are compared with them once more.
pub(super) async fn add(step: &Transaction<'_>, taken: &QuotaUses, late: bool) -> Result<(), Fault> {
    if taken.is_empty() {
        return Ok(());
    }
    if late {
        tokio::try_join!(biased; add_units(step, taken), heal_again(step, taken))?;
        return Ok(());
    }
    add_units(step, taken).await
}

/// A sum ends at the largest number, and is negative where batches credit more than they take.
async fn add_units(step: &Transaction<'_>, taken: &QuotaUses) -> Result<(), Fault> {
    let tags: Vec<[u8; 8]> = taken.keys().map(|(tag, _)| tag.0.to_be_bytes()).collect();
    let tags: Vec<&[u8]> = tags.iter().map(|tag| &tag[..]).collect();
    let periods: Vec<i64> = taken.keys().map(|(_, period)| period.as_micros()).collect();
    let tenants: Vec<Id> = taken.values().map(|(tenant, _)| Id(tenant.as_u128())).collect();
    let units: Vec<i64> = taken.values().map(|(_, units)| *units).collect();
    step.execute_typed(
        "INSERT INTO counter_use AS kept (tag, period_start, tenant, units) SELECT * FROM unnest($1, $2, $3, $4)
         ON CONFLICT (tag, period_start) DO UPDATE SET units = CASE WHEN excluded.units > 0
             THEN least(kept.units, 9223372036854775807 - excluded.units)
             ELSE greatest(kept.units, -9223372036854775807 - excluded.units) END + excluded.units",
        &[
            (&tags, Type::BYTEA_ARRAY),
            (&periods, Type::INT8_ARRAY),
            (&tenants, Type::UUID_ARRAY),
            (&units, Type::INT8_ARRAY),
        ],
    )
    .await?;
    Ok(())
}

async fn heal_again(step: &Transaction<'_>, taken: &QuotaUses) -> Result<(), Fault> {
    // Records name a period by whole seconds, and a counter by its tag: other windows of the tenant lose nothing by another look.
    let tenants: Vec<Id> = taken.values().map(|(tenant, _)| Id(tenant.as_u128())).collect();
    let starts: Vec<i64> = taken.keys().map(|(_, period)| period.as_micros()).collect();
    step.execute_typed(
        "WITH late AS (
             SELECT counter, period_start FROM quota_window AS kept
             WHERE healed_in <> 0 AND EXISTS (
                 SELECT FROM unnest($1, $2) AS taken (tenant, start)
                 WHERE kept.tenant = taken.tenant AND kept.period_start >= start AND kept.period_start < start + 1000000)
             ORDER BY counter, period_start FOR UPDATE)
         UPDATE quota_window AS kept SET healed_in = 0 FROM late
         WHERE kept.counter = late.counter AND kept.period_start = late.period_start",
        &[(&tenants, Type::UUID_ARRAY), (&starts, Type::INT8_ARRAY)],
    )
    .await?;
    Ok(())
}

/// Adds what records cite of debts. `now` is the server's without.
pub(super) async fn record_debts(
    step: &Transaction<'_>,
    debts: &BTreeMap<DebtKey, i64>,
    now: Option<Timestamp>,
) -> Result<(), Fault> {
    if debts.is_empty() {
        return Ok(());
    }
    let tags = |of: fn(&DebtKey) -> u64| debts.keys().map(|debt| of(debt).to_be_bytes()).collect::<Vec<[u8; 8]>>();
    let (counters, leases) = (tags(|debt| debt.counter.0), tags(|debt| debt.lease));
    let counters: Vec<&[u8]> = counters.iter().map(|tag| &tag[..]).collect();
    let leases: Vec<&[u8]> = leases.iter().map(|tag| &tag[..]).collect();
    let seconds: Vec<i64> = debts.keys().map(|debt| debt.second.as_micros()).collect();
    let recorded: Vec<i64> = debts.values().copied().collect();
    let now = now.map(Timestamp::as_micros);
    step.execute_typed(
        "INSERT INTO debt AS kept (counter_tag, period_start, lease_tag, booked, recorded, told_at)
         SELECT counter_tag, period_start, lease_tag, 0, recorded,
             coalesce($5, (extract(epoch FROM clock_timestamp()) * 1000000)::int8)
         FROM unnest($1, $2, $3, $4) AS cited (counter_tag, period_start, lease_tag, recorded)
         ON CONFLICT (counter_tag, period_start, lease_tag) DO UPDATE SET
             recorded = CASE WHEN excluded.recorded > 0
                     THEN least(kept.recorded, 9223372036854775807 - excluded.recorded)
                     ELSE greatest(kept.recorded, -9223372036854775807 - excluded.recorded) END + excluded.recorded,
             told_at = greatest(kept.told_at, excluded.told_at)",
        &[
            (&counters, Type::BYTEA_ARRAY),
            (&seconds, Type::INT8_ARRAY),
            (&leases, Type::BYTEA_ARRAY),
            (&recorded, Type::INT8_ARRAY),
            (&now, Type::INT8),
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn forget(step: &Transaction<'_>, through: Timestamp, most: i64) -> Result<(), Fault> {
    step.execute_typed(
        "DELETE FROM counter_use WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM counter_use WHERE period_start < $1 ORDER BY period_start LIMIT $2
             FOR UPDATE SKIP LOCKED))",
        &[(&quota_use_kept_since(through).as_micros(), Type::INT8), (&most, Type::INT8)],
    )
    .await?;
    Ok(())
}
