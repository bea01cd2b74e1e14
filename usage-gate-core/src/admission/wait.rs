//! A request that waits for units of a quota: it asks, listens, and tries again.

use std::sync::Arc;
use std::time::Duration;

use super::admit::{Attempt, Stop, TRIES};
use super::{Admission, Caller, Code, Head, Refusal, store_away};
use crate::gate::GateCore;
use crate::lease::{CounterState, QuotaCounter};
use crate::routes::RouteIndex;

/// How long a request waits for units, in all.
const WAIT: Duration = Duration::from_secs(2);

impl GateCore {
    /// Waits until the leases suffice, the authority says there is no more, or it is away.
    pub(super) async fn wait_for_units(
        self: &Arc<Self>,
        mut head: Head,
        mut caller: Arc<Caller>,
        route: RouteIndex,
    ) -> Admission {
        let deadline = tokio::time::Instant::now() + WAIT;
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
                    Stop::Short(short) => {
                        caller = back;
                        short
                    }
                },
            };
            for (counter, units) in &short {
                let CounterState::Quota(quota) = &counter.state else { continue };
                let since = self.clock.monotonic();
                let waiting = Waiting::new(quota, *units);
                let answered = quota.answered().notified();
                tokio::pin!(answered);
                // Listening before asking: an answer in between is not missed.
                answered.as_mut().enable();
                if quota.can_serve(*units, since) || quota.is_exhausted(*units, since) {
                    continue;
                }
                self.queue.ask_for(counter);
                let in_time = tokio::time::timeout_at(deadline, answered).await.is_ok();
                drop(waiting);
                if !in_time || quota.failed_since(since) {
                    return Admission::Refused(self.refuse(head, Some(caller), store_away()));
                }
            }
        }
        let detail = "too many requests compete for the same limit; nothing was spent";
        let refusal = Refusal::new(Code::Overloaded, detail).retry_after(1);
        Admission::Refused(self.refuse(head, Some(caller), refusal))
    }
}

/// Counts a waiting request's units for as long as it lives, cancelled or not.
struct Waiting<'a> {
    quota: &'a QuotaCounter,
    units: u64,
}

impl<'a> Waiting<'a> {
    fn new(quota: &'a QuotaCounter, units: u64) -> Self {
        quota.start_waiting(units);
        Self { quota, units }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.quota.stop_waiting(self.units);
    }
}
