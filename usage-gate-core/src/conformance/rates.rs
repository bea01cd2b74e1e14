//! What every [`RateStore`] does.
//!
//! A store that may forget has to be of an incarnation that is known for two minutes: then what is absent is full.

use std::time::Duration;

use super::quotas::counter;
pub use super::rate_walk::{agrees_with_the_bucket, agrees_with_the_bucket_through_incarnations};
use crate::clock::{Clock, ManualClock};
use crate::model::Per;
use crate::store::{
    CounterId, LONGEST_RATE_LEASE, RateAnswer, RateCall, RateGrant, RateLeaseId, RateReport, RateRequest, RateState,
    RateStore, RateTerms, SLOT_LEASE_TIME, SlotGrant, SlotRequest,
};

/// Runs every case of [`rates`](crate::conformance::rates) that needs no clock.
#[macro_export]
macro_rules! rate_store_tests {
    ($make:expr) => {
        $crate::conformance_cases! {
            rates, $make,
            r1_a_burst_passes_and_then_no_more_than_the_rate
            r1_what_is_lent_occupies_the_bucket
            r1_many_nodes_at_once_get_no_more_than_the_burst
            a_repeated_call_grants_the_same
            reports_and_returns_count_once
            a_return_of_an_unknown_lease_creates_nothing
            a_lowered_burst_grants_nothing_until_what_is_lent_fits
            with_no_want_nothing_is_granted
            counters_do_not_mix
            places_of_all_nodes_are_never_more_than_the_limit
            many_nodes_at_once_get_no_more_places_than_the_limit
            a_repeated_call_gives_the_same_places
            a_late_call_takes_no_places_away
            what_a_node_keeps_is_noted_beyond_a_lowered_limit
            active_nodes_are_counted
        }
    };
}

/// Refills in a minute, as slowly as any that a store may forget; lent for a second.
const TERMS: RateTerms = RateTerms { units: 100, seconds: 60, burst: 100 };

fn rate() -> CounterId {
    CounterId { per: Per::Minute, ..counter() }
}

fn request(counter: &CounterId, want: u64) -> RateRequest {
    let (spent, returned) = (Vec::new(), Vec::new());
    RateRequest { counter: counter.clone(), terms: TERMS, spent, returned, lease: RateLeaseId::generate(), want }
}

async fn ask<S: RateStore>(store: &S, node: &str, request: RateRequest) -> RateGrant {
    let call = RateCall { node: node.to_owned(), rates: vec![request], slots: Vec::new() };
    store.lease_rates(&call).await.expect("the store is there").rates[0]
}

async fn state<S: RateStore>(store: &S, counter: &CounterId) -> RateState {
    ask(store, "b", request(counter, 0)).await.state
}

async fn tell<S: RateStore>(store: &S, counter: &CounterId, lease: RateLeaseId, spent: u64) -> RateState {
    let spent = vec![RateReport { lease, spent }];
    ask(store, "a", RateRequest { spent, ..request(counter, 0) }).await.state
}

async fn give_back<S: RateStore>(store: &S, counter: &CounterId, lease: RateLeaseId, spent: u64) -> RateState {
    let returned = vec![RateReport { lease, spent }];
    ask(store, "a", RateRequest { returned, ..request(counter, 0) }).await.state
}

/// What `case` gives if it took so little time that no lease ended, and how many units may have come in it.
async fn at_once<T>(mut case: impl AsyncFnMut() -> T) -> (T, u64) {
    let mut tries = 0..20;
    loop {
        let clock = Clock::system();
        let begun = clock.monotonic();
        let outcome = case().await;
        let took = Duration::from_nanos(clock.monotonic().nanos_since(begun));
        // A store that is too slow to be judged is judged all the same in the end.
        if took < LONGEST_RATE_LEASE * 9 / 10 || tries.next().is_none() {
            let came = u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / 600_000;
            return (outcome, came + 1);
        }
    }
}

#[track_caller]
fn check(found: u64, expected: u64, came: u64) {
    assert!((expected..=expected + came).contains(&found), "{found}, not {expected} and up to {came} of the refill");
}

/// The whole burst at once, and nothing with it.
pub async fn r1_a_burst_passes_and_then_no_more_than_the_rate<S: RateStore>(store: &S) {
    let (units, came) = at_once(async || {
        let (counter, mut units) = (rate(), 0);
        for want in [60, 60, 60, 60] {
            let request = request(&counter, want);
            let lease = request.lease;
            let granted = ask(store, "a", request).await.units;
            tell(store, &counter, lease, granted).await;
            units += granted;
        }
        units
    })
    .await;
    check(units, 100, came);
}

/// Held or spent: until that is told there is no refill beside it.
pub async fn r1_what_is_lent_occupies_the_bucket<S: RateStore>(store: &S) {
    let ((first, then), _) = at_once(async || {
        let counter = rate();
        (ask(store, "a", request(&counter, 100)).await, ask(store, "b", request(&counter, 1)).await)
    })
    .await;
    assert_eq!((first.units, first.state.level, first.state.outstanding), (100, 0, 100));
    assert_eq!((then.units, then.state.level, then.state.outstanding), (0, 0, 100));
    assert!(then.state.next_in <= LONGEST_RATE_LEASE && !then.state.next_in.is_zero());
}

/// However their calls meet.
pub async fn r1_many_nodes_at_once_get_no_more_than_the_burst<S: RateStore>(store: &S) {
    let (units, came) = at_once(async || {
        let counter = rate();
        let takes = async |node: &str| {
            let mut units = 0;
            for _ in 0..15 {
                units += ask(store, node, request(&counter, 3)).await.units;
            }
            units
        };
        let (a, b, c, d) = tokio::join!(takes("a"), takes("b"), takes("c"), takes("d"));
        a + b + c + d
    })
    .await;
    check(units, 100, came);
}

/// Nothing is lent twice.
pub async fn a_repeated_call_grants_the_same<S: RateStore>(store: &S) {
    let ((units, after), came) = at_once(async || {
        let counter = rate();
        let request = request(&counter, 30);
        let mut units = Vec::new();
        for _ in 0..3 {
            units.push(ask(store, "a", request.clone()).await.units);
        }
        (units, state(store, &counter).await)
    })
    .await;
    assert_eq!((units, after.outstanding), (vec![30; 3], 30));
    check(after.level, 70, came);
}

/// In whatever order they come.
pub async fn reports_and_returns_count_once<S: RateStore>(store: &S) {
    let (states, came) = at_once(async || {
        let (counter, ask_for) = (rate(), 50);
        let request = request(&counter, ask_for);
        let lease = request.lease;
        ask(store, "a", request).await;
        let told = [tell(store, &counter, lease, 20).await, tell(store, &counter, lease, 10).await];
        let returned = [give_back(store, &counter, lease, 15).await, give_back(store, &counter, lease, 0).await];
        [told, returned].concat()
    })
    .await;
    assert_eq!(states.iter().map(|state| state.outstanding).collect::<Vec<_>>(), [30, 30, 0, 0]);
    for (state, level) in states.iter().zip([50, 50, 80, 80]) {
        check(state.level, level, came);
    }
}

/// What is said of it is not believed.
pub async fn a_return_of_an_unknown_lease_creates_nothing<S: RateStore>(store: &S) {
    let (after, came) = at_once(async || {
        let counter = rate();
        let request = request(&counter, 90);
        let lease = request.lease;
        ask(store, "a", request).await;
        tell(store, &counter, lease, 90).await;
        give_back(store, &counter, RateLeaseId::generate(), 0).await
    })
    .await;
    assert_eq!(after.outstanding, 0);
    check(after.level, 10, came);
}

/// And what is in the bucket is cut.
pub async fn a_lowered_burst_grants_nothing_until_what_is_lent_fits<S: RateStore>(store: &S) {
    let ((none, told, then), came) = at_once(async || {
        let counter = rate();
        let lowered = |want| RateRequest { terms: RateTerms { burst: 50, ..TERMS }, ..request(&counter, want) };
        let first = request(&counter, 60);
        let lease = first.lease;
        ask(store, "a", first).await;
        let none = ask(store, "a", lowered(10)).await;
        let spent = vec![RateReport { lease, spent: 60 }];
        let told = ask(store, "a", RateRequest { spent, ..lowered(0) }).await;
        (none, told, ask(store, "a", lowered(50)).await)
    })
    .await;
    assert_eq!((none.units, none.state.level, none.state.outstanding), (0, 0, 60));
    assert_eq!(told.state.outstanding, 0);
    check(then.units, 0, came);
}

/// It only tells.
pub async fn with_no_want_nothing_is_granted<S: RateStore>(store: &S) {
    let grant = ask(store, "a", request(&rate(), 0)).await;
    assert_eq!(grant, RateGrant { units: 0, state: RateState { level: 100, outstanding: 0, next_in: Duration::ZERO } });
}

/// Not of tenants, limits or subjects.
pub async fn counters_do_not_mix<S: RateStore>(store: &S) {
    let (one, other) = (rate(), rate());
    let other_limit = CounterId { limit: "other".into(), ..one.clone() };
    let rates = [&one, &other, &other_limit].map(|counter| request(counter, 100)).to_vec();
    let answer = store.lease_rates(&RateCall { node: "a".to_owned(), rates, slots: Vec::new() }).await;
    let RateAnswer { rates, .. } = answer.expect("the store is there");
    assert_eq!(rates.iter().map(|grant| grant.units).collect::<Vec<_>>(), [100; 3]);
}

fn open() -> CounterId {
    CounterId { per: Per::Second, ..counter() }
}

/// One node's call, with a limit of 10.
async fn places<S: RateStore>(
    store: &S,
    counter: &CounterId,
    node: &str,
    (sequence, keep, more): (u64, u64, u64),
) -> SlotGrant {
    let request = SlotRequest { counter: counter.clone(), sequence, limit: 10, keep, more };
    let call = RateCall { node: node.to_owned(), rates: Vec::new(), slots: vec![request] };
    store.lease_rates(&call).await.expect("the store is there").slots[0]
}

const fn grant(slots: u64, elsewhere: u64) -> SlotGrant {
    SlotGrant { slots, elsewhere }
}

/// And what one gives back another gets.
pub async fn places_of_all_nodes_are_never_more_than_the_limit<S: RateStore>(store: &S) {
    let counter = open();
    assert_eq!(places(store, &counter, "a", (1, 0, 7)).await, grant(7, 0));
    assert_eq!(places(store, &counter, "b", (1, 0, 7)).await, grant(3, 7));
    assert_eq!(places(store, &counter, "a", (2, 2, 0)).await, grant(2, 3));
    assert_eq!(places(store, &counter, "b", (2, 3, 7)).await, grant(8, 2));
}

/// However their calls meet.
pub async fn many_nodes_at_once_get_no_more_places_than_the_limit<S: RateStore>(store: &S) {
    let counter = open();
    let takes = async |node: &str| {
        let mut held = 0;
        for sequence in 1..10 {
            held = places(store, &counter, node, (sequence, held, 1)).await.slots;
        }
        held
    };
    let (a, b, c, d) = tokio::join!(takes("a"), takes("b"), takes("c"), takes("d"));
    assert_eq!(a + b + c + d, 10);
}

/// Nothing is given twice.
pub async fn a_repeated_call_gives_the_same_places<S: RateStore>(store: &S) {
    let counter = open();
    for _ in 0..3 {
        assert_eq!(places(store, &counter, "a", (1, 2, 4)).await, grant(6, 0));
    }
    assert_eq!(places(store, &counter, "b", (1, 0, 10)).await, grant(4, 6));
}

/// Its node has been given more since.
pub async fn a_late_call_takes_no_places_away<S: RateStore>(store: &S) {
    let counter = open();
    places(store, &counter, "a", (1, 0, 2)).await;
    places(store, &counter, "a", (3, 2, 6)).await;
    assert_eq!(places(store, &counter, "a", (2, 1, 0)).await, grant(1, 0));
    assert_eq!(places(store, &counter, "b", (1, 0, 10)).await, grant(2, 8));
}

/// Its requests are open, whatever the limit says now.
pub async fn what_a_node_keeps_is_noted_beyond_a_lowered_limit<S: RateStore>(store: &S) {
    let counter = open();
    assert_eq!(places(store, &counter, "a", (1, 12, 5)).await, grant(12, 0));
    assert_eq!(places(store, &counter, "b", (1, 0, 1)).await, grant(0, 12));
}

/// By their names.
pub async fn active_nodes_are_counted<S: RateStore>(store: &S) {
    let mut counts = Vec::new();
    for node in ["a", "b", "a"] {
        let call = RateCall { node: node.to_owned(), rates: Vec::new(), slots: Vec::new() };
        counts.push(store.lease_rates(&call).await.expect("the store is there").active_nodes);
    }
    assert_eq!(counts, [1, 2, 2]);
}

/// What a dead node had comes back when its lease ends, and not before. The store reads the wall of `clock`.
pub async fn what_a_dead_node_had_comes_back_when_its_lease_ends<S: RateStore>(store: &S, clock: &ManualClock) {
    let (counter, limit) = (rate(), open());
    assert_eq!(ask(store, "a", request(&counter, 100)).await.units, 100);
    assert_eq!(places(store, &limit, "a", (1, 0, 10)).await, grant(10, 0));
    clock.advance_millis(999);
    assert_eq!(ask(store, "b", request(&counter, 100)).await.units, 0);
    // From the end of the lease on it refills: 100 in a minute.
    clock.advance_millis(3_001);
    assert_eq!(ask(store, "b", request(&counter, 100)).await.units, 5);
    clock.advance_millis(u32::try_from(SLOT_LEASE_TIME.as_millis()).unwrap_or(0) - 4_001);
    assert_eq!(places(store, &limit, "b", (1, 0, 10)).await, grant(0, 10));
    clock.advance_millis(1);
    assert_eq!(places(store, &limit, "b", (2, 0, 10)).await, grant(10, 0));
}
