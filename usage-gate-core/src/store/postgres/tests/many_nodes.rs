//! Many nodes ship at once, calls are given up and repeated, connections are cut: nobody waits for ever, and everything counts once.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Database, fresh};
use crate::clock::Clock;
use crate::conformance::usage::{HOUR, Who, batch, midnight, record, refusal, who};
use crate::model::{StreamId, Timestamp};
use crate::period::{Period, Zone};
use crate::simulation::Dice;
use crate::store::postgres::PostgresStore;
use crate::store::{
    Audit, AuditQuery, Batch, CounterTag, LeaseId, MemoryStore, QuotaUse, StoreErrorKind, UsageQuery, UsageReader,
    UsageRecord, UsageSink,
};
use crate::verify::{UnderWay, verify};

fn everything() -> AuditQuery {
    let period = Period { start: midnight().plus_micros(-24 * HOUR), end: midnight().plus_micros(48 * HOUR) };
    AuditQuery { period, tenant: None }
}

#[track_caller]
fn check_proved(audit: &Audit) {
    let under_way = |_: &_| UnderWay { not_recorded: 0, not_reported: u64::MAX };
    let report = verify(&everything(), audit, &BTreeSet::new(), [], under_way);
    assert!(report.ok, "{:?}", report.differences);
}

/// What two stores say of the same batches, as far as it does not depend on their order.
#[track_caller]
fn check_same(found: &Audit, expected: &Audit, at: &str) {
    assert_eq!(found.watermarks, expected.watermarks, "{at}");
    assert_eq!(found.rollups, expected.rollups, "{at}");
    assert_eq!(found.freed.len(), expected.freed.len(), "{at}");
    let recorded = |audit: &Audit| {
        let mut recorded: Vec<_> = audit.counters.iter().map(|c| (c.tag, c.period_start, c.recorded)).collect();
        recorded.sort_unstable();
        recorded
    };
    assert_eq!(recorded(found), recorded(expected), "{at}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "a failed run is repeated by its seed, which only the environment can carry"
)]
fn seed() -> u64 {
    let random = || getrandom::u64().unwrap();
    std::env::var("USAGE_GATE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(random)
}

/// Batches of one stream: records of callers that other streams have too, in any order, with quotas, debts and repeats.
fn batches(dice: &mut Dice, stream: StreamId, callers: &[Who], debts: &[u64]) -> Vec<Batch> {
    let mut first = 1;
    let mut made = Vec::new();
    for _ in 0..12 {
        let records = (0..40).map(|_| {
            let caller = callers[dice.place(callers.len())];
            let counter = CounterTag(dice.below(5));
            let lease = if dice.one_in(3) { debts[dice.place(debts.len())] } else { 1 };
            let quotas = vec![QuotaUse { lease, counter, period: midnight(), units: 1 }];
            let bucket = midnight().plus_micros(i64::try_from(dice.below(3)).unwrap() * HOUR);
            if dice.one_in(4) {
                // All of one tag are alike, so that it does not matter which of them is free.
                let tag = dice.below(6);
                let caller = callers[usize::try_from(tag).unwrap() % callers.len()];
                return UsageRecord { retry: Some(tag.into()), at: midnight(), ..record(caller, midnight()) };
            }
            UsageRecord { tenant: caller.tenant, quotas, ..record(caller, bucket) }
        });
        let records: Vec<_> = records.collect();
        let refusals = vec![refusal(callers[dice.place(callers.len())], midnight())];
        let batch = batch(stream, first, records, refusals);
        first = batch.last + 1;
        made.push(Batch { segment: 1, ..batch });
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn b4_nodes_that_ship_at_once_neither_deadlock_nor_lose() {
    let seed = seed();
    let at = format!("USAGE_GATE_TEST_SEED={seed}");
    let mut dice = Dice::new(seed);
    let database = Database::new().await;
    let store = PostgresStore::options(&database.url()).connections(6).open().await.unwrap();
    let memory = MemoryStore::new(Clock::system());
    let callers: Vec<Who> = (0..9).map(|number| who(number % 2 == 0)).collect();
    let debts: Vec<u64> = (0..6).map(|_| LeaseId::generate_debt().tag()).collect();
    let mut nodes = JoinSet::new();
    for _ in 0..6 {
        let batches = batches(&mut dice, StreamId::generate(), &callers, &debts);
        for batch in &batches {
            memory.accept(batch.clone()).await.unwrap();
        }
        let (store, at) = (store.clone(), at.clone());
        nodes.spawn(async move {
            for batch in batches {
                let last = batch.last;
                assert_eq!(store.accept(batch).await.expect(&at), last, "{at}");
            }
        });
    }
    while let Some(done) = nodes.join_next().await {
        done.unwrap();
    }
    let (found, expected) = (store.audit(&everything()).await.unwrap(), memory.audit(&everything()).await.unwrap());
    check_same(&found, &expected, &at);
    check_proved(&found);
    let client = store.client("test").await.unwrap();
    let recorded = client.query_typed_one("SELECT sum(recorded)::int8 FROM debt", &[]).await.unwrap();
    assert!(recorded.get::<_, i64>(0) > 0, "debts were recorded: {at}");
}

/// A process that was taken for dead ships the last batches of its stream, its successor ships them too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_two_processes_that_ship_one_stream_count_it_once() {
    let seed = seed();
    let at = format!("USAGE_GATE_TEST_SEED={seed}");
    let (store, _database) = fresh().await;
    let memory = MemoryStore::new(Clock::system());
    let callers = [who(true), who(false)];
    let batches = Arc::new(batches(&mut Dice::new(seed), StreamId::generate(), &callers, &[1]));
    for batch in batches.iter() {
        memory.accept(batch.clone()).await.unwrap();
    }
    let mut processes = JoinSet::new();
    for _ in 0..3 {
        let (store, batches) = (store.clone(), Arc::clone(&batches));
        processes.spawn(async move {
            for batch in batches.iter() {
                assert!(store.accept(batch.clone()).await.unwrap() >= batch.last);
            }
        });
    }
    while let Some(done) = processes.join_next().await {
        done.unwrap();
    }
    let (found, expected) = (store.audit(&everything()).await.unwrap(), memory.audit(&everything()).await.unwrap());
    check_same(&found, &expected, &at);
    assert_eq!(found.digests, expected.digests, "{at}");
}

/// Whatever of a call was done when it was given up: the watermark decides, and the batch is sent again.
#[tokio::test]
async fn b3_a_call_that_is_given_up_at_any_moment_counts_once() {
    let (store, _database) = fresh().await;
    let (stream, caller) = (StreamId::generate(), who(true));
    let batches: Vec<Batch> =
        (0..60).map(|at| batch(stream, at * 3 + 1, vec![record(caller, midnight()); 3], vec![])).collect();
    let mut given_up = 0;
    for (patience, batch) in batches.iter().enumerate() {
        let outcome = tokio::select! {
            biased;
            outcome = store.accept(batch.clone()) => Some(outcome.unwrap()),
            () = async { for _ in 0..patience { tokio::task::yield_now().await; } } => None,
        };
        given_up += usize::from(outcome.is_none());
        // What the given up call left on the server may still be under way: the lock of the stream's row puts the next one behind it.
        assert_eq!(store.accept(batch.clone()).await.unwrap(), batch.last);
    }
    assert!(given_up > 0);
    let audit = store.audit(&everything()).await.unwrap();
    let requests: u64 =
        audit.rollups.iter().filter(|(key, _)| &*key.meter == "requests").map(|(_, d)| d.requests).sum();
    assert_eq!(requests, 180);
    check_proved(&audit);
}

/// The process of a connection that waits for a lock of this table.
async fn waiting(client: &deadpool_postgres::Client, table: &str) -> Option<i32> {
    let sql = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = $1::text::regclass";
    let rows = client.query(sql, &[&table]).await.unwrap();
    rows.first().map(|row| row.get(0))
}

#[tokio::test]
async fn b4_a_connection_that_is_cut_in_the_middle_of_a_batch_leaves_nothing() {
    let (store, database) = fresh().await;
    let stream = StreamId::generate();
    let batch = batch(stream, 1, vec![record(who(true), midnight()); 3], vec![]);
    let mut holder = store.client("test").await.unwrap();
    let looker = store.client("test").await.unwrap();
    // Rollups are added before digests: the batch stops in between.
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE digest_total IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let cut = async {
        loop {
            if let Some(process) = waiting(&looker, "digest_total").await {
                looker.query("SELECT pg_terminate_backend($1)", &[&process]).await.unwrap();
                break;
            }
        }
    };
    let (outcome, ()) = tokio::join!(store.accept(batch.clone()), cut);
    assert_eq!(outcome.unwrap_err().kind(), StoreErrorKind::Unavailable);
    held.rollback().await.unwrap();
    let store = PostgresStore::open(&database.url()).await.unwrap();
    let audit = store.audit(&everything()).await.unwrap();
    assert!(audit.rollups.is_empty() && audit.watermarks.is_empty() && audit.digests.is_empty());
    assert_eq!(store.accept(batch).await.unwrap(), 3);
    check_proved(&store.audit(&everything()).await.unwrap());
}

#[tokio::test]
async fn months_are_made_wherever_they_lie_and_again_if_they_were_dropped() {
    let (store, _database) = fresh().await;
    let (stream, caller) = (StreamId::generate(), who(true));
    let months = ["1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z", "2026-11-30T23:00:00Z", "2412-02-29T12:00:00Z"];
    let months = months.map(|text| text.parse::<Timestamp>().unwrap());
    let records = months.map(|bucket| UsageRecord { at: midnight(), ..record(caller, bucket) });
    assert_eq!(store.accept(batch(stream, 1, records.to_vec(), vec![])).await.unwrap(), 4);
    let client = store.client("test").await.unwrap();
    let rows = client
        .query("SELECT tableoid::regclass::text FROM rollup_hour WHERE meter = 'requests' ORDER BY bucket", &[])
        .await
        .unwrap();
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(tables, ["rollup_hour_1969_12", "rollup_hour_1970_01", "rollup_hour_2026_11", "rollup_hour_2412_02"]);
    // As an operator does with what is old.
    client.batch_execute("DROP TABLE rollup_hour_2026_11, rollup_day_2026_11").await.unwrap();
    let again = || batch(stream, 5, vec![record(caller, months[2])], vec![]);
    assert!(store.accept(again()).await.is_err());
    assert_eq!(store.accept(again()).await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_make_a_month_at_once_do_not_disturb_each_other() {
    let database = Database::new().await;
    let mut nodes = JoinSet::new();
    PostgresStore::open(&database.url()).await.unwrap();
    for _ in 0..6 {
        let url = database.url();
        nodes.spawn(async move {
            let store = PostgresStore::options(&url).connections(1).open().await.unwrap();
            let stream = StreamId::generate();
            assert_eq!(store.accept(batch(stream, 1, vec![record(who(true), midnight())], vec![])).await.unwrap(), 1);
        });
    }
    while let Some(done) = nodes.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn what_is_complete_is_what_every_living_node_has_shipped() {
    let (store, _database) = fresh().await;
    let at = |minutes: i64| midnight().plus_micros(minutes * HOUR / 60);
    let ship = async |stream: u128, minutes| {
        let batch = batch(StreamId::from_u128(stream), 1, vec![record(who(true), midnight())], vec![]);
        store.accept(Batch { through: at(minutes), ..batch }).await.unwrap();
    };
    let complete = async || {
        let query = UsageQuery::new(everything().period, Zone::UTC);
        store.usage(&query).await.unwrap().complete_through
    };
    ship(1, 100).await;
    ship(2, 130).await;
    ship(3, 120).await;
    assert_eq!(complete().await, Some(at(120)), "without nodes the newest stream is the living one");
    let node = "INSERT INTO node (node, boot, table_id, life) SELECT stream::text, stream, stream, 1 FROM stream";
    store.client("test").await.unwrap().batch_execute(node).await.unwrap();
    assert_eq!(complete().await, Some(at(100)), "all wait for the slowest");
    ship(2, 160).await;
    assert_eq!(complete().await, Some(at(120)), "who has shipped nothing for an hour is gone");
}
