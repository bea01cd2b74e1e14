//! The suites on SQLite, and what only a file can do wrong.

mod days;
mod debts;
mod healed;

use std::path::PathBuf;

use super::*;
use crate::clock::ManualClock;
use crate::conformance;
use crate::model::{StreamId, Timestamp};
use crate::store::{AccountStore, KeyStore, LeaseCall, NodeIdentity, QuotaStore, StoreErrorKind, TableId};

/// A folder of its own, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("usage-gate-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("usage-gate.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What remains of a failed removal is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn fresh() -> (SqliteStore, Folder) {
    let folder = Folder::new();
    (SqliteStore::open(folder.file()).await.unwrap(), folder)
}

async fn at(folder: &Folder, manual: &ManualClock) -> SqliteStore {
    SqliteStore::options(folder.file()).clock(manual.clock()).open().await.unwrap()
}

fn manual() -> ManualClock {
    ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap())
}

mod keys {
    crate::conformance::key_store_tests!(super::fresh().await);
}
mod accounts {
    crate::conformance::account_store_tests!(super::fresh().await);
}
mod sessions {
    crate::conformance::session_store_tests!(super::fresh().await);
}
mod quotas {
    crate::conformance::quota_store_tests!(super::fresh().await);
}
mod usage {
    crate::conformance::usage_store_tests!(super::fresh().await);
}

#[tokio::test]
async fn the_first_pepper_is_kept() {
    let (store, _folder) = fresh().await;
    conformance::keys::the_first_pepper_is_kept(&store).await;
}

#[tokio::test]
async fn it_agrees_with_the_ledger() {
    let (folder, manual) = (Folder::new(), manual());
    conformance::quotas::agrees_with_the_ledger(&at(&folder, &manual).await, &manual).await;
}

#[tokio::test]
async fn a4_a_lease_of_an_ended_period_counts_in_its_own() {
    let (folder, manual) = (Folder::new(), manual());
    let store = at(&folder, &manual).await;
    conformance::quotas::a4_a_lease_of_an_ended_period_counts_in_its_own(&store, &manual).await;
}

#[tokio::test]
async fn a4_a_debt_of_an_ended_period_counts_in_its_own() {
    let (folder, manual) = (Folder::new(), manual());
    let store = at(&folder, &manual).await;
    conformance::quotas::a4_a_debt_of_an_ended_period_counts_in_its_own(&store, &manual).await;
}

#[tokio::test]
async fn a4_units_of_the_next_period_are_leased_a_minute_early() {
    let (folder, manual) = (Folder::new(), manual());
    let store = at(&folder, &manual).await;
    conformance::quotas::a4_units_of_the_next_period_are_leased_a_minute_early(&store, &manual).await;
}

#[tokio::test]
async fn after_a_checkpoint_the_file_alone_is_the_whole_database() {
    let (store, folder) = fresh().await;
    let sink: &dyn crate::store::UsageSink = &store;
    let who = conformance::usage::who(true);
    let records = vec![conformance::usage::record(who, conformance::usage::midnight()); 100];
    let stream = StreamId::generate();
    sink.accept(conformance::usage::batch(stream, 1, records, vec![])).await.unwrap();
    store.checkpoint().await.unwrap();
    assert_eq!(std::fs::metadata(folder.0.join("usage-gate.db-wal")).unwrap().len(), 0);

    // As `cp` does it, while the store is still open.
    let copied = Folder::new();
    std::fs::copy(folder.file(), copied.file()).unwrap();
    let copy = SqliteStore::open(copied.file()).await.unwrap();
    assert_eq!(crate::store::UsageSink::watermark(&copy, stream).await.unwrap(), 100);
    // It goes on as before.
    let more =
        conformance::usage::batch(stream, 101, vec![conformance::usage::record(who, Timestamp::default())], vec![]);
    assert_eq!(sink.accept(more).await.unwrap(), 101);
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.file()).await.unwrap();
    let (_, tenant, _, key) = conformance::account(&store).await;
    let position = store.position().await.unwrap();
    // The file is opened beside the first store, as after a kill: nothing was closed or checkpointed.
    let again = SqliteStore::open(folder.file()).await.unwrap();
    let found = again.resolve(&key.secrets[0].credential).await.unwrap().unwrap();
    assert_eq!(found.tenant, tenant);
    assert_eq!(again.position().await.unwrap(), position);
}

#[tokio::test]
async fn a_change_by_another_process_is_seen() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.file()).await.unwrap();
    let (_, tenant, ..) = conformance::account(&store).await;
    let before = store.position().await.unwrap();
    let other = SqliteStore::open(folder.file()).await.unwrap();
    let (changes, deleted) =
        tokio::join!(store.changes(before), other.delete_tenant(tenant.id, conformance::instant()));
    assert!(deleted.unwrap());
    assert_eq!(changes.unwrap().items, [crate::store::Changed::Tenant(tenant.id)]);
}

#[tokio::test]
async fn a_job_that_is_refused_disturbs_no_other() {
    let (store, _folder) = fresh().await;
    let node = NodeIdentity { node: "a".to_owned(), boot: StreamId::generate(), table: TableId::generate() };
    store.register(&node).await.unwrap();
    let stranger = NodeIdentity { node: "b".to_owned(), boot: StreamId::generate(), table: TableId::generate() };
    let (good, bad) = (LeaseCall::new(&node), LeaseCall::new(&stranger));
    let before = store.quota_calls();
    let (one, two, three) = tokio::join!(store.lease(&good), store.lease(&bad), store.lease(&good));
    assert!(one.is_ok() && three.is_ok());
    assert_eq!(two.unwrap_err().kind(), StoreErrorKind::Superseded);
    assert_eq!(store.quota_calls() - before, 3);
}

#[tokio::test]
async fn a_rule_that_panics_leaves_the_store_usable() {
    let (store, _folder) = fresh().await;
    let (_, tenant, ..) = conformance::account(&store).await;
    let rule = crate::store::Change::new(|_: &mut crate::model::Tenant| panic!("a broken rule"));
    assert_eq!(store.change_tenant(tenant.id, &rule).await.unwrap_err().kind(), StoreErrorKind::Unavailable);
    assert_eq!(store.tenant(tenant.id).await.unwrap(), Some(tenant));
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = Folder::new();
    drop(SqliteStore::open(folder.file()).await.unwrap());
    let raw = Connection::open(folder.file()).unwrap();
    raw.execute("INSERT INTO schema_migration VALUES (9999, 'later', 'x')", []).unwrap();
    let error = SqliteStore::open(folder.file()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unusable);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("newer"));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = Folder::new();
    std::fs::write(folder.file(), vec![7; 4096]).unwrap();
    assert_eq!(SqliteStore::open(folder.file()).await.unwrap_err().kind(), StoreErrorKind::Unusable);
    assert_eq!(SqliteStore::open(":memory:").await.unwrap_err().kind(), StoreErrorKind::Unusable);
}

#[tokio::test]
async fn a_feed_that_was_trimmed_says_that_all_changed() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.file()).await.unwrap();
    conformance::account(&store).await;
    let raw = Connection::open(folder.file()).unwrap();
    raw.execute("INSERT INTO change (seq, kind) VALUES (150000, 'all')", []).unwrap();
    raw.execute("DELETE FROM change WHERE seq < 150000", []).unwrap();
    let changes = store.changes(crate::store::FeedPosition(0)).await.unwrap();
    assert_eq!((changes.items, changes.position.0), (vec![crate::store::Changed::All], 150_000));
}
