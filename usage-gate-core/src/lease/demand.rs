//! How many units of a quota this node asks for, and when it knows without asking that there are none.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Monotonic;

/// The first wish, and the least later.
const LEAST_WANT: u64 = 16;
const MOST_WANT: u64 = 1 << 24;
/// For how long it is remembered that nothing is left.
const EXHAUSTED_NANOS: u64 = 1_000_000_000;
/// For how long units that others hold are waited for, and how often it is looked for them meanwhile.
const RECALL_NANOS: u64 = 300_000_000;
/// The same by answers: a clock may stand still, as in tests.
const RECALL_TRIES: u64 = 6;
/// For how long nothing is asked for ahead after others have needed units.
const SCARCE_NANOS: u64 = 2_000_000_000;
/// Seconds of demand that a node keeps where the authority may be away.
const RESERVE_SECONDS: u64 = 120;

/// The demand of one counter.
#[derive(Debug)]
pub(super) struct Demand {
    /// Size of the next wish, and when it was last granted.
    want: AtomicU64,
    granted_at: AtomicU64,
    /// Until then (monotonic) the authority has no more to give.
    exhausted_until: AtomicU64,
    /// Since when units that others hold are waited for; 0 if none are.
    recalled_at: AtomicU64,
    /// Answers since then that brought too little.
    recall_tries: AtomicU64,
    /// When leases last went back because others need their units.
    given_up_at: AtomicU64,
    /// Units spent since the last tick, and in a second as of the last ticks.
    spent: AtomicU64,
    per_second: AtomicU64,
}

/// What an answer says about one wish.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    pub(super) wanted: u64,
    /// Of that, what a waiting request needs at once.
    pub(super) needed: u64,
    pub(super) units: u64,
    /// Whether all of the cap is granted.
    pub(super) all_granted: bool,
    /// Units that other nodes hold and have not spent, as far as they have said so.
    pub(super) held_elsewhere: u64,
    pub(super) now: Monotonic,
    pub(super) until_period_end: u64,
}

impl Demand {
    pub(super) const fn new() -> Self {
        Self {
            want: AtomicU64::new(LEAST_WANT),
            granted_at: AtomicU64::new(0),
            exhausted_until: AtomicU64::new(0),
            recalled_at: AtomicU64::new(0),
            recall_tries: AtomicU64::new(0),
            given_up_at: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            per_second: AtomicU64::new(0),
        }
    }

    /// About a second of it.
    pub(super) fn want(&self) -> u64 {
        self.want.load(Ordering::Relaxed)
    }

    /// Whether it is known that nothing is to be had.
    pub(super) fn is_exhausted(&self, now: Monotonic) -> bool {
        self.exhausted_until.load(Ordering::Acquire) > now.0
    }

    /// There may be more again.
    pub(super) fn revive(&self) {
        self.exhausted_until.store(0, Ordering::Release);
    }

    /// Whether units are on their way that others give back: then who waits asks again, a little later.
    pub(super) fn is_recalling(&self, now: Monotonic) -> bool {
        let since = self.recalled_at.load(Ordering::Acquire);
        since != 0 && now.nanos_since(Monotonic(since)) < RECALL_NANOS
    }

    /// Takes in what became of a wish.
    pub(super) fn learn(&self, granted: &Granted) {
        let now = granted.now;
        if granted.units >= granted.wanted || !granted.all_granted {
            self.revive();
            self.recalled_at.store(0, Ordering::Release);
        } else if granted.units < granted.needed && self.wait_for_others(granted) {
            self.revive();
        } else if granted.units >= granted.needed && granted.held_elsewhere > 0 {
            // Nobody waits in vain: what there is more is for others to give back, if somebody does.
        } else {
            let until = now.plus_nanos(EXHAUSTED_NANOS.min(granted.until_period_end));
            self.exhausted_until.store(until.0, Ordering::Release);
            self.recalled_at.store(0, Ordering::Release);
        }
        // A lease should last about a second: one that was gone sooner is doubled, one that lasted long is halved.
        let before = self.granted_at.swap(now.0, Ordering::Relaxed);
        let lasted = now.nanos_since(Monotonic(before));
        let want = self.want();
        let next = if before != 0 && lasted < 700_000_000 {
            want.saturating_mul(2)
        } else if lasted > 4_000_000_000 {
            want / 2
        } else {
            want
        };
        self.want.store(next.clamp(LEAST_WANT, MOST_WANT), Ordering::Relaxed);
    }

    /// Whether others hold units and their time to give them back is not over.
    fn wait_for_others(&self, granted: &Granted) -> bool {
        if granted.held_elsewhere == 0 {
            return false;
        }
        let begun = self.recalled_at.compare_exchange(0, granted.now.0.max(1), Ordering::AcqRel, Ordering::Acquire);
        if begun.is_ok() {
            self.recall_tries.store(1, Ordering::Relaxed);
            return true;
        }
        self.recall_tries.fetch_add(1, Ordering::Relaxed) < RECALL_TRIES && self.is_recalling(granted.now)
    }

    /// Leases go back because others need their units.
    pub(super) fn note_given_up(&self, now: Monotonic) {
        self.given_up_at.store(now.0, Ordering::Relaxed);
    }

    /// Units were spent.
    pub(super) fn note_spent(&self, units: u64) {
        self.spent.fetch_add(units, Ordering::Relaxed);
    }

    /// A second has passed. A sudden fall is followed over some seconds, a sudden rise at once.
    pub(super) fn tick(&self) {
        let (spent, before) = (self.spent.swap(0, Ordering::Relaxed), self.per_second.load(Ordering::Relaxed));
        self.per_second.store(spent.max(before - before.div_ceil(4)), Ordering::Relaxed);
    }

    pub(super) fn per_second(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// What to ask for so that some minutes of demand are held; `None` if enough is, or there is no more to be had.
    pub(super) fn missing_reserve(&self, held: u64, now: Monotonic) -> Option<u64> {
        let given_up_at = self.given_up_at.load(Ordering::Relaxed);
        if given_up_at != 0 && now.nanos_since(Monotonic(given_up_at)) < SCARCE_NANOS {
            return None;
        }
        let reserve = self.per_second().saturating_mul(RESERVE_SECONDS).min(MOST_WANT);
        (held < reserve / 2 && !self.is_exhausted(now)).then(|| reserve - held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn short(now: u64, held_elsewhere: u64) -> Granted {
        Granted {
            wanted: 16,
            needed: 1,
            units: 0,
            all_granted: true,
            held_elsewhere,
            now: Monotonic(now),
            until_period_end: u64::MAX,
        }
    }

    #[test]
    fn what_others_hold_is_waited_for_once_and_then_it_is_known_that_there_is_none() {
        let demand = Demand::new();
        demand.learn(&short(SECOND, 5));
        assert!(!demand.is_exhausted(Monotonic(SECOND)) && demand.is_recalling(Monotonic(SECOND)));
        let later = SECOND + RECALL_NANOS;
        demand.learn(&short(later, 5));
        assert!(demand.is_exhausted(Monotonic(later)) && !demand.is_recalling(Monotonic(later)));
        assert!(!demand.is_exhausted(Monotonic(later + EXHAUSTED_NANOS)));
    }

    #[test]
    fn where_nobody_holds_any_it_is_known_at_once() {
        let demand = Demand::new();
        demand.learn(&short(SECOND, 0));
        assert!(demand.is_exhausted(Monotonic(SECOND)));
    }

    #[test]
    fn a_steady_demand_is_held_for_some_minutes() {
        let demand = Demand::new();
        assert_eq!(demand.missing_reserve(0, Monotonic(1)), None);
        demand.note_spent(100);
        demand.tick();
        assert_eq!(demand.missing_reserve(0, Monotonic(1)), Some(100 * RESERVE_SECONDS));
        assert_eq!(demand.missing_reserve(100 * RESERVE_SECONDS, Monotonic(1)), None);
        for _ in 0..40 {
            demand.tick();
        }
        assert_eq!(demand.per_second(), 0);
    }
}
