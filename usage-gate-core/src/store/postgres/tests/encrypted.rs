//! Connections by TLS, to a server whose certificate is of an authority that was made for the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::server::{Server, finish};
use crate::conformance;
use crate::store::{KeyStore, PostgresStore, StoreError, StoreErrorKind};

/// Runs OpenSSL's command in a folder.
fn openssl(folder: &Path, arguments: &str) {
    finish(Command::new("openssl").current_dir(folder).args(arguments.split_whitespace()));
}

/// A server with a certificate for `localhost`, and the file of the authority that it is of.
async fn encrypted() -> (Server, PathBuf) {
    let mut server = Server::new();
    let folder = server.folder().to_owned();
    for authority in ["authority", "other"] {
        let subject = format!("-subj /CN={authority} -keyout {authority}.key -out {authority}.crt -days 2");
        openssl(&folder, &format!("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes {subject}"));
    }
    openssl(
        &folder,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server -keyout server.key -out server.csr",
    );
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
    openssl(
        &folder,
        "x509 -req -in server.csr -CA authority.crt -CAkey authority.key -CAcreateserial -days 2 -extfile names -out server.crt",
    );
    server.give_to_postgres(&folder.join("server.key"));
    server = server
        .with("ssl=on")
        .with(format!("ssl_cert_file={}", folder.join("server.crt").display()))
        .with(format!("ssl_key_file={}", folder.join("server.key").display()));
    server.start().await;
    (server, folder.join("authority.crt"))
}

/// Opens a store, and says whether its connections are encrypted.
async fn open(server: &Server, host: &str, query: &str) -> Result<bool, StoreError> {
    let url = format!("{}?{query}", server.url(host));
    let store = PostgresStore::open(&url).await?;
    let row = store
        .ask("look at the connection", async |client| {
            Ok(client.query_typed_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await?)
        })
        .await?;
    Ok(row.get(0))
}

#[tokio::test]
async fn what_is_encrypted_and_checked_is_what_the_address_says() {
    let (server, authority) = encrypted().await;
    let (other, authority) = (server.folder().join("other.crt"), authority.display());
    let other = other.display();
    for query in ["", "sslmode=prefer", "sslmode=require"] {
        assert!(open(&server, "127.0.0.1", query).await.unwrap(), "{query}");
    }
    assert!(!open(&server, "127.0.0.1", "sslmode=disable").await.unwrap());
    assert!(open(&server, "127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={authority}")).await.unwrap());
    assert!(open(&server, "localhost", &format!("sslmode=verify-full&sslrootcert={authority}")).await.unwrap());

    let refused = [
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={authority}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}")),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}")),
        ("localhost", format!("sslmode=require&sslrootcert={other}")),
        ("localhost", "sslmode=verify-full".to_owned()),
        ("localhost", "sslmode=verify-full&sslrootcert=/there/is/none".to_owned()),
    ];
    for (host, query) in refused {
        let error = open(&server, host, &query).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unusable, "{query}: {error:?}");
    }
}

#[tokio::test]
async fn the_feed_is_heard_by_tls() {
    let (server, authority) = encrypted().await;
    let url = format!("{}?sslmode=verify-full&sslrootcert={}", server.url("localhost"), authority.display());
    let store = PostgresStore::open(&url).await.unwrap();
    let before = store.position().await.unwrap();
    let (changes, _) = tokio::join!(store.changes(before), conformance::account(&store));
    assert!(!changes.unwrap().items.is_empty());
    let row = store
        .ask("look at who listens", async |client| {
            let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE query = 'LISTEN usage_gate'";
            Ok(client.query_typed_opt(sql, &[]).await?)
        })
        .await
        .unwrap();
    assert!(row.expect("somebody listens").get::<_, bool>(0));
}

#[tokio::test]
async fn a_server_without_tls_is_used_if_it_is_preferred_and_refused_if_it_is_demanded() {
    let mut server = Server::new();
    server.start().await;
    assert!(!open(&server, "127.0.0.1", "sslmode=prefer").await.unwrap());
    assert!(open(&server, "127.0.0.1", "sslmode=require").await.is_err());
}
