//! What was spent without a lease comes from two sides, its holder and its records, and is booked once.

use std::collections::BTreeSet;

use super::healed::{ask, counter, request};
use super::{Folder, at, manual};
use crate::conformance::usage::{batch, record, who};
use crate::model::{StreamId, Timestamp};
use crate::period::{AnchorDay, Calendar, Period, Zone};
use crate::store::{
    AuditQuery, Batch, CounterAudit, CounterId, LeaseCall, LeaseDebt, LeaseId, NodeIdentity, QuotaStore, QuotaUse,
    SqliteStore, TableId, UsageReader, UsageRecord, UsageSink,
};
use crate::verify::{UnderWay, verify};

struct Stage {
    _folder: Folder,
    store: SqliteStore,
    counter: CounterId,
    period: Period,
    debt: LeaseId,
}

impl Stage {
    async fn new() -> Self {
        let (folder, manual) = (Folder::new(), manual());
        let (store, counter) = (at(&folder, &manual).await, counter());
        let period = Calendar::new(Zone::UTC, AnchorDay::FIRST).period(counter.per, manual.clock().wall());
        Self { _folder: folder, store, counter, period, debt: LeaseId::generate_debt() }
    }

    async fn register(&self, node: &NodeIdentity) {
        self.store.register(node).await.unwrap();
    }

    /// A record of the stream cites these units of the debt.
    async fn record(&self, stream: StreamId, units: i64) {
        let (lease, counter, period) = (self.debt.tag(), self.counter.tag(), self.period.start);
        let quotas = vec![QuotaUse { lease, counter, period, units }];
        let one = UsageRecord { tenant: self.counter.tenant, quotas, ..record(who(false), period) };
        let first = self.store.watermark(stream).await.unwrap() + 1;
        let batch: Batch = batch(stream, first, vec![one], vec![]);
        let last = batch.last;
        assert_eq!(self.store.accept(batch).await.unwrap(), last);
    }

    async fn tell(&self, node: &NodeIdentity, used: u64) {
        let (lease, counter, period) = (self.debt, self.counter.clone(), self.period);
        let debts = vec![LeaseDebt { lease, counter, period, cap: 100, cap_version: 1, used }];
        let call = LeaseCall { debts, ..LeaseCall::new(node) };
        self.store.lease(&call).await.unwrap();
    }

    /// Asks for so much, and gives what is granted of the window then.
    async fn granted(&self, node: &NodeIdentity, want: u64) -> u64 {
        ask(&self.store, node, vec![], request(&self.counter, want)).await.1
    }

    async fn audit(&self) -> (CounterAudit, bool) {
        let period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(i64::MAX) };
        let query = AuditQuery { period, tenant: None };
        let audit = self.store.audit(&query).await.unwrap();
        let report = verify(&query, &audit, &BTreeSet::new(), [], |_| UnderWay::default());
        (audit.counters[0].clone(), report.ok)
    }
}

fn node(name: &str) -> NodeIdentity {
    NodeIdentity { node: name.to_owned(), boot: StreamId::generate(), table: TableId::generate() }
}

#[tokio::test]
async fn b9_a_debt_that_is_recorded_before_it_is_told_counts_once() {
    let (stage, one, other) = (Stage::new().await, node("a"), node("b"));
    stage.register(&one).await;
    stage.record(one.boot, 30).await;
    let (counter, ok) = stage.audit().await;
    assert_eq!((counter.owed, counter.used(), ok), (30, 0, true), "it is under way");
    // The window is first touched in the life of another node, while the first is about to tell.
    stage.register(&other).await;
    assert_eq!(stage.granted(&other, 5).await, 35);
    stage.record(one.boot, 4).await;
    stage.tell(&one, 37).await;
    assert_eq!(stage.granted(&other, 5).await, 47);
    stage.record(one.boot, 3).await;
    let third = node("c");
    stage.register(&third).await;
    assert_eq!(stage.granted(&third, 1).await, 48);
    let (counter, ok) = stage.audit().await;
    assert_eq!((counter.owed, counter.used(), counter.recorded, ok), (0, 37, 37, true));
}

#[tokio::test]
async fn b9_a_debt_that_is_told_before_it_is_recorded_counts_once() {
    let (stage, one) = (Stage::new().await, node("a"));
    stage.register(&one).await;
    stage.tell(&one, 30).await;
    stage.record(one.boot, 30).await;
    let later = NodeIdentity { boot: StreamId::generate(), ..one.clone() };
    stage.register(&later).await;
    // Its answer was lost.
    stage.tell(&later, 30).await;
    assert_eq!(stage.granted(&later, 5).await, 35);
    // Late records of the dead life.
    stage.record(one.boot, 0).await;
    assert_eq!(stage.granted(&later, 5).await, 40);
    assert_eq!(stage.audit().await.0.used(), 30);
}

#[tokio::test]
async fn b9_what_a_reboot_made_a_node_forget_is_booked_from_records_whoever_holds_leases() {
    let (stage, one, other) = (Stage::new().await, node("a"), node("b"));
    stage.register(&one).await;
    stage.register(&other).await;
    assert_eq!(stage.granted(&other, 40).await, 40);
    let (rebooted, dead) = (node("a"), one.boot);
    stage.register(&rebooted).await;
    assert_eq!(stage.granted(&rebooted, 1).await, 41);
    stage.record(dead, 7).await;
    assert_eq!(stage.granted(&rebooted, 1).await, 49);
    assert_eq!(stage.granted(&rebooted, 1).await, 50);
    let (counter, ok) = stage.audit().await;
    assert_eq!((counter.used(), counter.recorded, ok), (7, 7, true));
}
