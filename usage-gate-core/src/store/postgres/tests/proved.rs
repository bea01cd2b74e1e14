//! What records say and what ledgers say, side by side (B8, B9): clean if nothing was changed by hand, and told if it was.

use std::collections::BTreeSet;

use super::fresh;
use crate::conformance::usage::{HOUR, batch, midnight, record, refusal, who};
use crate::model::{StreamId, TenantId};
use crate::period::Period;
use crate::store::postgres::PostgresStore;
use crate::store::{AuditQuery, CounterAudit, CounterTag, LeaseId, QuotaUse, UsageReader, UsageRecord, UsageSink};
use crate::verify::{DifferenceKind, UnderWay, VerifyReport, verify};

fn asked() -> AuditQuery {
    AuditQuery { period: Period { start: midnight(), end: midnight().plus_micros(24 * HOUR) }, tenant: None }
}

async fn report(store: &PostgresStore) -> (VerifyReport, Vec<CounterAudit>) {
    let audit = store.audit(&asked()).await.unwrap();
    (verify(&asked(), &audit, &BTreeSet::new(), [], |_| UnderWay::default()), audit.counters)
}

async fn run(store: &PostgresStore, sql: &str) {
    store.client("test").await.unwrap().batch_execute(sql).await.unwrap();
}

/// Makes a window of which so much was granted and used.
async fn window(store: &PostgresStore, counter: &str, tenant: TenantId, used: u64) {
    let sql = format!(
        "INSERT INTO quota_window (counter, period_start, period_end, tenant, limit_name, meter, per, subject, cap, cap_version, ceiling,
             granted, overrun, used_closed, healed_in)
         VALUES ('{counter}', {start}, {start} + 1, '{tenant:032x}', 'monthly', 'requests', 'month', 'tenant', 100, 1, 100, {used}, 0, {used}, 7)",
        start = midnight().as_micros(),
        tenant = tenant.as_u128(),
    );
    run(store, &sql).await;
}

/// A record that took so many units of a counter.
fn used(who: crate::conformance::usage::Who, counter: &str, lease: u64, units: i64) -> UsageRecord {
    let quotas = vec![QuotaUse { lease, counter: CounterTag::of_text(counter), period: midnight(), units }];
    UsageRecord { quotas, ..record(who, midnight()) }
}

#[tokio::test]
async fn b8_a_rollup_that_was_changed_by_hand_is_told() {
    let (store, _database) = fresh().await;
    let (stream, who) = (StreamId::generate(), who(true));
    let repeat = UsageRecord { retry: Some(7), ..record(who, midnight()) };
    store.accept(batch(stream, 1, vec![repeat; 3], vec![refusal(who, midnight())])).await.unwrap();
    let (clean, _) = report(&store).await;
    assert!(clean.ok, "{:?}", clean.differences);
    run(&store, "UPDATE rollup_hour SET units = units + 5 WHERE meter = 'requests' AND outcome = 'billed'").await;
    let (dirty, _) = report(&store).await;
    let [difference] = &dirty.differences[..] else { panic!("one difference: {:?}", dirty.differences) };
    assert_eq!((difference.kind, difference.tenant), (DifferenceKind::Journal, Some(who.tenant)));
    assert_eq!((difference.expected, difference.found), (2, 7));
    run(&store, "UPDATE rollup_hour SET units = units - 5 WHERE meter = 'requests' AND outcome = 'billed'").await;
    run(&store, "DELETE FROM rollup_hour WHERE outcome = 'refused:rate_limited'").await;
    assert!(!report(&store).await.0.ok);
}

#[tokio::test]
async fn b9_a_counter_that_differs_from_its_records_is_told() {
    let (store, _database) = fresh().await;
    let (stream, who) = (StreamId::generate(), who(true));
    window(&store, "c", who.tenant, 5).await;
    store.accept(batch(stream, 1, vec![used(who, "c", 1, 3), used(who, "c", 2, 2)], vec![])).await.unwrap();
    let (clean, counters) = report(&store).await;
    assert!(clean.ok, "{:?}", clean.differences);
    assert_eq!((counters[0].granted, counters[0].used_closed, counters[0].recorded), (5, 5, 5));
    run(&store, "UPDATE quota_window SET granted = 9, used_closed = 9").await;
    let (dirty, _) = report(&store).await;
    let [difference] = &dirty.differences[..] else { panic!("one difference: {:?}", dirty.differences) };
    assert_eq!((difference.kind, difference.expected, difference.found), (DifferenceKind::Counter, 5, 9));
    // What the ledger knows nothing of.
    store.accept(batch(stream, 3, vec![used(who, "d", 3, 4)], vec![])).await.unwrap();
    assert_eq!(report(&store).await.0.differences.len(), 2);
}

#[tokio::test]
async fn b9_a_debt_that_is_recorded_and_not_told_is_under_way() {
    let (store, _database) = fresh().await;
    let (stream, who) = (StreamId::generate(), who(true));
    let debt = LeaseId::generate_debt().tag();
    window(&store, "c", who.tenant, 0).await;
    store.accept(batch(stream, 1, vec![used(who, "c", debt, 30), used(who, "c", debt, -10)], vec![])).await.unwrap();
    let (clean, counters) = report(&store).await;
    assert!(clean.ok, "{:?}", clean.differences);
    assert_eq!((counters[0].owed, counters[0].recorded), (20, 20));
    // Sums end at the largest number.
    let most = vec![used(who, "c", debt, i64::MAX), used(who, "c", debt, 9)];
    store.accept(batch(stream, 3, most, vec![])).await.unwrap();
    let counter = &report(&store).await.1[0];
    assert_eq!((counter.owed, counter.recorded), (i64::MAX.unsigned_abs(), i64::MAX));
    store.accept(batch(stream, 5, vec![used(who, "c", debt, i64::MIN)], vec![])).await.unwrap();
    assert_eq!(report(&store).await.1[0].recorded, -1);
}

#[tokio::test]
async fn records_of_a_dead_life_let_windows_be_healed_again() {
    let (store, _database) = fresh().await;
    let (living, dead, who) = (StreamId::from_u128(1), StreamId::from_u128(2), who(true));
    window(&store, "c", who.tenant, 0).await;
    run(&store, "INSERT INTO node (node, boot, table_id, life) VALUES ('a', '00000000000000000000000000000001', '00000000000000000000000000000001', 7)").await;
    let healed = async || {
        let client = store.client("test").await.unwrap();
        client.query_typed_one("SELECT healed_in FROM quota_window", &[]).await.unwrap().get::<_, i64>(0)
    };
    store.accept(batch(living, 1, vec![used(who, "c", 1, 3)], vec![])).await.unwrap();
    assert_eq!(healed().await, 7, "of the present life leases count that");
    store.accept(batch(dead, 1, vec![used(who, "c", 1, 3)], vec![])).await.unwrap();
    assert_eq!(healed().await, 0);
}
