//! Which day a bucket counts in, and which part of a question days can answer.
//!
//! A day row is a sum over the hour rows of one day of the tenant's zone. Which zone that is, and from which bucket on, is kept beside the
//! rows, so that whoever reads them need not know how calendars change: `day = day_of(zone that holds at bucket, bucket)`, always.
//! A zone holds from a bucket that is later than all that are stored; so no row ever moves to another day.

use rusqlite::{Connection, OptionalExtension};

use super::rows;
use super::value::{instant, parsed};
use crate::model::{Per, TenantId, Timestamp};
use crate::period::{AnchorDay, Calendar, Period, Zone};

/// From `since` on a tenant's days are days of `zone`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DayZone {
    since: Timestamp,
    zone: Zone,
}

/// The zones of a tenant's days, the oldest first. Few: a tenant changes its zone once a month at most.
fn zones(connection: &Connection, tenant: TenantId) -> rusqlite::Result<Vec<DayZone>> {
    connection
        .prepare_cached("SELECT since, zone FROM rollup_day_zone WHERE tenant = ?1 ORDER BY since")?
        .query_map([tenant.as_u128().to_be_bytes()], |row| {
            Ok(DayZone { since: instant(row, 0)?, zone: parsed(row, 1)? })
        })?
        .collect()
}

/// The newest hour of a tenant's usage: whatever else a call takes, it is counted in `requests`.
fn newest_bucket(connection: &Connection, tenant: TenantId) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached(
            "SELECT bucket FROM rollup_hour WHERE tenant = ?1 AND meter = 'requests' ORDER BY bucket DESC LIMIT 1",
        )?
        .query_row([tenant.as_u128().to_be_bytes()], |row| instant(row, 0))
        .optional()
}

fn day_of(zone: &Zone, at: Timestamp) -> Period {
    Calendar::new(zone.clone(), AnchorDay::FIRST).period(Per::Day, at)
}

/// The days of one tenant while a batch is taken in. Buckets are to come in order, each before its hour rows are stored.
#[derive(Debug)]
pub(super) struct TenantDays {
    tenant: TenantId,
    zones: Vec<DayZone>,
    newest: Option<Timestamp>,
    /// None for a tenant that this database does not keep.
    calendar: Option<Calendar>,
    /// The bucket asked for last, and its day.
    last: Option<(Timestamp, Option<Timestamp>)>,
}

impl TenantDays {
    pub(super) fn load(connection: &Connection, tenant: TenantId) -> rusqlite::Result<Self> {
        Ok(Self {
            tenant,
            zones: zones(connection, tenant)?,
            newest: newest_bucket(connection, tenant)?,
            calendar: rows::tenant(connection, tenant)?.map(|tenant| tenant.calendar),
            last: None,
        })
    }

    pub(super) const fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The day of a bucket; `None` if it counts in hours alone.
    pub(super) fn of(&mut self, connection: &Connection, bucket: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
        if let Some((known, day)) = self.last
            && known == bucket
        {
            return Ok(day);
        }
        if self.newest.is_none_or(|newest| newest < bucket) {
            self.follow_calendar(connection, bucket)?;
            self.newest = Some(bucket);
        }
        let holds = self.zones.iter().rev().find(|zone| zone.since <= bucket);
        // Cut where the zone begins: a day that began before it is another's, and must not count as that day.
        let day = holds.map(|zone| day_of(&zone.zone, bucket).start.max(zone.since));
        self.last = Some((bucket, day));
        Ok(day)
    }

    /// A bucket that is newer than all others may begin another zone.
    fn follow_calendar(&mut self, connection: &Connection, bucket: Timestamp) -> rusqlite::Result<()> {
        let Some(calendar) = &self.calendar else { return Ok(()) };
        let zone = calendar.zone_at(bucket);
        if self.zones.last().is_some_and(|last| last.zone == *zone) {
            return Ok(());
        }
        // Without any usage so far there is none that days could lack.
        let since = if self.newest.is_none() { Timestamp::from_micros(i64::MIN) } else { bucket };
        connection
            .prepare_cached("INSERT INTO rollup_day_zone (tenant, since, zone) VALUES (?1, ?2, ?3)")?
            .execute((self.tenant.as_u128().to_be_bytes(), since.as_micros(), zone.name()))?;
        self.zones.push(DayZone { since, zone: zone.clone() });
        Ok(())
    }
}

/// A piece of the period that a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Buckets in it are read from hours.
    Hours(Period),
    /// It is whole days.
    Days(Period),
}

/// Cuts the period of a question about a tenant into whole days of the zone, as far as there are, and hours around them.
pub(super) fn parts(
    connection: &Connection,
    tenant: TenantId,
    period: Period,
    zone: &Zone,
) -> rusqlite::Result<Vec<Part>> {
    let zones = zones(connection, tenant)?;
    let newest = newest_bucket(connection, tenant)?;
    Ok(cut(&zones, newest, period, zone))
}

fn cut(zones: &[DayZone], newest: Option<Timestamp>, period: Period, zone: &Zone) -> Vec<Part> {
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
