//! What goes over the wire: how often a call waits for the server, and that it prepares nothing there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::Database;
use crate::conformance;
use crate::store::{AccountStore, KeyStore, LastUse, PostgresStore};

/// What clients have sent.
#[derive(Debug, Default)]
struct Seen {
    /// Messages after which the client waits for an answer: `Sync` and `Query`.
    questions: AtomicU64,
    /// Statements that were given a name, which is one of the session's.
    prepared: AtomicU64,
}

/// Stands between clients and the server of a database, and gives the address by which it is reached.
async fn watched(database: &Database) -> (String, Arc<Seen>) {
    let config: Config = database.url().parse().unwrap();
    let [Host::Tcp(host)] = config.get_hosts() else { panic!("DATABASE_URL must name one host") };
    let server = (host.clone(), config.get_ports()[0]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = database.url().replace(&format!("{}:{}", server.0, server.1), &format!("127.0.0.1:{port}"));
    let seen = Arc::new(Seen::default());
    let watching = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server.clone()).await.unwrap();
            let ((from_client, mut to_client), (mut from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(watch(from_client, to_server, Arc::clone(&watching)));
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        }
    });
    (format!("{url}&sslmode=disable"), seen)
}

/// Passes messages on, and looks at each.
async fn watch(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, seen: Arc<Seen>) -> std::io::Result<()> {
    // The first has no letter.
    let mut letter = None;
    loop {
        let length = client.read_u32().await?;
        let mut rest = vec![0; length as usize - 4];
        client.read_exact(&mut rest).await?;
        match letter {
            Some(b'S' | b'Q') => _ = seen.questions.fetch_add(1, Ordering::Relaxed),
            Some(b'P') if rest.first() != Some(&0) => _ = seen.prepared.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
        if let Some(letter) = letter {
            server.write_u8(letter).await?;
        }
        server.write_u32(length).await?;
        server.write_all(&rest).await?;
        letter = Some(client.read_u8().await?);
    }
}

#[tokio::test]
async fn what_requests_wait_for_is_one_round_trip_and_nothing_is_prepared() {
    let database = Database::new().await;
    let (url, seen) = watched(&database).await;
    let store = PostgresStore::options(&url).connections(1).open().await.unwrap();
    let (_, tenant, user, key) = conformance::account(&store).await;
    let credential = key.secrets[0].credential;

    let before = seen.questions.load(Ordering::Relaxed);
    assert!(store.resolve(&credential).await.unwrap().is_some());
    assert_eq!(seen.questions.load(Ordering::Relaxed) - before, 1);
    let uses = [LastUse { credential, at: conformance::instant() }, LastUse { credential, at: conformance::instant() }];
    store.mark_used(&uses).await.unwrap();
    assert_eq!(seen.questions.load(Ordering::Relaxed) - before, 2);

    store.delete_user(user.id, conformance::instant()).await.unwrap();
    store.delete_tenant(tenant.id, conformance::instant()).await.unwrap();
    assert_eq!(seen.prepared.load(Ordering::Relaxed), 0);
}
