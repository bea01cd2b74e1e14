//! All counters of this node: one per limit and subject, shared by every caller that counts there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::counter::{Counter, CounterState, IDLE_TICKS, LeaseSet, lock};
use super::{LeaseEntry, RateBucket};
use crate::clock::Monotonic;
use crate::model::LimitKind;
use crate::period::Period;
use crate::rates::{SharedRate, SharedSlots};
use crate::store::{CounterId, LeaseId, RateTerms};

/// The kind belongs to the name here: a limit that changes its kind must not go on with the state of the other.
type CounterKey = (LimitKind, CounterId);

/// Who keeps the rates of a node, and its limits of requests open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RatesKept {
    /// The node, alone.
    #[default]
    Here,
    /// One authority for several nodes.
    Shared,
    /// One that may forget, and a durable one for what takes long to refill.
    SharedByTwo,
}

/// All counters of this node.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    rates: RatesKept,
    all: Mutex<HashMap<CounterKey, Arc<Counter>>>,
    /// Leases of an earlier life whose counter nobody has asked for yet.
    left: Mutex<HashMap<CounterId, Left>>,
    /// What earlier lives spent without a lease, as long as the authority is away and was not told.
    untold: Mutex<Vec<Untold>>,
}

/// Units that an earlier life spent without a lease.
#[derive(Debug)]
pub(crate) struct Untold {
    pub(crate) counter: CounterId,
    pub(crate) period: Period,
    pub(crate) units: u64,
}

/// Leases that an earlier life has left of one counter.
#[derive(Debug)]
struct Left {
    since: Monotonic,
    leases: LeaseSet,
}

impl Counters {
    pub(crate) fn new(rates: RatesKept) -> Self {
        Self { rates, ..Self::default() }
    }

    /// How a rate begins.
    pub(crate) fn rate(&self, terms: RateTerms) -> CounterState {
        match self.rates {
            RatesKept::Here => CounterState::Rate(RateBucket::default()),
            RatesKept::Shared => CounterState::SharedRate(SharedRate::new(terms, false)),
            RatesKept::SharedByTwo => CounterState::SharedRate(SharedRate::new(terms, !terms.are_short_lived())),
        }
    }

    /// How a limit of requests open at once begins.
    pub(crate) fn slots(&self, limit: u64) -> CounterState {
        match self.rates {
            RatesKept::Here => CounterState::Open(AtomicU64::new(0)),
            RatesKept::Shared | RatesKept::SharedByTwo => CounterState::SharedSlots(Box::new(SharedSlots::new(limit))),
        }
    }

    /// The counter of this id; made by `new` if there is none.
    pub(crate) fn counter(&self, kind: LimitKind, id: CounterId, new: impl FnOnce() -> CounterState) -> Arc<Counter> {
        let mut all = lock(&self.all);
        let key = (kind, id);
        if let Some(known) = all.get(&key) {
            return Arc::clone(known);
        }
        let counter = Arc::new(Counter { tag: key.1.tag(), id: key.1.clone(), state: new() });
        if let CounterState::Quota(quota) = &counter.state
            && let Some(left) = lock(&self.left).remove(&counter.id)
        {
            quota.inherit(left.leases);
        }
        all.insert(key, Arc::clone(&counter));
        counter
    }

    /// Keeps leases that an earlier life of this node has left until somebody counts there.
    pub(crate) fn inherit(&self, leases: impl IntoIterator<Item = (CounterId, Arc<LeaseEntry>)>, now: Monotonic) {
        let mut left = lock(&self.left);
        for (counter, lease) in leases {
            left.entry(counter).or_insert_with(|| Left { since: now, leases: LeaseSet::new() }).leases.push(lease);
        }
    }

    /// Keeps in mind what earlier lives owe, since it is part of what a node may overdraw.
    pub(crate) fn note_untold(&self, untold: impl Iterator<Item = Untold>) {
        lock(&self.untold).extend(untold);
    }

    /// The authority knows what earlier lives owe.
    pub(crate) fn all_told(&self) {
        lock(&self.untold).clear();
    }

    /// What earlier lives owe of a counter in a period, and the authority was not told.
    pub(crate) fn untold(&self, counter: &CounterId, period: Period) -> u64 {
        let untold = lock(&self.untold);
        let of_counter = untold.iter().filter(|untold| untold.counter == *counter && untold.period == period);
        of_counter.map(|untold| untold.units).fold(0, u64::saturating_add)
    }

    /// Recalls leases, and gives the counters that have some of them. Those of an earlier life that nobody counts on go back with the next tick.
    pub(crate) fn recall(&self, recalled: &[LeaseId]) -> Vec<Arc<Counter>> {
        let mut found = self.quotas();
        found.retain(|counter| {
            let CounterState::Quota(quota) = &counter.state else { return false };
            let open = quota.open_leases();
            let mut named = open.iter().filter(|entry| recalled.binary_search(&entry.lease).is_ok()).peekable();
            let any = named.peek().is_some();
            named.for_each(|entry| entry.recall());
            any
        });
        let left = lock(&self.left);
        let left = left.values().flat_map(|left| &left.leases);
        left.filter(|entry| recalled.binary_search(&entry.lease).is_ok()).for_each(|entry| entry.recall());
        found
    }

    /// Whether there are leases of an earlier life that nobody has asked for.
    pub(crate) fn has_left(&self) -> bool {
        !lock(&self.left).is_empty()
    }

    /// For tests that break them.
    #[cfg(test)]
    pub(super) fn each_left(&self, mut f: impl FnMut(&LeaseEntry)) {
        lock(&self.left).values().flat_map(|left| &left.leases).for_each(|entry| f(entry));
    }

    /// Leases of an earlier life that nobody has asked for: those that are over, those that have been idle for long, or all.
    pub(crate) fn take_left(&self, now: Monotonic, all: bool) -> Vec<(CounterId, Arc<LeaseEntry>)> {
        let mut left = lock(&self.left);
        let over = |left: &mut Left| {
            all || now.nanos_since(left.since) >= IDLE_TICKS * 1_000_000_000
                || left.leases.iter().any(|entry| now >= entry.deadline || entry.is_recalled())
        };
        left.extract_if(|_, left| over(left))
            .flat_map(|(counter, left)| left.leases.into_iter().map(move |lease| (counter.clone(), lease)))
            .collect()
    }

    pub(crate) fn known(&self, kind: LimitKind, id: CounterId) -> Option<Arc<Counter>> {
        lock(&self.all).get(&(kind, id)).map(Arc::clone)
    }

    /// Counters of the same limit as `template`, whatever their subject.
    pub(crate) fn of_limit(&self, kind: LimitKind, template: &CounterId) -> Vec<Arc<Counter>> {
        let all = lock(&self.all);
        let same = |id: &CounterId| CounterId { subject: template.subject, ..id.clone() } == *template;
        all.iter().filter(|((of, id), _)| *of == kind && same(id)).map(|(_, counter)| Arc::clone(counter)).collect()
    }

    /// Every counter that is a quota.
    pub(crate) fn quotas(&self) -> Vec<Arc<Counter>> {
        let all = lock(&self.all);
        all.values().filter(|counter| matches!(counter.state, CounterState::Quota(_))).map(Arc::clone).collect()
    }

    /// Units of all quotas that are held.
    pub(crate) fn held(&self, now: Monotonic) -> u64 {
        let held = |counter: &Arc<Counter>| match &counter.state {
            CounterState::Quota(quota) => quota.held(now),
            _ => 0,
        };
        self.quotas().iter().map(held).fold(0, u64::saturating_add)
    }

    /// Forgets counters that hold nothing and that no caller refers to: a flood of addresses leaves no memory behind.
    pub(crate) fn sweep(&self, now: Monotonic) {
        lock(&self.all).retain(|_, counter| {
            Arc::strong_count(counter) > 1
                || match &counter.state {
                    CounterState::Rate(bucket) => !bucket.is_full(now),
                    CounterState::Open(open) => open.load(Ordering::Relaxed) > 0,
                    CounterState::SharedRate(rate) => !rate.is_unused(now),
                    CounterState::SharedSlots(slots) => !slots.is_unused(),
                    CounterState::Quota(quota) => !quota.is_unused(),
                }
        });
    }
}
