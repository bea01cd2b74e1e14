//! Random calls to a [`RateStore`], beside the bucket and the places of the specification.

use std::collections::HashMap;

use super::quota_walk::seed;
use super::quotas::counter;
use crate::clock::ManualClock;
use crate::model::{KeyId, Per};
use crate::rates::bucket::{Bucket, Incarnation};
use crate::rates::slots::Slots;
use crate::store::{
    CounterId, RateAnswer, RateCall, RateLeaseId, RateReport, RateRequest, RateStore, RateTerms, SlotRequest, Subject,
};

/// A few thousand random calls go to the store and to the rules in `rates/bucket.rs` and `rates/slots.rs`; every answer has to be the same. The store is empty, reads
/// the wall of `clock`, and forgets nothing.
///
/// `USAGE_GATE_TEST_SEED` repeats a run: a failure says which seed it had.
pub async fn agrees_with_the_bucket<S: RateStore>(store: &S, clock: &ManualClock) {
    let mut walk = Walk::new(seed(), clock, None);
    for step in 0..STEPS {
        walk.step(store, step).await;
    }
}

/// The same for a store that may forget: now and then `forget` is called, after which the store has to be of another incarnation, known just from that moment on, and either empty or
/// with whatever it had. That of the beginning is known from the call on.
pub async fn agrees_with_the_bucket_through_incarnations<S: RateStore>(
    store: &S,
    clock: &ManualClock,
    mut forget: impl AsyncFnMut(),
) {
    let mut walk = Walk::new(seed(), clock, Some(wall(clock)));
    for step in 0..STEPS {
        if walk.below(60) == 0 {
            forget().await;
            walk.incarnation += 1;
            walk.known_since = Some(wall(clock));
        }
        walk.step(store, step).await;
    }
}

const STEPS: u32 = 3_000;
const COUNTERS: usize = 4;
/// For how long a node that is not heard of is counted.
const ACTIVE_MICROS: u64 = 60_000_000;

/// All of them such as an authority may keep that forgets.
const TERMS: [(u64, u64, u64); 8] = [
    (100, 1, 100),
    (100, 1, 20),
    (7, 1, 3),
    (60, 60, 1),
    (5, 60, 5),
    (1_000_000, 60, 2_000),
    (3_600, 3_600, 50),
    (999_983, 1, 7_000_000),
];

fn wall(clock: &ManualClock) -> u64 {
    u64::try_from(clock.clock().wall().as_micros()).expect("after 1970")
}

/// What random nodes do, and what the specification makes of it.
#[derive(Debug)]
struct Walk<'a> {
    state: u64,
    seed: u64,
    clock: &'a ManualClock,
    counters: Vec<CounterId>,
    terms: Vec<RateTerms>,
    limits: Vec<u64>,
    leases: Vec<RateLeaseId>,
    calls: Vec<RateCall>,
    sequence: u64,
    buckets: HashMap<CounterId, Bucket>,
    slots: HashMap<CounterId, Slots>,
    heard: HashMap<String, u64>,
    incarnation: u64,
    known_since: Option<u64>,
}

impl<'a> Walk<'a> {
    fn new(seed: u64, clock: &'a ManualClock, known_since: Option<u64>) -> Self {
        let base = CounterId { per: Per::Second, ..counter() };
        let others = (1..COUNTERS).map(|_| CounterId { subject: Subject::Key(KeyId::generate()), ..base.clone() });
        let counters = std::iter::once(base.clone()).chain(others).collect();
        let mut walk = Self {
            state: seed,
            seed,
            clock,
            counters,
            terms: Vec::new(),
            limits: vec![10; COUNTERS],
            leases: vec![RateLeaseId::generate()],
            calls: Vec::new(),
            sequence: 1,
            buckets: HashMap::new(),
            slots: HashMap::new(),
            heard: HashMap::new(),
            incarnation: 1,
            known_since,
        };
        walk.terms = (0..COUNTERS).map(|_| walk.random_terms()).collect();
        walk
    }

    /// SplitMix64.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn index(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length.max(1)).unwrap_or(1);
        usize::try_from(self.below(bound)).unwrap_or(0)
    }

    /// One of the last few, or of all.
    fn known_lease(&mut self, recent: usize) -> RateLeaseId {
        let from = self.leases.len().saturating_sub(recent);
        let at = from + self.index(self.leases.len() - from);
        self.leases[at]
    }

    fn random_terms(&mut self) -> RateTerms {
        let (units, seconds, burst) = TERMS[self.index(TERMS.len())];
        RateTerms { units, seconds, burst }
    }

    async fn step<S: RateStore>(&mut self, store: &S, step: u32) {
        self.time_passes();
        let call = self.call();
        let expected = self.expected(&call);
        let answer = store.lease_rates(&call).await.expect("the store is there");
        assert_eq!(answer, expected, "step {step}, USAGE_GATE_TEST_SEED={}: {call:?}", self.seed);
    }

    fn time_passes(&mut self) {
        let millis = match self.below(30) {
            0 => self.below(100_000),
            1..=3 => self.below(2_000),
            4..=15 => self.below(60),
            _ => 0,
        };
        self.clock.advance_millis(u32::try_from(millis).unwrap_or(0));
        // Now and then the clock of a machine is set back a little. Where something is forgotten that would change when it was known.
        if self.known_since.is_none() && self.below(80) == 0 {
            let back = self.below(3_000_000);
            self.set_back(back);
        }
    }

    /// Not beyond a moment at which something was forgotten: when that is really dropped is the store's business.
    fn set_back(&self, by: u64) {
        let now = wall(self.clock);
        let heard = self.heard.values().map(|heard| heard + ACTIVE_MICROS);
        let buckets = self.buckets.values().map(|bucket| bucket.forgotten);
        let slots = self.slots.values().flat_map(|slots| slots.holders.iter().map(|holder| holder.ends));
        if !heard.chain(buckets).chain(slots).any(|end| (now - by..=now).contains(&end)) {
            let by = i64::try_from(by).unwrap_or(0);
            self.clock.set_wall(self.clock.clock().wall().plus_micros(-by));
        }
    }

    fn reports(&mut self) -> Vec<RateReport> {
        let count = self.below(4).saturating_sub(1);
        (0..count)
            .map(|_| {
                let lease = if self.below(10) > 0 { self.known_lease(10) } else { RateLeaseId::generate() };
                RateReport { lease, spent: if self.below(50) == 0 { u64::MAX >> 12 } else { self.below(40) } }
            })
            .collect()
    }

    fn rate(&mut self, at: usize) -> RateRequest {
        if self.below(40) == 0 {
            self.terms[at] = self.random_terms();
        }
        let (spent, returned) = (self.reports(), self.reports());
        let lease = if self.below(20) == 0 { self.known_lease(usize::MAX) } else { RateLeaseId::generate() };
        self.leases.push(lease);
        let most = self.terms[at].burst.saturating_mul(2).min(200);
        let want = if self.below(6) == 0 { self.terms[at].burst } else { self.below(most) };
        RateRequest { counter: self.counters[at].clone(), terms: self.terms[at], spent, returned, lease, want }
    }

    fn places(&mut self, at: usize) -> SlotRequest {
        if self.below(40) == 0 {
            self.limits[at] = self.below(20);
        }
        self.sequence += 1;
        let late = if self.below(15) == 0 { self.below(20) } else { 0 };
        let sequence = self.sequence.saturating_sub(late);
        let (keep, more) = (self.below(8), self.below(6));
        SlotRequest { counter: self.counters[at].clone(), sequence, limit: self.limits[at], keep, more }
    }

    fn call(&mut self) -> RateCall {
        if !self.calls.is_empty() && self.below(8) == 0 {
            let recent = self.calls.len().saturating_sub(5);
            let at = recent + self.index(self.calls.len() - recent);
            return self.calls[at].clone();
        }
        let node = ["a", "b", "c"][self.index(3)].to_owned();
        // At most one request for each counter, in any order.
        let (first, count) = (self.index(COUNTERS), self.index(3));
        let rates = (0..count).map(|next| self.rate((first + next) % COUNTERS)).collect();
        let count = self.index(3);
        let slots = (0..count).map(|next| self.places((first + next) % COUNTERS)).collect();
        let call = RateCall { node, rates, slots };
        self.calls.push(call.clone());
        call
    }

    fn expected(&mut self, call: &RateCall) -> RateAnswer {
        let now = wall(self.clock);
        let incarnation = self.known_since.map(|since| Incarnation { id: self.incarnation, age: now - since });
        let mut answer = RateAnswer::default();
        for request in &call.rates {
            let (bucket, grant) = Bucket::step(self.buckets.remove(&request.counter), now, incarnation, request);
            self.buckets.insert(request.counter.clone(), bucket);
            answer.rates.push(grant);
        }
        for request in &call.slots {
            let kept = self.slots.remove(&request.counter);
            let (slots, grant) = Slots::step(kept, now, incarnation, &call.node, request);
            self.slots.insert(request.counter.clone(), slots);
            answer.slots.push(grant);
        }
        self.heard.insert(call.node.clone(), now);
        let active = self.heard.values().filter(|heard| now.saturating_sub(**heard) < ACTIVE_MICROS).count();
        answer.active_nodes = u32::try_from(active).unwrap_or(u32::MAX);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::store::StoreError;

    /// A store that is the specification, and may forget.
    #[derive(Debug)]
    struct Forgetful {
        clock: ManualClock,
        kept: Mutex<Kept>,
    }

    #[derive(Debug, Default)]
    struct Kept {
        incarnation: u64,
        since: u64,
        buckets: HashMap<CounterId, Bucket>,
        slots: HashMap<CounterId, Slots>,
        heard: HashMap<String, u64>,
    }

    impl Forgetful {
        fn new(clock: &ManualClock) -> Self {
            let kept = Kept { since: wall(clock), ..Kept::default() };
            Self { clock: clock.clone(), kept: Mutex::new(kept) }
        }

        fn forget(&self, empty: bool) {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.incarnation += 1;
            kept.since = wall(&self.clock);
            if empty {
                kept.buckets.clear();
                kept.slots.clear();
            }
        }
    }

    #[async_trait::async_trait]
    impl RateStore for Forgetful {
        async fn lease_rates(&self, call: &RateCall) -> Result<RateAnswer, StoreError> {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let now = wall(&self.clock);
            let known = Some(Incarnation { id: kept.incarnation, age: now - kept.since });
            let mut answer = RateAnswer::default();
            for request in &call.rates {
                let (bucket, grant) = Bucket::step(kept.buckets.remove(&request.counter), now, known, request);
                kept.buckets.insert(request.counter.clone(), bucket);
                answer.rates.push(grant);
            }
            for request in &call.slots {
                let (slots, grant) = Slots::step(kept.slots.remove(&request.counter), now, known, &call.node, request);
                kept.slots.insert(request.counter.clone(), slots);
                answer.slots.push(grant);
            }
            kept.heard.insert(call.node.clone(), now);
            let active = kept.heard.values().filter(|heard| now.saturating_sub(**heard) < ACTIVE_MICROS).count();
            answer.active_nodes = u32::try_from(active).unwrap();
            Ok(answer)
        }
    }

    fn manual() -> ManualClock {
        ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap())
    }

    #[tokio::test]
    async fn a_store_that_says_when_it_forgot_agrees() {
        let manual = manual();
        let store = Forgetful::new(&manual);
        let mut empty = false;
        let forget = async || {
            empty = !empty;
            store.forget(empty);
        };
        agrees_with_the_bucket_through_incarnations(&store, &manual, forget).await;
    }

    #[tokio::test]
    #[should_panic = "USAGE_GATE_TEST_SEED"]
    async fn a_store_that_believes_an_older_state_is_noticed() {
        let manual = manual();
        let store = Forgetful::new(&manual);
        agrees_with_the_bucket_through_incarnations(&store, &manual, async || {}).await;
    }
}
