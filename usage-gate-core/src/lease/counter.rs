//! Counters of this node: one per limit and subject, shared by every caller that counts there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::demand::{self, Demand};
use super::owed::{Debtor, Owed};
use super::{LeaseEntry, RateBucket};
use crate::clock::Monotonic;
use crate::period::{Calendar, Period};
use crate::rates::{SharedRate, SharedSlots};
use crate::store::{CounterId, CounterTag, WindowState};

/// One counter and how it is kept.
///
/// In this order, and each state in its own: what a request looks at is in one line of the caches, where a counter that was not used for a while has to be brought from.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Counter {
    /// How records name it.
    pub(crate) tag: CounterTag,
    pub(crate) state: CounterState,
    pub(crate) id: CounterId,
}

/// How a counter is kept, by the kind of its limit.
#[derive(Debug)]
pub(crate) enum CounterState {
    Rate(RateBucket),
    Quota(QuotaCounter),
    /// Requests open now.
    Open(AtomicU64),
    /// A rate that other nodes share.
    SharedRate(SharedRate),
    /// Requests open now, over several nodes.
    SharedSlots(Box<SharedSlots>),
}

/// The cap and calendar that leases of a quota are asked with; replaced when the plan or the tenant changes.
#[derive(Debug, Clone)]
pub(crate) struct QuotaTerms {
    pub(crate) calendar: Calendar,
    pub(crate) cap: u64,
    pub(crate) cap_version: u32,
    pub(crate) beyond_cap: bool,
}

/// Leases that are being spent; few, the oldest first.
pub(crate) type LeaseSet = SmallVec<[Arc<LeaseEntry>; 2]>;

/// What the authority last said, and what it knew of our own leases then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastAnswer {
    pub(crate) window: WindowState,
    /// Use that is not of the leases this node now holds.
    used_elsewhere: u64,
    /// Whether this node alone leases of it: then what is not granted is as good as its own.
    alone: bool,
}

/// A quota on this node.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct QuotaCounter {
    leases: ArcSwap<LeaseSet>,
    /// Units not leased by anyone, as of the last answer, if this node is alone.
    free: AtomicU64,
    /// Units granted beyond the cap, as of the last answer: held ones among them are served, and are not what is left of the limit.
    beyond: AtomicU64,
    terms: Mutex<QuotaTerms>,
    last: Mutex<Option<LastAnswer>>,
    /// Units that waiting requests need together.
    waiting_units: AtomicU64,
    /// The most that one of those needs who have come since the driver last looked.
    needed: AtomicU64,
    /// The most that a request in flight will need in one piece, since the driver last looked.
    wished: AtomicU64,
    /// What was spent when no lease of its period was open.
    owed: Owed,
    demand: Demand,
    queued: AtomicBool,
    overdrawing: Mutex<()>,
    /// Ticks without use, after which leases go back.
    idle_ticks: AtomicU64,
    failed_at: AtomicU64,
    answered: Notify,
}

/// Ticks (seconds) without use after which leases go back.
pub(super) const IDLE_TICKS: u64 = 30;
/// A lease that is spent slowly goes back after an hour: what a crash would forfeit of it is found by the records of its whole time, and those
/// are kept for some days only.
const MOST_AGE_NANOS: u64 = 3_600 * 1_000_000_000;
/// A tenant's midnight is no stampede if units of the new period are there already.
const EARLY_NANOS: u64 = 60_000_000_000;
/// Leases of one counter beyond which spent ones end although requests in flight hold them: a request looks through all.
const MOST_LEASES: usize = 8;

/// Which leases go back beside those that are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Return {
    /// None.
    Over,
    /// All that requests in flight do not hold: nobody uses the counter.
    Idle,
    /// All: the node goes away.
    All,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves the value whole, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QuotaCounter {
    pub(crate) fn new(terms: QuotaTerms) -> Self {
        Self {
            leases: ArcSwap::from_pointee(LeaseSet::new()),
            terms: Mutex::new(terms),
            last: Mutex::new(None),
            free: AtomicU64::new(0),
            beyond: AtomicU64::new(0),
            waiting_units: AtomicU64::new(0),
            needed: AtomicU64::new(0),
            wished: AtomicU64::new(0),
            owed: Owed::default(),
            demand: Demand::new(),
            queued: AtomicBool::new(false),
            overdrawing: Mutex::new(()),
            idle_ticks: AtomicU64::new(0),
            failed_at: AtomicU64::new(0),
            answered: Notify::new(),
        }
    }

    /// Whether some lease can serve `units` now.
    pub(crate) fn can_serve(&self, units: u64, now: Monotonic) -> bool {
        self.leases.load().iter().any(|entry| entry.left(now) >= units)
    }

    /// Takes `units` of one lease of this period, all or none.
    pub(crate) fn take_in(&self, period: Period, units: u64, now: Monotonic) -> Option<Arc<LeaseEntry>> {
        let leases = self.leases.load();
        let mut of_period = leases.iter().filter(|entry| entry.period == period);
        of_period.find(|entry| entry.spend(units, now)).map(Arc::clone)
    }

    /// Takes `units` of one lease, all or none. Says too whether a lease has just fallen below its low-water mark: one look at the leases, which costs as much as the rest.
    pub(crate) fn take(&self, units: u64, now: Monotonic) -> Option<(Arc<LeaseEntry>, bool)> {
        let leases = self.leases.load();
        let taken = leases.iter().find(|entry| entry.spend(units, now)).map(Arc::clone)?;
        Some((taken, leases.last().is_some_and(|entry| entry.runs_low())))
    }

    /// Units held and, where this node is alone, units that nobody holds, as far as they are within the cap: what is surely left.
    ///
    /// With it, nanoseconds until the end of the period that is being spent, if one is.
    pub(crate) fn remaining(&self, now: Monotonic) -> (u64, Option<u64>) {
        let leases = self.leases.load();
        let held: u64 = leases.iter().map(|entry| entry.left(now)).sum();
        let begun = leases.iter().filter(|entry| !entry.is_early(now));
        let until = begun.map(|entry| entry.deadline.nanos_since(now)).max().filter(|nanos| *nanos > 0);
        let free = self.free.load(Ordering::Relaxed);
        (held.saturating_add(free).saturating_sub(self.beyond.load(Ordering::Relaxed)), until)
    }

    /// Units that leases here have left.
    pub(crate) fn held(&self, now: Monotonic) -> u64 {
        self.leases.load().iter().map(|entry| entry.left(now)).sum()
    }

    /// Whether it is known, without asking, that `units` are not to be had.
    pub(crate) fn is_exhausted(&self, units: u64, now: Monotonic) -> bool {
        // What is scattered over several leases may suffice once they are returned and leased anew, so that is asked for.
        self.demand.is_exhausted(now) && self.leases.load().iter().map(|entry| entry.left(now)).sum::<u64>() < units
    }

    /// Gives back (positive) or takes more (negative), on the lease that was taken from or another of its period. Says where it was booked.
    ///
    /// Moving the difference to another lease keeps the sums right (A2, B9): what one lease counts too much, the other counts too
    /// little. Where nothing was taken from a lease, `period` tells of which period the units are.
    pub(crate) fn adjust(
        &self,
        from: Option<&Arc<LeaseEntry>>,
        units: i64,
        period: impl FnOnce() -> Option<Period>,
        debtor: &Debtor<'_>,
    ) -> Bookings {
        let mut bookings = Bookings::new();
        if units > 0 {
            // What was taken nowhere is given back nowhere.
            from.iter().for_each(|from| bookings.extend(self.give_back(from, units)));
        } else if units < 0 {
            let own = from.filter(|entry| entry.adjust(units)).map(Arc::clone);
            let period = || from.map(|entry| entry.period).or_else(period);
            let lease = own.or_else(|| self.owe(units.saturating_neg(), period()?, debtor));
            bookings.extend(lease.map(|lease| Booking { lease, used: units.saturating_neg() }));
        }
        bookings
    }

    /// Gives units back, to the lease that they were taken from, then to others of its period, to each as many as it has spent. What no lease can take
    /// is not granted again: the ended one counts it as used.
    pub(crate) fn give_back(&self, from: &Arc<LeaseEntry>, units: i64) -> Bookings {
        let leases = self.leases.load();
        let others = leases.iter().filter(|entry| entry.period == from.period && !Arc::ptr_eq(entry, from));
        let mut left = units;
        let mut bookings = Bookings::new();
        for entry in std::iter::once(from).chain(others) {
            let given = entry.credit(left);
            if given > 0 {
                bookings.push(Booking { lease: Arc::clone(entry), used: given.saturating_neg() });
                left = left.saturating_sub(given);
            }
            if left == 0 {
                break;
            }
        }
        bookings
    }

    /// Spends units that no lease has: on one of their period that is in debt then, or as a debt that the authority is told of. `None` if
    /// they cannot be noted anywhere, which is counted, or are none.
    pub(crate) fn owe(&self, units: i64, period: Period, debtor: &Debtor<'_>) -> Option<Arc<LeaseEntry>> {
        if units <= 0 {
            return None;
        }
        let open = self.leases.load();
        let open = open.iter().find(|entry| entry.period == period && entry.adjust(units.saturating_neg()));
        let owed = open.map(Arc::clone).or_else(|| self.owed.take(units, period, || self.terms(), debtor));
        if owed.is_none() {
            metrics::counter!("usage_gate_drift_units").increment(units.unsigned_abs());
        }
        owed
    }

    /// Whether a lease has just fallen below its low-water mark.
    pub(crate) fn runs_low(&self) -> bool {
        let leases = self.leases.load();
        leases.last().is_some_and(|entry| entry.runs_low())
    }

    /// Used, reserved, cap and period, as this node knows them now.
    pub(crate) fn window(&self) -> Option<WindowState> {
        let last = (*lock(&self.last))?;
        let own: u64 = self.leases.load().iter().map(|entry| entry.used()).sum();
        let own = own.saturating_add(self.owed.used(last.window.period));
        Some(WindowState { used: last.used_elsewhere.saturating_add(own), ..last.window })
    }

    pub(crate) fn terms(&self) -> QuotaTerms {
        lock(&self.terms).clone()
    }

    /// Another cap or calendar; a higher cap ends the exhaustion at once, and under a lower one what was leased goes back: there may be too much of it.
    pub(crate) fn set_terms(&self, terms: QuotaTerms) {
        let mut current = lock(&self.terms);
        if terms.cap_version > current.cap_version {
            if terms.cap != current.cap {
                self.demand.revive();
            }
            if terms.cap < current.cap {
                self.leases.load().iter().for_each(|entry| entry.recall());
            }
            *current = terms;
        }
    }

    /// Whether leases here are to go back with the next call.
    pub(crate) fn has_recalled(&self) -> bool {
        self.leases.load().iter().any(|entry| entry.is_recalled())
    }

    pub(crate) fn answered(&self) -> &Notify {
        &self.answered
    }

    pub(crate) fn failed_since(&self, since: Monotonic) -> bool {
        self.failed_at.load(Ordering::Acquire) >= since.0
    }

    /// Marks it as queued for the driver; `false` if it is already.
    pub(crate) fn enqueue(&self) -> bool {
        !self.queued.swap(true, Ordering::AcqRel)
    }

    /// Counts a request that waits, so that the next wish covers it; pairs with [`stop_waiting`](Self::stop_waiting).
    pub(crate) fn start_waiting(&self, units: u64) {
        self.waiting_units.fetch_add(units, Ordering::AcqRel);
        self.needed.fetch_max(units, Ordering::AcqRel);
    }

    /// Says that a request in flight will need so many units. Nobody waits for them, so that no lease goes back for it: it may hold units of that.
    pub(crate) fn wish(&self, units: u64) {
        self.wished.fetch_max(units, Ordering::AcqRel);
    }

    pub(crate) fn stop_waiting(&self, units: u64) {
        self.waiting_units.fetch_sub(units, Ordering::AcqRel);
    }

    // --- what only the driver calls ---

    /// What to ask for; `None` if the last answer suffices for who waits: a lease that is large enough, or the word that there is no more.
    ///
    /// Without that look a lease would be returned, as too small, before those for whom it was asked had a chance to spend it; and what is
    /// left and too small for anybody would go back and forth, with everyone waiting for the next answer.
    pub(crate) fn begin_asking(&self, now: Monotonic) -> Option<Asking> {
        self.queued.store(false, Ordering::Release);
        // Of requests that have gone meanwhile nothing is needed.
        let waiting = self.waiting_units.load(Ordering::Acquire);
        let needed = self.needed.swap(0, Ordering::AcqRel).min(waiting);
        if needed > 0 && (self.can_serve(needed, now) || self.is_exhausted(needed, now)) {
            self.answered.notify_waiters();
            return None;
        }
        let wished = self.wished.swap(0, Ordering::AcqRel);
        let want = self.demand.want().max(needed).max(waiting).max(wished);
        Some(Asking { want, needed })
    }

    /// Leases that end here: too small for who waits, spent, past their deadline, old, idle; at the drain all.
    ///
    /// A lease that requests in flight have taken from stays open for what they give back or owe, as long as there are few of them:
    /// beyond that another lease of the period takes the difference.
    pub(crate) fn leases_to_return(&self, now: Monotonic, too_small: u64, why: Return) -> LeaseSet {
        let leases = self.leases.load();
        // The set holds one reference; more are requests in flight.
        let settled = |entry: &Arc<LeaseEntry>| Arc::strong_count(entry) == 1 || leases.len() > MOST_LEASES;
        let ended: LeaseSet = leases
            .iter()
            .filter(|entry| {
                let left = entry.left(now);
                let over = why == Return::Idle
                    || now >= entry.deadline
                    || now.nanos_since(entry.since) > MOST_AGE_NANOS
                    || entry.is_returning()
                    || (entry.is_spent() && leases.len() > 1);
                let called_back = entry.is_recalled() || (left > 0 && left < too_small);
                why == Return::All || called_back || (over && settled(entry))
            })
            .map(Arc::clone)
            .collect();
        if ended.iter().any(|entry| entry.left(now) > 0) {
            // Units are under way: until the answer nobody knows that there are none.
            self.demand.revive();
        }
        ended
    }

    /// Debts that the authority is to be told of now.
    pub(crate) fn debts_to_tell(&self, now: Monotonic, why: Return) -> LeaseSet {
        self.owed.to_tell(now, why)
    }

    /// All of a debt was given back: there is nothing to tell.
    pub(crate) fn let_go(&self, debt: &Arc<LeaseEntry>) {
        self.owed.told(std::slice::from_ref(debt));
        debt.release();
    }

    pub(crate) fn open_leases(&self) -> LeaseSet {
        self.leases.load().iter().map(Arc::clone).collect()
    }

    /// Whether nothing was used for a while; called at every report with whether there was use since the last, and whether a tick has passed.
    pub(crate) fn is_idle(&self, used: bool, ticked: bool) -> bool {
        if used {
            self.idle_ticks.store(0, Ordering::Relaxed);
            return false;
        }
        ticked && self.idle_ticks.fetch_add(1, Ordering::Relaxed) >= IDLE_TICKS
    }

    /// Takes in an answer: which leases and debts ended, which lease begins, what the counter's state is.
    pub(crate) fn apply(&self, ended: &[Arc<LeaseEntry>], begun: Option<Arc<LeaseEntry>>, answer: &Answer) {
        let mut next: LeaseSet = self
            .leases
            .load()
            .iter()
            .filter(|entry| !ended.iter().any(|gone| Arc::ptr_eq(gone, entry)))
            .map(Arc::clone)
            .collect();
        // One of the next period goes before the others, so that the last is the one that is being spent.
        let early = begun.as_ref().is_some_and(|begun| begun.is_early(answer.now));
        next.extend(begun);
        if early {
            next.rotate_right(1);
        }
        let reported: u64 = next.iter().map(|entry| entry.reported.load(Ordering::Relaxed)).sum();
        if let Some(window) = answer.window {
            let alone = answer.active_nodes <= 1;
            let used_elsewhere = window.used.saturating_sub(reported);
            *lock(&self.last) = Some(LastAnswer { window, used_elsewhere, alone });
            let free = if alone { window.cap.saturating_sub(window.granted) } else { 0 };
            self.free.store(free, Ordering::Relaxed);
            self.beyond.store(window.granted.saturating_sub(window.cap), Ordering::Relaxed);
        } else {
            self.close_locally(ended);
        }
        self.owed.told(ended);
        // Held until the end. What was asked for under another cap says nothing of what there is under this one, and what was leased under a higher one may be too much.
        let terms = lock(&self.terms);
        if answer.cap.is_some_and(|asked| asked > terms.cap) {
            next.iter().for_each(|entry| entry.recall());
        }
        let is_current = answer.cap.is_none_or(|asked| asked == terms.cap);
        // The leases are in place before the state says so, and before who waits is woken.
        self.leases.store(Arc::new(next));
        if let Some((asked, units)) = answer.request.filter(|_| is_current) {
            self.demand.learn(&demand::Granted {
                wanted: asked.want,
                needed: asked.needed,
                units,
                all_granted: answer.window.is_none_or(|window| window.granted >= window.cap),
                held_elsewhere: self.held_elsewhere(),
                now: answer.now,
                until_period_end: answer.until_period_end,
            });
        }
        self.answered.notify_waiters();
    }

    /// Leases ended and nothing was asked for: the state moves on by what is known of them.
    fn close_locally(&self, ended: &[Arc<LeaseEntry>]) {
        let mut last = lock(&self.last);
        let Some(last) = last.as_mut() else { return };
        for entry in ended.iter().filter(|entry| entry.period == last.window.period) {
            let used = entry.used();
            last.used_elsewhere = last.used_elsewhere.saturating_add(used);
            last.window.granted = last.window.granted.saturating_add(used).saturating_sub(entry.size);
        }
        self.beyond.store(last.window.granted.saturating_sub(last.window.cap), Ordering::Relaxed);
        if last.alone {
            self.free.store(last.window.cap.saturating_sub(last.window.granted), Ordering::Relaxed);
        }
    }

    /// Units of the last answer's window that others have leased and not said to be spent.
    fn held_elsewhere(&self) -> u64 {
        let Some(last) = *lock(&self.last) else { return 0 };
        let own = self.leases.load().iter().filter(|entry| entry.period == last.window.period).fold(0, |sum, entry| {
            entry.size.saturating_sub(entry.reported.load(Ordering::Relaxed)).saturating_add(sum)
        });
        last.window.reserved().saturating_sub(own)
    }

    /// Whether units that others give back are waited for.
    pub(crate) fn is_recalling(&self, now: Monotonic) -> bool {
        self.demand.is_recalling(now)
    }

    /// Units that are owed in a period, and that the authority does not know of yet.
    pub(crate) fn owed(&self, period: Period) -> u64 {
        // Leases that were spent may be in debt too.
        let leases = self.leases.load();
        let in_debt = leases.iter().filter(|entry| entry.period == period);
        let in_debt = in_debt.map(|entry| entry.used().saturating_sub(entry.size)).fold(0, u64::saturating_add);
        self.owed.used(period).saturating_add(in_debt)
    }

    /// Held by who spends without a lease while the authority is away, from the look at how much is owed until that has grown.
    pub(crate) fn overdrawing(&self) -> MutexGuard<'_, ()> {
        lock(&self.overdrawing)
    }

    /// Units that a request needs at once, which waits already: the next wish says so again.
    pub(crate) fn need(&self, units: u64) {
        self.needed.fetch_max(units, Ordering::AcqRel);
    }

    /// Leases of it go back because others need their units.
    pub(crate) fn note_given_up(&self, now: Monotonic) {
        self.demand.note_given_up(now);
    }

    /// What is to be asked for once a second where other nodes lease too, though nobody waits: units of the next period, if it begins soon, or a reserve
    /// for the time in which the authority is away.
    pub(crate) fn ask_ahead(&self, now: Monotonic) -> Option<Ahead> {
        self.demand.tick();
        let leases = self.leases.load();
        if self.demand.per_second() == 0 || leases.iter().any(|entry| entry.is_early(now)) {
            return None;
        }
        let until_end = leases.iter().map(|entry| entry.deadline.nanos_since(now)).max().filter(|nanos| *nanos > 0)?;
        if until_end <= EARLY_NANOS {
            return Some(Ahead { want: self.demand.want().max(self.demand.per_second()), early: true });
        }
        let want = self.demand.missing_reserve(self.held(now), now)?;
        Some(Ahead { want, early: false })
    }

    /// Units were spent that the authority is told of now.
    pub(crate) fn note_spent(&self, units: u64) {
        self.demand.note_spent(units);
    }

    /// Takes over what an earlier life has left.
    pub(super) fn inherit(&self, leases: LeaseSet) {
        self.leases.store(Arc::new(leases));
    }

    /// Whether nothing is held or owed here.
    pub(super) fn is_unused(&self) -> bool {
        self.leases.load().is_empty() && self.owed.is_empty()
    }

    /// The authority could not be asked: who waits is told.
    pub(crate) fn fail(&self, now: Monotonic) {
        self.failed_at.store(now.0, Ordering::Release);
        self.answered.notify_waiters();
    }
}

/// Where a difference was booked, as a record cites it.
///
/// To be kept until the record is published: the lease table keeps an entry as long as somebody holds it, and what a crash leaves between the two is found
/// by that.
#[derive(Debug)]
pub(crate) struct Booking {
    pub(crate) lease: Arc<LeaseEntry>,
    /// How much more is used; negative for a credit.
    pub(crate) used: i64,
}

/// Mostly none, since most requests cost what was known at the door.
pub(crate) type Bookings = SmallVec<[Booking; 1]>;

/// A wish for units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    pub(crate) want: u64,
    /// What one waiting request needs at once.
    pub(crate) needed: u64,
}

/// A wish of nobody who waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) want: u64,
    /// Of the next period.
    pub(crate) early: bool,
}

/// What an answer says about one counter.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) window: Option<WindowState>,
    pub(crate) active_nodes: u32,
    /// What was asked for, and how much was granted; `None` where only units of the next period were.
    pub(crate) request: Option<(Asking, u64)>,
    /// The cap under which units were asked for, if any were.
    pub(crate) cap: Option<u64>,
    pub(crate) now: Monotonic,
    pub(crate) until_period_end: u64,
}
