//! Talks to the quota authority: many counters in one call, off the request path.
//!
//! Requests that find too little leased, and leases that run low, put their counter into a queue. One task takes all that is queued,
//! makes one call of it, and wakes who waits. Once a second it reports what was spent, tells what was spent without a lease, returns what has ended,
//! and sends leases back that nobody uses. A call whose answer was lost is repeated as it was: the same lease ids get the same grants.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::counter::{Answer, Asking};
use super::slot::Granted;
use super::{Counter, CounterState, Counters, LeaseEntry, LeaseTable, QuotaCounter, Return, Slot};
use crate::clock::{Clock, Monotonic};
use crate::metrics::{LeaseStore, Metrics};
use crate::store::{
    CounterId, LeaseAnswer, LeaseCall, LeaseId, LeaseReport, LeaseRequest, NodeIdentity, QuotaStore, StoreError,
    StoreErrorKind,
};

/// Leases of the next period are taken so far ahead of it, at most.
pub(super) const EARLY_MICROS: i64 = 60 * 1_000_000;
/// What takes longer than this is no answer.
const LATE_NANOS: u64 = 1_000_000_000;

/// Counters in one call, at most: a bound on the transaction.
const MOST_COUNTERS: usize = 512;

/// Counters that want to be asked for.
#[derive(Debug, Default)]
pub(crate) struct LeaseQueue {
    counters: Mutex<Vec<Arc<Counter>>>,
    wake: Notify,
    /// Whether nothing is asked for, told or given back yet: the authority has not heard of this life.
    closed: AtomicBool,
}

impl LeaseQueue {
    /// One that stays closed until the authority has heard of this life.
    pub(crate) fn closed() -> Self {
        Self { closed: AtomicBool::new(true), ..Self::default() }
    }

    /// From here on the authority is asked.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::Release);
        self.wake.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

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
    /// Whether other nodes lease from the same store.
    pub(crate) shared: bool,
    /// Whether the last call failed.
    pub(crate) away: AtomicBool,
    /// Since when a call is under way; 0 if none is.
    pub(crate) asked_at: AtomicU64,
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
    /// What was spent is reported, and what others need is given up: of which is asked even if there is nothing to tell.
    Recall,
    /// Everything goes back.
    Drain,
}

impl LeaseDriver {
    /// Runs until the future is dropped.
    pub(crate) async fn run(&self) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut superseded = false;
        // Kept over the rounds: what rings during one is heard after it.
        let mut recalls = self.store.recalls();
        loop {
            let round = tokio::select! {
                () = self.queue.wake.notified() => Round::Queued,
                _ = tick.tick() => Round::Tick,
                recalled = &mut recalls, if self.shared => {
                    recalls = self.store.recalls();
                    match recalled {
                        Ok(true) => Round::Recall,
                        // The tick looks too.
                        Ok(false) | Err(_) => continue,
                    }
                }
            };
            if round == Round::Tick {
                self.metrics.leased(self.counters.held(self.clock.monotonic()));
                self.counters.sweep(self.clock.monotonic());
            }
            if superseded || self.queue.is_closed() {
                // Requests go on where a limit goes on.
                self.table.make_room(0);
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

    /// Reports what was spent, so that reads of the authority are fresh. No second has passed by that: a lease does not become idle by being looked at.
    pub(crate) async fn report(&self) -> Result<(), StoreError> {
        self.round(Round::Recall).await
    }

    /// Gives every lease back.
    pub(crate) async fn give_back(&self) -> Result<(), StoreError> {
        self.round(Round::Drain).await
    }

    pub(crate) async fn round(&self, round: Round) -> Result<(), StoreError> {
        let mut turn = self.turn.lock().await;
        // Also while there is no answer: requests go on where a limit goes on.
        self.table.make_room(0);
        if self.queue.is_closed() {
            return Err(StoreError::unavailable("lease units", "the authority has not heard of this process yet"));
        }
        if let Some(pending) = turn.take() {
            // The outcome of the last call is unknown: repeat it before anything new.
            self.send(&mut turn, pending).await?;
        }
        loop {
            let counters = match round {
                Round::Queued => self.queue.take(),
                Round::Tick | Round::Recall | Round::Drain => self.counters.quotas(),
            };
            self.table.make_room(counters.len().min(MOST_COUNTERS));
            let mut pending = self.compose(&counters, round);
            if round != Round::Queued {
                pending.left = self.counters.take_left(self.clock.monotonic(), round == Round::Drain);
                let returns = pending.left.iter().map(|(_, entry)| entry.returned());
                pending.call.returns.extend(returns);
            }
            // Word that others need units may have been lost: as long as there are some here, it is asked for.
            let recalled = self.shared && round != Round::Queued && self.holds_any(&counters);
            // And whether an authority that was away is back, where no request asks meanwhile.
            let asked = recalled || round == Round::Tick && self.away.load(Ordering::Acquire);
            if asked || !pending.call.is_empty() {
                self.send(&mut turn, pending).await?;
            }
            if round != Round::Queued || counters.len() < MOST_COUNTERS {
                return Ok(());
            }
        }
    }

    fn compose(&self, counters: &[Arc<Counter>], round: Round) -> Pending {
        let now = self.clock.monotonic();
        let mut call = LeaseCall::new(&self.node);
        let mut sorted: Vec<&Arc<Counter>> = counters.iter().collect();
        // Sorted, so that calls of several nodes lock counters in one order.
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let mut parts = Vec::new();
        for counter in sorted {
            let CounterState::Quota(quota) = &counter.state else { continue };
            let part = self.compose_part(counter, quota, round, now, &mut call);
            if part.request.is_some() || !part.ended.is_empty() || !part.reported.is_empty() {
                parts.push(part);
            }
        }
        Pending { call, parts, left: Vec::new() }
    }

    fn compose_part(
        &self,
        counter: &Arc<Counter>,
        quota: &QuotaCounter,
        round: Round,
        now: Monotonic,
        call: &mut LeaseCall,
    ) -> Part {
        let ahead = if round == Round::Tick && self.shared { quota.ask_ahead(now) } else { None };
        let asking = match round {
            Round::Queued => quota.begin_asking(now),
            Round::Tick => ahead.map(|ahead| Asking { want: ahead.want, needed: 0 }),
            Round::Recall | Round::Drain => None,
        };
        let open = quota.open_leases();
        // What others need is not taken again in the same breath, unless somebody waits for it here.
        let recalled = open.iter().any(|entry| entry.is_recalled());
        if recalled {
            quota.note_given_up(now);
        }
        let asking = asking.filter(|asking| !recalled || asking.needed > 0);
        let spent = |entry: &Arc<LeaseEntry>| entry.used() > entry.reported.load(Ordering::Relaxed);
        let idle = quota.is_idle(open.iter().any(spent), round == Round::Tick);
        drop(open);
        let why = match round {
            Round::Drain => Return::All,
            _ if idle => Return::Idle,
            _ => Return::Over,
        };
        let too_small = asking.map_or(0, |asking| asking.needed);
        let mut ended: Vec<Arc<LeaseEntry>> = quota.leases_to_return(now, too_small, why).into_vec();
        for entry in &ended {
            let returned = entry.returned();
            quota.note_spent(returned.used.saturating_sub(entry.reported.load(Ordering::Relaxed)));
            call.returns.push(returned);
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
                quota.note_spent(used.saturating_sub(entry.reported.load(Ordering::Relaxed)));
                call.reports.push(LeaseReport { lease: entry.lease, used });
                reported.push((entry, used));
            }
        }
        let request = asking.and_then(|asking| {
            let terms = quota.terms();
            let lease = LeaseId::generate();
            // In the table before it is asked for: a grant whose answer is lost can be given back by the next life.
            let Some(slot) = self.table.ask(lease, &counter.id) else {
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
                early: ahead.is_some_and(|ahead| ahead.early),
                needed: asking.needed,
            });
            Some((call.requests.len() - 1, slot))
        });
        Part { counter: Arc::clone(counter), ended, reported, request }
    }

    async fn send(&self, turn: &mut Option<Pending>, pending: Pending) -> Result<(), StoreError> {
        let sent = self.clock.monotonic();
        self.asked_at.store(sent.0, Ordering::Release);
        self.calls.fetch_add(1, Ordering::Relaxed);
        // Kept before the await: who drops this future (abort, a client that left) must not drop the call.
        let kept = turn.insert(pending);
        let answered = self.store.lease(&kept.call).await;
        self.asked_at.store(0, Ordering::Release);
        match answered {
            Ok(answer) => {
                self.away.store(false, Ordering::Release);
                self.metrics.lease_call(LeaseStore::Quotas, true);
                if let Some(pending) = turn.take() {
                    self.take_in(pending, &answer, sent);
                    self.give_up(&answer.recalled);
                }
                Ok(())
            }
            Err(error) => {
                self.away.store(true, Ordering::Release);
                self.metrics.lease_call(LeaseStore::Quotas, false);
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

    /// Whether the authority does not answer: it has not heard of this life, the last call failed, or one is under way for longer than any answer takes.
    pub(crate) fn is_away(&self, now: Monotonic) -> bool {
        let asked_at = self.asked_at.load(Ordering::Acquire);
        self.away.load(Ordering::Acquire)
            || self.queue.is_closed()
            || (asked_at != 0 && now.nanos_since(Monotonic(asked_at)) > LATE_NANOS)
    }

    fn holds_any(&self, counters: &[Arc<Counter>]) -> bool {
        let now = self.clock.monotonic();
        self.counters.has_left()
            || counters
                .iter()
                .any(|counter| matches!(&counter.state, CounterState::Quota(quota) if quota.held(now) > 0))
    }

    /// Leases that others need units of go back with the next call, which is made at once.
    fn give_up(&self, recalled: &[LeaseId]) {
        if !recalled.is_empty() {
            self.counters.recall(recalled).iter().for_each(|counter| self.queue.ask_for(counter));
        }
    }

    fn take_in(&self, pending: Pending, answer: &LeaseAnswer, sent: Monotonic) {
        let received = self.clock.monotonic();
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
            let mut cap = None;
            if let Some((request, grant, slot)) = grant {
                cap = Some(request.cap);
                until_end = answer.now.micros_until(grant.window.period.end).saturating_mul(1_000);
                let until_begin = answer.now.micros_until(grant.window.period.start).saturating_mul(1_000);
                // The state of the next period is not that of the present one.
                answered = (until_begin == 0).then_some((request, grant));
                if grant.units > 0 {
                    let granted = Granted {
                        period: grant.window.period,
                        // Counted from when the question left, so that the deadline is never later than the authority's.
                        deadline: sent.plus_nanos(until_end),
                        size: grant.units,
                    };
                    let lease = LeaseEntry::open(grant.lease, slot, &granted, sent);
                    // Counted from now, so that it is never earlier than the authority's.
                    let from = if until_begin == 0 { sent } else { received.plus_nanos(until_begin) };
                    begun = Some(Arc::new(lease.from(from)));
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
                    request: answered
                        .map(|(request, grant)| (Asking { want: request.want, needed: request.needed }, grant.units)),
                    cap,
                    now: received,
                    until_period_end: until_end,
                },
            );
            if quota.has_recalled() {
                self.queue.ask_for(&part.counter);
            }
            // The authority has closed them, and nothing is taken from them any more.
            for entry in &part.ended {
                entry.release();
            }
        }
    }
}

impl LeaseCall {
    pub(super) fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.returns.is_empty() && self.debts.is_empty() && self.requests.is_empty()
    }
}
