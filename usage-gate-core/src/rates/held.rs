//! What this node holds of one rate, as requests spend it: no lock, no I/O.
//!
//! A request takes its units from leases that live, those that end first before others, or waits, or is refused. What is asked for, and what is done with answers, is
//! [`asking`](super::asking).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::{SmallVec, smallvec};

use super::asking::{Asking, LowWater, nanos};
use super::lease::RateLease;
use crate::clock::Monotonic;
use crate::store::{CounterId, RateGrant, RateLeaseId, RateRequest, RateState, RateTerms};
use crate::sync::{AtomicU64, Ordering, Swap};

/// Leases that are being spent, those that end first before others.
pub(super) type Leases = SmallVec<[Arc<RateLease>; 2]>;

/// One rate on this node. What requests look at is together at its beginning.
#[repr(C)]
pub(crate) struct HeldRate {
    /// The lease that is being spent: where it suffices, a request looks at no other.
    current: Swap<RateLease>,
    /// Units of all others, as of the last look at them.
    later: AtomicU64,
    /// With no more than this left, more is to be asked for; or from then on, in [`Monotonic`] nanoseconds. Where there is such an instant, that may wait for a moment.
    low_water: AtomicU64,
    low_from: AtomicU64,
    /// When there may be one more unit, as the authority last said.
    next_at: AtomicU64,
    leases: Swap<Leases>,
    /// Units that waiting requests need together.
    waiting: AtomicU64,
    /// The most that one of those needs who have come since the last wish.
    needed: AtomicU64,
    /// When the driver has to look, in [`Monotonic`] nanoseconds; the largest number: not before a request runs low or waits.
    due: AtomicU64,
    asking: Mutex<Asking>,
}

/// Units that a request has taken, to be undone if another limit refuses it.
#[derive(Debug)]
pub(crate) struct RateUnits(SmallVec<[(Arc<RateLease>, u64, u64); 1]>);

impl RateUnits {
    /// Gives them back, except what was told as spent in between: that stays spent (R5 as far as the curve allows).
    pub(crate) fn undo(self) {
        for (lease, units, reports) in self.0 {
            lease.undo(units, reports);
        }
    }

    /// For tests that look how it went: how many units stay spent.
    #[cfg(test)]
    pub(crate) fn undo_some(self) -> u64 {
        self.0.iter().filter(|(lease, units, reports)| !lease.undo(*units, *reports)).map(|(_, units, _)| units).sum()
    }

    /// For tests that break it: gives back what was told as spent, too.
    #[cfg(test)]
    pub(crate) fn undo_all(self) -> u64 {
        self.0.iter().for_each(|(lease, units, _)| lease.undo_whatever(*units));
        0
    }

    /// For tests: the leases, and what was taken of each.
    #[cfg(test)]
    pub(crate) fn leases(&self) -> impl Iterator<Item = (&RateLease, u64)> {
        self.0.iter().map(|(lease, units, _)| (&**lease, *units))
    }
}

/// Whether a request that has taken units is to call the driver, because little is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Low {
    No,
    /// With others, in a moment.
    Soon,
    Now,
}

/// `low_water` while no request is to call the driver.
const NEVER_LOW: u64 = u64::MAX;

impl HeldRate {
    pub(crate) fn new() -> Self {
        Self {
            // Nothing is ever left of it.
            current: Swap::new(RateLease::new(RateLeaseId::generate(), 0, Monotonic(0))),
            later: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            needed: AtomicU64::new(0),
            low_water: AtomicU64::new(NEVER_LOW),
            low_from: AtomicU64::new(u64::MAX),
            next_at: AtomicU64::new(0),
            leases: Swap::new(Leases::new()),
            due: AtomicU64::new(u64::MAX),
            asking: Mutex::default(),
        }
    }

    /// Takes `units`, all or none.
    pub(crate) fn take(&self, units: u64, now: Monotonic) -> Option<(RateUnits, Low)> {
        let current = self.current.load();
        if current.left(now) >= units {
            let (some, reports) = current.take(units, now);
            let taken = RateUnits(smallvec![(Arc::clone(&*current), some, reports)]);
            if some == units {
                return Some((taken, self.low(self.about(&current, now), now)));
            }
            // Others were faster.
            taken.undo();
        }
        self.take_of_all(units, now)
    }

    /// The same where the lease that is being spent does not suffice.
    fn take_of_all(&self, units: u64, now: Monotonic) -> Option<(RateUnits, Low)> {
        let mut taken = RateUnits(SmallVec::new());
        let leases = self.leases.load();
        let left = sum(&leases, now);
        if left >= units {
            let mut missing = units;
            for lease in leases.iter() {
                let (some, reports) = lease.take(missing, now);
                if some > 0 {
                    taken.0.push((Arc::clone(lease), some, reports));
                    missing -= some;
                }
                if missing == 0 {
                    // Whoever asks at this moment does it too.
                    if let Ok(_asking) = self.asking.try_lock() {
                        self.turn(&self.leases.load(), now);
                    }
                    return Some((taken, self.low(left - units, now)));
                }
            }
            // Others were faster.
            taken.undo();
        }
        None
    }

    /// Units that can be spent now.
    pub(crate) fn left(&self, now: Monotonic) -> u64 {
        sum(&self.leases.load(), now)
    }

    /// Whether so many can be.
    pub(crate) fn has(&self, units: u64, now: Monotonic) -> bool {
        self.current.load().left(now) >= units || self.left(now) >= units
    }

    /// How many can be, as far as one lease tells.
    pub(crate) fn nearly(&self, now: Monotonic) -> u64 {
        self.about(&self.current.load(), now)
    }

    fn about(&self, current: &RateLease, now: Monotonic) -> u64 {
        match current.left(now) {
            0 => self.left(now),
            // Relaxed: of others nothing is taken as long as there is something of this one, or it is looked at again.
            left => left.saturating_add(self.later.load(Ordering::Relaxed)),
        }
    }

    /// Goes on to the first lease that has units. Under the lock.
    fn turn(&self, leases: &Leases, now: Monotonic) {
        let mut left = leases.iter().filter(|lease| lease.left(now) > 0);
        if let Some(first) = left.next()
            && !Arc::ptr_eq(first, &*self.current.load())
        {
            self.current.share(Arc::clone(first));
        }
        self.later.store(left.fold(0, |sum, lease| sum.saturating_add(lease.left(now))), Ordering::Relaxed);
    }

    /// What is left of one lease, for tests.
    #[cfg(test)]
    pub(crate) fn left_of(&self, id: crate::store::RateLeaseId, now: Monotonic) -> u64 {
        self.leases.load().iter().filter(|lease| lease.id == id).map(|lease| lease.left(now)).sum()
    }

    /// It stays so until the next wish.
    fn low(&self, left: u64, now: Monotonic) -> Low {
        // Relaxed: whichever of the words is older, the call comes too early, or with the next request.
        let (low, from) = (self.low_water.load(Ordering::Relaxed), self.low_from.load(Ordering::Relaxed));
        if low == NEVER_LOW || (left > low && now.0 < from) {
            Low::No
        } else if from == u64::MAX {
            Low::Now
        } else {
            Low::Soon
        }
    }

    /// Counts a request that waits for units, so that the next wish covers it; pairs with [`stop_waiting`](Self::stop_waiting).
    pub(crate) fn start_waiting(&self, units: u64) {
        self.waiting.fetch_add(units, Ordering::AcqRel);
        self.needed.fetch_max(units, Ordering::AcqRel);
    }

    pub(crate) fn stop_waiting(&self, units: u64) {
        self.waiting.fetch_sub(units, Ordering::AcqRel);
    }

    /// Nanoseconds until `units` may be there, as far as the last answer tells; `None` if it is worth asking now.
    pub(crate) fn short_for(&self, units: u64, now: Monotonic) -> Option<u64> {
        let missing = units.saturating_sub(self.left(now));
        if missing == 0 { None } else { self.lock().short_for(missing, now) }
    }

    /// When there may be one more unit, as the authority last said.
    pub(crate) fn next_at(&self) -> Monotonic {
        Monotonic(self.next_at.load(Ordering::Relaxed))
    }

    /// The bucket as its authority last told it, and when.
    pub(crate) fn state(&self) -> Option<(RateState, Monotonic)> {
        self.lock().answered()
    }

    /// Whether the authority was asked since then in vain, and has not answered after that.
    pub(crate) fn failed_since(&self, since: Monotonic) -> bool {
        self.lock().failed_since(since)
    }

    // --- what only the driver calls ---

    /// When [`wish`](Self::wish) should be asked, if no request calls for it before: to give back, to tell, to ask again.
    pub(crate) fn due(&self) -> Monotonic {
        Monotonic(self.due.load(Ordering::Acquire))
    }

    /// Whether it can be forgotten: it holds nothing, and nobody waits.
    pub(crate) fn is_quiet(&self, now: Monotonic) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.leases.load().iter().all(|lease| lease.is_done(now))
    }

    /// What to tell and ask now, if anything. It is to be sent at once, and either [`granted`](Self::granted) or [`failed`](Self::failed) follows; until then there is no
    /// other wish.
    pub(crate) fn wish(&self, counter: &CounterId, terms: RateTerms, now: Monotonic) -> Option<RateRequest> {
        let mut asking = self.lock();
        if asking.is_under_way() {
            return None;
        }
        let needs =
            Needs { waiting: self.waiting.load(Ordering::Acquire), needed: self.needed.swap(0, Ordering::AcqRel) };
        let before = self.leases.load();
        let mut leases: Leases = before.iter().map(Arc::clone).collect();
        let request = asking.wish(&mut leases, counter, terms, &needs, now);
        self.put(&before, leases);
        self.settle(&asking, now);
        request
    }

    /// The answer to a wish.
    pub(crate) fn granted(&self, request: &RateRequest, grant: &RateGrant, now: Monotonic) {
        let mut asking = self.lock();
        let before = self.leases.load();
        let mut leases: Leases = before.iter().map(Arc::clone).collect();
        asking.granted(&mut leases, request, grant, now);
        self.put(&before, leases);
        self.settle(&asking, now);
    }

    /// The wish of this lease may have been heard or not.
    pub(crate) fn failed(&self, request: &RateRequest, now: Monotonic) {
        let mut asking = self.lock();
        asking.failed(request.lease, now);
        self.settle(&asking, now);
    }

    fn put(&self, before: &Leases, leases: Leases) {
        let same =
            before.len() == leases.len() && before.iter().zip(&leases).all(|(one, other)| Arc::ptr_eq(one, other));
        if !same {
            self.leases.store(leases);
        }
    }

    fn settle(&self, asking: &Asking, now: Monotonic) {
        let leases = self.leases.load();
        self.turn(&leases, now);
        let (due, low) = asking.next(&leases, now);
        self.due.store(due.map_or(u64::MAX, |due| due.0), Ordering::Release);
        let LowWater { units, from } = low.unwrap_or(LowWater { units: NEVER_LOW, from: None });
        self.low_from.store(from.map_or(u64::MAX, |from| from.0), Ordering::Relaxed);
        self.low_water.store(units, Ordering::Relaxed);
        let next_at = asking.answered().map_or(0, |(state, at)| at.plus_nanos(nanos(state.next_in)).0);
        self.next_at.store(next_at, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        // Every critical section here leaves the value whole, so a panic elsewhere does not spoil it.
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What requests wait for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    pub(super) waiting: u64,
    pub(super) needed: u64,
}

pub(super) fn sum(leases: &Leases, now: Monotonic) -> u64 {
    leases.iter().fold(0, |sum, lease| sum.saturating_add(lease.left(now)))
}

impl fmt::Debug for HeldRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldRate").field("leases", &self.leases).finish_non_exhaustive()
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::bucket::Bucket;
    use crate::rates::samples;

    const MILLI: u64 = 1_000_000;
    /// Lent for 250 ms.
    const TERMS: RateTerms = RateTerms { units: 100, seconds: 1, burst: 100 };

    /// A node and its authority, whose answers take no time.
    struct World {
        held: HeldRate,
        bucket: Option<Bucket>,
        terms: RateTerms,
        now: Monotonic,
        calls: u32,
    }

    impl World {
        fn new(terms: RateTerms) -> Self {
            Self { held: HeldRate::new(), bucket: None, terms, now: Monotonic(1_000_000 * MILLI), calls: 0 }
        }

        fn wish(&self) -> Option<RateRequest> {
            self.held.wish(&samples::counter(), self.terms, self.now)
        }

        fn decide(&mut self, request: &RateRequest) -> RateGrant {
            let (bucket, grant) = Bucket::step(self.bucket.take(), self.now.0 / 1_000, None, request);
            self.bucket = Some(bucket);
            grant
        }

        fn call(&mut self) -> Option<RateRequest> {
            let request = self.wish()?;
            self.calls += 1;
            let grant = self.decide(&request);
            self.held.granted(&request, &grant, self.now);
            Some(request)
        }

        /// A request that waits for one answer if need be.
        fn request(&mut self, units: u64) -> bool {
            if self.request_without_waiting(units) {
                return true;
            }
            self.held.start_waiting(units);
            self.call();
            self.held.stop_waiting(units);
            self.held.take(units, self.now).is_some()
        }

        /// One that calls for others if little is left.
        fn request_without_waiting(&mut self, units: u64) -> bool {
            let Some((_, low)) = self.held.take(units, self.now) else { return false };
            if low != Low::No {
                self.call();
            }
            true
        }

        /// So many requests of a unit each in so much time; how many of them had to wait.
        fn requests(&mut self, count: u64, nanos: u64) -> u32 {
            let mut waited = 0;
            for _ in 0..count {
                if !self.request_without_waiting(1) {
                    waited += 1;
                    assert!(self.request(1));
                }
                self.wait(nanos / count);
            }
            waited
        }

        /// Time passes, and the driver does what is due.
        fn wait(&mut self, nanos: u64) {
            let until = self.now.plus_nanos(nanos);
            while self.held.due() <= until {
                self.now = self.now.max(self.held.due());
                self.call();
            }
            self.now = until;
        }

        fn level(&mut self) -> RateState {
            self.decide(&samples::request(self.terms, 0, 0)).state
        }
    }

    #[test]
    fn what_waits_is_asked_for_and_found() {
        let mut world = World::new(TERMS);
        assert!(world.held.take(3, world.now).is_none() && world.wish().is_none());
        assert!(world.request(3) && world.held.left(world.now) == 0);
        assert!(!world.request(98) && world.held.short_for(98, world.now).is_some());
    }

    #[test]
    fn steady_use_is_asked_for_ahead_so_that_few_requests_wait() {
        let mut world = World::new(TERMS);
        // 80 a second.
        world.requests(20, 250 * MILLI);
        assert_eq!(world.requests(140, 1_750 * MILLI), 0, "after the first quarter of a second");
    }

    /// Lent for a second.
    const PLENTIFUL: RateTerms = RateTerms { units: 6_000, seconds: 60, burst: 6_000 };

    #[test]
    fn where_there_is_plenty_a_lease_time_of_steady_use_is_a_call_and_a_half_at_most() {
        let mut world = World::new(PLENTIFUL);
        world.requests(80, 2_000 * MILLI);
        world.calls = 0;
        assert_eq!(world.requests(1_200, 30_000 * MILLI), 0);
        assert!((30..=45).contains(&world.calls), "{} calls in 30 lease times", world.calls);
        // Use that ends is not followed by any.
        world.calls = 0;
        assert_eq!(world.held.due(), Monotonic(u64::MAX));
        world.wait(5_000 * MILLI);
        assert!(world.calls == 0 && world.held.is_quiet(world.now));
        // And is taken up again by one.
        assert!(world.request(1) && world.calls == 1);
    }

    #[test]
    fn use_that_changes_is_followed() {
        let mut world = World::new(PLENTIFUL);
        world.requests(80, 2_000 * MILLI);
        let waited = world.requests(80, 1_000 * MILLI);
        assert!(waited < 4, "{waited} of 80");
        world.requests(40, 10_000 * MILLI);
        let outstanding = world.level().outstanding;
        assert!(outstanding <= 10, "{outstanding} units for a use of four a second");
    }

    #[test]
    fn a_single_unit_that_is_spent_makes_room_for_the_next() {
        let mut world = World::new(RateTerms { units: 1, seconds: 1, burst: 1 });
        for _ in 0..5 {
            assert!(world.request(1));
            world.wait(1_200 * MILLI);
        }
    }

    #[test]
    fn units_that_nobody_uses_go_back_before_they_die_where_half_of_the_burst_is_lent() {
        let mut world = World::new(TERMS);
        world.held.start_waiting(60);
        world.call();
        world.held.stop_waiting(60);
        assert_eq!(world.level().outstanding, 60);
        world.wait(240 * MILLI);
        assert_eq!((world.level().level, world.level().outstanding), (100, 0));
        assert!(world.held.is_quiet(world.now) && world.held.due() == Monotonic(u64::MAX));
    }

    #[test]
    fn where_units_are_short_what_is_spent_is_told_and_the_rest_goes_back() {
        let mut world = World::new(TERMS);
        let others = world.decide(&samples::request(TERMS, 1, 80)).units;
        world.held.start_waiting(30);
        world.call();
        world.held.stop_waiting(30);
        assert_eq!((others, world.held.left(world.now), world.level().level), (80, 20, 0));
        for _ in 0..5 {
            assert!(world.request_without_waiting(1));
        }
        world.wait(130 * MILLI);
        assert_eq!(world.level().outstanding, others + 15, "what is spent makes room for others");
        world.wait(115 * MILLI);
        assert!(world.held.left(world.now) <= 5, "what is not used goes back, but for as much as was used");
        world.wait(2_000 * MILLI);
        assert!(world.held.is_quiet(world.now) && world.level().outstanding == 0);
    }

    #[test]
    fn a_take_goes_over_several_leases_and_takes_all_or_nothing() {
        let mut world = World::new(TERMS);
        for units in [3, 7] {
            world.held.start_waiting(units);
            world.call();
            world.held.stop_waiting(units);
            world.now = world.now.plus_nanos(MILLI);
        }
        assert_eq!(world.held.left(world.now), 7);
        world.held.start_waiting(9);
        world.call();
        assert_eq!(world.held.left(world.now), 9);
        assert!(world.held.take(10, world.now).is_none());
        let (taken, _) = world.held.take(8, world.now).unwrap();
        assert!(taken.leases().count() > 1);
        taken.undo();
        assert_eq!(world.held.left(world.now), 9);
    }

    #[test]
    fn a_call_whose_outcome_is_unknown_is_repeated_with_the_same_lease() {
        let mut world = World::new(TERMS);
        world.held.start_waiting(5);
        let lost = world.wish().unwrap();
        world.decide(&lost);
        assert!(world.wish().is_none());
        world.held.failed(&lost, world.now);
        assert!(world.held.failed_since(world.now));
        let again = world.call().unwrap();
        assert_eq!((again.lease, again.want, world.held.left(world.now)), (lost.lease, 5, 5));
        assert!(!world.held.failed_since(world.now));
        assert_eq!(world.held.state().map(|(state, at)| (state.level, at)), Some((95, world.now)));
        assert_eq!(world.level().outstanding, 5);
    }

    #[test]
    fn what_is_too_little_for_who_waits_goes_back_and_adds_up() {
        // One a second; a piece of it would die before the next comes.
        let mut world = World::new(RateTerms { units: 1, seconds: 1, burst: 10 });
        assert!(world.request(10));
        world.held.start_waiting(4);
        let seconds = (1..=8).find(|_| {
            world.wait(1_000 * MILLI);
            world.held.take(4, world.now).is_some()
        });
        assert_eq!(seconds, Some(5), "four to refill, and no more than a lease time until that is noticed");
    }

    #[test]
    fn a_unit_now_and_then_is_a_call_and_nothing_is_held_ahead() {
        let mut world = World::new(TERMS);
        for _ in 0..5 {
            assert!(world.request(1));
            world.wait(2_000 * MILLI);
            assert!(world.held.is_quiet(world.now));
        }
    }
}
