//! Talks to the quota authority: many counters in one call, off the request path.
//!
//! Requests that find too little leased, and leases that run low, put their counter into a queue. One task takes all that is queued,
//! makes one call of it, and wakes who waits. Once a second it reports what was spent, tells what was spent without a lease, returns what has ended,
//! and sends leases back that nobody uses. A call whose answer was lost is repeated as it was: the same lease ids get the same grants.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::counter::Answer;
use super::inherit::Fate;
use super::slot::Granted;
use super::{Counter, CounterState, Counters, Found, LeaseEntry, LeaseTable, QuotaCounter, Return, Slot, inherit};
use crate::clock::{Clock, Monotonic};
use crate::metrics::Metrics;
use crate::store::{
    CounterId, LeaseAnswer, LeaseCall, LeaseId, LeaseReport, LeaseRequest, NodeIdentity, OpenLease, QuotaStore,
    StoreError, StoreErrorKind,
};

/// Counters in one call, at most: a bound on the transaction.
const MOST_COUNTERS: usize = 512;

/// Counters that want to be asked for.
#[derive(Debug, Default)]
pub(crate) struct LeaseQueue {
    counters: Mutex<Vec<Arc<Counter>>>,
    wake: Notify,
}

impl LeaseQueue {
    /// Queues a quota counter, once until it is asked for.
    pub(crate) fn ask_for(&self, counter: &Arc<Counter>) {
        if let CounterState::Quota(quota) = &counter.state
            && quota.enqueue()
        {
            self.counters.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(counter));
            self.wake.notify_one();
        }
    }

    fn take(&self) -> Vec<Arc<Counter>> {
        let mut queued = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = queued.len().min(MOST_COUNTERS);
        queued.drain(..taken).collect()
    }
}

/// The task's state.
#[derive(Debug)]
pub(crate) struct LeaseDriver {
    pub(crate) store: Arc<dyn QuotaStore>,
    pub(crate) node: NodeIdentity,
    pub(crate) table: Arc<LeaseTable>,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) queue: Arc<LeaseQueue>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether the last call failed.
    pub(crate) away: AtomicBool,
    /// Counts calls, for tests and for who wants to know what a request costs.
    pub(crate) calls: AtomicU64,
    /// One call at a time: reports before reads must not overtake one another.
    pub(crate) turn: tokio::sync::Mutex<Option<Pending>>,
}

/// A call that was made and not yet answered, with what it means for the counters.
#[derive(Debug)]
pub(crate) struct Pending {
    call: LeaseCall,
    parts: Vec<Part>,
    /// Leases of an earlier life that go back without anybody having counted there.
    left: Vec<(CounterId, Arc<LeaseEntry>)>,
}

#[derive(Debug)]
struct Part {
    counter: Arc<Counter>,
    /// Leases that are returned, and debts.
    ended: Vec<Arc<LeaseEntry>>,
    reported: Vec<(Arc<LeaseEntry>, u64)>,
    /// Index of its request in the call, and where the lease is to be kept.
    request: Option<(usize, Slot)>,
}

/// What a round of the driver is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// Units are wanted.
    Queued,
    /// A second has passed.
    Tick,
    /// Everything goes back.
    Drain,
}

impl LeaseDriver {
    /// Runs until the future is dropped.
    pub(crate) async fn run(&self) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut superseded = false;
        loop {
            let round = tokio::select! {
                () = self.queue.wake.notified() => Round::Queued,
                _ = tick.tick() => Round::Tick,
            };
            if round == Round::Tick {
                self.counters.sweep(self.clock.monotonic());
            }
            if superseded {
                self.refuse_queued();
                continue;
            }
            if let Err(error) = self.round(round).await {
                // Its leases are another life's: this one is never answered again.
                superseded = error.kind() == StoreErrorKind::Superseded;
                tracing::warn!(error = &error as &dyn std::error::Error, "quota store did not answer");
                // Back off without deafness: who is refused meanwhile was told at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                self.queue.wake.notify_one();
            }
        }
    }

    /// Takes over what earlier lives of this node have left: `open` at the authority, `found` in the table. Returns what is not spent on, and tells
    /// what they owe, in the first call of this life; to be called before the gate serves.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer: the next life does it again.
    pub(crate) async fn take_over(&self, open: &[OpenLease], found: Vec<Found>) -> Result<(), StoreError> {
        let now = self.clock.monotonic();
        let plan = inherit(open, found.iter().map(|found| &found.entry), now);
        let call = LeaseCall { reports: plan.reports, returns: plan.returns, debts: plan.debts, ..self.nothing() };
        if !call.is_empty() {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.store.lease(&call).await?;
        }
        let mut left = Vec::new();
        for (found, fate) in found.into_iter().zip(plan.fates) {
            match fate {
                Fate::SpentOn => {
                    let used = found.entry.used();
                    let lease = LeaseEntry::take_over(found.slot, &found.entry, used, now);
                    left.push((found.entry.counter, Arc::new(lease)));
                }
                Fate::Freed => found.slot.release(),
            }
        }
        self.counters.inherit(left, now);
        self.table.make_room(0);
        Ok(())
    }

    /// A call that says nothing yet.
    fn nothing(&self) -> LeaseCall {
        let (reports, returns, debts, requests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        LeaseCall { node: self.node.clone(), reports, returns, debts, requests }
    }

    /// Reports what was spent, so that reads of the authority are fresh.
    pub(crate) async fn report(&self) -> Result<(), StoreError> {
        self.round(Round::Tick).await
    }

    /// Gives every lease back.
    pub(crate) async fn give_back(&self) -> Result<(), StoreError> {
        self.round(Round::Drain).await
    }

    pub(crate) async fn round(&self, round: Round) -> Result<(), StoreError> {
        let mut turn = self.turn.lock().await;
        // Also while there is no answer: requests go on where a limit goes on.
        self.table.make_room(0);
        if let Some(pending) = turn.take() {
            // The outcome of the last call is unknown: repeat it before anything new.
            self.send(&mut turn, pending).await?;
        }
        loop {
            let counters = match round {
                Round::Queued => self.queue.take(),
                Round::Tick | Round::Drain => self.counters.quotas(),
            };
            self.table.make_room(counters.len().min(MOST_COUNTERS));
            let mut pending = self.compose(&counters, round);
            if round != Round::Queued {
                pending.left = self.counters.take_left(self.clock.monotonic(), round == Round::Drain);
                let returns = pending.left.iter().map(|(_, entry)| entry.returned());
                pending.call.returns.extend(returns);
            }
            if !pending.call.is_empty() {
                self.send(&mut turn, pending).await?;
            }
            if round != Round::Queued || counters.len() < MOST_COUNTERS {
                return Ok(());
            }
        }
    }

    fn compose(&self, counters: &[Arc<Counter>], round: Round) -> Pending {
        let now = self.clock.monotonic();
        let mut call = self.nothing();
        let mut sorted: Vec<&Arc<Counter>> = counters.iter().collect();
        // Sorted, so that calls of several nodes lock counters in one order.
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let mut parts = Vec::new();
        for counter in sorted {
            let CounterState::Quota(quota) = &counter.state else { continue };
            let part = compose_part(counter, quota, round, now, &self.table, &mut call);
            if part.request.is_some() || !part.ended.is_empty() || !part.reported.is_empty() {
                parts.push(part);
            }
        }
        Pending { call, parts, left: Vec::new() }
    }

    async fn send(&self, turn: &mut Option<Pending>, pending: Pending) -> Result<(), StoreError> {
        let sent = self.clock.monotonic();
        self.calls.fetch_add(1, Ordering::Relaxed);
        // Kept before the await: who drops this future (abort, a client that left) must not drop the call.
        let kept = turn.insert(pending);
        match self.store.lease(&kept.call).await {
            Ok(answer) => {
                self.away.store(false, Ordering::Release);
                self.metrics.lease_call(true);
                if let Some(pending) = turn.take() {
                    self.take_in(pending, &answer, sent);
                }
                Ok(())
            }
            Err(error) => {
                self.away.store(true, Ordering::Release);
                self.metrics.lease_call(false);
                let now = self.clock.monotonic();
                for part in &kept.parts {
                    if let CounterState::Quota(quota) = &part.counter.state {
                        quota.fail(now);
                    }
                }
                if error.kind() != StoreErrorKind::Unavailable
                    && let Some(refused) = turn.take()
                {
                    self.put_back(refused, now);
                }
                Err(error)
            }
        }
    }

    /// The store did nothing of a call and would do nothing of it again: no lease was granted or closed. Leases that were to end go into a
    /// later call.
    fn put_back(&self, refused: Pending, now: Monotonic) {
        for (_, slot) in refused.parts.into_iter().filter_map(|part| part.request) {
            slot.release();
        }
        self.counters.inherit(refused.left, now);
    }

    /// Tells all who wait that there is no answer.
    fn refuse_queued(&self) {
        let now = self.clock.monotonic();
        loop {
            let queued = self.queue.take();
            for counter in &queued {
                if let CounterState::Quota(quota) = &counter.state
                    && quota.begin_asking(now).is_some()
                {
                    quota.fail(now);
                }
            }
            if queued.len() < MOST_COUNTERS {
                return;
            }
        }
    }

    fn take_in(&self, pending: Pending, answer: &LeaseAnswer, sent: Monotonic) {
        for (_, entry) in &pending.left {
            entry.release();
        }
        for part in pending.parts {
            let CounterState::Quota(quota) = &part.counter.state else { continue };
            for (entry, used) in &part.reported {
                entry.reported.fetch_max(*used, Ordering::Relaxed);
            }
            let grant = part
                .request
                .and_then(|(at, slot)| Some((pending.call.requests.get(at)?, answer.grants.get(at)?, slot)));
            let mut until_end = 0;
            let mut begun = None;
            let mut answered = None;
            if let Some((request, grant, slot)) = grant {
                until_end = answer.now.micros_until(grant.window.period.end).saturating_mul(1_000);
                answered = Some((request, grant));
                if grant.units > 0 {
                    let granted = Granted {
                        period: grant.window.period,
                        // Counted from when the question left, so that the deadline is never later than the authority's.
                        deadline: sent.plus_nanos(until_end),
                        size: grant.units,
                    };
                    begun = Some(Arc::new(LeaseEntry::open(grant.lease, slot, &granted, sent)));
                } else {
                    slot.release();
                }
            }
            quota.apply(
                &part.ended,
                begun,
                &Answer {
                    window: answered.map(|(_, grant)| grant.window),
                    active_nodes: answer.active_nodes,
                    request: answered.map(|(request, grant)| (request.want, grant.units)),
                    now: self.clock.monotonic(),
                    until_period_end: until_end,
                },
            );
            // The authority has closed them, and nothing is taken from them any more.
            for entry in &part.ended {
                entry.release();
            }
        }
    }
}

fn compose_part(
    counter: &Arc<Counter>,
    quota: &QuotaCounter,
    round: Round,
    now: Monotonic,
    table: &Arc<LeaseTable>,
    call: &mut LeaseCall,
) -> Part {
    let asking = match round {
        Round::Queued => quota.begin_asking(now),
        Round::Tick | Round::Drain => None,
    };
    let open = quota.open_leases();
    let spent = |entry: &Arc<LeaseEntry>| entry.used() > entry.reported.load(Ordering::Relaxed);
    let idle = round == Round::Tick && quota.is_idle(open.iter().any(spent));
    drop(open);
    let why = match round {
        Round::Drain => Return::All,
        _ if idle => Return::Idle,
        _ => Return::Over,
    };
    let too_small = asking.map_or(0, |asking| asking.needed);
    let mut ended: Vec<Arc<LeaseEntry>> = quota.leases_to_return(now, too_small, why).into_vec();
    for entry in &ended {
        call.returns.push(entry.returned());
    }
    for debt in quota.debts_to_tell(now, why) {
        match debt.told(&counter.id, &quota.terms()) {
            Some(told) => {
                call.debts.push(told);
                ended.push(debt);
            }
            None => quota.let_go(&debt),
        }
    }
    let mut reported = Vec::new();
    for entry in quota.open_leases() {
        let used = entry.used();
        if !entry.is_returning() && used > entry.reported.load(Ordering::Relaxed) {
            call.reports.push(LeaseReport { lease: entry.lease, used });
            reported.push((entry, used));
        }
    }
    let request = asking.and_then(|asking| {
        let terms = quota.terms();
        let lease = LeaseId::generate();
        // In the table before it is asked for: a grant whose answer is lost can be given back by the next life.
        let Some(slot) = table.ask(lease, &counter.id) else {
            quota.fail(now);
            return None;
        };
        call.requests.push(LeaseRequest {
            lease,
            counter: counter.id.clone(),
            calendar: terms.calendar,
            cap: terms.cap,
            cap_version: terms.cap_version,
            want: asking.want,
            beyond_cap: terms.beyond_cap,
            early: false,
            needed: 0,
        });
        Some((call.requests.len() - 1, slot))
    });
    Part { counter: Arc::clone(counter), ended, reported, request }
}

impl LeaseCall {
    fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.returns.is_empty() && self.debts.is_empty() && self.requests.is_empty()
    }
}
