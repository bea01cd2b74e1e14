//! A database that was restored from a backup learns from the records what it has forgotten.

use super::nodes::{call, connect, counter, node, request};
use super::{Database, PostgresStore};
use crate::clock::ManualClock;
use crate::lease::ledger::WindowRow;
use crate::model::{Per, StreamId, Timestamp};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::store::{CounterId, LeaseReport, LeaseRequest, NodeIdentity, QuotaStore};

const START: &str = "2026-11-01T00:00:00Z";

async fn store() -> (PostgresStore, tokio_postgres::Client, Database) {
    let (database, manual) = (Database::new().await, ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap()));
    let store = PostgresStore::options(&database.url()).clock(manual.clock()).open().await.unwrap();
    let client = connect(&database).await;
    (store, client, database)
}

fn start() -> i64 {
    START.parse::<Timestamp>().unwrap().as_micros()
}

async fn record_use(client: &tokio_postgres::Client, counter: &CounterId, units: i64) {
    let tag = counter.tag().0.to_be_bytes();
    client
        .execute(
            "INSERT INTO counter_use (tag, period_start, tenant, units) VALUES ($1, $2, gen_random_uuid(), $3)
             ON CONFLICT (tag, period_start) DO UPDATE SET units = excluded.units",
            &[&tag.as_slice(), &start(), &units],
        )
        .await
        .unwrap();
}

async fn record_debt(client: &tokio_postgres::Client, counter: &CounterId, booked: i64, recorded: i64) {
    let tag = counter.tag().0.to_be_bytes();
    client
        .execute(
            "INSERT INTO debt SELECT $1, $2, substring(uuid_send(gen_random_uuid()) FROM 9), $3, $4, 0",
            &[&tag.as_slice(), &start(), &booked, &recorded],
        )
        .await
        .unwrap();
}

async fn ask(
    store: &PostgresStore,
    node: &NodeIdentity,
    reports: Vec<LeaseReport>,
    request: LeaseRequest,
) -> (u64, u64) {
    let answer = store.lease(&crate::store::LeaseCall { reports, ..call(node, vec![request]) }).await.unwrap();
    (answer.grants[0].units, answer.grants[0].window.granted)
}

#[tokio::test]
async fn a_window_is_healed_once_a_life_when_it_is_first_touched() {
    let (store, client, _database) = store().await;
    let (new, known, first) = (counter(Per::Month), counter(Per::Month), node("a"));
    store.register(&first).await.unwrap();
    let lease = request(&known, 20);
    assert_eq!(ask(&store, &first, vec![], lease.clone()).await, (20, 20));

    record_use(&client, &new, 90).await;
    record_use(&client, &known, 30).await;
    assert_eq!(ask(&store, &first, vec![], request(&new, 40)).await, (10, 100), "a window that was lost");
    assert_eq!(ask(&store, &first, vec![], request(&known, 5)).await, (5, 25), "a record may be ahead of its report");

    let later = NodeIdentity { boot: StreamId::generate(), ..first };
    store.register(&later).await.unwrap();
    // The lease is in debt by 4: that is on its report, and will be booked when it is closed.
    let debt = LeaseReport { lease: lease.lease, used: 24 };
    assert_eq!(ask(&store, &later, vec![debt], request(&known, 5)).await, (5, 31));
    record_use(&client, &known, 60).await;
    assert_eq!(ask(&store, &later, vec![], request(&known, 5)).await, (5, 36));
}

/// What a window was granted, what was reported and what was recorded of it, and of its debts what is booked and recorded.
#[derive(Debug)]
struct Case {
    granted: u64,
    reported: u64,
    recorded: i64,
    debts: Vec<(i64, i64)>,
}

#[tokio::test]
async fn a_window_is_healed_as_the_ledger_says() {
    let (store, client, _database) = store().await;
    let calendar = Calendar::new(Zone::UTC, AnchorDay::FIRST);
    let period = calendar.period(Per::Month, START.parse().unwrap());
    let mut first = node("a");
    let case =
        |granted, reported, recorded, debts: &[(i64, i64)]| Case { granted, reported, recorded, debts: debts.to_vec() };
    let cases = [
        case(40, 0, 0, &[]),
        case(40, 50, 45, &[]),
        case(40, 10, 130, &[]),
        case(10, 0, 30, &[(0, 7), (5, 5), (9, 3)]),
        case(10, 12, 90, &[(0, 7), (0, 80)]),
        case(0, 0, -5, &[(0, 4), (2, -3)]),
        case(10, 0, i64::MAX, &[(0, i64::MAX), (0, i64::MAX)]),
        case(10, 0, i64::MAX, &[(i64::MAX, -i64::MAX)]),
        case(10, 0, i64::MIN, &[(1, i64::MIN), (1, i64::MIN)]),
    ];
    for case in cases {
        let Case { granted, reported, recorded, debts } = &case;
        let counter = counter(Per::Month);
        store.register(&first).await.unwrap();
        // Its window is there before anything is recorded.
        let wanted = request(&counter, *granted);
        let lease = wanted.lease;
        ask(&store, &first, vec![], wanted).await;
        record_use(&client, &counter, *recorded).await;
        for (booked, recorded) in debts {
            record_debt(&client, &counter, *booked, *recorded).await;
        }
        first.boot = StreamId::generate();
        store.register(&first).await.unwrap();
        let reports = vec![LeaseReport { lease, used: *reported }];
        let (_, found) = ask(&store, &first, reports, request(&counter, 0)).await;

        let mut row = WindowRow::new(period, 100, 1);
        row.grant(&request(&counter, *granted), 1);
        let sum = |of: fn(&(i64, i64)) -> i128| debts.iter().map(of).sum::<i128>();
        let missing = sum(|(booked, recorded)| (i128::from(*recorded) - i128::from(*booked)).max(0));
        let missing = u64::try_from(missing).unwrap_or(u64::MAX);
        row.close(0, missing);
        let known =
            i128::from(*recorded) - sum(|(_, recorded)| (*recorded).into()) + sum(|(booked, _)| (*booked).into());
        let known = u64::try_from(known.max(0)).unwrap_or(u64::MAX).saturating_add(missing);
        row.heal(known, if *granted > 0 { reported.saturating_sub(*granted) } else { 0 });
        assert_eq!(found, row.granted, "{case:?}");
        let columns = client
            .query_one(
                "SELECT granted, used_closed, overrun FROM quota_window WHERE counter = $1",
                &[&counter.to_string()],
            )
            .await
            .unwrap();
        let columns = [0, 1, 2].map(|at| u64::try_from(columns.get::<_, i64>(at)).unwrap());
        assert_eq!(columns, [row.granted, row.used_closed, row.overrun], "{case:?}");
        let not_told = client.query_one("SELECT count(*) FROM debt WHERE recorded > booked", &[]).await.unwrap();
        assert_eq!(not_told.get::<_, i64>(0), 0);
    }
}
