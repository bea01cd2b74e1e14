//! The suites, and what is PostgreSQL's own. The server is that of `DATABASE_URL` (`tests/with-servers` starts one); every test has a database of its own.

mod away;
mod bouncer;
mod cold_start;
mod days;
#[cfg(feature = "postgres-tls")]
mod encrypted;
mod feed;
mod healed;
mod many_nodes;
#[cfg(feature = "sqlite")]
mod moved_up;
mod nodes;
mod proved;
mod quotas;
mod rates;
mod server;
mod together;
mod twice;
mod usage;
mod wire;

use tokio_postgres::NoTls;

use super::PostgresStore;
use crate::conformance;
use crate::store::{AccountStore, Change, Changed, FeedPosition, KeyStore, StoreErrorKind};

mod keys {
    crate::conformance::key_store_tests!(super::fresh().await);
}
mod accounts {
    crate::conformance::account_store_tests!(super::fresh().await);
}
mod sessions {
    crate::conformance::session_store_tests!(super::fresh().await);
}

/// A database of one test, gone afterwards.
pub(super) struct Database {
    server: String,
    name: String,
}

impl Database {
    /// Makes an empty database.
    pub(super) async fn new() -> Self {
        Self::on(&server()).await
    }

    /// Makes an empty database on a server.
    async fn on(server: &str) -> Self {
        let server = server.to_owned();
        let name = format!("usage_gate_{:032x}", uuid::Uuid::now_v7().as_u128());
        command(&server, &format!("CREATE DATABASE {name}")).await;
        Self { server, name }
    }

    /// Its address.
    pub(super) fn url(&self) -> String {
        // The server's address with another path.
        let (base, query) = self.server.split_once('?').unwrap_or((&self.server, ""));
        let host = base.find("://").map_or(0, |at| at + 3);
        let end = base[host..].find('/').map_or(base.len(), |at| host + at);
        format!("{}/{}?{query}", &base[..end], self.name)
    }

    /// Does something to the database from outside of the store.
    async fn run(&self, sql: &str) {
        command(&self.url(), sql).await;
    }
}

/// The server that the environment names.
#[expect(clippy::disallowed_methods, reason = "which server is the environment's to say")]
fn server() -> String {
    std::env::var("DATABASE_URL").expect("DATABASE_URL: run this by tests/with-servers, or name a server")
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A thread of its own, because this may run inside a runtime.
        let done = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(command(&server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")));
        });
        let _ = done.join();
    }
}

async fn command(server: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(server, NoTls).await.expect("the server of DATABASE_URL");
    let driving = tokio::spawn(connection);
    client.batch_execute(sql).await.expect(sql);
    drop(client);
    driving.await.expect("the connection's task").expect("the connection");
}

/// A new and empty store.
pub(super) async fn fresh() -> (PostgresStore, Database) {
    let database = Database::new().await;
    let store = PostgresStore::options(&database.url()).connections(4).open().await.expect("the store opens");
    (store, database)
}

#[tokio::test]
async fn it_opens_an_empty_database_and_one_that_it_has_made() {
    let (store, database) = fresh().await;
    drop(store);
    PostgresStore::options(&database.url()).migrate(false).open().await.unwrap();
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let (store, database) = fresh().await;
    let (_, tenant, _, key) = conformance::account(&store).await;
    let position = store.position().await.unwrap();
    drop(store);
    let again = PostgresStore::open(&database.url()).await.unwrap();
    let found = again.resolve(&key.secrets[0].credential).await.unwrap().unwrap();
    assert_eq!(found.tenant, tenant);
    assert_eq!((found.position, again.position().await.unwrap()), (position, position));
}

#[tokio::test]
async fn a_change_by_another_process_is_seen() {
    let (store, database) = fresh().await;
    let (_, tenant, ..) = conformance::account(&store).await;
    let before = store.position().await.unwrap();
    let other = PostgresStore::open(&database.url()).await.unwrap();
    let (changes, deleted) =
        tokio::join!(store.changes(before), other.delete_tenant(tenant.id, conformance::instant()));
    assert!(deleted.unwrap());
    assert_eq!(changes.unwrap().items, [Changed::Tenant(tenant.id)]);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (_, database) = fresh().await;
    database.run("INSERT INTO schema_migration VALUES (9999, 'later', 'x')").await;
    let error = PostgresStore::open(&database.url()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unusable);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("newer"));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused() {
    let database = Database::new().await;
    let url = database.url();
    drop(database);
    assert_eq!(PostgresStore::open(&url).await.unwrap_err().kind(), StoreErrorKind::Unusable);
    assert_eq!(PostgresStore::open("not an address").await.unwrap_err().kind(), StoreErrorKind::Unusable);
}

#[tokio::test]
async fn a_rule_that_panics_leaves_the_store_usable() {
    let (store, _database) = fresh().await;
    let (_, tenant, ..) = conformance::account(&store).await;
    let rule = Change::new(|_: &mut crate::model::Tenant| panic!("a broken rule"));
    assert_eq!(store.change_tenant(tenant.id, &rule).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(store.tenant(tenant.id).await.unwrap(), Some(tenant.clone()));
    let rule = Change::new(|tenant: &mut crate::model::Tenant| {
        tenant.name = "Other".to_owned();
        Ok(())
    });
    store.change_tenant(tenant.id, &rule).await.unwrap();
}

#[tokio::test]
async fn a_feed_that_was_trimmed_says_that_all_changed() {
    let (store, database) = fresh().await;
    let (_, tenant, ..) = conformance::account(&store).await;
    database.run("INSERT INTO change (seq, kind) VALUES (150000, 'all')").await;
    let before = store.position().await.unwrap();
    // The next change trims what is too old.
    store.delete_tenant(tenant.id, conformance::instant()).await.unwrap();
    let changes = store.changes(FeedPosition(0)).await.unwrap();
    assert_eq!((changes.items, changes.position.0), (vec![Changed::All], 150_001));
    assert_eq!(store.changes(before).await.unwrap().items, [Changed::Tenant(tenant.id)]);
}

#[tokio::test]
async fn a_character_that_the_server_cannot_hold_is_refused_by_name_and_found_nowhere() {
    let (store, _database) = fresh().await;
    let (plan, ..) = conformance::account(&store).await;
    let odd = crate::model::Tenant { metadata: "{\0}".to_owned(), ..conformance::tenant(&plan) };
    let error = store.create_tenant(&odd).await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("metadata"));
    assert_eq!(store.plan("\0", None).await.unwrap(), None);
    let page = crate::store::PageRequest { after: None, size: 10 };
    assert!(store.tenants(Some("\0"), &page).await.unwrap().items.is_empty());
    // Escaped it is a text as any other, and comes back byte for byte.
    let tenant = crate::model::Tenant { metadata: r#"{"b":"\u0000", "a" :1}"#.to_owned(), ..odd };
    store.create_tenant(&tenant).await.unwrap();
    assert_eq!(store.tenant(tenant.id).await.unwrap(), Some(tenant));
}
