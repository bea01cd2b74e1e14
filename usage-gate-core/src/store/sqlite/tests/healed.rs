//! A database that was restored from a backup learns from the records what it has forgotten.

use rusqlite::Connection;

use super::{Folder, at, manual};
use crate::model::{Per, StreamId, TenantId};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::store::{
    CounterId, LeaseCall, LeaseId, LeaseReport, LeaseRequest, NodeIdentity, QuotaStore, SqliteStore, Subject, TableId,
};

fn counter() -> CounterId {
    CounterId {
        tenant: TenantId::generate(),
        subject: Subject::Tenant,
        limit: "monthly".into(),
        meter: "requests".into(),
        per: Per::Month,
    }
}

fn request(counter: &CounterId, want: u64) -> LeaseRequest {
    LeaseRequest {
        lease: LeaseId::generate(),
        counter: counter.clone(),
        calendar: Calendar::new(Zone::UTC, AnchorDay::FIRST),
        cap: 100,
        cap_version: 1,
        want,
        beyond_cap: false,
    }
}

async fn ask(store: &SqliteStore, node: &NodeIdentity, reports: Vec<LeaseReport>, request: LeaseRequest) -> (u64, u64) {
    let call = LeaseCall { node: node.clone(), reports, returns: vec![], requests: vec![request] };
    let grant = store.lease(&call).await.unwrap().grants[0];
    (grant.units, grant.window.granted)
}

fn record_use(folder: &Folder, counter: &CounterId, units: i64) {
    let raw = Connection::open(folder.file()).unwrap();
    let start: jiff::Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    raw.execute(
        "INSERT INTO counter_use (tag, period_start, tenant, units) VALUES (?1, ?2, x'', ?3)
         ON CONFLICT DO UPDATE SET units = excluded.units",
        (counter.tag().0.to_be_bytes(), start.as_microsecond(), units),
    )
    .unwrap();
}

#[tokio::test]
async fn a_window_is_healed_once_a_life_when_it_is_first_touched() {
    let (folder, manual) = (Folder::new(), manual());
    let store = at(&folder, &manual).await;
    let (new, known) = (counter(), counter());
    let first = NodeIdentity { node: "a".to_owned(), boot: StreamId::generate(), table: TableId::generate() };
    store.register(&first).await.unwrap();
    let lease = request(&known, 20);
    assert_eq!(ask(&store, &first, vec![], lease.clone()).await, (20, 20));

    record_use(&folder, &new, 90);
    record_use(&folder, &known, 30);
    assert_eq!(ask(&store, &first, vec![], request(&new, 40)).await, (10, 100), "a window that was lost");
    assert_eq!(ask(&store, &first, vec![], request(&known, 5)).await, (5, 25), "a record may be ahead of its report");

    let later = NodeIdentity { boot: StreamId::generate(), ..first };
    store.register(&later).await.unwrap();
    // The lease is in debt by 4: that is on its report, and will be booked when it is closed.
    let debt = LeaseReport { lease: lease.lease, used: 24 };
    assert_eq!(ask(&store, &later, vec![debt], request(&known, 5)).await, (5, 31));
    record_use(&folder, &known, 60);
    assert_eq!(ask(&store, &later, vec![], request(&known, 5)).await, (5, 36));
}
