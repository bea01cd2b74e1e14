//! What a rate lets through in any interval, with what outages may add to it.

use std::time::Duration;

use super::Passed;

/// At most `burst + rate x t` units in any interval of length t, and what is added to that.
#[derive(Debug, Clone, Default)]
pub struct Curve {
    /// Units a second.
    pub rate: f64,
    /// Units at once.
    pub burst: f64,
    /// What intervals may have beyond that.
    pub extra: Vec<Extra>,
}

/// What an interval may have beyond the curve if it touches a span of time.
#[derive(Debug, Clone, Copy)]
pub struct Extra {
    /// From when.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
    /// Units for having touched it.
    pub units: f64,
    /// Units for each second of it.
    pub rate: f64,
}

impl Curve {
    /// The curve alone.
    #[must_use]
    pub const fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst, extra: Vec::new() }
    }

    /// With one more burst for an interval that touches this span: within it nodes change over from their authority to themselves, or back.
    #[must_use]
    pub fn change_over(mut self, from: Duration, until: Duration) -> Self {
        self.extra.push(Extra { from, until, units: self.burst, rate: 0.0 });
        self
    }

    /// With so many units more for each second of this span.
    #[must_use]
    pub fn faster(mut self, from: Duration, until: Duration, rate: f64) -> Self {
        self.extra.push(Extra { from, until, units: 0.0, rate });
        self
    }

    /// The most by which any interval passes the curve, in units; negative if none does. An interval counts requests that were sent in it and answered in it.
    #[must_use]
    pub fn passed_by(&self, passed: &Passed) -> f64 {
        let mut passed = passed.only(|shot| shot.status == 200).0;
        passed.sort_by_key(|shot| shot.answered);
        let mut starts: Vec<Duration> = passed.iter().map(|shot| shot.sent).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut worst = f64::MIN;
        // Of the requests sent at or after `from`, the n-th to be answered ends an interval with n of them.
        for from in starts {
            let mut count = 0.0;
            for shot in passed.iter().filter(|shot| shot.sent >= from) {
                count += 1.0;
                worst = worst.max(count - self.allows(from, shot.answered));
            }
        }
        worst
    }

    fn allows(&self, from: Duration, until: Duration) -> f64 {
        let plain = self.burst + self.rate * until.saturating_sub(from).as_secs_f64();
        let touched = self.extra.iter().filter(|extra| extra.from <= until && from <= extra.until);
        touched.fold(plain, |sum, extra| {
            let within = extra.until.min(until).saturating_sub(extra.from.max(from));
            sum + extra.units + extra.rate * within.as_secs_f64()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Shot;
    use super::*;

    fn passed(at: impl IntoIterator<Item = u64>) -> Passed {
        let at = at.into_iter().map(Duration::from_millis);
        Passed(at.map(|at| Shot { sent: at, answered: at, client: 0, node: 0, status: 200 }).collect())
    }

    #[track_caller]
    fn check(curve: &Curve, passed: &Passed, expected: f64) {
        let above = curve.passed_by(passed);
        assert!((above - expected).abs() < 1e-9, "{above}, and {expected} was expected");
    }

    #[test]
    fn an_interval_has_a_burst_and_its_share_of_the_rate() {
        let curve = Curve::new(10.0, 3.0);
        check(&curve, &passed([0, 0, 0, 100, 200]), 0.0);
        check(&curve, &passed([0, 0, 0, 50]), 0.5);
        // What came long before does not help.
        check(&curve, &passed([0, 9_000, 9_000, 9_000, 9_000, 9_000]), 2.0);
    }

    #[test]
    fn only_an_interval_that_touches_a_span_has_more() {
        let second = Duration::from_secs(1);
        let curve = Curve::new(10.0, 2.0).change_over(second, second * 2).faster(second, second * 2, 5.0);
        check(&curve, &passed([1_500, 1_500, 1_500, 1_500]), 0.0);
        check(&curve, &passed([2_500, 2_500, 2_500, 2_500]), 2.0);
        // From 900 to 1,100: two bursts, 2 units of the rate, and half a unit of what is faster.
        check(&curve, &passed([900, 900, 1_000, 1_000, 1_100, 1_100, 1_100]), 7.0 - 6.5);
    }
}
