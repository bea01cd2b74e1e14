//! What a [`QuotaStore`] does for a request that waits, at the end of a period, and for a rate store that asks how old it is.

use std::time::Duration;

use super::quotas::{ask, counter, give_back, registered, request, window};
use crate::clock::ManualClock;
use crate::model::Per;
use crate::store::{CounterId, LeaseCall, LeaseId, LeaseRequest, NodeIdentity, QuotaStore};

/// One that needs so many units at once.
fn waiting(counter: &CounterId, needed: u64) -> LeaseRequest {
    LeaseRequest { needed, ..request(counter, needed) }
}

/// What a node is told to give back.
async fn recalled<S: QuotaStore>(store: &S, node: &NodeIdentity) -> Vec<LeaseId> {
    store.lease(&LeaseCall::new(node)).await.expect("the store is there").recalled
}

/// Until they are given back.
pub async fn leases_are_recalled_for_a_request_that_waits<S: QuotaStore>(store: &S) {
    if !store.promises().many_nodes {
        return;
    }
    let (holder, asker, counter) = (registered(store, "a").await, registered(store, "b").await, counter());
    let mut held = Vec::new();
    for want in [60, 40] {
        held.push(ask(store, &holder, request(&counter, want)).await.lease);
    }
    held.sort_unstable();
    let asked = LeaseCall { requests: vec![waiting(&counter, 5)], ..LeaseCall::new(&asker) };
    let answer = store.lease(&asked).await.expect("the store is there");
    assert_eq!((answer.grants[0].units, answer.recalled), (0, vec![]));
    for _ in 0..2 {
        assert_eq!(recalled(store, &holder).await, held);
    }
    assert_eq!(window(store, &counter).await.granted, 100, "nobody gives back but the holder");
    give_back(store, &holder, held[0], 10).await;
    assert_eq!(recalled(store, &holder).await, held[1..]);
    assert_eq!(ask(store, &asker, waiting(&counter, 5)).await.units, 5);
    assert_eq!(recalled(store, &asker).await, [], "what it was just granted is not meant");
    give_back(store, &holder, held[1], 0).await;
    assert_eq!(recalled(store, &holder).await, []);
}

/// Nor where nobody else has any.
pub async fn nothing_is_recalled_that_nobody_waits_for<S: QuotaStore>(store: &S) {
    let (holder, asker, counter) = (registered(store, "a").await, registered(store, "b").await, counter());
    let lease = ask(store, &holder, request(&counter, 100)).await.lease;
    ask(store, &asker, request(&counter, 5)).await;
    let beyond = LeaseRequest { beyond_cap: true, ..waiting(&counter, 5) };
    assert_eq!(ask(store, &asker, beyond).await.units, 5);
    assert_eq!(recalled(store, &holder).await, []);
    give_back(store, &holder, lease, 100).await;
    let other = CounterId { limit: "other".into(), ..counter };
    ask(store, &holder, request(&other, 100)).await;
    ask(store, &holder, waiting(&other, 5)).await;
    assert_eq!(recalled(store, &holder).await, []);
}

/// Also where its share is less.
pub async fn a_request_that_waits_gets_what_it_needs_in_one_lease<S: QuotaStore>(store: &S) {
    if !store.promises().many_nodes {
        return;
    }
    let (one, two, counter) = (registered(store, "a").await, registered(store, "b").await, counter());
    ask(store, &one, request(&counter, 20)).await;
    assert_eq!(ask(store, &two, waiting(&counter, 70)).await.units, 70);
    assert_eq!(recalled(store, &one).await, []);
    assert_eq!(ask(store, &two, waiting(&counter, 11)).await.units, 10, "all that is left");
    assert_eq!(recalled(store, &one).await.len(), 1);
}

/// Where no recall comes.
pub async fn waiting_for_recalls_ends_by_itself<S: QuotaStore>(store: &S) {
    let waited = tokio::time::timeout(Duration::from_secs(20), store.recalls()).await;
    waited.expect("about a second").expect("the store is there");
}

/// A minute is always the next one.
pub async fn a4_an_early_lease_is_of_the_period_a_minute_ahead<S: QuotaStore>(store: &S) {
    let (node, monthly) = (registered(store, "a").await, counter());
    for per in [Per::Minute, Per::Hour, Per::Month] {
        let counter = CounterId { per, ..monthly.clone() };
        let early = LeaseRequest { early: true, ..request(&counter, 100) };
        let asked = LeaseCall { requests: vec![early], ..LeaseCall::new(&node) };
        let answer = store.lease(&asked).await.expect("the store is there");
        let period = answer.grants[0].window.period;
        assert!(period.contains(answer.now.plus_micros(60_000_000)), "{} is not ahead of {}", period.start, answer.now);
        assert_eq!((answer.grants[0].units, answer.grants[0].window.granted), (100, 100));
    }
}

/// And counts there. The store reads `clock`.
pub async fn a4_units_of_the_next_period_are_leased_a_minute_early<S: QuotaStore>(store: &S, clock: &ManualClock) {
    let (node, counter) = (registered(store, "a").await, counter());
    let present = window(store, &counter).await.period;
    let early = || LeaseRequest { early: true, ..request(&counter, 100) };
    clock.set_wall(present.end.plus_micros(-60_000_001));
    assert_eq!(ask(store, &node, early()).await.window.period, present);
    clock.set_wall(present.end.plus_micros(-60_000_000));
    let next = ask(store, &node, early()).await;
    assert_eq!((next.units, next.window.period.start), (100, present.end));
    assert_eq!(ask(store, &node, request(&counter, 1)).await.window.period, present);
    assert_eq!(window(store, &counter).await.granted, 100);
    clock.set_wall(present.end);
    assert_eq!(window(store, &counter).await.granted, 100);
    assert_eq!(ask(store, &node, request(&counter, 1)).await.units, 0);
}

/// Zero is safe, and what is said of the first question of each.
pub async fn r3_an_incarnation_is_as_old_as_the_first_question<S: QuotaStore>(store: &S) {
    // What was lent before it nobody can have heard of.
    let first = store.incarnation_age("first").await.expect("the store is there");
    assert!(first.is_zero() || first >= Duration::from_secs(600), "{first:?}");
    for incarnation in ["one", "two"] {
        assert_eq!(store.incarnation_age(incarnation).await.expect("the store is there"), Duration::ZERO);
    }
    let mut before = Duration::ZERO;
    for _ in 0..3 {
        let age = store.incarnation_age("one").await.expect("the store is there");
        assert!(before <= age && age < Duration::from_secs(60), "{age:?} after {before:?}");
        before = age;
    }
}
