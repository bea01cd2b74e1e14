//! The suite of quotas, and what several nodes on one server can do to each other.

use super::{Database, PostgresStore};
use crate::clock::ManualClock;
use crate::conformance;

mod suite {
    crate::conformance::quota_store_tests!(super::super::fresh().await);
}

/// A store whose authority reads a clock of the test.
async fn timed() -> (PostgresStore, ManualClock, Database) {
    let (database, manual) = (Database::new().await, ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap()));
    let store = PostgresStore::options(&database.url()).clock(manual.clock()).connections(2).open().await.unwrap();
    (store, manual, database)
}

#[tokio::test]
async fn it_agrees_with_the_ledger() {
    let (store, manual, _database) = timed().await;
    conformance::quotas::agrees_with_the_ledger(&store, &manual).await;
}

#[tokio::test]
async fn a4_a_lease_of_an_ended_period_counts_in_its_own() {
    let (store, manual, _database) = timed().await;
    conformance::quotas::a4_a_lease_of_an_ended_period_counts_in_its_own(&store, &manual).await;
}

#[tokio::test]
async fn a4_a_debt_of_an_ended_period_counts_in_its_own() {
    let (store, manual, _database) = timed().await;
    conformance::quotas::a4_a_debt_of_an_ended_period_counts_in_its_own(&store, &manual).await;
}

#[tokio::test]
async fn a4_units_of_the_next_period_are_leased_a_minute_early() {
    let (store, manual, _database) = timed().await;
    conformance::quotas::a4_units_of_the_next_period_are_leased_a_minute_early(&store, &manual).await;
}
