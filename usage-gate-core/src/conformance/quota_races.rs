//! Calls to a [`QuotaStore`] that run at the same time, are given up, or come from a life that is ending.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::quotas::{ask, counter, next_life, registered, request, window};
use crate::store::{
    CounterId, LeaseCall, LeaseId, LeaseReport, LeaseRequest, NodeIdentity, QuotaStore, StoreErrorKind,
};

/// Runs all of them at the same time.
async fn together(futures: impl IntoIterator<Item = impl Future<Output = ()>>) {
    let mut running: Vec<Pin<Box<_>>> = futures.into_iter().map(Box::pin).collect();
    poll_fn(|context| {
        running.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Repeats a call until its outcome is known.
async fn leased<S: QuotaStore>(store: &S, call: &LeaseCall) -> crate::store::LeaseAnswer {
    for _ in 0..100 {
        match store.lease(call).await {
            Err(error) if error.kind() == StoreErrorKind::Unavailable => {}
            answer => return answer.expect("the node is registered"),
        }
    }
    store.lease(call).await.expect("the store is there")
}

/// By several nodes, of several counters in one call, given back in part.
pub async fn a1_nodes_that_lease_at_the_same_time_get_the_cap_and_no_more<S: QuotaStore>(store: &S) {
    let many = store.promises().many_nodes;
    let base = counter();
    let limits = ["one", "two", "three"].map(|limit| CounterId { limit: limit.into(), ..base.clone() });
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"].into_iter().take(if many { 6 } else { 1 }) {
        nodes.push(registered(store, name).await);
    }
    together(nodes.iter().map(async |node| lease_to_the_end(store, node, &limits).await)).await;
    for counter in &limits {
        let state = window(store, counter).await;
        assert_eq!((state.granted, state.used), (100, 100), "{counter}");
    }
}

/// Spends half of what it gets until all counters are exhausted.
async fn lease_to_the_end<S: QuotaStore>(store: &S, node: &NodeIdentity, counters: &[CounterId]) {
    let mut returns = Vec::new();
    for round in 0.. {
        assert!(round < 1_000, "there is always more");
        let requests = counters.iter().map(|counter| LeaseRequest { needed: 2, ..request(counter, 10) }).collect();
        let call = LeaseCall { returns, requests, ..LeaseCall::new(node) };
        let answer = leased(store, &call).await;
        let granted = answer.grants.iter().filter(|grant| grant.units > 0);
        returns = granted.map(|grant| LeaseReport { lease: grant.lease, used: grant.units.div_ceil(2) }).collect();
        let full = |grant: &crate::store::LeaseGrant| grant.window.granted == 100 && grant.window.used == 100;
        if returns.is_empty() && answer.grants.iter().all(full) {
            return;
        }
    }
}

/// At any moment; whether it was done or not, the repeat finds it.
pub async fn a_call_that_was_given_up_is_repeated<S: QuotaStore>(store: &S) {
    let (node, counter) = (registered(store, "a").await, counter());
    let mut held: Option<LeaseReport> = None;
    let mut granted = 0;
    for round in 0..40 {
        let wanted = LeaseRequest { cap: 1_000, ..request(&counter, 10) };
        let returns = held.take().into_iter().collect();
        let call = LeaseCall { returns, requests: vec![wanted], ..LeaseCall::new(&node) };
        let _ = tokio::time::timeout(Duration::from_micros(round * 100), store.lease(&call)).await;
        let answer = leased(store, &call).await;
        // The half of the lease before is back.
        granted = if round == 0 { 10 } else { granted + 5 };
        assert_eq!((answer.grants[0].units, answer.grants[0].window.granted), (10, granted), "round {round}");
        held = Some(LeaseReport { lease: answer.grants[0].lease, used: 5 });
    }
}

/// Every grant that a former life was answered is known to the next, and after it has registered there is no other.
pub async fn a6_a_life_that_begins_knows_all_that_was_granted_before<S: QuotaStore>(store: &S) {
    let (former, counter) = (registered(store, "a").await, counter());
    let later = next_life(&former);
    let got = std::sync::Mutex::new(BTreeSet::<LeaseId>::new());
    let asking = async {
        // Bounded by the cap of 100.
        loop {
            let call = LeaseCall { requests: vec![request(&counter, 1)], ..LeaseCall::new(&former) };
            match store.lease(&call).await {
                Ok(answer) if answer.grants[0].units == 0 => break,
                Ok(answer) => drop(got.lock().expect("no panic").insert(answer.grants[0].lease)),
                Err(error) if error.kind() == StoreErrorKind::Superseded => break,
                Err(error) => assert_eq!(error.kind(), StoreErrorKind::Unavailable),
            }
        }
    };
    let registering = async {
        while got.lock().expect("no panic").len() < 5 {
            tokio::task::yield_now().await;
        }
        let open = store.register(&later).await.expect("the store is there");
        assert_eq!(window(store, &counter).await.granted, open.iter().map(|lease| lease.size).sum::<u64>());
        open.into_iter().map(|open| open.lease).collect::<BTreeSet<_>>()
    };
    let (open, ()) = tokio::join!(registering, asking);
    let got = got.into_inner().expect("no panic");
    assert!(got.is_subset(&open), "{got:?} were granted, {open:?} are open");
    let late = LeaseCall { requests: vec![request(&counter, 1)], ..LeaseCall::new(&former) };
    let error = store.lease(&late).await.expect_err("a later life has registered");
    assert_eq!(error.kind(), StoreErrorKind::Superseded);
    ask(store, &later, request(&counter, 1)).await;
}
