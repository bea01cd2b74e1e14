//! What every [`QuotaStore`] does.

use crate::clock::ManualClock;
use crate::model::{KeyId, Per, StreamId, TenantId, UserId};
use crate::period::{AnchorDay, Calendar, Period, Zone};
use crate::store::{
    CounterId, LeaseAnswer, LeaseCall, LeaseDebt, LeaseGrant, LeaseId, LeaseReport, LeaseRequest, NodeIdentity,
    OpenLease, QuotaStore, StoreErrorKind, Subject, TableId, WindowQuery, WindowState,
};

pub use super::quota_races::{
    a_call_that_was_given_up_is_repeated, a1_nodes_that_lease_at_the_same_time_get_the_cap_and_no_more,
    a6_a_life_that_begins_knows_all_that_was_granted_before,
};
pub use super::quota_recalls::{
    a_request_that_waits_gets_what_it_needs_in_one_lease, a4_an_early_lease_is_of_the_period_a_minute_ahead,
    a4_units_of_the_next_period_are_leased_a_minute_early, leases_are_recalled_for_a_request_that_waits,
    nothing_is_recalled_that_nobody_waits_for, r3_an_incarnation_is_as_old_as_the_first_question,
    waiting_for_recalls_ends_by_itself,
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
            a1_what_was_spent_without_a_lease_is_booked_whatever_the_cap
            a2_a_debt_is_booked_once_by_its_lease
            a_debt_makes_its_window_and_a_request_says_the_cap
            debts_are_booked_before_what_is_asked_in_the_same_call
            a_debt_of_a_former_life_is_told_by_the_next
            beyond_the_cap_the_whole_wish_is_granted
            a2_what_was_not_used_goes_back
            reports_show_use_and_never_go_back
            a_repeated_call_grants_the_same_and_debits_nothing
            a2_a_call_that_was_granted_nothing_is_granted_nothing_when_it_is_repeated
            a2_a_call_that_comes_after_a_later_one_is_granted_nothing_new
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
            leases_are_recalled_for_a_request_that_waits
            nothing_is_recalled_that_nobody_waits_for
            a_request_that_waits_gets_what_it_needs_in_one_lease
            waiting_for_recalls_ends_by_itself
            a4_an_early_lease_is_of_the_period_a_minute_ahead
            r3_an_incarnation_is_as_old_as_the_first_question
            a1_nodes_that_lease_at_the_same_time_get_the_cap_and_no_more
            a_call_that_was_given_up_is_repeated
            a6_a_life_that_begins_knows_all_that_was_granted_before
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

pub(super) fn request(counter: &CounterId, want: u64) -> LeaseRequest {
    LeaseRequest {
        lease: LeaseId::generate(),
        counter: counter.clone(),
        calendar: calendar(),
        cap: 100,
        cap_version: 1,
        want,
        beyond_cap: false,
        early: false,
        needed: 0,
    }
}

pub(super) async fn ask<S: QuotaStore>(store: &S, node: &NodeIdentity, request: LeaseRequest) -> LeaseGrant {
    let answer =
        store.lease(&LeaseCall { requests: vec![request], ..LeaseCall::new(node) }).await.expect("the store is there");
    answer.grants[0]
}

async fn report<S: QuotaStore>(store: &S, node: &NodeIdentity, lease: LeaseId, used: u64) {
    let reports = vec![LeaseReport { lease, used }];
    store.lease(&LeaseCall { reports, ..LeaseCall::new(node) }).await.expect("the store is there");
}

pub(super) async fn give_back<S: QuotaStore>(store: &S, node: &NodeIdentity, lease: LeaseId, used: u64) {
    let returns = vec![LeaseReport { lease, used }];
    store.lease(&LeaseCall { returns, ..LeaseCall::new(node) }).await.expect("the store is there");
}

pub(super) async fn window<S: QuotaStore>(store: &S, counter: &CounterId) -> WindowState {
    let query = WindowQuery { counter: counter.clone(), calendar: calendar(), cap: 100 };
    store.windows(&[query]).await.expect("the store is there")[0]
}

pub(super) async fn registered<S: QuotaStore>(store: &S, name: &str) -> NodeIdentity {
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

fn debt(counter: &CounterId, period: Period, used: u64) -> LeaseDebt {
    let (lease, counter) = (LeaseId::generate_debt(), counter.clone());
    LeaseDebt { lease, counter, period, cap: 100, cap_version: 1, used }
}

async fn tell<S: QuotaStore>(store: &S, node: &NodeIdentity, debts: &[LeaseDebt]) {
    store.lease(&LeaseCall { debts: debts.to_vec(), ..LeaseCall::new(node) }).await.expect("the store is there");
}

/// It is true too.
pub async fn a1_what_was_spent_without_a_lease_is_booked_whatever_the_cap<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let grant = ask(store, &node, request(&counter, 90)).await;
    tell(store, &node, &[debt(&counter, grant.window.period, 30)]).await;
    let state = window(store, &counter).await;
    assert_eq!((state.cap, state.granted, state.used), (100, 120, 30));
    assert_eq!(ask(store, &node, request(&counter, 1)).await.units, 0);
    give_back(store, &node, grant.lease, 50).await;
    assert_eq!(window(store, &counter).await.granted, 80, "what is given back of a lease is nothing of the debt");
    assert_eq!(ask(store, &node, request(&counter, 50)).await.units, 20);
}

/// Repeated, told again by another life, or with another number.
pub async fn a2_a_debt_is_booked_once_by_its_lease<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let period = window(store, &counter).await.period;
    let (one, other) = (debt(&counter, period, 7), debt(&counter, period, 2));
    for (used, expected) in [(7, 7), (7, 7), (4, 7), (9, 9), (0, 9)] {
        tell(store, &node, &[LeaseDebt { used, ..one.clone() }]).await;
        let state = window(store, &counter).await;
        assert_eq!((state.granted, state.used), (expected, expected));
    }
    let later = next_life(&node);
    store.register(&later).await.expect("the store is there");
    tell(store, &later, &[one.clone(), other.clone(), other]).await;
    assert_eq!(window(store, &counter).await.granted, 11);
    // It is closed: nothing goes back of it, and it is open for nobody.
    give_back(store, &later, one.lease, 0).await;
    assert_eq!(window(store, &counter).await.granted, 11);
    assert_eq!(store.register(&later).await.expect("the store is there"), []);
}

/// Of the next life of a node, which knows nothing of plans yet.
pub async fn a_debt_makes_its_window_and_a_request_says_the_cap<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let period = window(store, &counter).await.period;
    tell(store, &node, &[LeaseDebt { cap: 20, cap_version: 0, ..debt(&counter, period, 30) }]).await;
    let state = window(store, &counter).await;
    assert_eq!((state.cap, state.granted, state.used), (20, 30, 30));
    let known = LeaseRequest { cap_version: 0, ..request(&counter, 100) };
    let grant = ask(store, &node, known).await;
    assert_eq!((grant.units, grant.window.cap, grant.window.granted), (70, 100, 100));
    // A window that is there keeps its cap.
    tell(store, &node, &[LeaseDebt { cap: 500, cap_version: 9, ..debt(&counter, period, 1) }]).await;
    assert_eq!(window(store, &counter).await.cap, 100);
}

/// So that no more is granted than is left.
pub async fn debts_are_booked_before_what_is_asked_in_the_same_call<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let first = ask(store, &node, request(&counter, 50)).await;
    let call = LeaseCall {
        returns: vec![LeaseReport { lease: first.lease, used: 10 }],
        debts: vec![debt(&counter, first.window.period, 25)],
        requests: vec![request(&counter, 100)],
        ..LeaseCall::new(&node)
    };
    for _ in 0..2 {
        let answer = store.lease(&call).await.expect("the store is there");
        let grant = answer.grants[0];
        assert_eq!((grant.units, grant.window.granted, grant.window.used), (65, 100, 35));
    }
}

/// Its own call comes too late.
pub async fn a_debt_of_a_former_life_is_told_by_the_next<S: QuotaStore>(store: &S) {
    let (former, counter) = (registered(store, "a").await, counter());
    let debt = debt(&counter, window(store, &counter).await.period, 5);
    let later = next_life(&former);
    store.register(&later).await.expect("the store is there");
    let late = LeaseCall { debts: vec![debt.clone()], ..LeaseCall::new(&former) };
    let error = store.lease(&late).await.expect_err("a later life has registered");
    assert_eq!((error.kind(), window(store, &counter).await.granted), (StoreErrorKind::Superseded, 0));
    tell(store, &later, &[debt]).await;
    assert_eq!(window(store, &counter).await.granted, 5);
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
    let call = LeaseCall { requests, ..LeaseCall::new(&node) };
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

/// Though units have become free meanwhile: the node knows that it has nothing, and would never give them back.
pub async fn a2_a_call_that_was_granted_nothing_is_granted_nothing_when_it_is_repeated<S: QuotaStore>(store: &S) {
    let (holder, counter) = (registered(store, "a").await, counter());
    let many = store.promises().many_nodes;
    let asker = if many { registered(store, "b").await } else { holder.clone() };
    let held = ask(store, &holder, request(&counter, 100)).await;
    let refused = LeaseCall { requests: vec![request(&counter, 10)], ..LeaseCall::new(&asker) };
    assert_eq!(store.lease(&refused).await.expect("the store is there").grants[0].units, 0);
    give_back(store, &holder, held.lease, 30).await;
    // At once, and after a later call of the same node.
    for granted in [30, 40, 50] {
        let again = store.lease(&refused).await.expect("the store is there").grants[0];
        assert_eq!((again.lease, again.units), (refused.requests[0].lease, 0));
        let state = window(store, &counter).await;
        assert_eq!((state.granted, state.used), (granted, 30));
        assert_eq!(ask(store, &asker, request(&counter, 10)).await.units, 10);
    }
    // What the ledger has open is what the node knows of.
    let open = store.register(&next_life(&asker)).await.expect("the store is there");
    assert_eq!(open.iter().map(|open| open.size).sum::<u64>(), 30);
    assert!(!open.iter().any(|open| open.lease == refused.requests[0].lease));
}

/// It was overtaken: nobody waits for its answer. What else it says is true, and counts once.
pub async fn a2_a_call_that_comes_after_a_later_one_is_granted_nothing_new<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let held = ask(store, &node, request(&counter, 20)).await;
    let mut early = LeaseCall { requests: vec![request(&counter, 10)], ..LeaseCall::new(&node) };
    early.debts.push(debt(&counter, held.window.period, 5));
    let later = ask(store, &node, request(&counter, 30)).await;
    for _ in 0..2 {
        let answer = store.lease(&early).await.expect("the store is there");
        assert_eq!((answer.grants[0].units, answer.grants[0].window.granted), (0, 55));
    }
    // A call that asks for nothing overtakes none that does.
    let asks = LeaseCall { requests: vec![request(&counter, 10)], ..LeaseCall::new(&node) };
    give_back(store, &node, held.lease, 20).await;
    assert_eq!(store.lease(&asks).await.expect("the store is there").grants[0].units, 10);
    // Numbers begin anew with each life.
    let next = next_life(&node);
    let open = store.register(&next).await.expect("the store is there");
    let mut expected = [(later.lease, 30), (asks.requests[0].lease, 10)];
    expected.sort_unstable();
    assert_eq!(open.iter().map(|open| (open.lease, open.size)).collect::<Vec<_>>(), expected);
    let first = LeaseCall { number: 1, requests: vec![request(&counter, 7)], ..LeaseCall::new(&next) };
    assert_eq!(store.lease(&first).await.expect("the store is there").grants[0].units, 7);
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
        let late = LeaseCall { requests: vec![request(&counter, 10)], ..LeaseCall::new(&former) };
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
    let error = store.lease(&LeaseCall::new(&node("unknown"))).await.expect_err("it is not registered");
    assert_eq!(error.kind(), StoreErrorKind::Superseded);
}

/// Down to the last unit, and none twice.
pub async fn several_nodes_share_what_is_left<S: QuotaStore>(store: &S) {
    if !store.promises().many_nodes {
        return;
    }
    let (one, two, counter) = (registered(store, "a").await, registered(store, "b").await, counter());
    assert_eq!(ask(store, &one, request(&counter, 20)).await.units, 20);
    let answer = store.lease(&LeaseCall { requests: vec![request(&counter, 80)], ..LeaseCall::new(&two) }).await;
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

/// Also where nothing was leased of it; what is too old to be kept is passed over. The store reads `clock`.
pub async fn a4_a_debt_of_an_ended_period_counts_in_its_own<S: QuotaStore>(store: &S, clock: &ManualClock) {
    let (node, counter) = (registered(store, "a").await, counter());
    let old = window(store, &counter).await.period;
    let owed = debt(&counter, old, 5);
    clock.set_wall(old.end);
    tell(store, &node, std::slice::from_ref(&owed)).await;
    assert_eq!(window(store, &counter).await.granted, 0);
    clock.set_wall(old.start);
    let state = window(store, &counter).await;
    assert_eq!((state.granted, state.used), (5, 5));
    let other = CounterId { limit: "other".into(), ..counter };
    clock.set_wall(old.end.plus_micros(401 * 86_400_000_000));
    tell(store, &node, &[debt(&other, old, 5)]).await;
    clock.set_wall(old.start);
    assert_eq!(window(store, &other).await.granted, 0);
}
