//! Units of a rate that this node was lent, as requests spend them: one word, no lock.
//!
//! The upper half of the word is what is left, the lower half counts reports. Both are one word, so that nothing is undone after it was told as spent: what is told no longer
//! occupies the bucket, and units that came back then would pass beside those that took their room.

use std::fmt;

use crate::clock::Monotonic;
use crate::store::{RateLeaseId, RateReport};
use crate::sync::{AtomicU64, Ordering};

const HALF: u32 = 32;
const REPORTS: u64 = (1 << HALF) - 1;

/// A lease; it dies at its deadline, spent or not. What requests look at is at its beginning.
#[repr(C)]
pub(crate) struct RateLease {
    word: AtomicU64,
    /// R2: nothing is spent from here on.
    pub(crate) deadline: Monotonic,
    pub(crate) id: RateLeaseId,
    units: u64,
    /// What was last told as spent, and what of it the authority has confirmed. Only the driver writes them.
    told: AtomicU64,
    confirmed: AtomicU64,
}

impl RateLease {
    /// A lease of at most 2^32 - 1 units: what is more stays unused.
    pub(crate) fn new(id: RateLeaseId, units: u64, deadline: Monotonic) -> Self {
        let units = units.min(REPORTS);
        let (told, confirmed) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { word: AtomicU64::new(units << HALF), deadline, id, units, told, confirmed }
    }

    /// Units that can be spent now.
    pub(crate) fn left(&self, now: Monotonic) -> u64 {
        if now >= self.deadline { 0 } else { self.word.load(Ordering::Acquire) >> HALF }
    }

    /// Takes as many of `units` as there are; gives how many, and under which count of reports.
    pub(crate) fn take(&self, units: u64, now: Monotonic) -> (u64, u64) {
        // R2. A thread that is stopped between this look and the exchange admits late; so it does if it is stopped after both.
        if now >= self.deadline {
            return (0, 0);
        }
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let (left, reports) = (word >> HALF, word & REPORTS);
            let taken = units.min(left);
            if taken == 0 {
                return (0, reports);
            }
            match self.exchange(word, left - taken, reports) {
                Ok(()) => return (taken, reports),
                Err(current) => word = current,
            }
        }
    }

    /// Gives back what was taken under this count of reports; `false` if there was a report since: then it stays spent.
    pub(crate) fn undo(&self, units: u64, reports: u64) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        while word & REPORTS == reports {
            match self.exchange(word, (word >> HALF).saturating_add(units), reports) {
                Ok(()) => return true,
                Err(current) => word = current,
            }
        }
        false
    }

    /// For tests that break it.
    #[cfg(test)]
    pub(super) fn undo_whatever(&self, units: u64) {
        self.word.fetch_add(units << HALF, Ordering::AcqRel);
    }

    /// AcqRel: a report has every take before it, and each take or undo after it sees its count.
    fn exchange(&self, word: u64, left: u64, reports: u64) -> Result<(), u64> {
        let next = left << HALF | reports;
        self.word.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    /// Units spent so far.
    pub(crate) fn spent(&self) -> u64 {
        self.units.saturating_sub(self.word.load(Ordering::Acquire) >> HALF)
    }

    // --- what only the driver calls ---

    /// Tells what is spent: none of that is undone any more.
    pub(crate) fn tell(&self) -> RateReport {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let spent = self.units.saturating_sub(word >> HALF);
            // What equals the last report has no take since that was not undone.
            let is_new = spent != self.told.load(Ordering::Relaxed);
            if !is_new || self.exchange(word, word >> HALF, word.wrapping_add(1) & REPORTS).is_ok() {
                self.told.store(spent, Ordering::Relaxed);
                return RateReport { lease: self.id, spent };
            }
            word = self.word.load(Ordering::Acquire);
        }
    }

    /// Ends it, once: nothing is left of it, and nothing comes back to it. Gives the last word about it.
    pub(crate) fn end(&self) -> RateReport {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            match self.exchange(word, 0, word.wrapping_add(1) & REPORTS) {
                Ok(()) => return RateReport { lease: self.id, spent: self.units.saturating_sub(word >> HALF) },
                Err(current) => word = current,
            }
        }
    }

    /// The authority knows so much of its use.
    pub(crate) fn confirm(&self, spent: u64) {
        self.confirmed.fetch_max(spent, Ordering::Relaxed);
    }

    /// Whether more is spent than the authority knows.
    pub(crate) fn has_news(&self) -> bool {
        self.spent() > self.confirmed.load(Ordering::Relaxed)
    }

    /// Whether there is nothing to spend and nothing to tell.
    pub(crate) fn is_done(&self, now: Monotonic) -> bool {
        now >= self.deadline || (self.spent() == self.units && !self.has_news())
    }
}

impl fmt::Debug for RateLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (spent, deadline) = (self.spent(), self.deadline);
        write!(f, "{:?}: {spent} of {} spent, until {deadline:?}", self.id, self.units)
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn lease(units: u64) -> RateLease {
        RateLease::new(RateLeaseId::from_u128(1), units, Monotonic(100))
    }

    const NOW: Monotonic = Monotonic(99);

    #[test]
    fn r2_nothing_is_spent_from_the_deadline_on() {
        let lease = lease(10);
        assert_eq!(lease.take(4, NOW), (4, 0));
        assert_eq!((lease.take(4, Monotonic(100)).0, lease.left(Monotonic(100)), lease.left(NOW)), (0, 0, 6));
    }

    #[test]
    fn r5_what_was_told_as_spent_is_not_undone() {
        let lease = lease(10);
        let (units, before) = lease.take(4, NOW);
        assert_eq!(lease.tell().spent, 4);
        let (more, after) = lease.take(1, NOW);
        assert!(!lease.undo(units, before) && lease.undo(more, after));
        assert_eq!((lease.spent(), lease.left(NOW)), (4, 6));
    }

    #[test]
    fn a_report_without_news_hinders_no_undo() {
        let lease = lease(10);
        lease.tell();
        let (units, reports) = lease.take(4, NOW);
        assert!(lease.undo(units, reports));
        assert_eq!(lease.tell().spent, 0);
    }

    #[test]
    fn an_ended_lease_keeps_its_last_word() {
        let lease = lease(10);
        let (units, reports) = lease.take(4, NOW);
        assert_eq!(lease.end().spent, 4);
        assert!(!lease.undo(units, reports) && lease.take(1, NOW).0 == 0);
    }

    #[test]
    fn no_unit_is_spent_twice_however_many_spend_and_undo() {
        let lease = lease(1_000);
        let kept: u64 = std::thread::scope(|scope| {
            let spend = |odd: bool| {
                let lease = &lease;
                move || {
                    (0..2_000).fold(0, |kept, turn| {
                        let (units, reports) = lease.take(1, NOW);
                        let undone = turn % 2 == 0 && odd && units > 0 && lease.undo(units, reports);
                        kept + if undone { 0 } else { units }
                    })
                }
            };
            let spenders: Vec<_> = [true, true, false].map(|odd| scope.spawn(spend(odd))).into();
            for _ in 0..100 {
                lease.tell();
            }
            spenders.into_iter().map(|spender| spender.join().unwrap()).sum()
        });
        assert_eq!((kept, lease.tell().spent), (1_000, 1_000));
    }
}
