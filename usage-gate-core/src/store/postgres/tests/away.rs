//! Servers that are away, connections that are cut, and calls that are given up.

use std::time::Duration;

use super::server::Server;
use super::{Database, fresh};
use crate::conformance;
use crate::model::Tenant;
use crate::store::{AccountStore, Change, KeyStore, PostgresStore, StoreErrorKind};

fn rename(name: &'static str) -> Change<Tenant> {
    Change::new(move |tenant: &mut Tenant| {
        tenant.name = name.to_owned();
        Ok(())
    })
}

#[tokio::test]
async fn without_a_server_calls_fail_in_time_and_work_again_when_it_is_back() {
    let mut server = Server::new();
    server.start().await;
    let url = server.url("127.0.0.1");
    let store = PostgresStore::options(&url).call_timeout(Duration::from_secs(10)).open().await.unwrap();
    let (_, tenant, _, key) = conformance::account(&store).await;
    let credential = key.secrets[0].credential;
    server.stop();
    assert_eq!(store.resolve(&credential).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    let error = store.change_tenant(tenant.id, &rename("never")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let late = PostgresStore::options(&url).call_timeout(Duration::from_secs(1)).open().await.unwrap_err();
    assert_eq!(late.kind(), StoreErrorKind::Unavailable, "a start may be tried again");
    server.start().await;
    assert_eq!(store.resolve(&credential).await.unwrap().unwrap().tenant, tenant);
    store.change_tenant(tenant.id, &rename("again")).await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_as_long_as_a_call_may_take() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://postgres@{}/postgres", silent.local_addr().unwrap());
    let opened = PostgresStore::options(&url).call_timeout(Duration::from_millis(200)).open();
    let error = tokio::time::timeout(Duration::from_secs(20), opened).await.expect("it is given up").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
}

/// Ends all connections of the pool, as a restart of the server does.
async fn cut(database: &Database) {
    database
        .run(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'usage-gate'",
        )
        .await;
}

#[tokio::test]
async fn the_first_call_after_a_cut_does_not_fail() {
    let (store, database) = fresh().await;
    let (_, tenant, _, key) = conformance::account(&store).await;
    for round in 0..5 {
        cut(&database).await;
        if round % 2 == 0 {
            assert!(store.resolve(&key.secrets[0].credential).await.unwrap().is_some());
            // Several are idle in the pool, and all are cut.
            let (one, two, three) = tokio::join!(store.position(), store.position(), store.position());
            assert_eq!((one.unwrap(), two.unwrap()), (three.unwrap(), store.position().await.unwrap()));
        } else {
            store.change_tenant(tenant.id, &rename("again")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up_and_what_it_asked_for_is_not_done_later() {
    let database = Database::new().await;
    let patience = Duration::from_millis(300);
    let store = PostgresStore::options(&database.url()).call_timeout(patience).connections(1).open().await.unwrap();
    let patient = PostgresStore::open(&database.url()).await.unwrap();
    let (_, tenant, ..) = conformance::account(&patient).await;
    let (client, connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    let driving = tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE tenant").await.unwrap();
    let error = store.change_tenant(tenant.id, &rename("late")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    // And one that its caller has given up: the only connection of the pool may not go on waiting for it.
    let given_up = tokio::time::timeout(Duration::from_millis(50), store.tenant(tenant.id)).await;
    assert!(given_up.is_err());
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(store.tenant(tenant.id).await.unwrap(), Some(tenant.clone()));
    store.change_tenant(tenant.id, &rename("now")).await.unwrap();
    drop(client);
    driving.await.unwrap().unwrap();
}
