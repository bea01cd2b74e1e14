//! Rates: the suite, and random calls beside the pure bucket.

use super::{Database, PostgresStore, fresh};
use crate::clock::ManualClock;
use crate::conformance::rates;

crate::conformance::rate_store_tests!(fresh().await);

async fn with_clock(manual: &ManualClock) -> (PostgresStore, Database) {
    let database = Database::new().await;
    let store = PostgresStore::options(&database.url()).clock(manual.clock()).connections(2).open().await.unwrap();
    (store, database)
}

fn manual() -> ManualClock {
    ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap())
}

#[tokio::test]
async fn it_agrees_with_the_bucket() {
    let manual = manual();
    let (store, _database) = with_clock(&manual).await;
    rates::agrees_with_the_bucket(&store, &manual).await;
}

#[tokio::test]
async fn what_a_dead_node_had_comes_back_when_its_lease_ends() {
    let manual = manual();
    let (store, _database) = with_clock(&manual).await;
    rates::what_a_dead_node_had_comes_back_when_its_lease_ends(&store, &manual).await;
}
