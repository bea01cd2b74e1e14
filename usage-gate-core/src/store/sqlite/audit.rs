//! Reads for an audit, all of it from one snapshot.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Row};

use super::debts;
use super::value::{Fault, id, instant, units};
use crate::model::{StreamId, TenantId, Timestamp};
use crate::store::audit::Words;
use crate::store::{Audit, AuditKey, AuditQuery, CounterAudit, CounterTag, RollupDelta, SegmentDigest};

pub(super) fn audit(connection: &Connection, query: &AuditQuery) -> Result<Audit, Fault> {
    let watermarks = connection
        .prepare_cached("SELECT stream, watermark FROM stream")?
        .query_map([], |row| Ok((stream(row, 0)?, units(row, 1)?)))?
        .collect::<Result<BTreeMap<_, _>, _>>()?;
    Ok(Audit {
        watermarks,
        rollups: rollups(connection, query)?,
        digests: digests(connection, query)?,
        freed: freed(connection)?,
        counters: counters(connection, query)?,
    })
}

/// The filter of all questions: an absent tenant is null.
type Filter = (i64, i64, Option<[u8; 16]>);

fn filter(query: &AuditQuery) -> Filter {
    let tenant = query.tenant.map(|tenant| tenant.as_u128().to_be_bytes());
    (query.period.start.as_micros(), query.period.end.as_micros(), tenant)
}

fn rollups(connection: &Connection, query: &AuditQuery) -> Result<BTreeMap<AuditKey, RollupDelta>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT tenant, meter, bucket, outcome, units, requests FROM rollup_hour
         WHERE bucket >= ?1 AND bucket < ?2 AND (?3 IS NULL OR tenant = ?3)",
    )?;
    let (mut words, mut sums) = (Words::default(), BTreeMap::<AuditKey, RollupDelta>::new());
    let mut rows = statement.query(filter(query))?;
    while let Some(row) = rows.next()? {
        let (key, delta) = total(&mut words, row, 0)?;
        // Summed here: the database would end in an error where a sum is larger than a column.
        sums.entry(key).or_default().add(delta);
    }
    Ok(sums)
}

fn digests(connection: &Connection, query: &AuditQuery) -> Result<BTreeMap<(StreamId, u64), SegmentDigest>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT total.tenant, total.meter, total.bucket, total.outcome, total.units, total.requests,
             digest.stream, digest.segment, digest.first, digest.last, digest.items, digest.hash
         FROM digest_total AS total JOIN digest ON digest.stream = total.stream AND digest.segment = total.segment
         WHERE total.bucket >= ?1 AND total.bucket < ?2 AND (?3 IS NULL OR total.tenant = ?3)",
    )?;
    let (mut words, mut found) = (Words::default(), BTreeMap::<(StreamId, u64), SegmentDigest>::new());
    let mut rows = statement.query(filter(query))?;
    while let Some(row) = rows.next()? {
        let (key, delta) = total(&mut words, row, 0)?;
        let new = SegmentDigest {
            first: units(row, 8)?,
            last: units(row, 9)?,
            items: units(row, 10)?,
            hash: row.get(11)?,
            totals: BTreeMap::new(),
        };
        found.entry((stream(row, 6)?, units(row, 7)?)).or_insert(new).totals.entry(key).or_default().add(delta);
    }
    Ok(found)
}

fn freed(connection: &Connection) -> rusqlite::Result<BTreeSet<(StreamId, u64)>> {
    connection
        .prepare_cached("SELECT stream, sequence FROM repeat_free")?
        .query_map([], |row| Ok((stream(row, 0)?, units(row, 1)?)))?
        .collect()
}

fn counters(connection: &Connection, query: &AuditQuery) -> Result<Vec<CounterAudit>, Fault> {
    let mut recorded = connection
        .prepare_cached(
            "SELECT tag, period_start, tenant, units FROM counter_use
             WHERE period_start >= ?1 AND period_start < ?2 AND (?3 IS NULL OR tenant = ?3)",
        )?
        .query_map(filter(query), |row| {
            let tag = CounterTag(row.get(0).map(u64::from_be_bytes)?);
            Ok(((tag, instant(row, 1)?), (TenantId::from_u128(id(row, 2)?), row.get(3)?)))
        })?
        .collect::<Result<BTreeMap<(CounterTag, Timestamp), (TenantId, i64)>, _>>()?;
    let mut owed = debts::not_told(connection, query.period)?;
    let mut statement = connection.prepare_cached(
        "SELECT quota.counter, quota.period_start, quota.tenant, quota.meter, quota.granted, quota.used_closed,
             (SELECT coalesce(sum(size), 0) FROM lease
              WHERE counter = quota.counter AND period_start = quota.period_start AND closed_at IS NULL),
             (SELECT coalesce(sum(used), 0) FROM lease
              WHERE counter = quota.counter AND period_start = quota.period_start AND closed_at IS NULL),
             coalesce(earlier.units, 0), quota.written_off
         FROM quota_window AS quota LEFT JOIN quota_before AS earlier
             ON earlier.counter = quota.counter AND earlier.period_start = quota.period_start
         WHERE quota.period_start >= ?1 AND quota.period_start < ?2 AND (?3 IS NULL OR quota.tenant = ?3)",
    )?;
    let mut found = statement
        .query_map(filter(query), |row| {
            let counter: String = row.get(0)?;
            let (tag, period_start) = (CounterTag::of_text(&counter), instant(row, 1)?);
            Ok(CounterAudit {
                recorded: recorded.remove(&(tag, period_start)).map_or(0, |(_, units)| units),
                counter,
                tag,
                tenant: TenantId::from_u128(id(row, 2)?),
                meter: row.get(3)?,
                period_start,
                granted: units(row, 4)?,
                used_closed: units(row, 5)?,
                open_size: units(row, 6)?,
                open_used: units(row, 7)?,
                owed: owed.remove(&(tag, period_start)).unwrap_or(0),
                unrecorded: units(row, 8)?,
                written_off: units(row, 9)?,
            })
        })?
        .collect::<Result<Vec<_>, _>>()?;
    found.extend(recorded.into_iter().map(|(place, (tenant, units))| CounterAudit {
        owed: owed.remove(&place).unwrap_or(0),
        ..CounterAudit::without_window(place, tenant, units)
    }));
    Ok(found)
}

fn total(words: &mut Words, row: &Row<'_>, at: usize) -> rusqlite::Result<(AuditKey, RollupDelta)> {
    let key = AuditKey {
        tenant: TenantId::from_u128(id(row, at)?),
        meter: words.of(row.get_ref(at + 1)?.as_str()?),
        bucket: instant(row, at + 2)?,
        outcome: words.of(row.get_ref(at + 3)?.as_str()?),
    };
    Ok((key, RollupDelta { units: units(row, at + 4)?, requests: units(row, at + 5)? }))
}

fn stream(row: &Row<'_>, at: usize) -> rusqlite::Result<StreamId> {
    id(row, at).map(StreamId::from_u128)
}
