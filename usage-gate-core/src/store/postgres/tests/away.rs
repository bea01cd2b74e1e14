//! Servers that are away, connections that are cut, and calls that are given up.

use std::sync::atomic::{AtomicU32, Ordering};
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

/// Ends all connections of the pool, as a restart of the server does, while nothing else runs here: nobody has seen it when the next call comes.
fn cut(database: &Database) {
    let cut = database.run(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'usage-gate'",
    );
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(cut);
        });
        done.join().unwrap();
    });
}

#[tokio::test]
async fn the_first_call_after_a_cut_does_not_fail() {
    let (store, database) = fresh().await;
    let (_, tenant, _, key) = conformance::account(&store).await;
    for _ in 0..3 {
        cut(&database);
        assert!(store.resolve(&key.secrets[0].credential).await.unwrap().is_some());
        // Several are idle in the pool, and all are cut.
        let (one, two, three) = tokio::join!(store.position(), store.position(), store.position());
        assert_eq!((one.unwrap(), two.unwrap()), (three.unwrap(), store.position().await.unwrap()));
        cut(&database);
        store.change_tenant(tenant.id, &rename("again")).await.unwrap();
        cut(&database);
        let once = store.run("ask once", async |client| Ok(client.query_typed_one("SELECT 1", &[]).await?)).await;
        assert_eq!(once.unwrap().get::<_, i32>(0), 1);
    }
}

#[tokio::test]
async fn a_question_whose_connection_is_lost_is_asked_once_more() {
    let database = Database::new().await;
    let store = PostgresStore::options(&database.url()).connections(1).open().await.unwrap();
    let asked = AtomicU32::new(0);
    let answer = store.ask("ask", async |client| {
        let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        let sql = if first { "SELECT pg_terminate_backend(pg_backend_pid())::int4" } else { "SELECT 7" };
        Ok(client.query_typed_one(sql, &[]).await?.try_get::<_, i32>(0)?)
    });
    assert_eq!((answer.await.unwrap(), asked.load(Ordering::Relaxed)), (7, 2));
}

#[tokio::test]
async fn a_call_that_takes_too_long_fails_in_time_and_is_not_done_later() {
    let database = Database::new().await;
    let hasty = PostgresStore::options(&database.url()).call_timeout(Duration::from_millis(300));
    let hasty = hasty.connections(1).open().await.unwrap();
    let store = PostgresStore::open(&database.url()).await.unwrap();
    let (_, tenant, ..) = conformance::account(&store).await;
    let locked = lock_tenants(&database).await;
    let error = hasty.change_tenant(tenant.id, &rename("late")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    locked.batch_execute("COMMIT").await.unwrap();
    assert_eq!(hasty.tenant(tenant.id).await.unwrap(), Some(tenant.clone()));
    hasty.change_tenant(tenant.id, &rename("now")).await.unwrap();
}

#[tokio::test]
async fn a_call_that_its_caller_gives_up_holds_up_no_other() {
    let database = Database::new().await;
    let store = PostgresStore::options(&database.url()).connections(1).open().await.unwrap();
    let (_, tenant, ..) = conformance::account(&store).await;
    let _locked = lock_tenants(&database).await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), store.tenant(tenant.id)).await;
    assert!(given_up.is_err());
    // The only connection of the pool still waits for the lock, for 5 s.
    let next = tokio::time::timeout(Duration::from_secs(3), store.position()).await;
    next.expect("it has a connection of its own").unwrap();
}

/// Locks all tenants until the transaction of the connection that it gives ends.
async fn lock_tenants(database: &Database) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE tenant").await.unwrap();
    client
}
