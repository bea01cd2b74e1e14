//! Talks to the authority of rates and of requests open at once: many counters in one call, off the request path.
//!
//! Requests that find too little, and rates that run low, put their counter into a queue; others have a timer, to tell what was spent, to renew or to give back. One task
//! makes one call of all that is due, and wakes who waits. Where little is left but nobody waits, it gathers for a moment what else comes: a round trip costs more than a
//! counter in it, and so does waking the task.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::shared::{Call, Queued};
use crate::clock::{Clock, Monotonic};
use crate::lease::{Counter, CounterState};
use crate::metrics::{LeaseStore, Metrics};
use crate::store::{CounterId, RateAnswer, RateCall, RateStore, StoreErrorKind};

/// Counters in one call, at most.
const MOST_COUNTERS: usize = 1_024;
/// What takes longer than this is no answer.
const LATE_NANOS: u64 = 1_000_000_000;
/// For how long a node counts that is not heard of any more.
const ACTIVE_NANOS: u64 = 60_000_000_000;
/// Between two words of a counter that cannot be read.
const TOLD_EVERY_NANOS: u64 = 60_000_000_000;
/// For an authority to answer at the start; one that does not is away.
const ANSWER_FIRST: Duration = Duration::from_secs(2);
/// For how long a call that nobody waits for is gathered: a small part of the last eighth of the shortest lease that is renewed so.
const GATHER: Duration = Duration::from_millis(10);
/// Between two calls while there is no answer.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The task's state.
#[derive(Debug)]
pub(crate) struct RateDriver {
    store: Arc<dyn RateStore>,
    node: String,
    clock: Clock,
    metrics: Arc<Metrics>,
    label: LeaseStore,
    queue: Mutex<Vec<Arc<Counter>>>,
    wake: Notify,
    /// Something is in the queue that has time.
    gather: Notify,
    /// For how long it is gathered.
    gather_time: Duration,
    /// Whether the last call failed.
    away: AtomicBool,
    /// Whether that was something that an operator must mend.
    unusable: AtomicBool,
    /// Since when a call is under way; 0 if none is.
    asked_at: AtomicU64,
    /// When it was last said that a counter cannot be read; 0 for never.
    broken_told: AtomicU64,
    nodes: Nodes,
}

/// Nodes that were heard of within the last minute; 0 before the first answer.
///
/// An authority that has just forgotten everything hears of them one by one. Who took the first of its answers for the whole truth, and were then left alone, would give away
/// what is the part of others: the most that was said within the last minute counts.
#[derive(Debug, Default)]
struct Nodes {
    most: AtomicU32,
    /// When it was said last that there are so many, or when the authority was back after it had said nothing for as long.
    at: AtomicU64,
    /// When it said anything last.
    heard: AtomicU64,
}

impl Nodes {
    /// To be called by the task alone.
    fn note(&self, nodes: u32, now: Monotonic) {
        // Relaxed: one task writes, and who reads needs no other memory.
        if now.nanos_since(Monotonic(self.heard.load(Ordering::Relaxed))) > ACTIVE_NANOS {
            // All nodes have been forgotten meanwhile.
            self.at.store(now.0, Ordering::Relaxed);
        }
        self.heard.store(now.0, Ordering::Relaxed);
        let before = Monotonic(self.at.load(Ordering::Relaxed));
        if nodes >= self.most.load(Ordering::Relaxed) || now.nanos_since(before) > ACTIVE_NANOS {
            self.most.store(nodes, Ordering::Relaxed);
            self.at.store(now.0, Ordering::Relaxed);
        }
    }
}

/// A counter that is to be looked at by then.
#[derive(Debug)]
struct Timer {
    due: Reverse<Monotonic>,
    counter: Arc<Counter>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl RateDriver {
    pub(crate) fn new(
        store: Arc<dyn RateStore>,
        node: String,
        clock: Clock,
        metrics: Arc<Metrics>,
        label: LeaseStore,
    ) -> Self {
        Self {
            store,
            node,
            clock,
            metrics,
            label,
            queue: Mutex::default(),
            wake: Notify::new(),
            gather: Notify::new(),
            gather_time: GATHER,
            away: AtomicBool::new(false),
            unusable: AtomicBool::new(false),
            asked_at: AtomicU64::new(0),
            broken_told: AtomicU64::new(0),
            nodes: Nodes::default(),
        }
    }

    /// Has the counter looked at at once.
    pub(crate) fn ask_for(&self, counter: &Arc<Counter>) {
        if let Some(before) = call_of(counter).map(|call| call.enqueue(Queued::Now))
            && before != Queued::Now
        {
            if before == Queued::No {
                self.push(counter);
            }
            self.wake.notify_one();
        }
    }

    /// Has the counter looked at in a moment, with others.
    pub(crate) fn ask_soon_for(&self, counter: &Arc<Counter>) {
        if call_of(counter).is_some_and(|call| call.enqueue(Queued::Soon) == Queued::No) && self.push(counter) {
            self.gather.notify_one();
        }
    }

    /// Whether it is the first in the queue.
    fn push(&self, counter: &Arc<Counter>) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(Arc::clone(counter));
        queue.len() == 1
    }

    /// Whether the authority does not answer: the last call failed, or one is under way for longer than any answer takes.
    pub(crate) fn is_away(&self, now: Monotonic) -> bool {
        let asked_at = self.asked_at.load(Ordering::Acquire);
        self.away.load(Ordering::Acquire) || (asked_at != 0 && now.nanos_since(Monotonic(asked_at)) > LATE_NANOS)
    }

    /// Tells other nodes that keys, tenants or plans have changed, if the authority has a bell.
    pub(crate) async fn ring(&self) {
        if let Err(error) = self.store.ring().await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the other nodes were not told of a change: their next look finds it"
            );
        }
    }

    /// What is marked as changed when a node has rung.
    pub(crate) fn rung(&self) -> Option<watch::Receiver<()>> {
        self.store.rung()
    }

    /// What the authority is, for operators.
    pub(crate) fn backend(&self) -> &'static str {
        self.store.backend()
    }

    /// Nodes that share what the authority has, this one included; 0 if it has never answered.
    pub(crate) fn nodes(&self) -> u32 {
        self.nodes.most.load(Ordering::Relaxed)
    }

    /// Whether an operator must mend it.
    pub(crate) fn is_unusable(&self) -> bool {
        self.unusable.load(Ordering::Relaxed)
    }

    /// So many shared it when an earlier process of this node knew: until the authority answers.
    pub(crate) fn remember(&self, nodes: u32) {
        // An answer that came first is newer.
        let _ = self.nodes.most.compare_exchange(0, nodes, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Finds out whether the authority is there, by asking for nothing: before anybody is served who may need it.
    pub(crate) async fn look(&self) {
        let call = RateCall { node: self.node.clone(), rates: Vec::new(), slots: Vec::new() };
        let answer = tokio::time::timeout(ANSWER_FIRST, self.ask(&call)).await;
        if answer.is_err() {
            self.asked_at.store(0, Ordering::Release);
            self.away.store(true, Ordering::Release);
            tracing::warn!(store = self.label.as_str(), "the authority of rates did not answer in time");
        }
        if !matches!(answer, Ok(Some(_))) {
            // Asked again as soon as the task runs.
            self.wake.notify_one();
        }
    }

    /// Runs until the future is dropped.
    pub(crate) async fn run(&self) {
        let mut timers = BinaryHeap::new();
        loop {
            let now = self.clock.monotonic();
            let next =
                timers.peek().map_or(Duration::MAX, |timer: &Timer| Duration::from_nanos(timer.due.0.nanos_since(now)));
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.gather.notified() => drop(tokio::time::timeout(self.gather_time.min(next), self.wake.notified()).await),
                // A timer that is far away is as good as none.
                () = tokio::time::sleep(next.min(Duration::from_secs(3_600))) => {}
            }
            let due = self.due(&mut timers);
            let answered = self.turn(&due).await;
            set_timers(&mut timers, due);
            if !answered {
                // Who comes meanwhile sees that it is away.
                tokio::time::sleep(BACK_OFF).await;
                self.wake.notify_one();
            }
        }
    }

    /// Counters that are queued, and those whose time has come.
    fn due(&self, timers: &mut BinaryHeap<Timer>) -> Vec<Arc<Counter>> {
        let mut due = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = queue.len().min(MOST_COUNTERS);
            if queue.len() > taken {
                self.wake.notify_one();
            }
            queue.drain(..taken).collect::<Vec<_>>()
        };
        due.iter().filter_map(|counter| call_of(counter)).for_each(Call::dequeue);
        let now = self.clock.monotonic();
        while due.len() < MOST_COUNTERS
            && let Some(timer) = timers.peek()
            && timer.due.0 <= now
            && let Some(timer) = timers.pop()
        {
            call_of(&timer.counter).into_iter().for_each(Call::timer_rang);
            due.push(timer.counter);
        }
        // One that was queued and has a timer too is asked for once.
        due.sort_by(|one, other| one.id.cmp(&other.id).then_with(|| Arc::as_ptr(one).cmp(&Arc::as_ptr(other))));
        due.dedup_by(|one, other| Arc::ptr_eq(one, other));
        due
    }

    /// One call for these; whether the authority has answered, or was not asked.
    pub(crate) async fn turn(&self, due: &[Arc<Counter>]) -> bool {
        let sent = self.clock.monotonic();
        let mut call = RateCall { node: self.node.clone(), rates: Vec::new(), slots: Vec::new() };
        let (mut rates, mut slots) = (Vec::new(), Vec::new());
        for counter in due {
            match &counter.state {
                CounterState::SharedRate(rate) => {
                    rate.pay(sent);
                    // What is owed is needed as if it waited.
                    let owed = rate.owed();
                    rate.start_waiting(owed);
                    let wish = rate.held.wish(&counter.id, rate.terms(), sent);
                    rate.stop_waiting(owed);
                    if let Some(wish) = wish {
                        call.rates.push(wish);
                        rates.push(rate);
                    }
                }
                CounterState::SharedSlots(shared) => {
                    if let Some(wish) = shared.held.wish(&counter.id, shared.limit(), sent) {
                        call.slots.push(wish);
                        slots.push(shared);
                    }
                }
                CounterState::Rate(_) | CounterState::Quota(_) | CounterState::Open(_) => {}
            }
        }
        // While it is away nodes go on by themselves, and no request asks: whether it is back is found out by asking for nothing.
        let asks = !call.rates.is_empty() || !call.slots.is_empty() || self.away.load(Ordering::Acquire);
        let answer = if asks { Some(self.ask(&call).await) } else { None };
        let now = self.clock.monotonic();
        match &answer {
            Some(Some(answer)) => {
                let is_broken = |counter: &CounterId| answer.broken.iter().any(|(broken, _)| broken == counter);
                for ((rate, request), grant) in rates.iter().zip(&call.rates).zip(&answer.rates) {
                    if is_broken(&request.counter) {
                        rate.held.failed(request, now);
                        continue;
                    }
                    rate.held.granted(request, grant, now);
                    rate.pay(now);
                }
                for ((shared, request), grant) in slots.iter().zip(&call.slots).zip(&answer.slots) {
                    if is_broken(&request.counter) {
                        shared.held.failed(request, now);
                    } else {
                        shared.held.granted(request, *grant, now);
                    }
                }
                self.tell_of_broken(answer, now);
            }
            Some(None) => {
                rates.iter().zip(&call.rates).for_each(|(rate, request)| rate.held.failed(request, now));
                slots.iter().zip(&call.slots).for_each(|(shared, request)| shared.held.failed(request, now));
            }
            None => {}
        }
        due.iter().filter_map(|counter| call_of(counter)).for_each(|call| call.answered().notify_waiters());
        !matches!(answer, Some(None))
    }

    /// Logs a counter that cannot be read, now and then as long as there is one.
    fn tell_of_broken(&self, answer: &RateAnswer, now: Monotonic) {
        let Some((counter, why)) = answer.broken.first() else { return };
        // Relaxed: one task writes.
        let before = Monotonic(self.broken_told.load(Ordering::Relaxed));
        if before.0 == 0 || now.nanos_since(before) > TOLD_EVERY_NANOS {
            self.broken_told.store(now.0, Ordering::Relaxed);
            let others = answer.broken.len().saturating_sub(1);
            tracing::error!(%counter, why, others, store = self.label.as_str(), "a rate cannot be read: its requests are refused until its key is removed");
        }
    }

    async fn ask(&self, call: &RateCall) -> Option<RateAnswer> {
        self.asked_at.store(self.clock.monotonic().0, Ordering::Release);
        let answered = self.store.lease_rates(call).await;
        self.asked_at.store(0, Ordering::Release);
        // An answer for each wish, or it is none.
        let answered = answered.map(|answer| {
            let whole = answer.rates.len() == call.rates.len() && answer.slots.len() == call.slots.len();
            whole.then_some(answer)
        });
        self.metrics.lease_call(self.label, matches!(answered, Ok(Some(_))));
        match answered {
            Ok(Some(answer)) => {
                if self.away.swap(false, Ordering::AcqRel) {
                    tracing::info!(store = self.label.as_str(), "the authority of rates answers again");
                    self.unusable.store(false, Ordering::Relaxed);
                }
                self.nodes.note(answer.active_nodes.max(1), self.clock.monotonic());
                Some(answer)
            }
            other => {
                let error = other.err();
                let fatal = error.as_ref().is_some_and(|error| error.kind() == StoreErrorKind::Unusable);
                let was_fatal = self.unusable.swap(fatal, Ordering::Relaxed);
                let was_away = self.away.swap(true, Ordering::AcqRel);
                let error = error.as_ref().map(|error| error as &dyn std::error::Error);
                if fatal && !was_fatal {
                    tracing::error!(error, store = self.label.as_str(), "the authority of rates cannot be used");
                } else if !was_away {
                    tracing::warn!(error, store = self.label.as_str(), "the authority of rates did not answer");
                }
                None
            }
        }
    }
}

fn call_of(counter: &Counter) -> Option<&Call> {
    match &counter.state {
        CounterState::SharedRate(rate) => Some(&rate.call),
        CounterState::SharedSlots(slots) => Some(&slots.call),
        CounterState::Rate(_) | CounterState::Quota(_) | CounterState::Open(_) => None,
    }
}

fn set_timers(timers: &mut BinaryHeap<Timer>, counters: Vec<Arc<Counter>>) {
    for counter in counters {
        let (due, call) = match &counter.state {
            CounterState::SharedRate(rate) => (rate.held.due(), &rate.call),
            CounterState::SharedSlots(slots) => (slots.held.due(), &slots.call),
            CounterState::Rate(_) | CounterState::Quota(_) | CounterState::Open(_) => continue,
        };
        if due.0 != u64::MAX && call.sets_timer(due) {
            timers.push(Timer { due: Reverse(due), counter });
        }
    }
}

/// The authorities of a gate whose nodes share their limits.
#[derive(Debug)]
pub(crate) struct RateDrivers {
    /// The one that may forget, if there is one, else the durable one.
    pub(crate) fast: Arc<RateDriver>,
    /// The durable one, for what takes long to refill, where there are two.
    pub(crate) slow: Option<Arc<RateDriver>>,
}

impl RateDrivers {
    /// Which of them a counter belongs to.
    pub(crate) fn of(&self, counter: &Counter) -> &Arc<RateDriver> {
        match (&counter.state, &self.slow) {
            (CounterState::SharedRate(rate), Some(slow)) if rate.slow => slow,
            _ => &self.fast,
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<RateDriver>> {
        [Some(&self.fast), self.slow.as_ref()].into_iter().flatten()
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Meters;
    use crate::rates::samples;
    use crate::rates::shared::SharedRate;
    use crate::routes::Routes;
    use crate::store::{CounterId, MemoryStore, RateTerms, StoreError};

    /// An authority whose calls are counted.
    #[derive(Debug)]
    struct Counted(MemoryStore, AtomicU32);

    #[async_trait::async_trait]
    impl RateStore for Counted {
        async fn lease_rates(&self, call: &RateCall) -> Result<RateAnswer, StoreError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.lease_rates(call).await
        }
    }

    fn driver(gather_time: Duration) -> (RateDriver, Arc<Counted>) {
        let clock = Clock::system();
        let store = Arc::new(Counted(MemoryStore::new(clock.clone()), AtomicU32::new(0)));
        let metrics = Metrics::new(&Routes::compile(vec![], &Meters::default()).unwrap());
        let driver = RateDriver::new(store.clone(), "a".into(), clock, Arc::new(metrics), LeaseStore::Rates);
        (RateDriver { gather_time, ..driver }, store)
    }

    /// A rate for which a request waits.
    fn waited_for(number: u32) -> Arc<Counter> {
        let id = CounterId { limit: number.to_string().into(), ..samples::counter() };
        let rate = SharedRate::new(RateTerms { units: 100, seconds: 1, burst: 100 }, false);
        rate.start_waiting(1);
        Arc::new(Counter { tag: id.tag(), id, state: CounterState::SharedRate(rate) })
    }

    /// Runs it until this counter's call is answered.
    async fn run_until_answered(driver: &RateDriver, counter: &Counter) {
        let answered = async {
            tokio::select! {
                () = call_of(counter).expect("it is shared").answered().notified() => {}
                () = driver.run() => {}
            }
        };
        tokio::time::timeout(Duration::from_secs(60), answered).await.expect("an answer");
    }

    #[tokio::test]
    async fn counters_that_have_time_go_with_one_call() {
        let (driver, store) = driver(Duration::from_millis(500));
        let counters: Vec<_> = (0..20).map(waited_for).collect();
        let ask = async {
            for counter in &counters {
                driver.ask_soon_for(counter);
                // The driver goes on.
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(ask, run_until_answered(&driver, &counters[19]));
        assert_eq!(store.1.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn who_waits_does_not_wait_for_others_to_come() {
        let (driver, _store) = driver(Duration::from_secs(3_600));
        let counter = waited_for(1);
        driver.ask_soon_for(&counter);
        driver.ask_for(&counter);
        run_until_answered(&driver, &counter).await;
    }

    #[test]
    fn an_authority_that_has_forgotten_nodes_is_believed_after_a_minute() {
        let (nodes, begin) = (Nodes::default(), Monotonic(1));
        let said = |number, at| {
            nodes.note(number, at);
            nodes.most.load(Ordering::Relaxed)
        };
        assert_eq!(said(3, begin), 3);
        assert_eq!(said(1, begin.plus_nanos(ACTIVE_NANOS / 2)), 3);
        assert_eq!(said(4, begin.plus_nanos(ACTIVE_NANOS)), 4);
        assert_eq!(said(2, begin.plus_nanos(ACTIVE_NANOS * 2)), 4);
        assert_eq!(said(2, begin.plus_nanos(ACTIVE_NANOS * 2 + 1)), 2);
    }
}
