//! Calls that are under way more than once, beside the records of what they tell: each counts once, all copies get the same, and nobody waits in a circle.

use std::time::Duration;

use tokio::task::JoinSet;

use super::nodes::{calendar, call, connect, counter, node, request, seed};
use super::{Database, PostgresStore};
use crate::clock::Clock;
use crate::conformance::usage::{Who, batch, midnight, record};
use crate::model::{KeyId, Per};
use crate::simulation::Dice;
use crate::store::{
    CounterId, LeaseDebt, LeaseId, LeaseReport, LeaseRequest, NodeIdentity, QuotaStore, QuotaUse, UsageSink,
};

const NODES: usize = 4;
const COUNTERS: usize = 5;
const ROUNDS: usize = 40;
const COPIES: usize = 3;

/// Puts what may come in any order into any order.
fn shuffle<T>(items: &mut [T], dice: &mut Dice) {
    for at in (1..items.len()).rev() {
        items.swap(at, dice.place(at + 1));
    }
}

/// What a node goes through: calls that each arrive three times at once over two processes' connections, while its records are taken in, which cite the same debts.
async fn live(stores: [PostgresStore; 2], mut node: NodeIdentity, counters: Vec<CounterId>, mut dice: Dice) {
    let period = calendar().period(Per::Month, Clock::system().wall());
    let owe = |counter: &CounterId| LeaseDebt {
        lease: LeaseId::generate_debt(),
        counter: counter.clone(),
        period,
        cap: 100,
        cap_version: 1,
        used: 0,
    };
    let who = Who { tenant: counters[0].tenant, user: None, key: KeyId::generate() };
    let (mut debts, mut held) = (Vec::<LeaseDebt>::new(), Vec::<LeaseReport>::new());
    stores[0].register(&node).await.unwrap();
    let mut next = 1;
    for round in 0..ROUNDS {
        // New debts, which both sides make at the same time, and such that have grown.
        debts.truncate(6);
        debts.extend(counters.iter().map(owe));
        debts.iter_mut().for_each(|debt| debt.used += 1 + dice.below(3));
        shuffle(&mut debts, &mut dice);
        let mut asked = call(&node, vec![]);
        asked.debts.clone_from(&debts);
        shuffle(&mut held, &mut dice);
        asked.returns = held.split_off(held.len() / 2);
        asked.reports.clone_from(&held);
        asked.requests =
            counters.iter().map(|counter| LeaseRequest { needed: 3, cap: 100_000, ..request(counter, 5) }).collect();
        shuffle(&mut asked.requests, &mut dice);
        let mut citing = record(who, midnight());
        citing.quotas = asked
            .debts
            .iter()
            .map(|debt| QuotaUse {
                lease: debt.lease.tag(),
                counter: debt.counter.tag(),
                period: debt.period.start.floor_seconds(),
                units: 1,
            })
            .collect();
        let taken_in = stores[round % 2].accept(batch(node.boot, next, vec![citing], vec![]));
        let copies: JoinSet<_> = (0..COPIES)
            .map(|copy| {
                let (store, mut asked) = (stores[copy % 2].clone(), asked.clone());
                // A driver repeats its call as it was; whoever has another order of the same is to wait in no circle either.
                shuffle(&mut asked.debts, &mut dice);
                shuffle(&mut asked.reports, &mut dice);
                async move { store.lease(&asked).await.unwrap().grants }
            })
            .collect();
        let (answers, watermark) = tokio::join!(copies.join_all(), taken_in);
        next = watermark.unwrap() + 1;
        let granted =
            |answer: &Vec<crate::store::LeaseGrant>| answer.iter().map(|grant| (grant.lease, grant.units)).collect();
        let answers: Vec<Vec<(LeaseId, u64)>> = answers.iter().map(granted).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        held.extend(
            answers[0].iter().filter(|(_, units)| *units > 0).map(|(lease, _)| LeaseReport { lease: *lease, used: 1 }),
        );
        if dice.one_in(10) {
            // Windows are compared with records when they are next touched.
            node.boot = crate::model::StreamId::generate();
            next = 1;
            assert_eq!(stores[0].register(&node).await.unwrap().len(), held.len());
        }
    }
}

/// Deadlocks that the server has broken up in this database. A connection says what it has counted at its end, so that the stores are closed by then.
async fn deadlocks(database: &Database) -> i64 {
    let client = connect(database).await;
    let others = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    while client.query_one(others, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::task::yield_now().await;
    }
    let sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_a_call_and_records_of_its_debts_wait_for_each_other_and_never_in_a_circle() {
    let database = Database::new().await;
    let open = async || PostgresStore::options(&database.url()).connections(8).open().await.unwrap();
    let stores = [open().await, open().await];
    let seed = seed();
    println!("USAGE_GATE_TEST_SEED={seed}");
    let counters: Vec<CounterId> = (0..COUNTERS).map(|_| counter(Per::Month)).collect();
    let mut nodes = JoinSet::new();
    for number in 0..NODES {
        let dice = Dice::new(seed.wrapping_add(u64::try_from(number).unwrap()));
        nodes.spawn(live(stores.clone(), node(&format!("node {number}")), counters.clone(), dice));
    }
    let ended = tokio::time::timeout(Duration::from_secs(120), nodes.join_all());
    ended.await.expect("calls go on");
    drop(stores);
    let broken = "SELECT counter FROM quota_window AS w WHERE granted - ceiling > overrun OR granted <> used_closed + coalesce(
         (SELECT sum(size) FROM lease AS l WHERE l.counter = w.counter AND l.period_start = w.period_start AND closed_at IS NULL), 0)";
    let broken = connect(&database).await.query(broken, &[]).await.unwrap();
    assert!(broken.is_empty(), "A1 or A2 is broken for {}", broken[0].get::<_, String>(0));
    assert_eq!(deadlocks(&database).await, 0);
}
