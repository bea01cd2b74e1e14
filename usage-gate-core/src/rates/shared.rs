//! A rate, or a limit of requests open at once, that several nodes share, as requests of this node meet it: what is held of it; while the authority is away this node's own
//! part; and what was spent before it was known.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::held::{HeldRate, Low, RateUnits};
use super::held_slots::HeldSlots;
use crate::clock::Monotonic;
use crate::lease::{RateBucket, RateSpec, RateTaken};
use crate::store::RateTerms;

/// What a look at a limit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Enough,
    /// It is known without asking that there is not enough; nanoseconds until there may be.
    NotNow(u64),
    /// The authority may have more.
    Ask,
}

/// Whether a counter is in the driver's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Queued {
    No = 0,
    /// And nobody waits for it.
    Soon = 1,
    Now = 2,
}

/// When the driver is to look at a counter, and who waits for that.
#[derive(Debug)]
pub(crate) struct Call {
    queued: AtomicU8,
    /// The instant for which the driver has a timer; the largest number for none.
    timer: AtomicU64,
    answered: Notify,
}

impl Call {
    fn new() -> Self {
        Self { queued: AtomicU8::new(Queued::No as u8), timer: AtomicU64::new(u64::MAX), answered: Notify::new() }
    }

    pub(crate) fn answered(&self) -> &Notify {
        &self.answered
    }

    /// Marks it as queued; says what it was before.
    pub(super) fn enqueue(&self, queued: Queued) -> Queued {
        match self.queued.fetch_max(queued as u8, Ordering::AcqRel) {
            0 => Queued::No,
            1 => Queued::Soon,
            _ => Queued::Now,
        }
    }

    pub(super) fn dequeue(&self) {
        self.queued.store(Queued::No as u8, Ordering::Release);
    }

    /// Whether a timer for `due` is to be set: there is none as early.
    pub(super) fn sets_timer(&self, due: Monotonic) -> bool {
        due.0 < self.timer.load(Ordering::Relaxed) && {
            self.timer.store(due.0, Ordering::Relaxed);
            true
        }
    }

    pub(super) fn timer_rang(&self) {
        self.timer.store(u64::MAX, Ordering::Relaxed);
    }
}

/// A rate of several nodes.
///
/// In this order: what a request looks at, of a rate that it has not in its caches, is in one line of them.
#[repr(C)]
pub(crate) struct SharedRate {
    /// Units that were spent before it was known that they would be: what is lent next pays for them first.
    owed: AtomicU64,
    pub(super) held: HeldRate,
    pub(crate) call: Call,
    terms: Mutex<RateTerms>,
    /// This node's part of the rate, for the time in which the authority is away.
    alone: RateBucket,
    /// Whether its authority is the durable one, where there are two.
    pub(super) slow: bool,
}

impl SharedRate {
    pub(crate) fn new(terms: RateTerms, slow: bool) -> Self {
        Self {
            owed: AtomicU64::new(0),
            held: HeldRate::new(),
            call: Call::new(),
            terms: Mutex::new(terms),
            alone: RateBucket::default(),
            slow,
        }
    }

    pub(crate) fn terms(&self) -> RateTerms {
        *self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_terms(&self, terms: RateTerms) {
        *self.terms.lock().unwrap_or_else(PoisonError::into_inner) = terms;
    }

    /// Whether `units` are held, or to be had.
    pub(crate) fn look(&self, units: u64, now: Monotonic) -> Look {
        let owed = self.owed();
        let needed = units.saturating_add(owed);
        if self.held.has(needed, now) {
            return Look::Enough;
        }
        let terms = self.terms();
        if units > terms.burst {
            // Never: the best moment is when the bucket is full.
            return Look::NotNow(u64::try_from(terms.refill_time().as_nanos()).unwrap_or(u64::MAX));
        }
        self.held.short_for(needed, now).map_or(Look::Ask, Look::NotNow)
    }

    /// Takes `units`, all or none. Says too whether more is to be asked for.
    pub(crate) fn take(&self, units: u64, now: Monotonic) -> Option<(RateUnits, Low)> {
        if self.owed() > 0 {
            self.pay(now);
            if self.owed() > 0 {
                return None;
            }
        }
        self.held.take(units, now)
    }

    /// Books units that became known only now: they have passed, and what follows waits for them.
    pub(crate) fn book(&self, units: u64, now: Monotonic) {
        self.owed.fetch_add(units, Ordering::AcqRel);
        self.pay(now);
    }

    pub(crate) fn owed(&self) -> u64 {
        self.owed.load(Ordering::Acquire)
    }

    /// Pays what is owed, as far as units are held.
    pub(super) fn pay(&self, now: Monotonic) {
        loop {
            let owed = self.owed();
            let part = owed.min(self.held.left(now));
            if part == 0 {
                return;
            }
            let Some((paid, _)) = self.held.take(part, now) else { continue };
            let less = |owed: u64| (owed >= part).then(|| owed - part);
            if self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_err() {
                // Another has paid it meanwhile.
                paid.undo();
            }
        }
    }

    /// Units that are surely left, and nanoseconds until there may be one more.
    pub(crate) fn remaining(&self, now: Monotonic) -> (u64, u64) {
        let left = self.held.nearly(now).saturating_sub(self.owed());
        (left, self.held.next_at().nanos_since(now))
    }

    /// Units that nobody holds, as far as the authority's last answer tells: it is not asked because time has passed.
    pub(crate) fn level(&self, now: Monotonic) -> u64 {
        let terms = self.terms();
        let Some((state, at)) = self.held.state() else { return terms.burst };
        let (time, lease_time) = (u128::from(now.nanos_since(at)), terms.lease_time().as_nanos());
        // What is lent leaves no room until it is dead; where all is, nothing refills before.
        let lent = if time < lease_time { state.outstanding } else { 0 };
        let is_full = state.level.saturating_add(state.outstanding) >= terms.burst;
        let refills = if is_full && state.outstanding > 0 { time.saturating_sub(lease_time) } else { time };
        let refilled = refills * u128::from(terms.units) / (u128::from(terms.seconds.max(1)) * 1_000_000_000);
        let most = terms.burst.saturating_sub(lent).max(state.level);
        state.level.saturating_add(u64::try_from(refilled).unwrap_or(u64::MAX)).min(most)
    }

    /// Whether `units` would pass of this node's part, one of so many; otherwise nanoseconds until they would.
    pub(crate) fn peek_alone(&self, units: u64, nodes: u32, now: Monotonic) -> Result<(), u64> {
        self.alone.peek(&self.part(nodes), now, units)
    }

    pub(crate) fn take_alone(&self, units: u64, nodes: u32, now: Monotonic) -> Option<RateTaken> {
        self.alone.take(&self.part(nodes), now, units).ok()
    }

    /// Books units that became known only now, while the authority is away.
    pub(crate) fn book_alone(&self, units: u64, nodes: u32, now: Monotonic) {
        self.alone.book(&self.part(nodes), now, units);
    }

    pub(crate) fn undo_alone(&self, taken: RateTaken) {
        self.alone.undo(taken);
    }

    fn part(&self, nodes: u32) -> RateSpec {
        let (terms, nodes) = (self.terms(), u64::from(nodes.max(1)));
        RateSpec::new(terms.units, terms.seconds.saturating_mul(nodes), (terms.burst / nodes).max(1))
    }

    pub(crate) fn start_waiting(&self, units: u64) {
        self.held.start_waiting(units);
    }

    pub(crate) fn stop_waiting(&self, units: u64) {
        self.held.stop_waiting(units);
    }

    pub(crate) fn failed_since(&self, since: Monotonic) -> bool {
        self.held.failed_since(since)
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_unused(&self, now: Monotonic) -> bool {
        self.held.is_quiet(now) && self.owed() == 0 && self.alone.is_full(now)
    }
}

impl fmt::Debug for SharedRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRate").field("terms", &self.terms()).field("held", &self.held).finish_non_exhaustive()
    }
}

/// A limit of requests open at once, over several nodes.
#[derive(Debug)]
pub(crate) struct SharedSlots {
    pub(super) held: HeldSlots,
    pub(crate) call: Call,
    limit: AtomicU64,
    /// Requests open that hold no place: they came while the authority was away.
    alone: AtomicU64,
}

impl SharedSlots {
    pub(crate) fn new(limit: u64) -> Self {
        Self { held: HeldSlots::new(), call: Call::new(), limit: AtomicU64::new(limit), alone: AtomicU64::new(0) }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn look(&self, now: Monotonic) -> Look {
        if self.held.has_room(now) {
            Look::Enough
        } else if self.held.is_full(now) {
            Look::NotNow(1_000_000_000)
        } else {
            Look::Ask
        }
    }

    pub(crate) fn open(&self, now: Monotonic) -> bool {
        // What is open without a place takes the place of others once there are some again.
        let alone = self.alone.load(Ordering::Relaxed);
        let (open, places) = self.held.counts();
        (alone == 0 || open.saturating_add(alone) < places) && self.held.open(now)
    }

    pub(crate) fn close(&self) {
        self.held.close();
    }

    /// Whether one more may be open without the authority: this node's part of the places is not taken.
    pub(crate) fn has_room_alone(&self, nodes: u32) -> bool {
        let (open, _) = self.held.counts();
        open.saturating_add(self.alone.load(Ordering::Relaxed)) < (self.limit() / u64::from(nodes.max(1))).max(1)
    }

    pub(crate) fn open_alone(&self, nodes: u32) -> bool {
        let most = (self.limit() / u64::from(nodes.max(1))).max(1).saturating_sub(self.held.counts().0);
        self.alone.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1)).is_ok()
    }

    pub(crate) fn close_alone(&self) {
        self.alone.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests open: on this node, and places of all others, as the authority last said.
    pub(crate) fn in_use(&self) -> (u64, u64) {
        let own = self.held.counts().0.saturating_add(self.alone.load(Ordering::Relaxed));
        (own, self.held.answered().map_or(0, |(grant, _)| grant.elsewhere))
    }

    /// Places that are surely free.
    pub(crate) fn free(&self) -> u64 {
        let (open, places) = self.held.counts();
        places.saturating_sub(open)
    }

    pub(crate) fn start_waiting(&self) {
        self.held.start_waiting();
    }

    pub(crate) fn stop_waiting(&self) {
        self.held.stop_waiting();
    }

    pub(crate) fn failed_since(&self, since: Monotonic) -> bool {
        self.held.failed_since(since)
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.held.is_quiet() && self.alone.load(Ordering::Relaxed) == 0
    }
}
