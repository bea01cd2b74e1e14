//! The suites, and what is PostgreSQL's own. The server is that of `DATABASE_URL` (`tests/with-servers` starts one); every test has a database of its own.

mod days;
mod many_nodes;
mod proved;
mod usage;

use tokio_postgres::NoTls;

use super::PostgresStore;

/// A database of one test, gone afterwards.
pub(super) struct Database {
    server: String,
    name: String,
}

impl Database {
    /// Makes an empty database.
    pub(super) async fn new() -> Self {
        let server =
            std::env::var("DATABASE_URL").expect("DATABASE_URL: run this by tests/with-servers, or name a server");
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
