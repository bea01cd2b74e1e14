//! Which day a bucket counts in, and which part of a question days can answer. Pure.
//!
//! A day row is a sum over the hour rows of one day of the tenant's zone. Which zone that is, and from which bucket on, is kept beside the
//! rows, so that whoever reads them need not know how calendars change: `day = day_of(zone that holds at bucket, bucket)`, always.
//! A zone holds from a bucket that is later than all that are stored; so no row ever moves to another day.

use std::collections::HashMap;

use super::{RollupDelta, RollupKey};
use crate::model::{Per, TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, Period, Zone};

/// From `since` on a tenant's days are days of `zone`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DayZone {
    pub(crate) since: Timestamp,
    pub(crate) zone: Zone,
}

fn day_of(zone: &Zone, at: Timestamp) -> Period {
    Calendar::new(zone.clone(), AnchorDay::FIRST).period(Per::Day, at)
}

/// The days of one tenant while a batch is taken in. Buckets are to come in order, before their rows are stored.
#[derive(Debug)]
pub(crate) struct TenantDays {
    /// The oldest first. Few: a tenant changes its zone once a month at most.
    zones: Vec<DayZone>,
    /// So many of them are stored.
    stored: usize,
    /// The newest bucket of the tenant's usage.
    newest: Option<Timestamp>,
    /// None for a tenant that this database does not keep.
    calendar: Option<Calendar>,
    /// The bucket asked for last, and its day.
    last: Option<(Timestamp, Option<Timestamp>)>,
}

impl TenantDays {
    /// `zones` are those that are stored, in order; `newest` is the newest bucket that is stored, of any meter.
    pub(crate) const fn new(zones: Vec<DayZone>, newest: Option<Timestamp>, calendar: Option<Calendar>) -> Self {
        Self { stored: zones.len(), zones, newest, calendar, last: None }
    }

    /// Tells the newest bucket later: it matters only where [`other_zone`](Self::other_zone) names one.
    #[cfg(feature = "postgres")]
    pub(crate) const fn know_newest(&mut self, newest: Option<Timestamp>) {
        self.newest = newest;
    }

    /// The day of a bucket; `None` if it counts in hours alone.
    pub(crate) fn of(&mut self, bucket: Timestamp) -> Option<Timestamp> {
        if let Some((known, day)) = self.last
            && known == bucket
        {
            return day;
        }
        if self.newest.is_none_or(|newest| newest < bucket) {
            // Without any usage so far there is none that days could lack.
            let since = if self.newest.is_none() { Timestamp::from_micros(i64::MIN) } else { bucket };
            self.zones.extend(self.other_zone(bucket).map(|zone| DayZone { since, zone }));
            self.newest = Some(bucket);
        }
        let holds = self.zones.iter().rev().find(|zone| zone.since <= bucket);
        // Cut where the zone begins: a day that began before it is another's, and must not count as that day.
        let day = holds.map(|zone| day_of(&zone.zone, bucket).start.max(zone.since));
        self.last = Some((bucket, day));
        day
    }

    /// The zone that begins at this bucket if it is newer than all that are stored, as the calendar has it.
    pub(crate) fn other_zone(&self, bucket: Timestamp) -> Option<Zone> {
        let zone = self.calendar.as_ref()?.zone_at(bucket);
        let holds_on = |last: &DayZone| last.zone == *zone || last.since >= bucket;
        (!self.zones.last().is_some_and(holds_on)).then(|| zone.clone())
    }

    /// The zones that buckets have begun: to be stored with the rows.
    pub(crate) fn begun(&self) -> &[DayZone] {
        self.zones.get(self.stored..).unwrap_or_default()
    }
}

/// Days of buckets of tenants; `None` for one that counts in hours alone.
pub(crate) type Days = HashMap<(TenantId, Timestamp), Option<Timestamp>>;

/// Rows of hours summed into rows of days, in the order of their table.
pub(crate) fn day_rows<'r>(
    rows: &'r [(RollupKey, RollupDelta)],
    days: &Days,
) -> Vec<(Timestamp, &'r RollupKey, RollupDelta)> {
    let mut by_day: Vec<(Timestamp, &RollupKey, RollupDelta)> = rows
        .iter()
        .filter_map(|(key, delta)| Some((days.get(&(key.tenant, key.bucket)).copied().flatten()?, key, *delta)))
        .collect();
    by_day.sort_by(|(day, key, _), (other_day, other, _)| in_day(*day, key).cmp(&in_day(*other_day, other)));
    by_day.dedup_by(|(day, key, delta), (kept_day, kept, sum)| {
        let same = in_day(*day, key) == in_day(*kept_day, kept);
        if same {
            sum.add(*delta);
        }
        same
    });
    by_day
}

/// What tells rows of days apart, in the order of the table.
fn in_day(day: Timestamp, key: &RollupKey) -> impl Ord + '_ {
    let (meter, outcome, route) = (&*key.meter, &*key.outcome, &*key.route);
    (key.tenant, meter, day, key.key, (outcome, key.limit.as_deref(), route, key.environment, key.user))
}

/// A piece of the period that a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Buckets in it are read from hours.
    Hours(Period),
    /// It is whole days.
    Days(Period),
}

/// Cuts the period of a question about a tenant into whole days of the zone, as far as there are, and hours around them. `zones` and `newest` are
/// as for [`TenantDays::new`].
pub(crate) fn cut(zones: &[DayZone], newest: Option<Timestamp>, period: Period, zone: &Zone) -> Vec<Part> {
    // The day that is not over yet is whole if nothing is stored beyond the end of the question.
    let end = match newest {
        Some(newest) if newest < period.end => period.end.max(day_of(zone, newest).end),
        _ => period.end,
    };
    let mut parts = Vec::new();
    let mut done = period.start;
    for (at, holds) in zones.iter().enumerate() {
        if holds.zone != *zone {
            continue;
        }
        let until = zones.get(at + 1).map_or(end, |next| next.since.min(end));
        let begin = done.max(holds.since);
        let first = day_of(zone, begin);
        let first = if first.start == begin { begin } else { first.end };
        let last = day_of(zone, until).start;
        if first < last {
            if done < first {
                parts.push(Part::Hours(Period { start: done, end: first }));
            }
            parts.push(Part::Days(Period { start: first, end: last }));
            done = last;
        }
    }
    if done < period.end {
        parts.push(Part::Hours(Period { start: done, end: period.end }));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn since(text: &str, zone: &str) -> DayZone {
        let since = if text.is_empty() { Timestamp::from_micros(i64::MIN) } else { at(text) };
        DayZone { since, zone: zone.parse().unwrap() }
    }

    #[track_caller]
    fn check(zones: &[DayZone], newest: &str, asked: (&str, &str, &str), expected: &[(char, &str, &str)]) {
        let period = Period { start: at(asked.1), end: at(asked.2) };
        let found = cut(zones, Some(at(newest)), period, &asked.0.parse().unwrap());
        let expected: Vec<_> = expected
            .iter()
            .map(|(kind, start, end)| {
                let period = Period { start: at(start), end: at(end) };
                if *kind == 'd' { Part::Days(period) } else { Part::Hours(period) }
            })
            .collect();
        assert_eq!(found, expected);
    }

    const NEWEST: &str = "2026-11-24T05:00:00Z";

    #[test]
    fn whole_days_are_read_as_days_and_what_is_left_as_hours() {
        check(
            &[since("", "Asia/Tokyo")],
            NEWEST,
            ("Asia/Tokyo", "2026-10-01T03:00:00Z", "2026-10-31T17:00:00Z"),
            &[
                ('h', "2026-10-01T03:00:00Z", "2026-10-01T15:00:00Z"),
                ('d', "2026-10-01T15:00:00Z", "2026-10-31T15:00:00Z"),
                ('h', "2026-10-31T15:00:00Z", "2026-10-31T17:00:00Z"),
            ],
        );
    }

    #[test]
    fn today_is_whole_if_nothing_is_stored_beyond_the_question() {
        let month = ("Asia/Tokyo", "2026-10-31T15:00:00Z", "2026-11-24T05:30:00Z");
        check(&[since("", "Asia/Tokyo")], NEWEST, month, &[('d', "2026-10-31T15:00:00Z", "2026-11-24T15:00:00Z")]);
        check(
            &[since("", "Asia/Tokyo")],
            "2026-11-24T06:00:00Z",
            month,
            &[
                ('d', "2026-10-31T15:00:00Z", "2026-11-23T15:00:00Z"),
                ('h', "2026-11-23T15:00:00Z", "2026-11-24T05:30:00Z"),
            ],
        );
    }

    #[test]
    fn another_zone_or_usage_from_before_is_read_as_hours() {
        let month = ("2026-10-31T15:00:00Z", "2026-11-30T15:00:00Z");
        check(&[since("", "UTC")], NEWEST, ("Asia/Tokyo", month.0, month.1), &[('h', month.0, month.1)]);
        check(&[], NEWEST, ("Asia/Tokyo", month.0, month.1), &[('h', month.0, month.1)]);
        check(
            &[since("2026-11-10T03:00:00Z", "Asia/Tokyo")],
            NEWEST,
            ("Asia/Tokyo", month.0, month.1),
            &[
                ('h', "2026-10-31T15:00:00Z", "2026-11-10T15:00:00Z"),
                ('d', "2026-11-10T15:00:00Z", "2026-11-30T15:00:00Z"),
            ],
        );
    }

    #[test]
    fn a_zone_ends_where_the_next_begins() {
        check(
            &[since("", "UTC"), since("2026-11-01T00:00:00Z", "Asia/Tokyo")],
            NEWEST,
            ("UTC", "2026-10-30T00:00:00Z", "2026-11-03T00:00:00Z"),
            &[
                ('d', "2026-10-30T00:00:00Z", "2026-11-01T00:00:00Z"),
                ('h', "2026-11-01T00:00:00Z", "2026-11-03T00:00:00Z"),
            ],
        );
    }
}
