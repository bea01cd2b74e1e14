//! What every [`QuotaStore`] does.

use crate::clock::ManualClock;
use crate::model::{KeyId, Per, StreamId, TenantId, UserId};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::store::{
    CounterId, LeaseAnswer, LeaseCall, LeaseGrant, LeaseId, LeaseReport, LeaseRequest, NodeIdentity, OpenLease,
    QuotaStore, StoreErrorKind, Subject, TableId, WindowQuery, WindowState,
};

pub use super::quota_walk::agrees_with_the_ledger;

/// Runs every case of [`quotas`](crate::conformance::quotas) that needs no clock.
#[macro_export]
macro_rules! quota_store_tests {
    ($make:expr) => {
        $crate::conformance_cases! {
            quotas, $make,
            a1_grants_end_at_the_cap
            a1_a_lowered_cap_keeps_the_use_and_stops_grants
            a1_an_older_plan_version_changes_no_cap
            a1_a_debt_is_booked_cap_or_no_cap
            beyond_the_cap_the_whole_wish_is_granted
            a2_what_was_not_used_goes_back
            reports_show_use_and_never_go_back
            a_repeated_call_grants_the_same_and_debits_nothing
            a5_a_return_of_an_unknown_lease_creates_nothing
            a5_a_second_return_gives_back_nothing
            a5_a_return_of_another_nodes_lease_changes_nothing
            a6_under_another_table_a_former_life_s_leases_are_spent
            a6_under_the_same_table_leases_go_over_to_the_next_life
            a_late_call_of_a_former_life_is_superseded
            registering_the_same_life_again_changes_nothing
            an_unregistered_node_is_superseded
            several_nodes_share_what_is_left
            counters_do_not_mix
            a_window_that_nothing_used_has_the_cap_asked_for
            subjects_are_listed_fullest_first
        }
    };
}

pub(super) fn node(name: &str) -> NodeIdentity {
    NodeIdentity { node: name.to_owned(), boot: StreamId::generate(), table: TableId::generate() }
}

/// The next life of a node that still has its table.
pub(super) fn next_life(former: &NodeIdentity) -> NodeIdentity {
    NodeIdentity { boot: StreamId::generate(), ..former.clone() }
}

pub(super) fn counter() -> CounterId {
    CounterId {
        tenant: TenantId::generate(),
        subject: Subject::Tenant,
        limit: "monthly".into(),
        meter: "requests".into(),
        per: Per::Month,
    }
}

pub(super) fn calendar() -> Calendar {
    Calendar::new(Zone::UTC, AnchorDay::FIRST)
}

fn request(counter: &CounterId, want: u64) -> LeaseRequest {
    LeaseRequest {
        lease: LeaseId::generate(),
        counter: counter.clone(),
        calendar: calendar(),
        cap: 100,
        cap_version: 1,
        want,
        beyond_cap: false,
    }
}

fn call(node: &NodeIdentity) -> LeaseCall {
    LeaseCall { node: node.clone(), reports: Vec::new(), returns: Vec::new(), requests: Vec::new() }
}

async fn ask<S: QuotaStore>(store: &S, node: &NodeIdentity, request: LeaseRequest) -> LeaseGrant {
    let answer = store.lease(&LeaseCall { requests: vec![request], ..call(node) }).await.expect("the store is there");
    answer.grants[0]
}

async fn report<S: QuotaStore>(store: &S, node: &NodeIdentity, lease: LeaseId, used: u64) {
    let reports = vec![LeaseReport { lease, used }];
    store.lease(&LeaseCall { reports, ..call(node) }).await.expect("the store is there");
}

async fn give_back<S: QuotaStore>(store: &S, node: &NodeIdentity, lease: LeaseId, used: u64) {
    let returns = vec![LeaseReport { lease, used }];
    store.lease(&LeaseCall { returns, ..call(node) }).await.expect("the store is there");
}

async fn window<S: QuotaStore>(store: &S, counter: &CounterId) -> WindowState {
    let query = WindowQuery { counter: counter.clone(), calendar: calendar(), cap: 100 };
    store.windows(&[query]).await.expect("the store is there")[0]
}

async fn registered<S: QuotaStore>(store: &S, name: &str) -> NodeIdentity {
    let node = node(name);
    store.register(&node).await.expect("the store is there");
    node
}

/// Not one unit more.
pub async fn a1_grants_end_at_the_cap<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let grants = [60, 30, 30, 1].map(|want| request(&counter, want));
    let mut units = Vec::new();
    for request in grants {
        units.push(ask(store, &node, request).await.units);
    }
    assert_eq!(units, [60, 30, 10, 0]);
    let window = window(store, &counter).await;
    assert_eq!((window.cap, window.granted, window.used), (100, 100, 0));
}

/// Raising it again lets go on.
pub async fn a1_a_lowered_cap_keeps_the_use_and_stops_grants<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    ask(store, &node, request(&counter, 60)).await;
    let lowered = LeaseRequest { cap: 50, cap_version: 2, ..request(&counter, 5) };
    let grant = ask(store, &node, lowered).await;
    assert_eq!((grant.units, grant.window.cap, grant.window.granted), (0, 50, 60));
    let raised = LeaseRequest { cap: 70, cap_version: 3, ..request(&counter, 50) };
    let grant = ask(store, &node, raised).await;
    assert_eq!((grant.units, grant.window.cap, grant.window.granted), (10, 70, 70));
}

/// Nodes learn of a new plan one after the other.
pub async fn a1_an_older_plan_version_changes_no_cap<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    ask(store, &node, LeaseRequest { cap: 10, cap_version: 2, ..request(&counter, 1) }).await;
    let late = ask(store, &node, LeaseRequest { cap: 1_000, cap_version: 1, ..request(&counter, 500) }).await;
    assert_eq!((late.units, late.window.cap), (9, 10));
}

/// What was used is true.
pub async fn a1_a_debt_is_booked_cap_or_no_cap<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let grant = ask(store, &node, request(&counter, 100)).await;
    give_back(store, &node, grant.lease, 130).await;
    let window = window(store, &counter).await;
    assert_eq!((window.granted, window.used), (130, 130));
    assert_eq!(ask(store, &node, request(&counter, 1)).await.units, 0);
}

/// `when_exceeded = "allow"`.
pub async fn beyond_the_cap_the_whole_wish_is_granted<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let beyond = |want| LeaseRequest { beyond_cap: true, ..request(&counter, want) };
    assert_eq!(ask(store, &node, beyond(80)).await.units, 80);
    let grant = ask(store, &node, beyond(80)).await;
    assert_eq!((grant.units, grant.window.granted), (80, 160));
    give_back(store, &node, grant.lease, 0).await;
    assert_eq!(window(store, &counter).await.granted, 80);
}

/// And can be granted again.
pub async fn a2_what_was_not_used_goes_back<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let grant = ask(store, &node, request(&counter, 100)).await;
    give_back(store, &node, grant.lease, 30).await;
    let window = window(store, &counter).await;
    assert_eq!((window.granted, window.used), (30, 30));
    assert_eq!(ask(store, &node, request(&counter, 100)).await.units, 70);
}

/// They may be repeated or reordered.
pub async fn reports_show_use_and_never_go_back<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let grant = ask(store, &node, request(&counter, 50)).await;
    for used in [20, 5, 20] {
        report(store, &node, grant.lease, used).await;
        let window = window(store, &counter).await;
        assert_eq!((window.granted, window.used, window.reserved()), (50, 20, 30));
    }
    // A request that held units when they were reported needed fewer in the end.
    give_back(store, &node, grant.lease, 10).await;
    let window = window(store, &counter).await;
    assert_eq!((window.granted, window.used), (10, 10), "the return is the last word");
}

/// After a lost answer.
pub async fn a_repeated_call_grants_the_same_and_debits_nothing<S: QuotaStore>(store: &S) {
    let (node, one, two) = (registered(store, "a").await, counter(), counter());
    let requests = vec![request(&one, 70), request(&two, 20)];
    let call = LeaseCall { requests, ..call(&node) };
    let first = store.lease(&call).await.expect("the store is there");
    ask(store, &node, request(&one, 30)).await;
    let again = store.lease(&call).await.expect("the store is there");
    let units = |answer: &LeaseAnswer| answer.grants.iter().map(|grant| (grant.lease, grant.units)).collect::<Vec<_>>();
    assert_eq!(units(&first), units(&again));
    assert_eq!(window(store, &one).await.granted, 100);
    give_back(store, &node, first.grants[0].lease, 0).await;
    let closed = store.lease(&call).await.expect("the store is there");
    assert_eq!(units(&closed), units(&first), "also after it was closed");
    assert_eq!(window(store, &one).await.granted, 30, "and is not opened again");
}

/// Nor does a report.
pub async fn a5_a_return_of_an_unknown_lease_creates_nothing<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    ask(store, &node, request(&counter, 100)).await;
    give_back(store, &node, LeaseId::generate(), 0).await;
    report(store, &node, LeaseId::generate(), 7).await;
    let window = window(store, &counter).await;
    assert_eq!((window.granted, window.used), (100, 0));
}

/// Whatever it says.
pub async fn a5_a_second_return_gives_back_nothing<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let grant = ask(store, &node, request(&counter, 100)).await;
    for used in [40, 0, 90] {
        give_back(store, &node, grant.lease, used).await;
        report(store, &node, grant.lease, 99).await;
        let window = window(store, &counter).await;
        assert_eq!((window.granted, window.used), (40, 40));
    }
}

/// Only its holder knows what is left.
pub async fn a5_a_return_of_another_nodes_lease_changes_nothing<S: QuotaStore>(store: &S) {
    let (one, two, counter) = (registered(store, "a").await, registered(store, "b").await, counter());
    let grant = ask(store, &one, request(&counter, 100)).await;
    give_back(store, &two, grant.lease, 0).await;
    assert_eq!(window(store, &counter).await.granted, 100);
}

/// Nobody can say what was left of them.
pub async fn a6_under_another_table_a_former_life_s_leases_are_spent<S: QuotaStore>(store: &S) {
    let (former, counter) = (registered(store, "a").await, counter());
    let grant = ask(store, &former, request(&counter, 40)).await;
    report(store, &former, grant.lease, 10).await;
    let later = node("a");
    assert_eq!(store.register(&later).await.expect("the store is there"), []);
    assert_eq!(window(store, &counter).await.used, 40);
    give_back(store, &later, grant.lease, 10).await;
    assert_eq!(window(store, &counter).await.granted, 40);
    assert_eq!(ask(store, &later, request(&counter, 100)).await.units, 60);
}

/// It reads there what is left of them.
pub async fn a6_under_the_same_table_leases_go_over_to_the_next_life<S: QuotaStore>(store: &S) {
    let (former, counter) = (registered(store, "a").await, counter());
    let first = ask(store, &former, request(&counter, 40)).await;
    let closed = ask(store, &former, request(&counter, 5)).await;
    let second = ask(store, &former, request(&counter, 20)).await;
    report(store, &former, first.lease, 10).await;
    give_back(store, &former, closed.lease, 2).await;
    let later = next_life(&former);
    let open = store.register(&later).await.expect("the store is there");
    let period = first.window.period;
    let expected = [(first.lease, 40, 10), (second.lease, 20, 0)].map(|(lease, size, used)| OpenLease {
        lease,
        size,
        used,
        period,
    });
    assert_eq!(open, expected);
    let state = window(store, &counter).await;
    assert_eq!((state.granted, state.used), (62, 12), "registering spends nothing and gives nothing back");
    give_back(store, &later, second.lease, 0).await;
    give_back(store, &later, first.lease, 15).await;
    assert_eq!(window(store, &counter).await.granted, 17);
    // And under another table after all.
    ask(store, &later, request(&counter, 30)).await;
    assert_eq!(store.register(&node("a")).await.expect("the store is there"), []);
    assert_eq!(window(store, &counter).await.used, 47);
}

/// What it was granted too late, nobody would know of.
pub async fn a_late_call_of_a_former_life_is_superseded<S: QuotaStore>(store: &S) {
    let (former, counter) = (registered(store, "a").await, counter());
    for later in [next_life(&former), node("a")] {
        store.register(&later).await.expect("the store is there");
        let late = LeaseCall { requests: vec![request(&counter, 10)], ..call(&former) };
        let error = store.lease(&late).await.expect_err("a later life has registered");
        assert_eq!(error.kind(), StoreErrorKind::Superseded);
        assert_eq!(window(store, &counter).await.granted, 0);
    }
}

/// A start that was repeated after a lost answer.
pub async fn registering_the_same_life_again_changes_nothing<S: QuotaStore>(store: &S) {
    let (former, counter) = (registered(store, "a").await, counter());
    let grant = ask(store, &former, request(&counter, 40)).await;
    let later = next_life(&former);
    let open = store.register(&later).await.expect("the store is there");
    assert_eq!(store.register(&later).await.expect("the store is there"), open);
    assert_eq!((open.len(), open[0].lease), (1, grant.lease));
    give_back(store, &later, grant.lease, 0).await;
    assert_eq!(window(store, &counter).await.granted, 0);
}

/// It has to announce itself first.
pub async fn an_unregistered_node_is_superseded<S: QuotaStore>(store: &S) {
    let error = store.lease(&call(&node("unknown"))).await.expect_err("it is not registered");
    assert_eq!(error.kind(), StoreErrorKind::Superseded);
}

/// Down to the last unit, and none twice.
pub async fn several_nodes_share_what_is_left<S: QuotaStore>(store: &S) {
    if !store.promises().many_nodes {
        return;
    }
    let (one, two, counter) = (registered(store, "a").await, registered(store, "b").await, counter());
    assert_eq!(ask(store, &one, request(&counter, 20)).await.units, 20);
    let answer = store.lease(&LeaseCall { requests: vec![request(&counter, 80)], ..call(&two) }).await;
    let answer = answer.expect("the store is there");
    assert_eq!((answer.grants[0].units, answer.active_nodes), (20, 2), "80 are left, of which a fourth");
    let mut granted = 40;
    for round in 0..100 {
        granted += ask(store, if round % 2 == 0 { &one } else { &two }, request(&counter, 80)).await.units;
    }
    assert_eq!(granted, 100);
}

/// Not by subject, limit, meter or period.
pub async fn counters_do_not_mix<S: QuotaStore>(store: &S) {
    let (node, base) = (registered(store, "a").await, counter());
    let counters = [
        CounterId { subject: Subject::User(None), ..base.clone() },
        CounterId { subject: Subject::User(Some(UserId::generate())), ..base.clone() },
        CounterId { subject: Subject::Key(KeyId::generate()), ..base.clone() },
        CounterId { subject: Subject::Ip([192, 0, 2, 1].into()), ..base.clone() },
        CounterId { limit: "other".into(), ..base.clone() },
        CounterId { meter: "rows".into(), ..base.clone() },
        CounterId { per: Per::Day, ..base.clone() },
        base,
    ];
    for counter in &counters {
        assert_eq!(ask(store, &node, request(counter, 100)).await.units, 100, "{counter}");
    }
}

/// Before its first use.
pub async fn a_window_that_nothing_used_has_the_cap_asked_for<S: QuotaStore>(store: &S) {
    let window = window(store, &counter()).await;
    assert_eq!((window.cap, window.granted, window.used), (100, 0, 0));
    assert!(window.period.start < window.period.end);
}

/// Of one limit of one tenant.
pub async fn subjects_are_listed_fullest_first<S: QuotaStore>(store: &S) {
    let (node, base) = (registered(store, "a").await, counter());
    let subjects = [
        Subject::Key(KeyId::generate()),
        Subject::User(Some(UserId::generate())),
        Subject::User(None),
        Subject::Ip("2001:db8::".parse().expect("an address")),
        Subject::Ip([192, 0, 2, 1].into()),
        Subject::Tenant,
    ];
    for (want, subject) in (10..).zip(subjects) {
        ask(store, &node, request(&CounterId { subject, ..base.clone() }, want)).await;
    }
    ask(store, &node, request(&CounterId { limit: "other".into(), ..base.clone() }, 99)).await;
    ask(store, &node, request(&counter(), 99)).await;
    let template = WindowQuery { counter: base, calendar: calendar(), cap: 100 };
    let found = store.subjects(&template, 10).await.expect("the store is there");
    let listed: Vec<_> = found.iter().map(|(counter, window)| (counter.subject, window.granted)).collect();
    let expected: Vec<_> = subjects.into_iter().rev().zip((10..=15).rev()).collect();
    assert_eq!(listed, expected);
    assert_eq!(store.subjects(&template, 2).await.expect("the store is there").len(), 2);
}

/// It can still be returned, and the new period is whole. The store reads `clock`.
pub async fn a4_a_lease_of_an_ended_period_counts_in_its_own<S: QuotaStore>(store: &S, clock: &ManualClock) {
    let (node, counter) = (registered(store, "a").await, counter());
    let old = ask(store, &node, request(&counter, 100)).await;
    clock.set_wall(old.window.period.end);
    let new = ask(store, &node, request(&counter, 100)).await;
    assert_eq!((new.units, new.window.period.start), (100, old.window.period.end));
    give_back(store, &node, old.lease, 0).await;
    assert_eq!(window(store, &counter).await.granted, 100);
    clock.set_wall(old.window.period.start);
    assert_eq!(window(store, &counter).await.granted, 0);
}
