//! A tenant's calendar: zone, anchor day, and a change of either that waits for its period.

use jiff::ToSpan;
use jiff::civil::{Date, Weekday};

use super::Zone;
use crate::model::{Per, Timestamp};

/// The day of the month on which months and years begin, 1 to 31; a shorter month begins on its last day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnchorDay(i8);

/// A number that is no day of a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 31")]
pub struct AnchorDayError;

impl AnchorDay {
    /// The first of the month.
    pub const FIRST: Self = Self(1);

    /// Checks the day.
    ///
    /// # Errors
    /// [`AnchorDayError`] unless it is 1 to 31.
    pub fn new(day: u64) -> Result<Self, AnchorDayError> {
        match i8::try_from(day) {
            Ok(day @ 1..=31) => Ok(Self(day)),
            _ => Err(AnchorDayError),
        }
    }

    /// The day.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0.unsigned_abs()
    }

    /// Where this month's period begins.
    fn in_month_of(self, date: Date) -> Date {
        let last = date.days_in_month();
        date.first_of_month().saturating_add((self.0.min(last) - 1).days())
    }
}

/// A half-open interval `[start, end)` of instants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Period {
    /// The first instant.
    pub start: Timestamp,
    /// The first instant of the next one.
    pub end: Timestamp,
}

impl Period {
    /// Whether the instant is in it.
    #[must_use]
    pub fn contains(&self, instant: Timestamp) -> bool {
        self.start <= instant && instant < self.end
    }
}

/// What periods and days mean for a tenant.
///
/// A change of zone or anchor takes effect when the current month ends, so that no running period changes its length.
///
/// ```
/// # use usage_gate_core::{model::Per, period::{AnchorDay, Calendar}};
/// let calendar = Calendar::new("Asia/Tokyo".parse()?, AnchorDay::FIRST);
/// let month = calendar.period(Per::Month, "2026-11-24T12:00:00Z".parse()?);
/// assert_eq!(month.start.to_string(), "2026-10-31T15:00:00Z");
/// assert_eq!(month.end.to_string(), "2026-11-30T15:00:00Z");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// The zone now.
    pub zone: Zone,
    /// The anchor now.
    pub anchor: AnchorDay,
    /// What takes their place, and when.
    pub next: Option<(Zone, AnchorDay, Timestamp)>,
    /// When the present zone and anchor took effect, if they replaced others: no period of theirs begins earlier.
    pub since: Option<Timestamp>,
}

impl Calendar {
    /// A calendar that was always so.
    #[must_use]
    pub const fn new(zone: Zone, anchor: AnchorDay) -> Self {
        Self { zone, anchor, next: None, since: None }
    }

    /// The calendar with another zone or anchor from the end of the month that `now` is in.
    #[must_use]
    pub fn changed(&self, zone: Zone, anchor: AnchorDay, now: Timestamp) -> Self {
        let current = self.settled(now);
        if current.zone == zone && current.anchor == anchor {
            return Self { next: None, ..current };
        }
        let at = Self { next: None, ..current.clone() }.period(Per::Month, now).end;
        Self { next: Some((zone, anchor, at)), ..current }
    }

    /// The same calendar, a change that has taken effect by `now` folded in.
    #[must_use]
    pub fn settled(&self, now: Timestamp) -> Self {
        match &self.next {
            Some((zone, anchor, at)) if *at <= now => {
                Self { zone: zone.clone(), anchor: *anchor, next: None, since: Some(*at) }
            }
            _ => self.clone(),
        }
    }

    /// Zone and anchor as they were last set, in effect already or not.
    #[must_use]
    pub fn latest(&self) -> (Zone, AnchorDay) {
        match &self.next {
            Some((zone, anchor, _)) => (zone.clone(), *anchor),
            None => (self.zone.clone(), self.anchor),
        }
    }

    /// The zone that holds at this instant.
    #[must_use]
    pub fn zone_at(&self, instant: Timestamp) -> &Zone {
        match &self.next {
            Some((zone, _, at)) if *at <= instant => zone,
            _ => &self.zone,
        }
    }

    /// The period of this unit that the instant is in; a change of calendar cuts the period that it falls into.
    #[must_use]
    pub fn period(&self, per: Per, instant: Timestamp) -> Period {
        let (zone, anchor, start, end) = match &self.next {
            Some((zone, anchor, at)) if *at <= instant => (zone, *anchor, Some(*at), None),
            Some((_, _, at)) => (&self.zone, self.anchor, self.since, Some(*at)),
            None => (&self.zone, self.anchor, self.since, None),
        };
        let whole = natural_period(zone, anchor, per, instant);
        // An instant before `since` is one of the past, asked for by a reader: it sees whole periods.
        let start = start.filter(|since| *since <= instant);
        Period {
            start: start.map_or(whole.start, |at| whole.start.max(at)),
            end: end.map_or(whole.end, |at| whole.end.min(at)),
        }
    }
}

fn natural_period(zone: &Zone, anchor: AnchorDay, per: Per, instant: Timestamp) -> Period {
    if let Some(seconds) = per.seconds() {
        let length = i64::try_from(seconds).unwrap_or(1).saturating_mul(1_000_000);
        let start = instant.as_micros().div_euclid(length).saturating_mul(length);
        return Period {
            start: Timestamp::from_micros(start),
            end: Timestamp::from_micros(start.saturating_add(length)),
        };
    }
    let today = zone.rules().to_datetime(instant.to_jiff()).date();
    let (first, next) = match per {
        Per::Second | Per::Minute | Per::Hour | Per::Day => (today, today.saturating_add(1.day())),
        Per::Week => {
            let monday = today.saturating_sub(i64::from(today.weekday().since(Weekday::Monday)).days());
            (monday, monday.saturating_add(7.days()))
        }
        Per::Month => anchored(anchor, today, today, 1),
        // A year begins on the anchor day of January.
        Per::Year => anchored(anchor, today, today.first_of_year(), 12),
    };
    let midnight = |date: Date| {
        // Where midnight is skipped by a change of clocks the day begins at the first instant that exists.
        zone.rules().to_ambiguous_timestamp(date.at(0, 0, 0, 0)).compatible().map_or(instant, Timestamp::from_jiff)
    };
    Period { start: midnight(first), end: midnight(next) }
}

/// The anchored span of `months` that `today` is in: the one that begins in the month of `about`, or the one before.
fn anchored(anchor: AnchorDay, today: Date, about: Date, months: i32) -> (Date, Date) {
    let begin = about.first_of_month();
    let first = anchor.in_month_of(begin);
    let other = |by: i32| anchor.in_month_of(begin.saturating_add(by.months()));
    if today < first { (other(-months), first) } else { (first, other(months)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn calendar(zone: &str, day: u64) -> Calendar {
        Calendar::new(zone.parse().unwrap(), AnchorDay::new(day).unwrap())
    }

    #[track_caller]
    fn check(zone: &str, day: u64, per: Per, at: &str, expected: (&str, &str)) {
        let period = calendar(zone, day).period(per, at.parse().unwrap());
        assert_eq!((period.start.to_string().as_str(), period.end.to_string().as_str()), expected);
    }

    #[test]
    fn months_are_calendar_months_of_the_zone() {
        check("Asia/Tokyo", 1, Per::Month, "2026-11-30T14:59:59Z", ("2026-10-31T15:00:00Z", "2026-11-30T15:00:00Z"));
        check("Asia/Tokyo", 1, Per::Month, "2026-11-30T15:00:00Z", ("2026-11-30T15:00:00Z", "2026-12-31T15:00:00Z"));
        check("Europe/Berlin", 1, Per::Month, "2026-03-15T00:00:00Z", ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"));
    }

    #[test]
    fn the_31st_becomes_the_last_day_of_a_shorter_month() {
        check("UTC", 31, Per::Month, "2026-02-10T00:00:00Z", ("2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z"));
        check("UTC", 31, Per::Month, "2026-02-28T00:00:00Z", ("2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"));
        check("UTC", 31, Per::Month, "2024-02-29T12:00:00Z", ("2024-02-29T00:00:00Z", "2024-03-31T00:00:00Z"));
        check("UTC", 31, Per::Month, "2026-04-30T00:00:00Z", ("2026-04-30T00:00:00Z", "2026-05-31T00:00:00Z"));
    }

    #[test]
    fn days_follow_the_clocks() {
        // 23 hours in Berlin, and in Santiago a day that begins at 01:00.
        check("Europe/Berlin", 1, Per::Day, "2026-03-29T12:00:00Z", ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"));
        check(
            "America/Santiago",
            1,
            Per::Day,
            "2026-09-06T12:00:00Z",
            ("2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"),
        );
    }

    #[test]
    fn weeks_begin_on_monday_and_years_on_the_anchor() {
        check("UTC", 1, Per::Week, "2026-11-24T00:00:00Z", ("2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"));
        check("UTC", 15, Per::Year, "2026-01-14T00:00:00Z", ("2025-01-15T00:00:00Z", "2026-01-15T00:00:00Z"));
        check("UTC", 15, Per::Year, "2026-01-15T00:00:00Z", ("2026-01-15T00:00:00Z", "2027-01-15T00:00:00Z"));
    }

    #[test]
    fn a_change_of_zone_waits_for_the_month_to_end() {
        let now = "2026-11-24T00:00:00Z".parse().unwrap();
        let changed = calendar("UTC", 1).changed("Asia/Tokyo".parse().unwrap(), AnchorDay::FIRST, now);
        assert_eq!(changed.period(Per::Month, now), calendar("UTC", 1).period(Per::Month, now));
        let after = changed.period(Per::Month, "2026-12-01T00:00:00Z".parse().unwrap());
        // The first period of the new zone begins where the old one ended: no instant is in none or in two.
        assert_eq!(after.start.to_string(), "2026-12-01T00:00:00Z");
        assert_eq!(after.end.to_string(), "2026-12-31T15:00:00Z");
        let later = "2027-01-10T00:00:00Z".parse().unwrap();
        assert_eq!(changed.settled(later).period(Per::Month, later), changed.period(Per::Month, later));
    }

    proptest! {
        #[test]
        fn periods_follow_each_other_without_gap_or_overlap(
            seconds in -1_000_000_000i64..4_000_000_000,
            zone in prop::sample::select(vec!["UTC", "Asia/Tokyo", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata", "Europe/Berlin", "America/St_Johns"]),
            day in 1u64..=31,
            per in prop::sample::select(vec![Per::Day, Per::Week, Per::Month, Per::Year, Per::Hour]),
        ) {
            let calendar = calendar(zone, day);
            let instant = Timestamp::from_micros(seconds * 1_000_000);
            let period = calendar.period(per, instant);
            prop_assert!(period.contains(instant));
            prop_assert_eq!(calendar.period(per, period.start), period);
            prop_assert_eq!(calendar.period(per, period.end).start, period.end);
            prop_assert_eq!(calendar.period(per, period.start.plus_micros(-1)).end, period.start);
        }
    }
}
