//! The feed's bell: it rings at once, and what it does not ring for is seen all the same.

use std::time::Duration;

use super::{Database, fresh};
use crate::conformance;
use crate::model::Tenant;
use crate::store::feed::PATIENCE;
use crate::store::{AccountStore, Change, Changed, FeedPosition, KeyStore, PostgresStore};

const LISTENERS: &str =
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN usage_gate'";

/// Waits until somebody other than `before` listens, and says who.
async fn listener(database: &Database, before: Option<i32>) -> i32 {
    let (client, connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    let driving = tokio::spawn(connection);
    let found = async {
        loop {
            let found = client.query_typed(LISTENERS, &[]).await.unwrap();
            match found.first().map(|row| row.get::<_, i32>(0)) {
                Some(pid) if Some(pid) != before => return pid,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let pid = tokio::time::timeout(Duration::from_secs(30), found).await.expect("somebody listens");
    drop(client);
    driving.await.unwrap().unwrap();
    pid
}

async fn touch(store: &PostgresStore, tenant: &Tenant) {
    store.change_tenant(tenant.id, &Change::new(|_: &mut Tenant| Ok(()))).await.unwrap();
}

/// Whether a change of another node is told in less time than the next look at the feed would take; of some tries one is, if the bell rings.
async fn rings(store: &PostgresStore, other: &PostgresStore, tenant: &Tenant) -> bool {
    for _ in 0..5 {
        let before = store.position().await.unwrap();
        let waits = tokio::spawn({
            let store = store.clone();
            async move { tokio::time::timeout(PATIENCE / 2, store.changes(before)).await }
        });
        tokio::task::yield_now().await;
        touch(other, tenant).await;
        if let Ok(changes) = waits.await.unwrap() {
            return changes.unwrap().items == [Changed::Tenant(tenant.id)];
        }
    }
    false
}

#[tokio::test]
async fn a_lost_bell_loses_no_change_and_comes_back() {
    let (store, database) = fresh().await;
    let other = PostgresStore::open(&database.url()).await.unwrap();
    let (_, tenant, ..) = conformance::account(&store).await;
    let (_, first) = tokio::join!(store.changes(FeedPosition(0)), listener(&database, None));
    assert!(rings(&store, &other, &tenant).await);

    // It is cut while somebody waits for a change, which comes while nobody listens.
    let before = store.position().await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.changes(before).await }
    });
    database.run(&format!("SELECT pg_terminate_backend({first}, 10000)")).await;
    touch(&other, &tenant).await;
    assert_eq!(waiting.await.unwrap().unwrap().items, [Changed::Tenant(tenant.id)]);

    let second = listener(&database, Some(first)).await;
    assert!(rings(&store, &other, &tenant).await);

    // It ends with the store.
    drop(store);
    let gone = format!("SELECT FROM pg_stat_activity WHERE pid = {second}");
    let (client, connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    let driving = tokio::spawn(connection);
    let ended = async { while !client.query_typed(&gone, &[]).await.unwrap().is_empty() {} };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("nobody listens");
    drop(client);
    driving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_store_that_nobody_follows_listens_to_nothing() {
    let (store, database) = fresh().await;
    conformance::account(&store).await;
    let (client, connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    let driving = tokio::spawn(connection);
    assert!(client.query_typed(LISTENERS, &[]).await.unwrap().is_empty());
    drop(client);
    driving.await.unwrap().unwrap();
}
