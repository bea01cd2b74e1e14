//! A rate as GCRA on one atomic: in any interval of length t at most `burst + rate x t` units pass.
//!
//! The atomic holds the theoretical arrival time (TAT): when the bucket would be full again. Taking n units moves it on by n emission
//! intervals, and is allowed while it stays within the burst of now. Source: ITU-T I.371, "virtual scheduling algorithm".

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Monotonic;

/// Sixteenths of a nanosecond: fine enough for a billion units a second, and 36 years fit.
const TICKS_PER_NANO: u64 = 16;

/// A rate and its burst, in ticks. Rounded so that it is never faster than stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateSpec {
    interval: u64,
    tolerance: u64,
    burst: u64,
}

/// What was taken, to be undone if a later limit of the same request refuses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateTaken {
    before: u64,
    after: u64,
}

impl RateSpec {
    /// `units` per `seconds`, of which `burst` may pass at once.
    pub(crate) fn new(units: u64, seconds: u64, burst: u64) -> Self {
        let ticks = seconds.saturating_mul(1_000_000_000 * TICKS_PER_NANO);
        let interval = ticks.div_ceil(units.max(1)).max(1);
        Self { interval, tolerance: interval.saturating_mul(burst), burst }
    }
}

/// The state of one rate for one subject.
#[derive(Debug, Default)]
pub(crate) struct RateBucket {
    tat: AtomicU64,
}

const fn ticks(now: Monotonic) -> u64 {
    now.0.saturating_mul(TICKS_PER_NANO)
}

impl RateBucket {
    /// Whether `units` would pass now; otherwise the nanoseconds until they would (what never passes says when the bucket is full).
    pub(crate) fn peek(&self, spec: &RateSpec, now: Monotonic, units: u64) -> Result<(), u64> {
        // Relaxed: the TAT alone decides, no other memory hangs on it.
        let tat = self.tat.load(Ordering::Relaxed);
        step(tat, spec, ticks(now), units).map(|_| ())
    }

    /// Takes `units`, or says how many nanoseconds until they would pass.
    pub(crate) fn take(&self, spec: &RateSpec, now: Monotonic, units: u64) -> Result<RateTaken, u64> {
        let mut before = self.tat.load(Ordering::Relaxed);
        loop {
            let after = step(before, spec, ticks(now), units)?;
            match self.tat.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(RateTaken { before, after }),
                Err(current) => before = current,
            }
        }
    }

    /// Undoes a take, if nothing has happened since.
    ///
    /// Otherwise the units stay spent until they drip back: subtracting them from a bucket that has moved on could
    /// erase what another request took, and the curve is the promise.
    pub(crate) fn undo(&self, taken: RateTaken) {
        let _ = self.tat.compare_exchange(taken.after, taken.before, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Books units that became known only now: they pass, and what follows waits for them.
    pub(crate) fn book(&self, spec: &RateSpec, now: Monotonic, units: u64) {
        let cost = spec.interval.saturating_mul(units);
        let mut before = self.tat.load(Ordering::Relaxed);
        loop {
            let after = before.max(ticks(now)).saturating_add(cost);
            match self.tat.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => before = current,
            }
        }
    }

    /// Units that would pass now, and nanoseconds until there is one more (0 when full).
    pub(crate) fn remaining(&self, spec: &RateSpec, now: Monotonic) -> (u64, u64) {
        let ahead = self.tat.load(Ordering::Relaxed).saturating_sub(ticks(now));
        if ahead == 0 {
            return (spec.burst, 0);
        }
        let free = spec.tolerance.saturating_sub(ahead);
        let units = free / spec.interval;
        let next = if ahead > spec.tolerance {
            ahead - spec.tolerance + spec.interval
        } else {
            spec.interval - free % spec.interval
        };
        (units, next.div_ceil(TICKS_PER_NANO))
    }

    /// Whether it is full: then it can be forgotten.
    pub(crate) fn is_full(&self, now: Monotonic) -> bool {
        self.tat.load(Ordering::Relaxed) <= ticks(now)
    }
}

/// The rule, pure: the TAT after taking `units` at `now`, or nanoseconds to wait.
fn step(tat: u64, spec: &RateSpec, now: u64, units: u64) -> Result<u64, u64> {
    let base = tat.max(now);
    let cost = spec.interval.saturating_mul(units);
    let after = base.saturating_add(cost);
    let latest = now.saturating_add(spec.tolerance);
    // What does not fit the clock any more is beyond every burst: saturated sums would let everything pass.
    if after <= latest && after < u64::MAX {
        Ok(after)
    } else {
        // More than the burst never passes: the best moment is when the bucket is full.
        Err((after - latest).min(base - now).max(1).div_ceil(TICKS_PER_NANO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_burst_passes_at_once_and_then_the_rate() {
        let (spec, bucket) = (RateSpec::new(10, 1, 20), RateBucket::default());
        let now = Monotonic(SECOND);
        for _ in 0..20 {
            bucket.take(&spec, now, 1).unwrap();
        }
        assert_eq!(bucket.take(&spec, now, 1).err(), Some(SECOND / 10));
        assert_eq!(bucket.remaining(&spec, now), (0, SECOND / 10));
        bucket.take(&spec, now.plus_nanos(SECOND / 10), 1).unwrap();
        assert_eq!(bucket.remaining(&spec, now.plus_nanos(10 * SECOND)), (20, 0));
    }

    #[test]
    fn more_than_the_burst_never_passes_and_takes_nothing() {
        let (spec, bucket) = (RateSpec::new(10, 1, 5), RateBucket::default());
        assert!(bucket.take(&spec, Monotonic(SECOND), 6).is_err());
        assert_eq!(bucket.remaining(&spec, Monotonic(SECOND)).0, 5);
    }

    #[test]
    fn an_undone_take_is_as_if_it_had_not_been() {
        let (spec, bucket) = (RateSpec::new(10, 1, 5), RateBucket::default());
        let now = Monotonic(SECOND);
        let taken = bucket.take(&spec, now, 5).unwrap();
        bucket.undo(taken);
        assert!(bucket.take(&spec, now, 5).is_ok());
    }

    #[test]
    fn an_undo_never_erases_what_another_took() {
        let (spec, bucket) = (RateSpec::new(10, 1, 5), RateBucket::default());
        let now = Monotonic(SECOND);
        let first = bucket.take(&spec, now, 1).unwrap();
        for _ in 0..4 {
            bucket.take(&spec, now, 1).unwrap();
        }
        bucket.undo(first);
        assert!(bucket.take(&spec, now, 1).is_err());
    }

    proptest! {
        #[test]
        fn no_interval_passes_more_than_burst_and_rate(
            units in 1u64..2_000,
            burst in 1u64..50,
            steps in prop::collection::vec((0u64..20_000_000, 1u64..5), 1..200),
        ) {
            let (spec, bucket) = (RateSpec::new(units, 1, burst), RateBucket::default());
            let mut now = SECOND;
            let mut passed: Vec<(u64, u64)> = Vec::new();
            for (gap, cost) in steps {
                now += gap;
                if bucket.take(&spec, Monotonic(now), cost).is_ok() {
                    passed.push((now, cost));
                }
            }
            for (at, (start, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (end, cost) in &passed[at..] {
                    sum += cost;
                    let allowed = u128::from(burst) + u128::from(units) * u128::from(end - start) / u128::from(SECOND);
                    prop_assert!(u128::from(sum) <= allowed, "{sum} units in [{start}, {end}], {allowed} allowed");
                }
            }
        }
    }
}
