//! Journal = rollups, records = counters: compares what is known of usage twice, from outside of what made it. Pure.
//!
//! 1. **B8** Rollups are the sum of the records up to the watermark. Where a segment of the journal is still there its records are summed,
//!    where it is gone the sums of its digest are taken; the report says which. A segment that is there must have the hash of its digest too.
//! 2. **B9** What ledgers know as used is what records took of quotas, but for what is under way: taken and not recorded yet, or recorded and not
//!    reported to the ledger yet. How much that may be the caller says, and the report repeats it. Leases that were closed as spent, because their
//!    holder had lost its table, may be used without a record too.
//!
//! Invariant: no sum is made by the code that made the rollups.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::flush::Chain;
use crate::journal::{Entry, Item};
use crate::model::{MeterIndex, Meters, StreamId, TenantId, Timestamp};
use crate::period::Period;
use crate::store::{Audit, AuditKey, AuditQuery, CounterAudit, Outcome, RollupDelta, UsageRecord};

/// A differences' list ends here; the report says that there are more.
const MOST_DIFFERENCES: usize = 1_000;

/// What is under way of a counter while it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnderWay {
    /// Units that the ledger may know as used and no record of which was taken in yet: of requests in flight, and of records not shipped.
    pub not_recorded: u64,
    /// Units that records may have and the ledger not yet: spent of open leases and not reported. Of debts the audit says it ([`CounterAudit::owed`]).
    pub not_reported: u64,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Of which time.
    pub period: Period,
    /// Whether nothing differs.
    pub ok: bool,
    /// Records and sums of refusals of the journal that were compared.
    pub records: u64,
    /// What each segment was compared by.
    pub source: VerifySource,
    /// Counters of which something was under way.
    pub under_way: Vec<UnderWayReport>,
    /// What differs: the first 1,000.
    pub differences: Vec<Difference>,
    /// Differences beyond those.
    pub more_differences: u64,
}

/// What segments were compared by.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifySource {
    /// Their records.
    pub records: Vec<SegmentName>,
    /// The sums that were kept of them.
    pub digest: Vec<SegmentName>,
}

/// A segment of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SegmentName {
    /// Whose journal; nil for usage from before there was one.
    pub stream: StreamId,
    /// Its first place.
    pub segment: u64,
}

/// What may be under way of a counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnderWayReport {
    /// The counter's text.
    pub counter: String,
    /// Used and not recorded yet, at most.
    pub not_recorded: u64,
    /// Recorded and not reported yet, at most.
    pub not_reported: u64,
    /// Counted as used because nobody knew what was left of leases, at most this much of it without a record.
    pub written_off: u64,
}

/// What a difference is between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DifferenceKind {
    /// Records and rollups.
    Journal,
    /// Records and the ledger.
    Counter,
    /// Rollups and a statement.
    Statement,
}

/// What of a sum differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Compared {
    /// Units.
    Units,
    /// Calls.
    Requests,
    /// The hash of a segment: its records are not those that were taken in. `expected` and `found` are items.
    Hash,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Between what.
    pub kind: DifferenceKind,
    /// Of what.
    pub compared: Compared,
    /// Whose; `None` for a segment.
    pub tenant: Option<TenantId>,
    /// Which meter.
    pub meter: Option<String>,
    /// The hour, or the start of the counter's period.
    pub bucket: Option<Timestamp>,
    /// The outcome of usage, the text of a counter, or the segment.
    pub of: String,
    /// What records say.
    pub expected: i64,
    /// What rollups or the ledger say.
    pub found: i64,
}

/// Compares what a store says with all items of a journal at once; [`Comparison`] is for journals that are longer than memory.
#[must_use]
pub fn verify(
    query: &AuditQuery,
    audit: &Audit,
    whole: &BTreeSet<(StreamId, u64)>,
    items: impl IntoIterator<Item = Entry>,
    under_way: impl Fn(&CounterAudit) -> UnderWay,
) -> VerifyReport {
    let mut comparison = Comparison::new(query, audit);
    for item in items.into_iter().filter(|item| whole.contains(&(item.stream, item.segment))) {
        comparison.take(&item);
    }
    comparison.finish(whole, under_way)
}

#[derive(Default)]
struct Findings {
    listed: Vec<Difference>,
    more: u64,
}

impl Findings {
    fn add(&mut self, difference: Difference) {
        if self.listed.len() < MOST_DIFFERENCES {
            self.listed.push(difference);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }
}

/// A comparison that is under way: the journal's side is given an item at a time.
#[derive(Debug)]
pub struct Comparison<'a> {
    query: &'a AuditQuery,
    audit: &'a Audit,
    records: u64,
    sums: BTreeMap<AuditKey, RollupDelta>,
    /// The hash of each segment, and how many items it is of.
    chains: BTreeMap<(StreamId, u64), (Chain, u64)>,
}

impl<'a> Comparison<'a> {
    /// Begins. The store's side is to be read before the items, so that they have at least as much.
    #[must_use]
    pub const fn new(query: &'a AuditQuery, audit: &'a Audit) -> Self {
        Self { query, audit, records: 0, sums: BTreeMap::new(), chains: BTreeMap::new() }
    }

    /// Takes the next item of the journal. Those of a segment are given in order, from its first place on; what lies beyond the watermark is passed over.
    pub fn take(&mut self, item: &Entry) {
        let segment = (item.stream, item.segment);
        if self.audit.watermarks.get(&item.stream).is_none_or(|watermark| *watermark < item.sequence) {
            return;
        }
        let (chain, count) = self.chains.entry(segment).or_insert_with(|| (Chain::new(segment.0, segment.1), 0));
        *count = count.saturating_add(1);
        match &item.item {
            Item::Record(record) => {
                chain.record(record, &item.meters);
                if self.query.wants(record.tenant, record.bucket) {
                    self.add_record(item.stream, record, &item.meters);
                }
            }
            Item::Refusals(sum) => {
                chain.refusal(sum);
                if self.query.wants(sum.tenant, sum.bucket) {
                    let requests = item.meters.name(MeterIndex::REQUESTS);
                    let outcome = format!("refused:{}", sum.code);
                    let delta = RollupDelta { units: 0, requests: sum.requests };
                    self.add((sum.tenant, sum.bucket), requests, &outcome, delta);
                    self.records = self.records.saturating_add(1);
                }
            }
        }
    }

    /// Compares. `whole` are the segments whose items were given, also those without any; the others are known by their digests. `under_way` says of each
    /// counter what may be missing.
    #[must_use]
    pub fn finish(
        self,
        whole: &BTreeSet<(StreamId, u64)>,
        under_way: impl Fn(&CounterAudit) -> UnderWay,
    ) -> VerifyReport {
        let mut findings = Findings::default();
        self.compare_hashes(&mut findings);
        let Self { query, audit, records, mut sums, chains } = self;
        let named = |(stream, segment): &(StreamId, u64)| SegmentName { stream: *stream, segment: *segment };
        let source = VerifySource {
            records: chains.keys().map(named).collect(),
            digest: digests_of_others(audit, whole, &mut sums),
        };
        compare_usage(&sums, &audit.rollups, &mut findings);
        let under_way = compare_counters(&audit.counters, under_way, &mut findings);
        VerifyReport {
            period: query.period,
            ok: findings.listed.is_empty(),
            records,
            source,
            under_way,
            differences: findings.listed,
            more_differences: findings.more,
        }
    }

    fn add_record(&mut self, stream: StreamId, record: &UsageRecord, meters: &Meters) {
        let free = self.audit.freed.contains(&(stream, record.sequence));
        let outcome = if free { Outcome::Unbilled } else { record.outcome };
        let calls = u64::from(outcome != Outcome::Forfeited);
        for (meter, name) in meters.iter() {
            let units = record.units.of(meter);
            // Every call is counted in `requests`, whatever it took.
            let called = calls > 0 && meter == MeterIndex::REQUESTS;
            if units > 0 || called {
                let delta = RollupDelta { units, requests: calls };
                self.add((record.tenant, record.bucket), name, outcome.as_str(), delta);
            }
        }
        self.records = self.records.saturating_add(1);
    }

    fn add(&mut self, (tenant, bucket): (TenantId, Timestamp), meter: &str, outcome: &str, delta: RollupDelta) {
        let key = AuditKey { tenant, meter: meter.into(), bucket, outcome: outcome.into() };
        self.sums.entry(key).or_default().add(delta);
    }

    /// Segments without a digest have no usage of what is asked for.
    fn compare_hashes(&self, findings: &mut Findings) {
        for (segment, (chain, items)) in &self.chains {
            let Some(digest) = self.audit.digests.get(segment) else { continue };
            if digest.hash != chain.0 {
                findings.add(Difference {
                    kind: DifferenceKind::Journal,
                    compared: Compared::Hash,
                    tenant: None,
                    meter: None,
                    bucket: None,
                    of: format!("{}/{}", segment.0, segment.1),
                    expected: signed(*items),
                    found: signed(digest.items),
                });
            }
        }
    }
}

/// Adds the sums of segments that are not whole in the journal; gives which.
fn digests_of_others(
    audit: &Audit,
    whole: &BTreeSet<(StreamId, u64)>,
    sums: &mut BTreeMap<AuditKey, RollupDelta>,
) -> Vec<SegmentName> {
    let others = audit.digests.iter().filter(|(segment, _)| !whole.contains(segment));
    others
        .map(|((stream, segment), digest)| {
            for (key, delta) in &digest.totals {
                sums.entry(key.clone()).or_default().add(*delta);
            }
            SegmentName { stream: *stream, segment: *segment }
        })
        .collect()
}

/// B8.
fn compare_usage(
    expected: &BTreeMap<AuditKey, RollupDelta>,
    found: &BTreeMap<AuditKey, RollupDelta>,
    findings: &mut Findings,
) {
    let keys: BTreeSet<&AuditKey> = expected.keys().chain(found.keys()).collect();
    for key in keys {
        let of = |sums: &BTreeMap<AuditKey, RollupDelta>| sums.get(key).copied().unwrap_or_default();
        let (expected, found) = (of(expected), of(found));
        let compared =
            [(Compared::Units, expected.units, found.units), (Compared::Requests, expected.requests, found.requests)];
        for (compared, expected, found) in compared.into_iter().filter(|(_, expected, found)| expected != found) {
            findings.add(Difference {
                kind: DifferenceKind::Journal,
                compared,
                tenant: Some(key.tenant),
                meter: Some(key.meter.to_string()),
                bucket: Some(key.bucket),
                of: key.outcome.to_string(),
                expected: signed(expected),
                found: signed(found),
            });
        }
    }
}

/// B9.
fn compare_counters(
    counters: &[CounterAudit],
    under_way: impl Fn(&CounterAudit) -> UnderWay,
    findings: &mut Findings,
) -> Vec<UnderWayReport> {
    let mut reports = Vec::new();
    for counter in counters {
        let UnderWay { not_recorded, not_reported } = under_way(counter);
        // A debt comes to the ledger by its own way: a record of it may be there first.
        let not_reported = not_reported.saturating_add(counter.owed);
        let written_off = counter.written_off;
        if not_recorded > 0 || not_reported > 0 || written_off > 0 {
            let counter = counter.counter.clone();
            reports.push(UnderWayReport { counter, not_recorded, not_reported, written_off });
        }
        let recorded = i128::from(counter.recorded) + i128::from(counter.unrecorded);
        let missing = i128::from(counter.used()) - recorded;
        let most = i128::from(not_recorded) + i128::from(written_off);
        if !(-i128::from(not_reported)..=most).contains(&missing) {
            findings.add(Difference {
                kind: DifferenceKind::Counter,
                compared: Compared::Units,
                tenant: Some(counter.tenant),
                meter: Some(counter.meter.clone()),
                bucket: Some(counter.period_start),
                of: counter.counter.clone(),
                expected: i64::try_from(recorded).unwrap_or(i64::MAX),
                found: signed(counter.used()),
            });
        }
    }
    reports
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::usage::{HOUR, batch, midnight, record, refusal, who};
    use crate::store::{Batch, CounterTag, MemoryStore, QuotaUse, UsageReader, UsageSink};

    const STREAM: StreamId = StreamId::from_u128(7);

    fn query() -> AuditQuery {
        AuditQuery { period: Period { start: midnight(), end: midnight().plus_micros(24 * HOUR) }, tenant: None }
    }

    fn items(batch: &Batch) -> Vec<Entry> {
        let records = batch.records.iter().cloned().map(Item::Record);
        let entries = records.chain(batch.refusals.iter().cloned().map(Item::Refusals));
        let (stream, segment, meters) = (batch.stream, batch.segment, &batch.meters);
        let entry = |item: Item| {
            let sequence = match &item {
                Item::Record(record) => record.sequence,
                Item::Refusals(sum) => sum.sequence,
            };
            Entry { stream, segment, sequence, meters: meters.clone(), item }
        };
        entries.map(entry).collect()
    }

    /// Two segments that were taken in, the second with what is beyond the watermark, a repeat and forfeited units.
    async fn taken_in() -> (Audit, Vec<Entry>) {
        let store = MemoryStore::new(crate::clock::Clock::system());
        let (ada, machine) = (who(true), who(false));
        let one = batch(STREAM, 1, vec![record(ada, midnight()); 3], vec![refusal(ada, midnight())]);
        let quota = QuotaUse { lease: 1, counter: CounterTag(5), period: midnight(), units: 4 };
        let repeat = UsageRecord { retry: Some(9), ..record(machine, midnight()) };
        let forfeited = UsageRecord {
            outcome: Outcome::Forfeited,
            quotas: vec![quota],
            ..record(machine, midnight().plus_micros(HOUR))
        };
        let two = batch(STREAM, 5, vec![repeat.clone(), repeat, forfeited], vec![]);
        store.accept(one.clone()).await.unwrap();
        store.accept(two.clone()).await.unwrap();
        let mut all = [items(&one), items(&two)].concat();
        let late = batch(STREAM, 8, vec![record(ada, midnight())], vec![]);
        all.extend(items(&Batch { segment: two.segment, ..late }));
        (store.audit(&query()).await.unwrap(), all)
    }

    const SEGMENTS: [(StreamId, u64); 2] = [(STREAM, 1), (STREAM, 5)];

    /// What four units that records took, and the ledger does not know, may be.
    fn report(audit: &Audit, whole: &[(StreamId, u64)], items: &[Entry]) -> VerifyReport {
        let under_way = |_: &CounterAudit| UnderWay { not_recorded: 0, not_reported: 4 };
        verify(&query(), audit, &whole.iter().copied().collect(), items.to_vec(), under_way)
    }

    #[tokio::test]
    async fn b8_records_and_digests_agree_with_rollups() {
        let (audit, items) = taken_in().await;
        for whole in [&SEGMENTS[..], &SEGMENTS[..1], &SEGMENTS[1..], &[]] {
            let report = report(&audit, whole, &items);
            assert!(report.ok, "{:?}", report.differences);
            assert_eq!(report.source.records.len(), whole.len());
            assert_eq!(report.source.digest.len(), SEGMENTS.len() - whole.len());
        }
        assert_eq!(report(&audit, &SEGMENTS, &items).records, 7);
    }

    #[tokio::test]
    async fn b8_a_rollup_that_was_changed_is_found() {
        let (mut audit, items) = taken_in().await;
        let (key, delta) = audit.rollups.iter_mut().next().unwrap();
        delta.units += 1;
        let (expected, key) = (signed(delta.units) - 1, key.clone());
        for whole in [&SEGMENTS[..], &[]] {
            let report = report(&audit, whole, &items);
            assert!(!report.ok);
            let [difference] = &report.differences[..] else { panic!("{:?}", report.differences) };
            assert_eq!((difference.kind, difference.compared), (DifferenceKind::Journal, Compared::Units));
            assert_eq!((difference.tenant, difference.bucket), (Some(key.tenant), Some(key.bucket)));
            assert_eq!((difference.expected, difference.found), (expected, expected + 1));
        }
        audit.rollups.clear();
        assert!(!report(&audit, &[], &items).ok);
    }

    #[tokio::test]
    async fn b8_a_record_that_was_lost_or_changed_is_found() {
        let (audit, mut items) = taken_in().await;
        let whole = report(&audit, &SEGMENTS, &items[1..]);
        let compared: Vec<_> = whole.differences.iter().map(|difference| difference.compared).collect();
        assert!(compared.contains(&Compared::Hash) && compared.contains(&Compared::Units));
        // What no sum shows the hash does.
        let Item::Record(first) = &mut items[0].item else { panic!("a record is first") };
        first.status = 201;
        let compared: Vec<_> = report(&audit, &SEGMENTS, &items).differences;
        assert_eq!(compared.iter().map(|difference| difference.compared).collect::<Vec<_>>(), [Compared::Hash]);
    }

    #[tokio::test]
    async fn b9_a_counter_may_differ_by_what_is_under_way() {
        let (mut audit, items) = taken_in().await;
        let check = |audit: &Audit, not_recorded, not_reported, ok| {
            let under_way = |_: &CounterAudit| UnderWay { not_recorded, not_reported };
            let report = verify(&query(), audit, &BTreeSet::new(), items.clone(), under_way);
            assert_eq!(report.ok, ok, "{:?}", report.differences);
            assert_eq!(report.under_way.len(), usize::from(not_recorded + not_reported > 0));
            assert!(report.differences.iter().all(|difference| difference.kind == DifferenceKind::Counter));
        };
        // Records took four units, the ledger knows of none.
        check(&audit, 0, 0, false);
        check(&audit, 9, 3, false);
        check(&audit, 0, 4, true);
        (audit.counters[0].used_closed, audit.counters[0].open_used) = (3, 1);
        check(&audit, 0, 0, true);
        audit.counters[0].open_used = 4;
        check(&audit, 2, 9, false);
        check(&audit, 3, 0, true);
        audit.counters[0].unrecorded = 3;
        check(&audit, 0, 0, true);
        // What a lost table made spent may be without a record; all of it may be, and no more.
        (audit.counters[0].unrecorded, audit.counters[0].written_off) = (0, 2);
        check(&audit, 1, 0, true);
        audit.counters[0].written_off = 3;
        let report = verify(&query(), &audit, &BTreeSet::new(), items.clone(), |_| UnderWay::default());
        assert!(report.ok);
        assert_eq!(report.under_way[0].written_off, 3);
        audit.counters[0].open_used = 5;
        assert!(!verify(&query(), &audit, &BTreeSet::new(), items.clone(), |_| UnderWay::default()).ok);
    }
}
