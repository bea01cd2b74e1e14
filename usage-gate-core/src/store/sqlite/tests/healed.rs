//! A database that was restored from a backup learns from the records what it has forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::Connection;

use super::{Folder, at, manual};
use crate::conformance::usage::{batch, record, who};
use crate::model::{Per, StreamId, TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, Period, Zone};
use crate::store::{
    AuditQuery, CounterAudit, CounterId, LeaseCall, LeaseId, LeaseReport, LeaseRequest, MemoryStore, NodeIdentity,
    QuotaStore, QuotaUse, SqliteStore, Subject, TableId, UsageReader, UsageRecord, UsageSink,
};
use crate::verify::{UnderWay, verify};

pub(super) fn counter() -> CounterId {
    CounterId {
        tenant: TenantId::generate(),
        subject: Subject::Tenant,
        limit: "monthly".into(),
        meter: "requests".into(),
        per: Per::Month,
    }
}

pub(super) fn request(counter: &CounterId, want: u64) -> LeaseRequest {
    LeaseRequest {
        lease: LeaseId::generate(),
        counter: counter.clone(),
        calendar: Calendar::new(Zone::UTC, AnchorDay::FIRST),
        cap: 100,
        cap_version: 1,
        want,
        beyond_cap: false,
        early: false,
        needed: 0,
    }
}

pub(super) async fn ask(
    store: &SqliteStore,
    node: &NodeIdentity,
    reports: Vec<LeaseReport>,
    request: LeaseRequest,
) -> (u64, u64) {
    let call = LeaseCall { reports, requests: vec![request], ..LeaseCall::new(node) };
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

#[tokio::test]
async fn records_of_a_dead_life_that_come_late_heal_too() {
    let (folder, manual) = (Folder::new(), manual());
    let store = at(&folder, &manual).await;
    let counter = counter();
    let node = NodeIdentity { node: "a".to_owned(), boot: StreamId::generate(), table: TableId::generate() };
    store.register(&node).await.unwrap();
    assert_eq!(ask(&store, &node, vec![], request(&counter, 20)).await, (20, 20));

    let start: jiff::Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    let period = Timestamp::from_micros(start.as_microsecond());
    let used = QuotaUse { lease: 1, counter: counter.tag(), period, units: 50 };
    let late = UsageRecord { tenant: counter.tenant, quotas: vec![used], ..record(who(false), period) };
    // Of the present life nothing is healed: its leases count that.
    store.accept(batch(node.boot, 1, vec![late.clone()], vec![])).await.unwrap();
    assert_eq!(ask(&store, &node, vec![], request(&counter, 5)).await, (5, 25));
    let dead = UsageRecord { quotas: vec![QuotaUse { units: 10, ..used }], ..late };
    store.accept(batch(StreamId::generate(), 1, vec![dead], vec![])).await.unwrap();
    assert_eq!(ask(&store, &node, vec![], request(&counter, 5)).await, (5, 65));
}

#[tokio::test]
async fn what_a_lost_table_made_spent_is_told_to_an_audit() {
    let (folder, manual) = (Folder::new(), manual());
    let stores: [(Arc<dyn QuotaStore>, Arc<dyn UsageReader>); 2] = {
        let (sqlite, memory) = (at(&folder, &manual).await, MemoryStore::new(manual.clock()));
        [(Arc::new(sqlite.clone()), Arc::new(sqlite)), (Arc::new(memory.clone()), Arc::new(memory))]
    };
    for (quotas, reader) in stores {
        let counter = counter();
        let node = NodeIdentity { node: "a".to_owned(), boot: StreamId::generate(), table: TableId::generate() };
        quotas.register(&node).await.unwrap();
        let wanted = request(&counter, 20);
        let reports = vec![LeaseReport { lease: wanted.lease, used: 5 }];
        quotas.lease(&LeaseCall { requests: vec![wanted], ..LeaseCall::new(&node) }).await.unwrap();
        quotas.lease(&LeaseCall { reports, ..LeaseCall::new(&node) }).await.unwrap();
        let later = NodeIdentity { boot: StreamId::generate(), table: TableId::generate(), ..node };
        quotas.register(&later).await.unwrap();
        // Kept through the next grant.
        let call = LeaseCall { requests: vec![request(&counter, 1)], ..LeaseCall::new(&later) };
        quotas.lease(&call).await.unwrap();
        let period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(i64::MAX) };
        let audit = reader.audit(&AuditQuery { period, tenant: None }).await.unwrap();
        let found = &audit.counters[0];
        assert_eq!((found.used(), found.written_off), (20, 15));
        let report =
            verify(&AuditQuery { period, tenant: None }, &audit, &BTreeSet::new(), [], |_| UnderWay::default());
        assert!(!report.ok, "the five that were reported are under way to nobody");
        let reported = |_: &CounterAudit| UnderWay { not_recorded: 5, not_reported: 0 };
        let report = verify(&AuditQuery { period, tenant: None }, &audit, &BTreeSet::new(), [], reported);
        assert!(report.ok, "{:?}", report.differences);
        assert_eq!(report.under_way[0].written_off, 15);
    }
}
