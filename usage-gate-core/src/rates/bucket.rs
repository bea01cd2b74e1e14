//! The authority of a rate as a pure state machine: no I/O, no clock, no lock. Class R of the protocols.
//!
//! This file is the specification: stores do the same in SQL or Lua, and are compared with it on random calls. Whole numbers only, of parts of a unit
//! ([`RateTerms::parts`]), so that all come to the same numbers. A call is worked off in this order:
//!
//! 1. A bucket that is absent, forgotten, or of another incarnation, begins. It is empty until every lease that could have been granted before has ended, and
//!    refills from then on; so one that is absent for long is full.
//! 2. If the unit of the rate has changed, what is in the bucket is told in the new parts, rounded down.
//! 3. Leases that have ended are dropped in the order of their ends, with the refill until each end before it: a lease occupies the bucket until then.
//! 4. The bucket refills up to now, as far as the burst leaves room beside what is lent.
//! 5. Reports are booked, and after them returns, whose unspent rest goes back into the bucket.
//! 6. What is wished for is granted, as far as there are whole units.
//!
//! Reports come after the refill, because nobody knows since when their units have been spent: if the bucket refilled as though that was long ago, a node that
//! holds a burst, waits, spends it and asks at once would pass the burst and the refill of the time in which it waited.
//!
//! All of it goes by the terms of the call, also for the time since the last one. So while terms change, what passes is bounded by the largest burst and rate among them, and by
//! one burst more where a bucket was forgotten in between.
//!
//! Invariant R1: what is in the bucket and what is lent of it are never more than the burst together.

use std::time::Duration;

use crate::store::{LONGEST_RATE_LEASE, RateGrant, RateLeaseId, RateReport, RateRequest, RateState, RateTerms};

/// What an authority that may forget knows of its own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Incarnation {
    /// Another number for another memory.
    pub(crate) id: u64,
    /// For how many microseconds at least it has been the authority's memory.
    pub(crate) age: u64,
}

/// A bucket, and what is lent of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bucket {
    /// What nobody holds, in parts of a unit.
    pub(crate) level: u128,
    /// How many parts are a unit.
    pub(crate) scale: u64,
    /// Up to when it has refilled, in microseconds of the authority's clock. Later than now if that was set back, or while a new bucket waits.
    pub(crate) last: u64,
    /// From then on it is as good as absent: no lease is left, and it is full by the terms with which it was asked last.
    pub(crate) forgotten: u64,
    /// Of which memory it is; `None` where nothing is forgotten.
    pub(crate) incarnation: Option<u64>,
    /// In the order of their ends.
    pub(crate) leases: Vec<Lent>,
}

/// Units that are lent to a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lent {
    pub(crate) lease: RateLeaseId,
    pub(crate) units: u64,
    pub(crate) spent: u64,
    /// From this microsecond on it is dead.
    pub(crate) ends: u64,
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Bucket {
    /// One request, at `now` in microseconds of the authority's clock.
    pub(crate) fn step(
        kept: Option<Self>,
        now: u64,
        incarnation: Option<Incarnation>,
        request: &RateRequest,
    ) -> (Self, RateGrant) {
        let terms = &request.terms;
        let of = incarnation.map(|known| known.id);
        let present = kept.filter(|bucket| bucket.incarnation == of && now < bucket.forgotten);
        let mut bucket = present.unwrap_or_else(|| Self::begin(now, incarnation, terms));
        bucket.rescale(terms);
        bucket.advance(now, terms);
        for report in &request.spent {
            bucket.note(report);
        }
        for returned in &request.returned {
            bucket.take_back(returned, terms);
        }
        let units = bucket.grant(request, now);
        let state = bucket.state(now, terms);
        let idle = micros(LONGEST_RATE_LEASE).saturating_add(micros(terms.refill_time())).saturating_add(1);
        bucket.forgotten = bucket.last.saturating_add(idle);
        (bucket, RateGrant { units, state })
    }

    fn begin(now: u64, incarnation: Option<Incarnation>, terms: &RateTerms) -> Self {
        let (scale, _) = terms.parts();
        let (level, last) = match incarnation {
            // R3. The longest lease of all, since nobody knows the terms of former ones.
            Some(known) => (0, now.saturating_sub(known.age).saturating_add(micros(LONGEST_RATE_LEASE))),
            // Where nothing is forgotten, what is absent was never used.
            None => (u128::from(terms.burst) * u128::from(scale), now),
        };
        Self {
            level,
            scale,
            last,
            forgotten: u64::MAX,
            incarnation: incarnation.map(|known| known.id),
            leases: Vec::new(),
        }
    }

    /// By way of millionths, so that no number on the way has more than 53 bits where [`RateTerms::are_short_lived`].
    fn rescale(&mut self, terms: &RateTerms) {
        const MILLION: u128 = 1_000_000;
        let (scale, _) = terms.parts();
        if scale != self.scale {
            let (before, after) = (u128::from(self.scale), u128::from(scale));
            let millionths = self.level % before * MILLION / before;
            self.level = self.level / before * after + millionths * after / MILLION;
            self.scale = scale;
        }
    }

    /// Ends leases in the order of time, and refills until each end and until now.
    fn advance(&mut self, now: u64, terms: &RateTerms) {
        let dead = self.leases.partition_point(|lent| lent.ends <= now);
        for _ in 0..dead {
            let ends = self.leases[0].ends;
            self.refill(ends, terms);
            self.leases.remove(0);
        }
        self.refill(now, terms);
    }

    fn refill(&mut self, until: u64, terms: &RateTerms) {
        let (_, refill) = terms.parts();
        let added = u128::from(until.saturating_sub(self.last)) * u128::from(refill);
        self.level = self.level.saturating_add(added).min(self.room(terms));
        self.last = self.last.max(until);
    }

    /// What the burst leaves beside what is lent; nothing if the burst was lowered below that.
    fn room(&self, terms: &RateTerms) -> u128 {
        u128::from(terms.burst.saturating_sub(self.outstanding())) * u128::from(self.scale)
    }

    /// Units that are lent and not told as spent.
    pub(crate) fn outstanding(&self) -> u64 {
        self.leases.iter().fold(0, |sum, lent| sum.saturating_add(lent.units.saturating_sub(lent.spent)))
    }

    fn note(&mut self, report: &RateReport) {
        if let Some(lent) = self.leases.iter_mut().find(|lent| lent.lease == report.lease) {
            lent.spent = lent.spent.max(report.spent.min(lent.units));
        }
    }

    /// Ends a lease, once: what is said of a lease that is not known creates nothing.
    fn take_back(&mut self, returned: &RateReport, terms: &RateTerms) {
        self.note(returned);
        if let Some(at) = self.leases.iter().position(|lent| lent.lease == returned.lease) {
            let lent = self.leases.remove(at);
            let rest = u128::from(lent.units.saturating_sub(lent.spent)) * u128::from(self.scale);
            self.level = self.level.saturating_add(rest).min(self.room(terms));
        }
    }

    fn grant(&mut self, request: &RateRequest, now: u64) -> u64 {
        if let Some(known) = self.leases.iter().find(|lent| lent.lease == request.lease) {
            return known.units;
        }
        let scale = u128::from(self.scale);
        let units = request.want.min(u64::try_from(self.level / scale).unwrap_or(u64::MAX));
        if units > 0 {
            self.level -= u128::from(units) * scale;
            let ends = now.saturating_add(micros(request.terms.lease_time()));
            let at = self.leases.partition_point(|lent| lent.ends <= ends);
            self.leases.insert(at, Lent { lease: request.lease, units, spent: 0, ends });
        }
        units
    }

    fn state(&self, now: u64, terms: &RateTerms) -> RateState {
        let (scale, refill) = (u128::from(self.scale), u128::from(terms.parts().1));
        let (level, outstanding) = (self.level / scale, self.outstanding());
        let next = (level + 1) * scale;
        let next_in = if next <= self.room(terms) {
            let wait = self.last.saturating_sub(now);
            wait.saturating_add(u64::try_from((next - self.level).div_ceil(refill)).unwrap_or(u64::MAX))
        } else {
            let first = self.leases.iter().find(|lent| lent.spent < lent.units);
            first.map_or(0, |lent| lent.ends.saturating_sub(now))
        };
        let level = u64::try_from(level).unwrap_or(u64::MAX);
        RateState { level, outstanding, next_in: Duration::from_micros(next_in) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::samples;

    const SECOND: u64 = 1_000_000;
    const NOW: u64 = 1_000 * SECOND;
    /// Lent for 250 ms.
    const TERMS: RateTerms = RateTerms { units: 100, seconds: 1, burst: 100 };

    /// A bucket that is asked again and again.
    struct Asked {
        kept: Option<Bucket>,
        terms: RateTerms,
        incarnation: Option<Incarnation>,
    }

    fn durable() -> Asked {
        Asked { kept: None, terms: TERMS, incarnation: None }
    }

    fn volatile(age: u64) -> Asked {
        Asked { incarnation: Some(Incarnation { id: 1, age }), ..durable() }
    }

    impl Asked {
        fn call(&mut self, now: u64, request: RateRequest) -> RateGrant {
            let (bucket, grant) = Bucket::step(self.kept.take(), now, self.incarnation, &request);
            assert!(grant.state.level + grant.state.outstanding <= self.terms.burst.max(grant.state.outstanding), "R1");
            self.kept = Some(bucket);
            grant
        }

        fn want(&mut self, now: u64, lease: u128, want: u64) -> u64 {
            self.call(now, samples::request(self.terms, lease, want)).units
        }

        fn tell(&mut self, now: u64, lease: u128, spent: u64) -> RateState {
            let spent = vec![samples::report(lease, spent)];
            self.call(now, RateRequest { spent, ..samples::request(self.terms, 0, 0) }).state
        }

        fn give_back(&mut self, now: u64, lease: u128, spent: u64) -> RateState {
            let returned = vec![samples::report(lease, spent)];
            self.call(now, RateRequest { returned, ..samples::request(self.terms, 0, 0) }).state
        }
    }

    #[test]
    fn what_was_never_used_is_full_and_refills_by_its_rate() {
        let mut asked = durable();
        assert_eq!(asked.want(NOW, 1, 150), 100);
        assert_eq!(asked.tell(NOW, 1, 100).next_in, Duration::from_millis(10));
        assert_eq!(asked.want(NOW + 9_999, 2, 1), 0);
        assert_eq!(asked.want(NOW + 10_000, 3, 5), 1);
        assert_eq!(asked.want(NOW + 10_000 + SECOND / 2, 4, 100), 50);
    }

    #[test]
    fn r1_what_is_lent_occupies_the_bucket_until_it_is_told_as_spent() {
        let mut asked = durable();
        asked.want(NOW, 1, 60);
        assert_eq!(asked.want(NOW + 200_000, 2, 100), 40);
        assert_eq!(asked.tell(NOW + 220_000, 1, 60), state(0, 40, 10_000));
        assert_eq!(asked.want(NOW + 230_000, 3, 100), 1);
    }

    fn state(level: u64, outstanding: u64, micros: u64) -> RateState {
        RateState { level, outstanding, next_in: Duration::from_micros(micros) }
    }

    #[test]
    fn what_is_told_late_refills_nothing_of_the_time_before() {
        let mut asked = durable();
        asked.want(NOW, 1, 100);
        assert_eq!(asked.tell(NOW + 200_000, 1, 100), state(0, 0, 10_000));
    }

    #[test]
    fn a_dead_lease_leaves_room_from_its_end_on() {
        let mut asked = durable();
        asked.want(NOW, 1, 100);
        assert_eq!(asked.want(NOW + 250_000 + SECOND / 2, 2, 100), 50);
    }

    #[test]
    fn leases_end_in_the_order_of_time() {
        let mut asked = durable();
        asked.want(NOW, 1, 50);
        asked.want(NOW + 100_000, 2, 50);
        // Nothing until 250 ms, then 50 at most, and from 350 ms on as many as time brings.
        assert_eq!(asked.want(NOW + 400_000, 3, 100), 15);
    }

    #[test]
    fn reports_and_returns_count_once_in_any_order() {
        let mut asked = durable();
        asked.want(NOW, 1, 50);
        asked.tell(NOW, 1, 20);
        assert_eq!(asked.tell(NOW, 1, 10), state(50, 30, 10_000));
        assert_eq!(asked.give_back(NOW, 1, 15), state(80, 0, 10_000));
        assert_eq!(asked.give_back(NOW, 1, 0), state(80, 0, 10_000));
        assert_eq!(asked.give_back(NOW, 7, 0), state(80, 0, 10_000));
    }

    #[test]
    fn the_same_id_gets_the_same_grant_until_its_lease_ends() {
        let mut asked = durable();
        assert_eq!([asked.want(NOW, 1, 30), asked.want(NOW + 1, 1, 70)], [30, 30]);
        assert_eq!(asked.kept.as_ref().map(Bucket::outstanding), Some(30));
        assert_eq!(asked.want(NOW + SECOND, 1, 70), 70);
    }

    #[test]
    fn a_clock_that_is_set_back_brings_nothing() {
        let mut asked = durable();
        asked.want(NOW, 1, 100);
        asked.tell(NOW, 1, 100);
        assert_eq!(asked.want(NOW - SECOND, 2, 100), 0);
        assert_eq!(asked.want(NOW, 3, 100), 0);
        assert_eq!(asked.want(NOW + SECOND / 10, 4, 100), 10);
    }

    #[test]
    fn r3_a_new_incarnation_waits_for_the_leases_of_the_former_and_begins_empty() {
        let mut asked = volatile(SECOND / 2);
        assert_eq!(asked.call(NOW, samples::request(TERMS, 1, 1)).state, state(0, 0, SECOND / 2 + 10_000));
        let later = |millis: u64| NOW + millis * 1_000;
        assert_eq!(asked.want(later(509), 2, 100), 0);
        assert_eq!(asked.want(later(600), 3, 100), 10);
        // A replica that was behind took over: what it has is another incarnation's.
        asked.incarnation = Some(Incarnation { id: 2, age: 0 });
        assert_eq!(asked.want(later(1_600), 4, 100), 0);
        asked.incarnation = Some(Incarnation { id: 2, age: SECOND });
        assert_eq!(asked.want(later(2_600), 5, 100), 0);
        assert_eq!(asked.want(later(2_700), 6, 100), 10);
    }

    #[test]
    fn r3_what_is_absent_for_long_is_full() {
        assert_eq!(volatile(2 * SECOND).want(NOW, 1, 100), 100);
        assert_eq!(volatile(2 * SECOND - 1).want(NOW, 1, 100), 99);
    }

    #[test]
    fn another_unit_keeps_what_is_in_the_bucket() {
        let mut asked = durable();
        asked.want(NOW, 1, 40);
        asked.tell(NOW, 1, 40);
        asked.terms = RateTerms { units: 7, seconds: 60, burst: 100 };
        assert_eq!(asked.want(NOW, 2, 100), 60);
    }

    #[test]
    fn a_lowered_burst_cuts_and_grants_nothing_until_what_is_lent_fits() {
        let mut asked = durable();
        asked.want(NOW, 1, 60);
        asked.terms.burst = 50;
        assert_eq!(asked.want(NOW, 2, 50), 0);
        assert_eq!(asked.tell(NOW, 1, 20), state(0, 40, 10_000));
        assert_eq!(asked.want(NOW + SECOND / 20, 3, 50), 5);
    }

    #[test]
    fn the_largest_numbers_end_where_they_do() {
        let mut asked = durable();
        asked.terms = RateTerms { units: 1, seconds: 3_600, burst: u64::MAX };
        assert_eq!(asked.want(NOW, 1, u64::MAX), u64::MAX);
        asked.terms = RateTerms { units: u64::MAX, seconds: 1, burst: u64::MAX };
        assert_eq!(asked.want(u64::MAX, 2, u64::MAX), u64::MAX);
    }
}
