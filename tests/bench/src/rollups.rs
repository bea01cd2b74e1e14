//! A tenant with so much usage that a page has to be careful.

use std::sync::Arc;

use usage_gate_core::model::{
    Environment, KeyId, MeterIndex, Meters, RequestId, StreamId, TenantId, Timestamp, UserId,
};
use usage_gate_core::store::sqlite::SqliteStore;
use usage_gate_core::store::{Batch, Measured, Outcome, RefusalSum, StoreError, UnitTotals, UsageRecord, UsageSink};

const HOUR: i64 = 3_600_000_000;
const HOURS: i64 = 60 * 24;
const KEYS: usize = 18;
const ROUTES: [&str; 4] = ["search", "items", "exports", "feed"];

/// An hour of usage: each key on each route, billed and unbilled, and refused for two reasons: ten rows.
fn hour(stream: StreamId, first: u64, tenant: TenantId, holders: &[(KeyId, UserId)], bucket: Timestamp) -> Batch {
    let (mut records, mut refusals) = (Vec::new(), Vec::new());
    let routes = ROUTES.map(Arc::<str>::from);
    for (key, user) in holders {
        for route in &routes {
            for outcome in [Outcome::Billed, Outcome::Unbilled] {
                let mut units = UnitTotals::default();
                units.set(MeterIndex::REQUESTS, 1);
                units.set(MeterIndex::BYTES_IN, 90);
                units.set(MeterIndex::BYTES_OUT, 700);
                units.set(MeterIndex::DURATION_MS, 12);
                records.push(UsageRecord {
                    sequence: 0,
                    request: RequestId::generate(),
                    at: bucket,
                    tenant,
                    user: Some(*user),
                    key: *key,
                    environment: Environment::Live,
                    route: Arc::clone(route),
                    status: 200,
                    outcome,
                    units,
                    measured: Measured::Exact,
                    bucket,
                    quotas: Vec::new(),
                    retry: None,
                });
            }
            for (code, limit) in [("rate_limited", "burst"), ("quota_exceeded", "exports")] {
                refusals.push(RefusalSum {
                    sequence: 0,
                    tenant,
                    user: Some(*user),
                    key: *key,
                    environment: Environment::Live,
                    route: Arc::clone(route),
                    code: code.into(),
                    limit: Some(limit.into()),
                    requests: 3,
                    bucket,
                });
            }
        }
    }
    let through = bucket.plus_micros(HOUR);
    Batch::numbered(stream, first, through, Meters::default(), records, refusals)
}

/// Sixty days of one tenant up to `now`, 1,036,800 hour rows: eighteen keys on four routes, served and unbilled with the four meters that every
/// request has, and refused for two reasons.
///
/// # Errors
/// What the store says.
pub async fn million_rows(store: &SqliteStore, tenant: TenantId, now: Timestamp) -> Result<(), StoreError> {
    let holders: Vec<_> = (0..KEYS).map(|_| (KeyId::generate(), UserId::generate())).collect();
    let last = now.as_micros().div_euclid(HOUR) * HOUR;
    let (stream, mut first) = (StreamId::generate(), 1);
    for back in (0..HOURS).rev() {
        let batch = hour(stream, first, tenant, &holders, Timestamp::from_micros(last - back * HOUR));
        first = batch.last + 1;
        store.accept(batch).await?;
    }
    Ok(())
}
