//! The calls: day by day, hour by hour, what each key did and what was refused to it. Pure.
//!
//! A day is made of the seed and its number alone, so that it can be made twice: first to learn what the plan has to have, then to ship it.

use anyhow::Context;
use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;
use usage_gate_core::admission::Code;
use usage_gate_core::model::{Environment, Meters, Per, Timestamp};
use usage_gate_core::period::{Calendar, Period};
use usage_gate_core::store::{Outcome, UnitTotals};

use super::cast::{Company, KeySketch, days_ago};
use super::random::Random;
use super::routes::Path;
use super::story::EXPORTS_A_DAY;
use super::{EXPORTS, Order};

const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;
/// The busy day was so many days ago.
const SPIKE_DAYS_AGO: u64 = 7;
/// A key that was revoked is still tried for so many days.
const TRIED_DAYS: i64 = 4 * 24 * HOUR;

/// All that one customer does until now.
#[derive(Debug)]
pub(super) struct Calls<'a> {
    company: &'static Company,
    order: Order,
    pub(super) meters: &'a Meters,
    pub(super) now: Timestamp,
    pub(super) calendar: Calendar,
    clock: TimeZone,
    /// The oldest first; the last one is today.
    pub(super) days: Vec<Period>,
}

/// A call before it is a record: by the place of its key.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) key: usize,
    pub(super) at: Timestamp,
    pub(super) path: Path,
    pub(super) outcome: Outcome,
    pub(super) units: UnitTotals,
}

/// Refused calls of one hour.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) key: usize,
    pub(super) at: Timestamp,
    pub(super) path: Path,
    pub(super) code: Code,
    pub(super) limit: Option<&'static str>,
    pub(super) requests: u64,
}

#[derive(Debug, Default)]
pub(super) struct Day {
    pub(super) calls: Vec<Call>,
    pub(super) refusals: Vec<Refusal>,
}

impl<'a> Calls<'a> {
    pub(super) fn new(
        company: &'static Company,
        order: Order,
        now: Timestamp,
        meters: &'a Meters,
    ) -> anyhow::Result<Self> {
        let calendar = company.calendar()?;
        let clock = TimeZone::get(company.zone).context("time zone")?;
        let mut days = vec![calendar.period(Per::Day, now)];
        for _ in 1..u32::from(order.weeks) * 7 {
            let before = days.last().map_or(now, |day| day.start.plus_micros(-1));
            days.push(calendar.period(Per::Day, before));
        }
        days.reverse();
        Ok(Self { company, order, meters, now, calendar, clock, days })
    }

    /// Units of a meter that quotas count in the running month.
    pub(super) fn used_of_month(&self, meter: &str) -> u64 {
        let Some(index) = self.meters.index(meter) else { return 0 };
        let month = self.calendar.period(Per::Month, self.now);
        let days = (0..).zip(&self.days).filter(|(_, day)| day.end > month.start);
        let calls = days.flat_map(|(number, day)| self.day(number, *day).calls);
        calls
            .filter(|call| call.outcome != Outcome::Test && month.contains(call.at))
            .map(|call| call.units.of(index))
            .sum()
    }

    /// A day of all keys.
    pub(super) fn day(&self, number: u64, day: Period) -> Day {
        let mut made = Day::default();
        for ((key, at), sketch) in (0..).zip(0..).zip(self.company.keys) {
            let place = self.company.number << 32 | number << 8 | key;
            let mut random = Random::new(self.order.seed, place);
            let mut hour = day.start;
            while hour < day.end.min(self.now) {
                let whole = Period { start: hour, end: hour.plus_micros(HOUR).min(day.end) };
                self.hour(number, at, sketch, whole, &mut random, &mut made);
                hour = whole.end;
            }
            if sketch.exports {
                self.exports(at, sketch, day, &mut random, &mut made);
            }
        }
        made
    }

    /// An hour of one key; of one that is not over, the part that is.
    fn hour(&self, number: u64, key: usize, sketch: &KeySketch, hour: Period, random: &mut Random, made: &mut Day) {
        let over = Period { start: hour.start, end: hour.end.min(self.now) };
        let local = self.local(hour.start);
        let busy = sketch.rhythm.hour(local.hour()) * sketch.rhythm.day(local.weekday()) / 1_000;
        // A tenth less eight weeks ago: it grows.
        let days_back = u64::try_from(self.days.len()).unwrap_or(0).saturating_sub(number + 1);
        let grown = 1_000_u64.saturating_sub(days_back * 2);
        let spike = if sketch.spike && days_back == SPIKE_DAYS_AGO { 1_450 } else { 1_000 };
        let part = over.start.micros_until(over.end) * 1_000 / over.start.micros_until(hour.end).max(1);
        let share = |of_a_day: u64| of_a_day * busy / 1_000 * grown / 1_000 * spike / 1_000 * part / 1_000;

        if self.is_used(sketch, hour.start) {
            for _ in 0..random.around(share(sketch.calls_a_day * 1_000)) {
                let path = self.path(sketch, random);
                let at = within(over, random);
                self.call(key, sketch, path, at, random, made);
            }
        }
        for refused in sketch.refused {
            let revoked = refused.code == Code::RevokedKey;
            if revoked != self.is_tried_in_vain(sketch, hour.start) || (!revoked && !self.is_used(sketch, hour.start)) {
                continue;
            }
            let requests = random.around(share(refused.in_a_day));
            if requests > 0 {
                let (path, code, limit) = (refused.path, refused.code, refused.limit);
                made.refusals.push(Refusal { key, at: over.start, path, code, limit, requests });
            }
        }
    }

    /// The nightly job's exports: on working days more than there are, on weekends fewer. It begins at three; today earlier if that is still
    /// to come, so that whoever looks sees a limit that is full.
    fn exports(&self, key: usize, sketch: &KeySketch, day: Period, random: &mut Random, made: &mut Day) {
        let weekend = matches!(self.local(day.start).weekday(), Weekday::Saturday | Weekday::Sunday);
        let today = day.contains(self.now);
        let wanted = if weekend && !today { random.between(140, 190) } else { random.between(205, 235) };
        let three = day.start.plus_micros(3 * HOUR);
        let latest = self.now.plus_micros(-50 * MINUTE).max(day.start);
        let begin = if today { three.min(latest) } else { three };
        let lasts =
            Period { start: begin, end: begin.plus_micros(45 * MINUTE).min(self.now.max(begin.plus_micros(1))) };
        for _ in 0..wanted.min(EXPORTS_A_DAY) {
            let at = within(lasts, random);
            self.call(key, sketch, Path::Exports, at, random, made);
        }
        let requests = wanted.saturating_sub(EXPORTS_A_DAY);
        if requests > 0 {
            let at = lasts.end.plus_micros(-1);
            let (path, code) = (Path::Exports, Code::QuotaExceeded);
            made.refusals.push(Refusal { key, at, path, code, limit: Some(EXPORTS), requests });
        }
    }

    fn call(&self, key: usize, sketch: &KeySketch, path: Path, at: Timestamp, random: &mut Random, made: &mut Day) {
        let units = path.units(random, self.meters);
        let outcome = match sketch.environment {
            Environment::Test => Outcome::Test,
            Environment::Live if random.hits(4) => Outcome::Aborted,
            Environment::Live => Outcome::Billed,
        };
        made.calls.push(Call { key, at, path, outcome, units });
    }

    fn path(&self, sketch: &KeySketch, random: &mut Random) -> Path {
        let mut at = random.below(1_000);
        for (path, share) in sketch.paths {
            match at.checked_sub(*share) {
                None => return *path,
                Some(rest) => at = rest,
            }
        }
        Path::Search
    }

    fn is_used(&self, sketch: &KeySketch, at: Timestamp) -> bool {
        let until = match sketch.revoked_at(&self.calendar, self.now) {
            Some(revoked) => revoked.plus_micros(-HOUR),
            None => days_ago(self.now, sketch.quiet_for_days),
        };
        days_ago(self.now, sketch.made_days_ago) <= at && at < until
    }

    fn is_tried_in_vain(&self, sketch: &KeySketch, at: Timestamp) -> bool {
        sketch
            .revoked_at(&self.calendar, self.now)
            .is_some_and(|revoked| revoked <= at && at < revoked.plus_micros(TRIED_DAYS))
    }

    fn local(&self, at: Timestamp) -> DateTime {
        let instant = jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or_default();
        self.clock.to_datetime(instant)
    }
}

fn within(period: Period, random: &mut Random) -> Timestamp {
    let micros = random.below(period.start.micros_until(period.end));
    period.start.plus_micros(i64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use usage_gate_core::model::MeterIndex;

    use super::super::story::{ACME, GLOBEX};
    use super::*;

    fn traffic<'m>(company: &'static Company, now: &str, seed: u64, meters: &'m Meters) -> Calls<'m> {
        Calls::new(company, Order { weeks: 8, seed }, now.parse().unwrap(), meters).unwrap()
    }

    fn meters() -> Meters {
        Meters::new([EXPORTS]).unwrap()
    }

    /// Calls, units and refusals by key and outcome, which is all that a page shows.
    fn sums(traffic: &Calls<'_>) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (number, period) in (0..).zip(&traffic.days) {
            let day = traffic.day(number, *period);
            for call in &day.calls {
                let key = format!("{} {} {}", period.start, call.key, call.outcome.as_str());
                *sums.entry(key).or_default() += 1 + call.units.of(MeterIndex::BYTES_OUT);
            }
            for refusal in &day.refusals {
                *sums.entry(format!("{} {} {}", period.start, refusal.key, refusal.code.as_str())).or_default() +=
                    refusal.requests;
            }
        }
        sums
    }

    const NOW: &str = "2026-11-24T05:32:08Z";

    #[test]
    fn the_same_seed_makes_the_same_use() {
        let meters = meters();
        let first = sums(&traffic(&ACME, NOW, 1, &meters));
        assert_eq!(first, sums(&traffic(&ACME, NOW, 1, &meters)));
        assert_ne!(first, sums(&traffic(&ACME, NOW, 2, &meters)));
    }

    #[test]
    fn nothing_is_used_in_the_future_and_today_is_full() {
        let meters = meters();
        let exports = meters.index(EXPORTS).unwrap();
        // In the middle of a day, before three, and in the first second of a day and month.
        for now in [NOW, "2026-11-23T16:10:00Z", "2026-11-30T15:00:01Z"] {
            let traffic = traffic(&ACME, now, 1, &meters);
            let (number, today) = (traffic.days.len() - 1, *traffic.days.last().unwrap());
            let day = traffic.day(u64::try_from(number).unwrap(), today);
            assert!(day.calls.iter().all(|call| call.at < traffic.now && today.contains(call.at)), "{now}");
            assert_eq!(day.calls.iter().map(|call| call.units.of(exports)).sum::<u64>(), EXPORTS_A_DAY, "{now}");
        }
    }

    #[test]
    fn a_month_fits_its_plan_and_is_believable() {
        let meters = meters();
        for (company, now, expected) in [
            (&ACME, NOW, 62_000..74_000),
            (&ACME, "2026-10-31T14:59:59Z", 75_000..95_000),
            (&GLOBEX, NOW, 5_000..9_000),
        ] {
            let used = traffic(company, now, 1, &meters).used_of_month("requests");
            assert!(expected.contains(&used), "{}: {used}", company.name);
        }
    }
}
