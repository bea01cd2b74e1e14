//! What an audit asks, from memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::usage::Usage;
use crate::lease::ledger::Ledger;
use crate::store::{Audit, AuditKey, AuditQuery, CounterAudit, CounterTag, RollupDelta, SegmentDigest};

pub(super) fn audit(usage: &Usage, ledger: &Ledger, query: &AuditQuery) -> Audit {
    let mut rollups = BTreeMap::<AuditKey, RollupDelta>::new();
    for (key, delta) in usage.rollups.iter().filter(|(key, _)| query.wants(key.tenant, key.bucket)) {
        let key = AuditKey {
            tenant: key.tenant,
            meter: Arc::clone(&key.meter),
            bucket: key.bucket,
            outcome: Arc::clone(&key.outcome),
        };
        rollups.entry(key).or_default().add(*delta);
    }
    let digests = usage.digests.iter().filter_map(|(place, digest)| {
        let wanted = digest.totals.iter().filter(|(key, _)| query.wants(key.tenant, key.bucket));
        let totals: BTreeMap<_, _> = wanted.map(|(key, delta)| (key.clone(), *delta)).collect();
        let digest =
            SegmentDigest { first: digest.first, last: digest.last, items: digest.items, hash: digest.chain.0, totals };
        (!digest.totals.is_empty()).then_some((*place, digest))
    });
    Audit {
        watermarks: usage.streams.iter().map(|(stream, known)| (*stream, known.watermark)).collect(),
        rollups,
        digests: digests.collect(),
        freed: usage.freed.clone(),
        counters: counters(usage, ledger, query),
    }
}

fn counters(usage: &Usage, ledger: &Ledger, query: &AuditQuery) -> Vec<CounterAudit> {
    let mut recorded = usage.quota_use.clone();
    recorded.retain(|(start, _), (tenant, _)| query.wants(*tenant, *start));
    let windows = ledger.audited().filter(|(counter, start, ..)| query.wants(counter.tenant, *start));
    let mut found: Vec<CounterAudit> = windows
        .map(|(counter, period_start, row, open_size, open_used)| {
            let text = counter.to_string();
            let tag = CounterTag::of_text(&text);
            CounterAudit {
                counter: text,
                tag,
                tenant: counter.tenant,
                meter: counter.meter.to_string(),
                period_start,
                granted: row.granted,
                used_closed: row.used_closed,
                open_size,
                open_used,
                recorded: recorded.remove(&(period_start, tag)).map_or(0, |(_, units)| units),
                owed: 0,
                unrecorded: 0,
                written_off: row.written_off,
            }
        })
        .collect();
    found.extend(
        recorded
            .into_iter()
            .map(|((start, tag), (tenant, units))| CounterAudit::without_window((tag, start), tenant, units)),
    );
    found
}
