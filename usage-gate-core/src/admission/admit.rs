//! Step 5: a seat, then concurrency, quota and rate: all of them or nothing (R5).
//!
//! First every limit is looked at, then every limit is taken, so that a refusal names all limits that stand in the way and has touched
//! none. Where another request comes between look and take, what was taken is given back. Rates are taken last: what a rate has given can
//! be taken back only while nothing else has happened to it, a quota's units always.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::caller::{Applied, CompiledLimit};
use super::held::Held;
use super::{Caller, Code, Head, Refusal, Standing};
use crate::clock::Monotonic;
use crate::gate::{GateCore, Recording, WhenFull};
use crate::lease::{Counter, CounterState, Debtor, Forfeit, LeaseEntry, QuotaCounter, RateTaken};
use crate::model::{Environment, RequestId, StoreAway, Timestamp, WhenExceeded};
use crate::rates::{Look, Low, RateUnits};
use crate::routes::RouteIndex;
use crate::seat::{Notes, Seat, SeatContents};
use crate::store::QuotaUse;

/// A request that may be forwarded: it holds a seat and units of every limit that applies.
///
/// Settle it with what was really used; dropped without, it counts as `indeterminate`, since nobody knows what the upstream did.
#[derive(Debug)]
pub struct Admitted {
    pub(crate) gate: Arc<GateCore>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) route: RouteIndex,
    pub(crate) request: RequestId,
    pub(crate) at: Timestamp,
    pub(crate) started: Monotonic,
    /// The bucket of the tenant's clock that `at` is in.
    pub(crate) bucket: Timestamp,
    pub(crate) client: Option<IpAddr>,
    pub(crate) taken: TakenUnits,
    /// Its seat; none where the host wants no usage, or declared that requests go on while the journal is full.
    pub(crate) seat: Option<Seat>,
    pub(crate) settled: bool,
}

/// Three inline: a rate, a quota and a slot are what plans have.
pub(crate) type TakenUnits = SmallVec<[Taken; 3]>;
/// What leases count of a request.
pub(crate) type QuotaUses = SmallVec<[QuotaUse; 3]>;
/// What undoes the rates, by the place of their limit; needed until all limits are taken.
type RatesTaken = SmallVec<[(usize, Undo); 2]>;

/// What undoes a rate.
enum Undo {
    /// Of this node's own bucket, or of its part of one that is shared.
    Here(RateTaken),
    Shared(RateUnits),
}

/// Units taken of one limit.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Place of the limit in the plan.
    pub(crate) at: usize,
    /// The counter, where it is not the caller's own (counted by address).
    pub(crate) counter: Option<Arc<Counter>>,
    pub(crate) what: TakenWhat,
}

#[derive(Debug)]
pub(crate) enum TakenWhat {
    Slot,
    /// One that the authority, which is away, does not know of.
    SlotAlone,
    /// Units held of a quota.
    Quota(Held, u64),
    /// Units; 0 where the cost is known only later.
    Rate(u64),
}

impl TakenWhat {
    /// The lease of this tag, if units are held of it.
    pub(super) fn lease(&self, tag: u64) -> Option<&Arc<LeaseEntry>> {
        if let Self::Quota(held, _) = self { held.lease(tag) } else { None }
    }
}

/// What one try gave.
pub(super) enum Attempt {
    Admitted(Box<Admitted>),
    /// Nothing was taken; the caller comes back.
    Stopped(Box<Stop>, Arc<Caller>),
}

/// What stands in the way.
pub(super) enum Stop {
    Refused(Refusal),
    /// The authority of a limit is away, and its owner wants no request served without it.
    Away,
    /// Leases are too small for the request; ask for more.
    Short(ShortOf),
}

/// Limits of which too little is leased, with the units needed.
pub(super) type ShortOf = SmallVec<[(Arc<Counter>, u64); 2]>;

/// What a node does about a shared limit.
pub(super) enum Alone {
    /// The authority is there.
    No,
    /// This node's part, one of so many, is its to give.
    Share(u32),
    Refuse,
}

/// Tries before a request that loses every race is refused.
pub(super) const TRIES: usize = 64;
impl GateCore {
    pub(super) fn try_admit(self: &Arc<Self>, head: &Head, caller: Arc<Caller>, route: RouteIndex) -> Attempt {
        let seat = if self.recording == Recording::Off { None } else { self.recorder.take_seat() };
        if seat.is_none() && self.recording == Recording::Records(WhenFull::Refuse) {
            let detail = "usage cannot be recorded at the moment; nothing was spent";
            let refusal = Refusal::new(Code::JournalUnavailable, detail).retry_after(1);
            return Attempt::Stopped(Box::new(Stop::Refused(refusal)), caller);
        }
        let tried = self.take_limits(head, &caller, route);
        match tried {
            Ok(taken) => {
                self.callers.note_use(&caller, head.at);
                // An allocation, since it is moved some twenty times on its way to the last frame, with whatever it is in.
                let admitted = Box::new(Admitted {
                    gate: Arc::clone(self),
                    bucket: caller.bucket(head.at),
                    caller,
                    route,
                    request: head.request,
                    at: head.at,
                    started: head.now,
                    client: head.client,
                    taken,
                    seat,
                    settled: false,
                });
                admitted.sit_down();
                Attempt::Admitted(admitted)
            }
            Err(stop) => {
                if let Some(seat) = seat {
                    self.recorder.leave_seat(seat);
                }
                Attempt::Stopped(stop, caller)
            }
        }
    }

    fn take_limits(&self, head: &Head, caller: &Arc<Caller>, route: RouteIndex) -> Result<TakenUnits, Box<Stop>> {
        let now = head.now;
        let Some(limits) = caller.plan.on_route(route, caller.environment) else {
            return Ok(TakenUnits::new());
        };
        for _ in 0..TRIES {
            self.look(caller, &limits.applied, head, now)?;
            let (mut taken, mut rates) = (TakenUnits::new(), RatesTaken::new());
            if self.take(caller, &limits.applied, head, &mut taken, &mut rates) {
                return Ok(taken);
            }
            self.undo(caller, taken, rates, head.client);
        }
        let detail = "too many requests compete for the same limit; nothing was spent";
        Err(Box::new(Stop::Refused(Refusal::new(Code::Overloaded, detail).retry_after(1))))
    }

    /// Looks at every limit; an error if one stands in the way.
    fn look(&self, caller: &Arc<Caller>, applied: &[Applied], head: &Head, now: Monotonic) -> Result<(), Box<Stop>> {
        let mut violated: SmallVec<[(usize, u64); 2]> = SmallVec::new();
        let mut short = ShortOf::new();
        let mut away = false;
        for limit in applied {
            let Some(compiled) = caller.plan.limits.get(limit.at) else { continue };
            let units = limit.units.unwrap_or(1);
            // A cost that is known only later holds its bound, or one unit.
            let held = limit.units.or_else(|| head.bound(compiled.meter)).unwrap_or(1);
            let verdict = with_counter(self, caller, limit.at, head.client, |counter| match &counter.state {
                CounterState::Open(open) => {
                    (open.load(Ordering::Relaxed) < compiled.limit.units).then_some(()).ok_or(1_000_000_000)
                }
                CounterState::Rate(bucket) => bucket.peek(&compiled.rate, now, units),
                CounterState::SharedRate(rate) => match rate.look(units, now) {
                    Look::Enough => Ok(()),
                    look => match (self.alone(compiled, counter, now), look) {
                        (Alone::Share(nodes), _) => rate.peek_alone(units, nodes, now),
                        (Alone::Refuse, _) => {
                            away = true;
                            Ok(())
                        }
                        (Alone::No, Look::NotNow(wait)) => Err(wait),
                        (Alone::No, _) => {
                            short.push((Arc::clone(counter), units));
                            Ok(())
                        }
                    },
                },
                CounterState::SharedSlots(slots) => match slots.look(now) {
                    Look::Enough => Ok(()),
                    look => match (self.alone(compiled, counter, now), look) {
                        (Alone::Share(nodes), _) => slots.has_room_alone(nodes).then_some(()).ok_or(1_000_000_000),
                        (Alone::Refuse, _) => {
                            away = true;
                            Ok(())
                        }
                        (Alone::No, Look::NotNow(wait)) => Err(wait),
                        (Alone::No, _) => {
                            short.push((Arc::clone(counter), 1));
                            Ok(())
                        }
                    },
                },
                CounterState::Quota(quota) => {
                    if quota.can_serve(held, now) || compiled.limit.when_exceeded == WhenExceeded::Allow {
                        Ok(())
                    } else if quota.is_exhausted(held, now) {
                        Err(0)
                    } else if self.may_overdraw(compiled, counter, held, now) {
                        Ok(())
                    } else {
                        short.push((Arc::clone(counter), held));
                        Ok(())
                    }
                }
            });
            if let Some(Err(wait)) = verdict {
                violated.push((limit.at, wait));
            }
        }
        if !violated.is_empty() {
            return Err(Box::new(Stop::Refused(self.violation(caller, &violated, head.client))));
        }
        if away {
            return Err(Box::new(Stop::Away));
        }
        if !short.is_empty() {
            return Err(Box::new(Stop::Short(short)));
        }
        Ok(())
    }

    /// Takes every limit in the order concurrency, quota, rate; `false` if one was gone meanwhile.
    fn take(
        &self,
        caller: &Arc<Caller>,
        applied: &[Applied],
        head: &Head,
        taken: &mut TakenUnits,
        undo: &mut RatesTaken,
    ) -> bool {
        for rates in [false, true] {
            for limit in applied {
                let Some(compiled) = caller.plan.limits.get(limit.at) else { continue };
                let got = with_counter(self, caller, limit.at, head.client, |counter| {
                    if matches!(counter.state, CounterState::Rate(_) | CounterState::SharedRate(_)) != rates {
                        return Some(None);
                    }
                    let what = self.take_one(limit, compiled, counter, head, undo)?;
                    let foreign = caller.counters.get(limit.at).is_some_and(Option::is_none);
                    Some(Some(Taken { at: limit.at, counter: foreign.then(|| Arc::clone(counter)), what }))
                });
                match got {
                    Some(Some(Some(one))) => taken.push(one),
                    Some(Some(None)) | None => {}
                    Some(None) => return false,
                }
            }
        }
        true
    }

    fn take_one(
        &self,
        limit: &Applied,
        compiled: &CompiledLimit,
        counter: &Arc<Counter>,
        head: &Head,
        undo: &mut RatesTaken,
    ) -> Option<TakenWhat> {
        let now = head.now;
        match &counter.state {
            CounterState::Open(open) => take_slot(open, compiled.limit.units).then_some(TakenWhat::Slot),
            CounterState::Rate(bucket) => match limit.units {
                Some(units) => {
                    let taken = bucket.take(&compiled.rate, now, units).ok()?;
                    undo.push((limit.at, Undo::Here(taken)));
                    Some(TakenWhat::Rate(units))
                }
                None => Some(TakenWhat::Rate(0)),
            },
            CounterState::SharedRate(rate) => match limit.units {
                Some(units) => {
                    if let Some((taken, low)) = rate.take(units, now) {
                        match low {
                            Low::No => {}
                            Low::Soon => self.rates.iter().for_each(|rates| rates.of(counter).ask_soon_for(counter)),
                            Low::Now => self.ask_for_rate(counter),
                        }
                        undo.push((limit.at, Undo::Shared(taken)));
                    } else {
                        let Alone::Share(nodes) = self.alone(compiled, counter, now) else { return None };
                        undo.push((limit.at, Undo::Here(rate.take_alone(units, nodes, now)?)));
                    }
                    Some(TakenWhat::Rate(units))
                }
                None => Some(TakenWhat::Rate(0)),
            },
            CounterState::SharedSlots(slots) => {
                if slots.open(now) {
                    return Some(TakenWhat::Slot);
                }
                let Alone::Share(nodes) = self.alone(compiled, counter, now) else { return None };
                slots.open_alone(nodes).then_some(TakenWhat::SlotAlone)
            }
            CounterState::Quota(quota) => {
                let units = limit.units.or_else(|| head.bound(compiled.meter)).unwrap_or(1);
                let taken = quota.take(units, now);
                let _overdrawing = (taken.is_none() && matches!(compiled.limit.store_away, StoreAway::Overdraft(_)))
                    .then(|| quota.overdrawing());
                let goes_on = || {
                    compiled.limit.when_exceeded == WhenExceeded::Allow
                        || self.may_overdraw(compiled, counter, units, now)
                };
                if taken.is_none() && !goes_on() {
                    return None;
                }
                let signed = i64::try_from(units).unwrap_or(i64::MAX);
                let held = if let Some((entry, runs_low)) = taken {
                    if runs_low {
                        self.queue.ask_for(counter);
                    }
                    Held::Lease(entry)
                } else {
                    let period = self.period_of(compiled, quota, now);
                    let owed = period.and_then(|period| quota.owe(signed, period, &self.debtor(counter, now)));
                    self.queue.ask_for(counter);
                    owed.map_or(Held::Nowhere, Held::Owed)
                };
                Some(TakenWhat::Quota(held, units))
            }
        }
    }

    /// What a node does about a rate, or about requests open at once, without their authority.
    pub(super) fn alone(&self, compiled: &CompiledLimit, counter: &Counter, now: Monotonic) -> Alone {
        let Some(driver) = self.rates.as_ref().map(|rates| rates.of(counter)) else { return Alone::No };
        match compiled.limit.store_away {
            _ if !driver.is_away(now) => Alone::No,
            // Who does not know how many others there are does not know its part.
            StoreAway::Share if driver.nodes() > 0 => Alone::Share(driver.nodes()),
            StoreAway::Share => Alone::Refuse,
            StoreAway::Exact | StoreAway::Refuse | StoreAway::Overdraft(_) => Alone::Refuse,
        }
    }

    pub(super) fn ask_for_rate(&self, counter: &Arc<Counter>) {
        if let Some(rates) = &self.rates {
            rates.of(counter).ask_for(counter);
        }
    }

    /// Whether a quota whose authority is away goes on without a lease: its owner has said for how many units a node may, and fewer are owed.
    pub(super) fn may_overdraw(&self, compiled: &CompiledLimit, counter: &Counter, units: u64, now: Monotonic) -> bool {
        let StoreAway::Overdraft(most) = compiled.limit.store_away else { return false };
        let CounterState::Quota(quota) = &counter.state else { return false };
        let of_period = |period| quota.owed(period).saturating_add(self.counters.untold(&counter.id, period));
        let owed = || self.period_of(compiled, quota, now).map_or(u64::MAX, of_period);
        self.leases.is_away(now) && owed().saturating_add(units) <= most
    }

    /// Where a debt is noted.
    pub(super) fn debtor<'a>(&'a self, counter: &'a Counter, now: Monotonic) -> Debtor<'a> {
        Debtor { counter: &counter.id, table: &self.leases.table, now }
    }

    fn undo(&self, caller: &Arc<Caller>, taken: TakenUnits, rates: RatesTaken, client: Option<IpAddr>) {
        for one in taken {
            let own = caller.counters.get(one.at).and_then(Option::as_ref);
            let Some(counter) = one.counter.as_ref().or(own) else { continue };
            match (&counter.state, one.what) {
                (CounterState::Open(open), TakenWhat::Slot) => free_slot(open),
                (CounterState::SharedSlots(slots), TakenWhat::Slot) => slots.close(),
                (CounterState::SharedSlots(slots), TakenWhat::SlotAlone) => slots.close_alone(),
                (CounterState::Quota(_), TakenWhat::Quota(held, units)) => {
                    let Some(entry) = held.entry() else { continue };
                    let units = i64::try_from(units).unwrap_or(i64::MAX);
                    let left = units.saturating_sub(entry.credit(units));
                    if left > 0 {
                        // The lease has gone back meanwhile, with these counted as used. No other is credited: it would have to be cited for it.
                        let (lease, counter, period) = (entry.lease, counter.id.clone(), entry.period);
                        let forfeit = Forfeit { lease, counter, period, units: left, shown: left.unsigned_abs() };
                        self.unrecorded.add(forfeit, Some(entry));
                    }
                }
                _ => {}
            }
        }
        for (at, taken) in rates {
            with_counter(self, caller, at, client, |counter| match (&counter.state, taken) {
                (CounterState::Rate(bucket), Undo::Here(taken)) => bucket.undo(taken),
                (CounterState::SharedRate(rate), Undo::Here(taken)) => rate.undo_alone(taken),
                (_, Undo::Shared(units)) => units.undo(),
                _ => {}
            });
        }
    }
}

/// Runs `f` on the limit's counter: the caller's own without touching its reference count, or the address's.
pub(super) fn with_counter<T>(
    gate: &GateCore,
    caller: &Arc<Caller>,
    at: usize,
    client: Option<IpAddr>,
    f: impl FnOnce(&Arc<Counter>) -> T,
) -> Option<T> {
    match caller.counters.get(at)? {
        Some(counter) => Some(f(counter)),
        None => caller.counter(at, client, &gate.counters).map(|counter| f(&counter)),
    }
}

/// The same for what was taken.
pub(super) fn with_counter_of<T>(admitted: &Admitted, one: &Taken, f: impl FnOnce(&Arc<Counter>) -> T) -> Option<T> {
    match &one.counter {
        Some(counter) => Some(f(counter)),
        None => with_counter(&admitted.gate, &admitted.caller, one.at, None, f),
    }
}

fn take_slot(open: &AtomicU64, most: u64) -> bool {
    open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1)).is_ok()
}

pub(super) fn free_slot(open: &AtomicU64) {
    open.fetch_sub(1, Ordering::Relaxed);
}

impl Admitted {
    /// B1, B7: the seat knows all that a crash has to know before anything is forwarded.
    fn sit_down(&self) {
        let Some(seat) = self.notes() else { return };
        let mut quotas = QuotaUses::new();
        for one in &self.taken {
            with_counter_of(self, one, |counter| self.cite(one, counter, &mut quotas));
        }
        let caller = &self.caller;
        seat.forward(&SeatContents {
            request: self.request,
            at: self.at,
            tenant: caller.tenant,
            key: caller.key,
            user: caller.user,
            environment: caller.environment,
            route: self.route,
            bucket: self.bucket,
            cost: self.gate.routes.route(self.route).map_or(&[], |route| &route.cost),
            quotas: &quotas,
        });
    }

    /// What a crash has to know of it.
    fn notes(&self) -> Option<Notes<'_>> {
        self.seat.as_ref().map(|seat| self.gate.recorder.seats.at(seat))
    }

    /// What leases count by now of one of its limits.
    pub(super) fn cite(&self, one: &Taken, counter: &Counter, uses: &mut QuotaUses) {
        let (TakenWhat::Quota(source, held), CounterState::Quota(quota)) = (&one.what, &counter.state) else { return };
        source.each(*held, |lease, units| {
            let period = self.quota_period(one, source, quota);
            uses.push(QuotaUse { lease, counter: counter.tag, period, units });
        });
    }

    /// The start of the period that units of a quota are of, as records have it.
    pub(super) fn quota_period(&self, one: &Taken, source: &Held, quota: &QuotaCounter) -> Timestamp {
        if let Some(entry) = source.entry() {
            return entry.period_start;
        }
        let compiled = self.caller.plan.limits.get(one.at);
        let period = compiled.and_then(|compiled| self.gate.period_of(compiled, quota, self.started));
        period.map_or(self.at, |period| period.start).floor_seconds()
    }

    /// B2: a head with this status is about to be released.
    pub fn head(&self, status: u16) {
        if let Some(seat) = self.notes() {
            let route = self.gate.routes.route(self.route);
            seat.head(status, route.is_none_or(|route| route.bill_on.bills(status)));
        }
    }

    /// So many bytes of both bodies have passed, and are about to be released.
    pub fn progress(&self, bytes_in: u64, bytes_out: u64) {
        if let Some(seat) = self.notes() {
            seat.progress(bytes_in, bytes_out);
        }
    }

    /// So many tokens were counted up to now.
    pub fn tokens(&self, input: u64, output: u64) {
        if let Some(seat) = self.notes() {
            seat.tokens(input, output);
        }
    }

    /// The caller.
    #[must_use]
    pub const fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// The request's id.
    #[must_use]
    pub const fn request(&self) -> RequestId {
        self.request
    }

    /// The route.
    #[must_use]
    pub const fn route(&self) -> RouteIndex {
        self.route
    }

    /// Records the gate's own time until now, for one request in 32: a clock read each would cost more than it tells.
    pub fn sample_gate_time(&self) {
        if self.request.as_u128().is_multiple_of(32) {
            self.gate.metrics.gate_took(self.gate.clock.monotonic().nanos_since(self.started));
        }
    }

    /// Whether the caller's key is a test key.
    #[must_use]
    pub fn is_test(&self) -> bool {
        self.caller.environment == Environment::Test
    }

    /// The `RateLimit-Policy` of the route for this caller.
    #[must_use]
    pub fn policy(&self) -> Option<&http::HeaderValue> {
        self.caller.plan.on_route(self.route, self.caller.environment)?.policy.as_ref()
    }

    /// How every limit of the route stands, one after the other.
    pub fn each_standing(&self, tell: impl FnMut(Standing<&str>)) {
        self.gate.each_standing(&self.caller, self.route, self.client, tell);
    }
}
