//! What every [`UsageSink`] does, as far as its [`UsageReader`] shows it.

use std::collections::BTreeSet;

use super::instant;
use crate::model::{Environment, KeyId, MeterIndex, Meters, RequestId, StreamId, TenantId, Timestamp, UserId};
use crate::period::{Period, Zone};
use crate::store::{
    AuditQuery, Batch, CounterTag, Dimension, Measured, Outcome, QuotaUse, RefusalSum, UnitTotals, UsageItem,
    UsageQuery, UsageReader, UsageRecord, UsageSink, Window,
};

/// Runs every case of [`usage`](crate::conformance::usage).
#[macro_export]
macro_rules! usage_store_tests {
    ($make:expr) => {
        $crate::conformance_cases! {
            usage, $make,
            b3_a_repeated_batch_counts_once
            b3_of_a_batch_that_overlaps_only_the_rest_counts
            b4_an_empty_batch_moves_only_the_instant
            streams_have_watermarks_of_their_own
            usage_is_split_by_every_dimension
            usage_is_filtered
            usage_is_cut_into_windows
            b8_a_batch_beyond_the_watermark_is_not_taken_in
            repeats_of_a_request_are_free_three_times
            what_was_forfeited_is_units_and_no_call
            what_an_audit_needs_is_forgotten_in_time
        }
        $crate::conformance_cases! {
            requests, $make,
            requests_are_listed_the_newest_first
            requests_are_filtered
            refusals_are_shown_with_the_limits_that_refused
            requests_go_on_where_a_part_ended
            requests_are_forgotten_after_seven_days
        }
    };
}

pub(crate) const HOUR: i64 = 3_600_000_000;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    pub(crate) tenant: TenantId,
    pub(crate) user: Option<UserId>,
    pub(crate) key: KeyId,
}

pub(crate) fn who(user: bool) -> Who {
    Who { tenant: TenantId::generate(), user: user.then(UserId::generate), key: KeyId::generate() }
}

pub(crate) fn midnight() -> Timestamp {
    Timestamp::from_micros(instant().as_micros().div_euclid(24 * HOUR) * 24 * HOUR)
}

pub(crate) fn record(who: Who, bucket: Timestamp) -> UsageRecord {
    let mut units = UnitTotals::default();
    units.set(MeterIndex::REQUESTS, 2);
    units.set(MeterIndex::BYTES_OUT, 100);
    UsageRecord {
        sequence: 0,
        request: RequestId::generate(),
        at: bucket,
        tenant: who.tenant,
        user: who.user,
        key: who.key,
        environment: Environment::Live,
        route: "search".into(),
        status: 200,
        outcome: Outcome::Billed,
        units,
        measured: Measured::Exact,
        bucket,
        quotas: Vec::new(),
        retry: None,
    }
}

pub(crate) fn refusal(who: Who, bucket: Timestamp) -> RefusalSum {
    RefusalSum {
        sequence: 0,
        tenant: who.tenant,
        user: who.user,
        key: who.key,
        environment: Environment::Live,
        route: "".into(),
        code: "rate_limited".into(),
        limit: Some("fast".into()),
        requests: 7,
        bucket,
    }
}

pub(crate) fn batch(stream: StreamId, first: u64, records: Vec<UsageRecord>, refusals: Vec<RefusalSum>) -> Batch {
    Batch::numbered(stream, first, midnight().plus_micros(HOUR), Meters::default(), records, refusals)
}

fn query() -> UsageQuery {
    UsageQuery {
        period: Period { start: midnight(), end: midnight().plus_micros(48 * HOUR) },
        zone: Zone::UTC,
        window: None,
        group_by: BTreeSet::new(),
        tenant: None,
        user: None,
        key: None,
        route: None,
        meter: Some("requests".to_owned()),
        outcome: None,
        environment: None,
        skip: 0,
        size: 100,
    }
}

async fn items<S: UsageReader>(store: &S, query: &UsageQuery) -> Vec<UsageItem> {
    store.usage(query).await.expect("the store is there").items
}

async fn total<S: UsageReader>(store: &S, query: &UsageQuery) -> (u64, u64) {
    items(store, query).await.iter().fold((0, 0), |sum, item| (sum.0 + item.units, sum.1 + item.requests))
}

/// After a lost answer it is sent again.
pub async fn b3_a_repeated_batch_counts_once<S: UsageSink + UsageReader>(store: &S) {
    let (stream, who) = (StreamId::generate(), who(true));
    assert_eq!(store.watermark(stream).await.expect("the store is there"), 0);
    let batch = batch(stream, 1, vec![record(who, midnight()); 3], vec![refusal(who, midnight())]);
    for _ in 0..2 {
        assert_eq!(store.accept(batch.clone()).await.expect("the store is there"), 4);
        assert_eq!(total(store, &query()).await, (6, 10));
    }
    assert_eq!(store.watermark(stream).await.expect("the store is there"), 4);
}

/// Records come first, refusals after them: wherever the watermark falls, each item counts once.
pub async fn b3_of_a_batch_that_overlaps_only_the_rest_counts<S: UsageSink + UsageReader>(store: &S) {
    for known in 1..=5 {
        let (stream, who) = (StreamId::generate(), who(true));
        let asked = UsageQuery { tenant: Some(who.tenant), ..query() };
        let whole = batch(stream, 1, vec![record(who, midnight()); 3], vec![refusal(who, midnight()); 2]);
        let records = known.min(3);
        let begun = batch(stream, 1, whole.records[..records].to_vec(), whole.refusals[..known - records].to_vec());
        let watermark = store.accept(begun).await.expect("the store is there");
        assert_eq!(usize::try_from(watermark), Ok(known));
        assert_eq!(store.accept(whole).await.expect("the store is there"), 5);
        assert_eq!(total(store, &asked).await, (6, 17), "{known} were known");
        let refusals = batch(stream, 5, vec![], vec![refusal(who, midnight()); 2]);
        assert_eq!(store.accept(refusals).await.expect("the store is there"), 6);
        assert_eq!(total(store, &asked).await, (6, 24));
    }
}

/// So that an idle stream does not hold back what is complete.
pub async fn b4_an_empty_batch_moves_only_the_instant<S: UsageSink + UsageReader>(store: &S) {
    let stream = StreamId::generate();
    assert_eq!(store.usage(&query()).await.expect("the store is there").complete_through, None);
    store.accept(batch(stream, 1, vec![record(who(true), midnight())], vec![])).await.expect("the store is there");
    let through = midnight().plus_micros(2 * HOUR);
    let empty = Batch::numbered(stream, 2, through, Meters::default(), vec![], vec![]);
    assert_eq!(store.accept(empty).await.expect("the store is there"), 1);
    assert_eq!(store.usage(&query()).await.expect("the store is there").complete_through, Some(through));
    assert_eq!(total(store, &query()).await, (2, 1));
}

/// Each process life counts from 1.
pub async fn streams_have_watermarks_of_their_own<S: UsageSink + UsageReader>(store: &S) {
    let who = who(false);
    for stream in [StreamId::generate(), StreamId::generate()] {
        store.accept(batch(stream, 1, vec![record(who, midnight())], vec![])).await.expect("the store is there");
        assert_eq!(store.watermark(stream).await.expect("the store is there"), 1);
    }
    assert_eq!(total(store, &query()).await, (4, 2));
}

/// Absent values are none.
pub async fn usage_is_split_by_every_dimension<S: UsageSink + UsageReader>(store: &S) {
    let (stream, ada, machine) = (StreamId::generate(), who(true), who(false));
    let records = vec![record(ada, midnight()), record(machine, midnight())];
    store.accept(batch(stream, 1, records, vec![refusal(ada, midnight())])).await.expect("the store is there");
    let asked = UsageQuery { group_by: BTreeSet::from(Dimension::ALL), tenant: Some(ada.tenant), ..query() };
    let found = items(store, &asked).await;
    let group = |outcome: &str, route: &str, limit: Option<&str>| {
        let values = [
            Some(ada.tenant.to_string()),
            ada.user.map(|user| user.to_string()),
            Some(ada.key.to_string()),
            Some(route.to_owned()),
            Some(outcome.to_owned()),
            Some("live".to_owned()),
            limit.map(ToOwned::to_owned),
        ];
        Dimension::ALL.into_iter().zip(values).collect::<Vec<_>>()
    };
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].group, group("refused:rate_limited", "", Some("fast")));
    assert_eq!((found[0].units, found[0].requests), (0, 7));
    assert_eq!(found[1].group, group("billed", "search", None));
    assert_eq!((found[1].units, found[1].requests), (2, 1));
    let asked = UsageQuery { group_by: BTreeSet::from([Dimension::User]), tenant: Some(machine.tenant), ..query() };
    assert_eq!(items(store, &asked).await[0].group, [(Dimension::User, None)]);
}

/// By each of its members.
pub async fn usage_is_filtered<S: UsageSink + UsageReader>(store: &S) {
    let (stream, ada, machine) = (StreamId::generate(), who(true), who(false));
    let test = UsageRecord {
        environment: Environment::Test,
        outcome: Outcome::Test,
        route: "other".into(),
        ..record(machine, midnight())
    };
    let records = vec![record(ada, midnight()), test];
    store.accept(batch(stream, 1, records, vec![])).await.expect("the store is there");
    let one = (2, 1);
    assert_eq!(total(store, &UsageQuery { tenant: Some(ada.tenant), ..query() }).await, one);
    assert_eq!(total(store, &UsageQuery { user: ada.user, ..query() }).await, one);
    assert_eq!(total(store, &UsageQuery { key: Some(machine.key), ..query() }).await, one);
    assert_eq!(total(store, &UsageQuery { route: Some("other".to_owned()), ..query() }).await, one);
    assert_eq!(total(store, &UsageQuery { outcome: Some("billed".to_owned()), ..query() }).await, one);
    assert_eq!(total(store, &UsageQuery { environment: Some(Environment::Test), ..query() }).await, one);
    assert_eq!(total(store, &UsageQuery { meter: Some("bytes_out".to_owned()), ..query() }).await, (200, 2));
    let elsewhen = Period { start: midnight().plus_micros(1), end: midnight().plus_micros(HOUR) };
    assert_eq!(total(store, &UsageQuery { period: elsewhen, ..query() }).await, (0, 0));
}

/// In the zone asked for, in order, page by page.
pub async fn usage_is_cut_into_windows<S: UsageSink + UsageReader>(store: &S) {
    let (stream, who) = (StreamId::generate(), who(true));
    let records: Vec<_> = (0..48).map(|hour| record(who, midnight().plus_micros(hour * HOUR))).collect();
    store.accept(batch(stream, 1, records, vec![])).await.expect("the store is there");
    let units = |found: &[UsageItem]| found.iter().map(|item| item.units).collect::<Vec<_>>();
    let days = UsageQuery { window: Some(Window::Day), ..query() };
    assert_eq!(units(&items(store, &days).await), [48, 48]);
    let tokyo = UsageQuery { zone: "Asia/Tokyo".parse().expect("a zone"), ..days };
    assert_eq!(units(&items(store, &tokyo).await), [30, 48, 18]);
    let hours = UsageQuery { window: Some(Window::Hour), skip: 40, size: 8, ..query() };
    let page = store.usage(&hours).await.expect("the store is there");
    assert_eq!((page.items.len(), page.more), (8, false));
    assert_eq!(page.items[0].period.start, midnight().plus_micros(40 * HOUR));
    assert!(store.usage(&UsageQuery { size: 7, ..hours }).await.expect("the store is there").more);
}

/// What lies between would never count: as when a database was put back to an older state.
pub async fn b8_a_batch_beyond_the_watermark_is_not_taken_in<S: UsageSink + UsageReader>(store: &S) {
    let (stream, who) = (StreamId::generate(), who(true));
    let accept = async |first, count| {
        let batch = batch(stream, first, vec![record(who, midnight()); count], vec![]);
        store.accept(batch).await.expect("the store is there")
    };
    assert_eq!(accept(2, 3).await, 0);
    assert_eq!(accept(1, 3).await, 3);
    assert_eq!(accept(5, 1).await, 3);
    assert_eq!(total(store, &query()).await, (6, 3));
    assert_eq!(accept(4, 2).await, 5);
    assert_eq!(total(store, &query()).await, (10, 5));
}

/// Those of a day, whether they come in one batch or in many; the fourth is billed and begins anew.
pub async fn repeats_of_a_request_are_free_three_times<S: UsageSink + UsageReader>(store: &S) {
    let (stream, who) = (StreamId::generate(), who(true));
    let repeat = |hours: i64, outcome| UsageRecord {
        retry: Some(7),
        at: midnight().plus_micros(hours * HOUR),
        outcome,
        ..record(who, midnight())
    };
    let billed = async |outcome: &str| {
        let asked = UsageQuery { outcome: Some(outcome.to_owned()), ..query() };
        total(store, &asked).await.1
    };
    let mut first = 1;
    let mut accept = async |records: Vec<UsageRecord>| {
        first = store.accept(batch(stream, first, records, vec![])).await.expect("the store is there") + 1;
    };
    // What was not billed is no request that others could be repeats of.
    accept(vec![repeat(0, Outcome::Unbilled), repeat(0, Outcome::Billed), repeat(1, Outcome::Aborted)]).await;
    assert_eq!((billed("billed").await, billed("aborted").await, billed("unbilled").await), (1, 0, 2));
    accept(vec![repeat(2, Outcome::Billed), UsageRecord { retry: Some(8), ..repeat(2, Outcome::Billed) }]).await;
    accept(vec![repeat(3, Outcome::Billed)]).await;
    assert_eq!((billed("billed").await, billed("unbilled").await), (2, 4));
    accept(vec![repeat(4, Outcome::Billed), repeat(5, Outcome::Billed)]).await;
    assert_eq!((billed("billed").await, billed("unbilled").await), (3, 5));
    accept(vec![repeat(28, Outcome::Billed)]).await;
    assert_eq!((billed("billed").await, billed("unbilled").await), (4, 5));
}

/// It was taken by a process that was killed before it forwarded a request.
pub async fn what_was_forfeited_is_units_and_no_call<S: UsageSink + UsageReader>(store: &S) {
    let stream = StreamId::generate();
    let forfeited = UsageRecord {
        outcome: Outcome::Forfeited,
        key: KeyId::from_u128(0),
        status: 0,
        route: "".into(),
        ..record(who(false), midnight())
    };
    store.accept(batch(stream, 1, vec![forfeited], vec![])).await.expect("the store is there");
    let asked = UsageQuery { group_by: BTreeSet::from([Dimension::Key, Dimension::Outcome]), ..query() };
    let found = items(store, &asked).await;
    assert_eq!((found[0].units, found[0].requests), (2, 0));
    assert_eq!(found[0].group, [(Dimension::Key, None), (Dimension::Outcome, Some("forfeited".to_owned()))]);
}

/// Digests and free repeats after 400 days, what was taken of quotas after 800: of each some with each call.
pub async fn what_an_audit_needs_is_forgotten_in_time<S: UsageSink + UsageReader>(store: &S) {
    let (stream, who) = (StreamId::generate(), who(true));
    let quota = QuotaUse { lease: 1, counter: CounterTag(5), period: midnight(), units: 4 };
    let repeat = UsageRecord { retry: Some(7), quotas: vec![quota], ..record(who, midnight()) };
    store.accept(batch(stream, 1, vec![repeat; 2], vec![])).await.expect("the store is there");
    let period = Period { start: midnight(), end: midnight().plus_micros(24 * HOUR) };
    for (days, digests, counters) in [(400, 1, 1), (402, 0, 1), (800, 0, 1), (802, 0, 0)] {
        let through = midnight().plus_micros(days * 24 * HOUR);
        for _ in 0..4 {
            let empty = Batch::numbered(stream, 3, through, Meters::default(), vec![], vec![]);
            store.accept(empty).await.expect("the store is there");
        }
        let audit = store.audit(&AuditQuery { period, tenant: None }).await.expect("the store is there");
        let found = (audit.digests.len(), audit.freed.len(), audit.counters.len());
        assert_eq!(found, (digests, digests, counters), "after {days} days");
    }
}
