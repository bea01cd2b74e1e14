//! Step 8: what was really used takes the place of what was reserved, and the record is published. Synchronous and without
//! failure, because it happens in `Drop`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::admit::{Admitted, TakenWhat, free_slot, with_counter};
use crate::clock::Monotonic;
use crate::invariant::invariant;
use crate::journal::Recorded;
use crate::lease::{Booking, Counter, CounterState};
use crate::model::{Environment, MeterIndex, Timestamp};
use crate::store::{CounterTag, Outcome, QuotaUse, UnitTotals};

/// How the exchange with the client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The last frame of the response was handed over, or the body ended with the upstream's error.
    Completed,
    /// The client left before that.
    ClientLeft,
}

/// What is known at the end of a request.
#[derive(Debug, Clone, Copy)]
pub struct Settlement<'a> {
    /// The response's status, if its head was released.
    pub status: Option<u16>,
    /// How it ended.
    pub end: End,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body that were handed over.
    pub bytes_out: u64,
    /// Units that the handler or the upstream stated; they replace the route's.
    pub stated: &'a [(MeterIndex, u64)],
}

impl Admitted {
    /// Settles the request.
    pub fn settle(mut self, settlement: &Settlement<'_>) {
        self.settle_once(settlement);
    }

    fn settle_once(&mut self, settlement: &Settlement<'_>) {
        if self.settled {
            return;
        }
        self.settled = true;
        let now = self.gate.clock.monotonic();
        let (outcome, units) = self.judge(settlement, now);
        let quotas = self.settle_limits(outcome, &units, now);
        self.gate.metrics.served(self.route, outcome);
        self.gate.recorder.publish(Recorded {
            request: self.request,
            at: self.at,
            caller: Arc::clone(&self.caller),
            route: self.route,
            status: settlement.status.unwrap_or(0),
            outcome,
            units,
            quotas,
        });
    }

    fn judge(&self, settlement: &Settlement<'_>, now: Monotonic) -> (Outcome, UnitTotals) {
        let route = self.gate.routes.route(self.route);
        let billed = settlement.status.is_some_and(|status| route.is_none_or(|route| route.bill_on.bills(status)));
        let outcome = match (settlement.status, settlement.end) {
            _ if self.caller.environment == Environment::Test => Outcome::Test,
            (None, _) => Outcome::Indeterminate,
            _ if !billed => Outcome::Unbilled,
            (_, End::ClientLeft) => Outcome::Aborted,
            (_, End::Completed) => Outcome::Billed,
        };
        let mut units = UnitTotals::default();
        for (meter, cost) in route.map_or(&[][..], |route| &*route.cost) {
            units.set(*meter, *cost);
        }
        units.set(MeterIndex::BYTES_IN, settlement.bytes_in);
        units.set(MeterIndex::BYTES_OUT, settlement.bytes_out);
        let took = now.nanos_since(self.started);
        units.set(MeterIndex::DURATION_MS, took / 1_000_000);
        for (meter, stated) in settlement.stated {
            units.set(*meter, *stated);
        }
        (outcome, units)
    }

    /// Gives what each lease counts for this request in the end (B9).
    fn settle_limits(&mut self, outcome: Outcome, units: &UnitTotals, now: Monotonic) -> QuotaUses {
        let mut uses = QuotaUses::new();
        for one in std::mem::take(&mut self.taken) {
            let Some(compiled) = self.caller.plan.limits.get(one.at) else { continue };
            let actual = units.of(compiled.meter);
            let mut settle = |counter: &Arc<Counter>| match (&counter.state, &one.what) {
                (CounterState::Open(open), TakenWhat::Slot) => {
                    invariant!(R5, open.load(Ordering::Relaxed) > 0);
                    free_slot(open);
                }
                (CounterState::Quota(quota), TakenWhat::Quota(source, held)) => {
                    // `bill_on` returns quota; nobody knows what an indeterminate request cost, so its units stay spent.
                    let owed = match outcome {
                        Outcome::Unbilled => 0,
                        Outcome::Indeterminate => actual.max(*held),
                        _ => actual,
                    };
                    let signed = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
                    let began = self.started;
                    let period = || self.gate.period_of(compiled, quota, began);
                    let difference = signed(*held).saturating_sub(signed(owed));
                    let booked = quota.adjust(source.entry(), difference, period);
                    let of = source.entry().map(|entry| entry.period).or_else(period).map(|period| period.start);
                    note(&mut uses, counter.tag, of.unwrap_or(self.at), &[source.booking(*held), booked]);
                    if owed > *held && quota.runs_low() {
                        self.gate.queue.ask_for(counter);
                    }
                }
                // A rate is never refunded; what was not known is booked now.
                (CounterState::Rate(bucket), TakenWhat::Rate(held)) if actual > *held => {
                    bucket.book(&compiled.rate, now, actual - held);
                }
                _ => {}
            };
            match &one.counter {
                Some(counter) => settle(counter),
                None => {
                    with_counter(&self.gate, &self.caller, one.at, None, settle);
                }
            }
        }
        uses
    }
}

/// What a request took of quotas: two inline, what most plans have.
pub(crate) type QuotaUses = SmallVec<[QuotaUse; 2]>;

/// Adds bookings of one counter, one use a lease.
fn note(uses: &mut QuotaUses, counter: CounterTag, period: Timestamp, bookings: &[Booking]) {
    for booking in bookings.iter().filter(|booking| booking.used != 0) {
        let known = uses.iter_mut().find(|known| known.counter == counter && known.lease == booking.lease);
        if let Some(known) = known {
            known.units = known.units.saturating_add(booking.used);
        } else {
            let period = period.floor_seconds();
            uses.push(QuotaUse { lease: booking.lease, counter, period, units: booking.used });
        }
    }
    uses.retain(|used| used.units != 0);
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let unknown = Settlement { status: None, end: End::ClientLeft, bytes_in: 0, bytes_out: 0, stated: &[] };
        self.settle_once(&unknown);
    }
}
