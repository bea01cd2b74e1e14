//! Reads for an audit, all of it from one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::PostgresStore;
use super::fault::Fault;
use super::reader::snapshot;
use super::value::{Id, id, instant, units, unreadable};
use crate::model::{StreamId, TenantId, Timestamp};
use crate::store::audit::Words;
use crate::store::{Audit, AuditKey, AuditQuery, CounterAudit, CounterTag, RollupDelta, SegmentDigest, StoreError};

const WHAT: &str = "audit usage";
/// How long an audit may take: it reads all usage of a time, which is more than other calls do.
const MOST_TIME: Duration = Duration::from_secs(600);

pub(super) async fn audit(store: &PostgresStore, query: &AuditQuery) -> Result<Audit, StoreError> {
    let call = async {
        let mut client = store.client(WHAT).await?;
        let step = snapshot(&mut client).await.map_err(|fault| fault.into_store(WHAT))?;
        read(&step, query).await.map_err(|fault| fault.into_store(WHAT))
    };
    match tokio::time::timeout(MOST_TIME, call).await {
        Ok(outcome) => outcome,
        Err(elapsed) => Err(StoreError::unavailable(WHAT, elapsed)),
    }
}

async fn read(step: &Transaction<'_>, query: &AuditQuery) -> Result<Audit, Fault> {
    step.batch_execute(&format!(
        "SET LOCAL statement_timeout = {millis}; SET LOCAL idle_in_transaction_session_timeout = {millis}",
        millis = MOST_TIME.as_millis()
    ))
    .await?;
    Ok(Audit {
        watermarks: watermarks(step).await?,
        rollups: rollups(step, query).await?,
        digests: digests(step, query).await?,
        freed: freed(step).await?,
        counters: counters(step, query).await?,
    })
}

/// The values of all questions' filter: from, to, and a tenant or null.
struct Filter {
    from: i64,
    to: i64,
    tenant: Option<Id>,
}

impl Filter {
    fn new(query: &AuditQuery) -> Self {
        let tenant = query.tenant.map(|tenant| Id(tenant.as_u128()));
        Self { from: query.period.start.as_micros(), to: query.period.end.as_micros(), tenant }
    }

    fn values(&self) -> [(&(dyn ToSql + Sync), Type); 3] {
        [(&self.from, Type::INT8), (&self.to, Type::INT8), (&self.tenant, Type::UUID)]
    }
}

async fn watermarks(step: &Transaction<'_>) -> Result<BTreeMap<StreamId, u64>, Fault> {
    let rows = step.query_typed("SELECT stream, watermark FROM stream", &[]).await?;
    rows.iter().map(|row| Ok((stream(row, 0)?, units(row, 1)?))).collect()
}

async fn rollups(step: &Transaction<'_>, query: &AuditQuery) -> Result<BTreeMap<AuditKey, RollupDelta>, Fault> {
    // A sum ends at the largest number that a column holds, as it does in a digest's row.
    let sql = "SELECT tenant, meter, bucket, outcome,
                   least(sum(units), 9223372036854775807)::int8, least(sum(requests), 9223372036854775807)::int8
               FROM rollup_hour WHERE bucket >= $1 AND bucket < $2 AND ($3 IS NULL OR tenant = $3)
               GROUP BY tenant, meter, bucket, outcome";
    let mut words = Words::default();
    let rows = step.query_typed(sql, &Filter::new(query).values()).await?;
    rows.iter().map(|row| total(&mut words, row)).collect()
}

async fn digests(
    step: &Transaction<'_>,
    query: &AuditQuery,
) -> Result<BTreeMap<(StreamId, u64), SegmentDigest>, Fault> {
    let sql = "SELECT total.tenant, total.meter, total.bucket, total.outcome, total.units, total.requests,
                   digest.stream, digest.segment, digest.first, digest.last, digest.items, digest.hash
               FROM digest_total AS total JOIN digest ON digest.stream = total.stream AND digest.segment = total.segment
               WHERE total.bucket >= $1 AND total.bucket < $2 AND ($3 IS NULL OR total.tenant = $3)";
    let (mut words, mut found) = (Words::default(), BTreeMap::<(StreamId, u64), SegmentDigest>::new());
    for row in &step.query_typed(sql, &Filter::new(query).values()).await? {
        let (key, delta) = total(&mut words, row)?;
        let new = SegmentDigest {
            first: units(row, 8)?,
            last: units(row, 9)?,
            items: units(row, 10)?,
            hash: row.try_get::<_, &[u8]>(11)?.try_into().map_err(unreadable)?,
            totals: BTreeMap::new(),
        };
        found.entry((stream(row, 6)?, units(row, 7)?)).or_insert(new).totals.entry(key).or_default().add(delta);
    }
    Ok(found)
}

async fn freed(step: &Transaction<'_>) -> Result<BTreeSet<(StreamId, u64)>, Fault> {
    let rows = step.query_typed("SELECT stream, sequence FROM repeat_free", &[]).await?;
    rows.iter().map(|row| Ok((stream(row, 0)?, units(row, 1)?))).collect()
}

async fn counters(step: &Transaction<'_>, query: &AuditQuery) -> Result<Vec<CounterAudit>, Fault> {
    let filter = Filter::new(query);
    let mut recorded = recorded(step, &filter).await?;
    let mut owed = not_told(step, &filter).await?;
    let sql = "SELECT quota.counter, quota.period_start, quota.tenant, quota.meter, quota.granted, quota.used_closed,
                   quota.written_off, least(coalesce(open.size, 0), 9223372036854775807)::int8,
                   least(coalesce(open.used, 0), 9223372036854775807)::int8
               FROM quota_window AS quota, LATERAL (
                   SELECT sum(size) AS size, sum(used) AS used FROM lease
                   WHERE counter = quota.counter AND period_start = quota.period_start AND closed_at IS NULL) AS open
               WHERE quota.period_start >= $1 AND quota.period_start < $2 AND ($3 IS NULL OR quota.tenant = $3)";
    let mut found = Vec::new();
    for row in &step.query_typed(sql, &filter.values()).await? {
        let counter: String = row.try_get(0)?;
        let (tag, period_start) = (CounterTag::of_text(&counter), instant(row, 1)?);
        found.push(CounterAudit {
            recorded: recorded.remove(&(tag, period_start)).map_or(0, |(_, units)| units),
            counter,
            tag,
            tenant: TenantId::from_u128(id(row, 2)?),
            meter: row.try_get(3)?,
            period_start,
            granted: units(row, 4)?,
            used_closed: units(row, 5)?,
            open_size: units(row, 7)?,
            open_used: units(row, 8)?,
            owed: owed.remove(&(tag, period_start)).unwrap_or(0),
            // Here records have said what was taken from the beginning.
            unrecorded: 0,
            written_off: units(row, 6)?,
        });
    }
    found.extend(recorded.into_iter().map(|(place, (tenant, units))| CounterAudit {
        owed: owed.remove(&place).unwrap_or(0),
        ..CounterAudit::without_window(place, tenant, units)
    }));
    Ok(found)
}

/// What records say was taken.
async fn recorded(
    step: &Transaction<'_>,
    filter: &Filter,
) -> Result<BTreeMap<(CounterTag, Timestamp), (TenantId, i64)>, Fault> {
    let sql = "SELECT tag, period_start, tenant, units FROM counter_use
               WHERE period_start >= $1 AND period_start < $2 AND ($3 IS NULL OR tenant = $3)";
    let rows = step.query_typed(sql, &filter.values()).await?;
    rows.iter().map(|row| Ok((counter(row)?, (TenantId::from_u128(id(row, 2)?), row.try_get(3)?)))).collect()
}

/// What records cite of debts, and nobody has told.
async fn not_told(step: &Transaction<'_>, began: &Filter) -> Result<BTreeMap<(CounterTag, Timestamp), u64>, Fault> {
    let sql = "SELECT counter_tag, period_start, least(sum(recorded - booked), 9223372036854775807)::int8 FROM debt
               WHERE period_start >= $1 AND period_start < $2 AND recorded > booked
               GROUP BY counter_tag, period_start";
    let rows = step.query_typed(sql, &[(&began.from, Type::INT8), (&began.to, Type::INT8)]).await?;
    rows.iter().map(|row| Ok((counter(row)?, units(row, 2)?))).collect()
}

fn counter(row: &Row) -> Result<(CounterTag, Timestamp), Fault> {
    let tag = row.try_get::<_, &[u8]>(0)?.try_into().map(u64::from_be_bytes).map_err(unreadable)?;
    Ok((CounterTag(tag), instant(row, 1)?))
}

fn total(words: &mut Words, row: &Row) -> Result<(AuditKey, RollupDelta), Fault> {
    let key = AuditKey {
        tenant: TenantId::from_u128(id(row, 0)?),
        meter: words.of(row.try_get(1)?),
        bucket: instant(row, 2)?,
        outcome: words.of(row.try_get(3)?),
    };
    Ok((key, RollupDelta { units: units(row, 4)?, requests: units(row, 5)? }))
}

fn stream(row: &Row, at: usize) -> Result<StreamId, Fault> {
    id(row, at).map(StreamId::from_u128)
}
