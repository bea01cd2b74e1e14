//! Step 8: what was really used takes the place of what was reserved, and the record is published. Synchronous and without
//! failure, because it happens in `Drop`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::admit::{Admitted, Alone, QuotaUses, Taken, TakenWhat, free_slot, with_counter_of};
use crate::clock::Monotonic;
use crate::gate::Recording;
use crate::invariant::invariant;
use crate::journal::{MOST_QUOTAS, Record, Synced};
use crate::lease::{Booking, Bookings, Counter, CounterState, Forfeit};
use crate::model::{Environment, MeterIndex};
use crate::store::{CounterTag, Measured, Outcome, QuotaUse, UnitTotals};

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
    /// How the stated units became known.
    pub measured: Measured,
    /// What repetitions of this request have in common ([`RetryHasher`](super::RetryHasher)), if its route bills them once.
    pub retry: Option<u128>,
}

impl Admitted {
    /// Settles the request: its record is in the journal when this returns.
    ///
    /// With durability `disk` there is something to wait for before the last frame of the response is released.
    pub fn settle(mut self: Box<Self>, settlement: &Settlement<'_>) -> Option<Synced> {
        let sequence = self.settle_once(settlement)?;
        self.gate.recorder.synced(sequence)
    }

    /// Gives the place of the record in the journal, if it has one.
    fn settle_once(&mut self, settlement: &Settlement<'_>) -> Option<u64> {
        if self.settled {
            return None;
        }
        self.settled = true;
        let now = self.gate.clock.monotonic();
        let (outcome, units) = self.judge(settlement, now);
        if self.gate.recording == Recording::Off {
            self.gate.metrics.served(self.route, outcome);
            self.settle_limits(outcome, &units, now);
            return None;
        }
        let Some(seat) = self.seat.take() else {
            self.gate.metrics.served(self.route, Outcome::Unbilled);
            self.settle_unrecorded(outcome, &units, now);
            return None;
        };
        self.gate.metrics.served(self.route, outcome);
        let (mut quotas, kept) = self.settle_limits(outcome, &units, now);
        if quotas.len() > MOST_QUOTAS {
            // A request that took more again and again while leases came and went.
            self.record_apart(&quotas[MOST_QUOTAS..], &kept, |_| 0);
            quotas.truncate(MOST_QUOTAS);
        }
        let caller = &self.caller;
        let record = Record {
            request: self.request,
            at: self.at,
            tenant: caller.tenant,
            user: caller.user,
            key: caller.key,
            environment: caller.environment,
            route: u16::try_from(self.route.position()).ok(),
            status: settlement.status.unwrap_or(0),
            outcome,
            measured: settlement.measured,
            bucket: self.bucket,
            units: &units,
            quotas: &quotas,
            retry: settlement.retry,
        };
        self.gate.recorder.publish(seat, &record)
    }

    /// The host declared that it goes on while the journal is full: nothing is billed, and what was taken of quotas is kept in mind.
    fn settle_unrecorded(&self, outcome: Outcome, units: &UnitTotals, now: Monotonic) {
        self.gate.metrics.unrecorded(self.route);
        let (quotas, kept) = self.settle_limits(outcome, units, now);
        // What a lease could not take back was booked on another one: only the difference is shown.
        let mut credits: SmallVec<[(CounterTag, u64); 3]> = SmallVec::new();
        let negative = quotas.iter().filter(|quota| quota.units < 0);
        credits.extend(negative.map(|quota| (quota.counter, quota.units.unsigned_abs())));
        self.record_apart(&quotas, &kept, |quota| {
            let mut shown = u64::try_from(quota.units).unwrap_or(0);
            for (_, credit) in credits.iter_mut().filter(|(counter, _)| *counter == quota.counter) {
                let less = shown.min(*credit);
                (shown, *credit) = (shown - less, *credit - less);
            }
            shown
        });
    }

    /// Leaves units that leases count of the request to records of their own; `shown` says how many of them are shown as forfeited.
    fn record_apart(&self, quotas: &[QuotaUse], kept: &Bookings, mut shown: impl FnMut(&QuotaUse) -> u64) {
        for quota in quotas {
            let of_counter = |one: &Taken| {
                with_counter_of(self, one, |counter| (counter.tag == quota.counter).then(|| counter.id.clone()))
            };
            let booked = kept.iter().map(|booking| &booking.lease).find(|lease| lease.tag() == quota.lease);
            let lease = booked.or_else(|| self.taken.iter().find_map(|one| one.what.lease(quota.lease)));
            let counter = self.taken.iter().find_map(|one| of_counter(one).flatten());
            let (Some(lease), Some(counter)) = (lease, counter) else { continue };
            let (units, shown) = (quota.units, shown(quota));
            let forfeit = Forfeit { lease: lease.lease, counter, period: lease.period, units, shown };
            self.gate.unrecorded.add(forfeit, Some(lease));
        }
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

    /// Settles every limit, once. Gives what leases count of the request in the end: what was taken at the door, and where the difference was booked.
    ///
    /// What was taken stays with the request, and with the caller of this the leases that differences were booked on, until the record is
    /// published: the lease table keeps an entry as long, and a crash before that needs it.
    fn settle_limits(&self, outcome: Outcome, units: &UnitTotals, now: Monotonic) -> (QuotaUses, Bookings) {
        let (mut uses, mut kept) = (QuotaUses::new(), Bookings::new());
        for one in &self.taken {
            let Some(compiled) = self.caller.plan.limits.get(one.at) else { continue };
            let actual = units.of(compiled.meter);
            let settle = |counter: &Arc<Counter>| match (&counter.state, &one.what) {
                (CounterState::Open(open), TakenWhat::Slot) => {
                    invariant!(R5, open.load(Ordering::Relaxed) > 0);
                    free_slot(open);
                }
                (CounterState::SharedSlots(slots), TakenWhat::Slot) => slots.close(),
                (CounterState::SharedSlots(slots), TakenWhat::SlotAlone) => slots.close_alone(),
                (CounterState::Quota(quota), TakenWhat::Quota(source, held)) => {
                    self.cite(one, counter, &mut uses);
                    // `bill_on` returns quota; nobody knows what an indeterminate request cost, so its units stay spent.
                    let owed = match outcome {
                        Outcome::Unbilled => 0,
                        Outcome::Indeterminate => actual.max(*held),
                        _ => actual,
                    };
                    let signed = |units: u64| i64::try_from(units).unwrap_or(i64::MAX);
                    let period = || self.gate.period_of(compiled, quota, self.started);
                    let difference = signed(*held).saturating_sub(signed(owed));
                    let booked = quota.adjust(source.entry(), difference, period, &self.gate.debtor(counter, now));
                    booked.iter().for_each(|booking| book(&mut uses, counter.tag, booking));
                    kept.extend(booked);
                    if owed > *held && quota.runs_low() {
                        self.gate.queue.ask_for(counter);
                    }
                }
                // A rate is never refunded; what was not known is booked now.
                (CounterState::Rate(bucket), TakenWhat::Rate(held)) if actual > *held => {
                    bucket.book(&compiled.rate, now, actual - held);
                }
                (CounterState::SharedRate(rate), TakenWhat::Rate(held)) if actual > *held => {
                    match self.gate.alone(compiled, counter, now) {
                        Alone::Share(nodes) => rate.book_alone(actual - held, nodes, now),
                        Alone::No | Alone::Refuse => rate.book(actual - held, now),
                    }
                    self.gate.ask_for_rate(counter);
                }
                _ => {}
            };
            with_counter_of(self, one, settle);
        }
        uses.retain(|one| one.units != 0);
        (uses, kept)
    }
}

/// B9: a difference is cited where it was booked.
fn book(uses: &mut QuotaUses, counter: CounterTag, booked: &Booking) {
    let lease = booked.lease.tag();
    match uses.iter_mut().find(|one| one.counter == counter && one.lease == lease) {
        Some(one) => one.units = one.units.saturating_add(booked.used),
        None => {
            let period = booked.lease.period_start;
            uses.push(QuotaUse { lease, counter, period, units: booked.used });
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let unknown = Settlement {
            status: None,
            end: End::ClientLeft,
            bytes_in: 0,
            bytes_out: 0,
            stated: &[],
            measured: Measured::Exact,
            retry: None,
        };
        self.settle_once(&unknown);
    }
}
