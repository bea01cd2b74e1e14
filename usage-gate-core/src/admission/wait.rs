//! A request that waits for units: it asks, listens, and tries again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::admit::{Alone, Attempt, Stop, TRIES, with_counter};
use super::{Admission, Caller, Code, Head, Refusal, store_away};
use crate::clock::Monotonic;
use crate::gate::GateCore;
use crate::lease::{Counter, CounterState, QuotaCounter};
use crate::rates::Look;
use crate::routes::RouteIndex;

/// How long a request waits for units, in all.
const WAIT: Duration = Duration::from_secs(2);
/// The same where it is known that the authority is away.
const WAIT_AWAY: Duration = Duration::from_millis(300);
/// Between two looks at whether others have given back what was recalled.
const RECALL_LOOK: Duration = Duration::from_millis(100);

impl GateCore {
    /// Waits until the leases suffice, the authority says there is no more, or it is away.
    pub(super) async fn wait_for_units(
        self: &Arc<Self>,
        mut head: Head,
        mut caller: Arc<Caller>,
        route: RouteIndex,
    ) -> Admission {
        let wait = if self.leases.is_away(head.now) { WAIT_AWAY } else { WAIT };
        let deadline = Instant::now() + wait;
        for _ in 0..TRIES {
            // Time has passed: rates and deadlines are judged by now.
            head.now = self.clock.monotonic();
            if let Some(refusal) = self.draining_refusal() {
                return Admission::Refused(self.refuse(head, Some(caller), refusal));
            }
            let short = match self.try_admit(&head, caller, route) {
                Attempt::Admitted(admitted) => return Admission::Admitted(admitted),
                Attempt::Stopped(stop, back) => match *stop {
                    Stop::Refused(refusal) => return Admission::Refused(self.refuse(head, Some(back), refusal)),
                    Stop::Away => return Admission::Refused(self.refuse(head, Some(back), store_away())),
                    Stop::Short(short) => {
                        caller = back;
                        short
                    }
                },
            };
            for (counter, units) in &short {
                let answered = match &counter.state {
                    CounterState::Quota(quota) => self.wait_for_quota(counter, quota, *units, deadline).await,
                    CounterState::SharedRate(rate) => {
                        let listen = || rate.call.answered().notified();
                        let waits = |now| rate.look(*units, now) == Look::Ask;
                        let _waiting = Waiting::new(|| rate.start_waiting(*units), || rate.stop_waiting(*units));
                        self.wait_for_rate(counter, deadline, listen, waits, |since| rate.failed_since(since)).await
                    }
                    CounterState::SharedSlots(slots) => {
                        let listen = || slots.call.answered().notified();
                        let waits = |now| slots.look(now) == Look::Ask;
                        let _waiting = Waiting::new(|| slots.start_waiting(), || slots.stop_waiting());
                        self.wait_for_rate(counter, deadline, listen, waits, |since| slots.failed_since(since)).await
                    }
                    CounterState::Rate(_) | CounterState::Open(_) => true,
                };
                // Some limits go on without an authority, as far as their owner allows it: the next try finds them so.
                if !answered && !self.goes_on_alone(&caller, counter, *units, head.client) {
                    return Admission::Refused(self.refuse(head, Some(caller), store_away()));
                }
            }
        }
        let detail = "too many requests compete for the same limit; nothing was spent";
        let refusal = Refusal::new(Code::Overloaded, detail).retry_after(1);
        Admission::Refused(self.refuse(head, Some(caller), refusal))
    }
}

impl GateCore {
    /// Waits for units of a quota; `false` if the authority did not answer.
    async fn wait_for_quota(
        &self,
        counter: &Arc<Counter>,
        quota: &QuotaCounter,
        units: u64,
        deadline: Instant,
    ) -> bool {
        let since = self.clock.monotonic();
        let _waiting = Waiting::new(|| quota.start_waiting(units), || quota.stop_waiting(units));
        let answered = quota.answered().notified();
        tokio::pin!(answered);
        // Listening before asking: an answer in between is not missed.
        answered.as_mut().enable();
        if quota.can_serve(units, since) || quota.is_exhausted(units, since) {
            return true;
        }
        if quota.is_recalling(since) {
            // Unless somebody else's answer brings some. Who is woken by one that brings none sleeps on.
            let look = Instant::now() + RECALL_LOOK;
            while tokio::time::timeout_at(look, answered.as_mut()).await.is_ok() {
                if quota.can_serve(units, since) {
                    return true;
                }
                answered.set(quota.answered().notified());
                answered.as_mut().enable();
            }
            quota.need(units);
        }
        self.queue.ask_for(counter);
        tokio::time::timeout_at(deadline, answered).await.is_ok() && !quota.failed_since(since)
    }

    /// Waits for a shared rate, or for a place; `false` if the authority did not answer.
    async fn wait_for_rate<'a>(
        &self,
        counter: &Arc<Counter>,
        deadline: Instant,
        listen: impl Fn() -> Notified<'a>,
        waits: impl Fn(Monotonic) -> bool,
        failed_since: impl Fn(Monotonic) -> bool,
    ) -> bool {
        let since = self.clock.monotonic();
        let answered = listen();
        tokio::pin!(answered);
        answered.as_mut().enable();
        if !waits(since) {
            return true;
        }
        self.ask_for_rate(counter);
        tokio::time::timeout_at(deadline, answered).await.is_ok() && !failed_since(since)
    }

    /// Whether the owner of a limit lets requests go on while its authority is away.
    fn goes_on_alone(&self, caller: &Arc<Caller>, counter: &Arc<Counter>, units: u64, client: Option<IpAddr>) -> bool {
        let now = self.clock.monotonic();
        caller.plan.limits.iter().enumerate().any(|(at, compiled)| {
            let is_it = with_counter(self, caller, at, client, |own| Arc::ptr_eq(own, counter)).unwrap_or(false);
            is_it
                && match &counter.state {
                    CounterState::Quota(_) => self.may_overdraw(compiled, counter, units, now),
                    _ => matches!(self.alone(compiled, counter, now), Alone::Share(_)),
                }
        })
    }
}

/// Counts a waiting request's units for as long as it lives, cancelled or not.
struct Waiting<F: Fn()> {
    stop: F,
}

impl<F: Fn()> Waiting<F> {
    fn new(start: impl Fn(), stop: F) -> Self {
        start();
        Self { stop }
    }
}

impl<F: Fn()> Drop for Waiting<F> {
    fn drop(&mut self) {
        (self.stop)();
    }
}
