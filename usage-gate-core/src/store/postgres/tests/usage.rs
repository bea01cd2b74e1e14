//! Usage: the suite, and what only PostgreSQL can do wrong.

use super::{Database, fresh};
use crate::conformance::usage::{HOUR, batch, midnight, record, who};
use crate::model::StreamId;
use crate::period::{Period, Zone};
use crate::store::{UsageQuery, UsageReader, UsageSink};

mod suite {
    crate::conformance::usage_store_tests!(super::fresh().await);
}

#[tokio::test]
async fn a_name_that_the_server_cannot_hold_is_found_nowhere() {
    let (store, _database) = fresh().await;
    store.accept(batch(StreamId::generate(), 1, vec![record(who(true), midnight())], vec![])).await.unwrap();
    let period = Period { start: midnight(), end: midnight().plus_micros(24 * HOUR) };
    let asked = |text: &str| Some(text.to_owned());
    for query in [
        UsageQuery { meter: asked("requests\0"), ..UsageQuery::new(period, Zone::UTC) },
        UsageQuery { route: asked("\0"), ..UsageQuery::new(period, Zone::UTC) },
        UsageQuery { outcome: asked("\0billed"), ..UsageQuery::new(period, Zone::UTC) },
    ] {
        assert!(store.usage(&query).await.unwrap().items.is_empty());
    }
}

/// What is read behind a lock is what its holder before has written, whatever an operator has set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_a_database_whose_transactions_are_serializable_counts_once_too() {
    let database = Database::new().await;
    let store = crate::store::PostgresStore::open(&database.url()).await.unwrap();
    let set = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = serializable', current_database()); END $$";
    store.client("test").await.unwrap().batch_execute(set).await.unwrap();
    let store = crate::store::PostgresStore::open(&database.url()).await.unwrap();
    let (stream, who) = (StreamId::generate(), who(true));
    let mut processes = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = store.clone();
        processes.spawn(async move {
            for first in (1..40).step_by(2) {
                let batch = batch(stream, first, vec![record(who, midnight()); 2], vec![]);
                assert!(store.accept(batch.clone()).await.unwrap() >= batch.last);
            }
        });
    }
    while let Some(done) = processes.join_next().await {
        done.unwrap();
    }
    let period = Period { start: midnight(), end: midnight().plus_micros(24 * HOUR) };
    let query = UsageQuery { meter: Some("requests".to_owned()), ..UsageQuery::new(period, Zone::UTC) };
    assert_eq!(store.usage(&query).await.unwrap().items[0].requests, 40);
}
