//! Rollup buckets: the hours of a tenant's own clock.

use super::Zone;
use crate::model::Timestamp;

/// The start of the hour, on this zone's clock, that the instant is in.
///
/// Hours of the zone and not of UTC, so that no bucket crosses a day or period of its tenant, in Kolkata (half an hour
/// off) as in Lord Howe (half an hour of summer time). Where clocks change inside an hour, the hour is two buckets.
///
/// ```
/// # use usage_gate_core::period::bucket_start;
/// let start = bucket_start(&"Asia/Kolkata".parse()?, "2026-11-24T12:10:00Z".parse()?);
/// assert_eq!(start.to_string(), "2026-11-24T11:30:00Z");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn bucket_start(zone: &Zone, instant: Timestamp) -> Timestamp {
    let rules = zone.rules();
    let offset = rules.to_offset(instant.to_jiff());
    let local = instant.as_seconds().saturating_add(i64::from(offset.seconds()));
    let start = local.div_euclid(3600).saturating_mul(3600).saturating_sub(i64::from(offset.seconds()));
    let start = Timestamp::from_micros(start.saturating_mul(1_000_000));
    if rules.to_offset(start.to_jiff()) == offset {
        return start;
    }
    rules
        .preceding(instant.plus_micros(1).to_jiff())
        .next()
        .map_or(start, |change| start.max(Timestamp::from_jiff(change.timestamp())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Per;
    use crate::period::{AnchorDay, Calendar};
    use proptest::prelude::*;

    #[track_caller]
    fn check(zone: &str, at: &str, expected: &str) {
        assert_eq!(bucket_start(&zone.parse().unwrap(), at.parse().unwrap()).to_string(), expected);
    }

    #[test]
    fn hours_are_those_of_the_zone() {
        check("UTC", "2026-11-24T12:59:59Z", "2026-11-24T12:00:00Z");
        check("Asia/Kathmandu", "2026-11-24T12:10:00Z", "2026-11-24T11:15:00Z");
    }

    #[test]
    fn an_hour_in_which_clocks_change_is_two_buckets() {
        // Lord Howe goes from +11 to +10:30 at 15:00 UTC: 01:30 to 02:00 happens twice.
        check("Australia/Lord_Howe", "2026-04-04T14:59:00Z", "2026-04-04T14:00:00Z");
        check("Australia/Lord_Howe", "2026-04-04T15:10:00Z", "2026-04-04T15:00:00Z");
        check("Australia/Lord_Howe", "2026-04-04T15:40:00Z", "2026-04-04T15:30:00Z");
    }

    proptest! {
        #[test]
        fn no_bucket_crosses_a_day(
            seconds in 0i64..4_000_000_000,
            zone in prop::sample::select(vec!["Asia/Kolkata", "Australia/Lord_Howe", "America/Santiago", "Europe/Berlin", "America/St_Johns", "Africa/Casablanca"]),
        ) {
            let zone: Zone = zone.parse().unwrap();
            let instant = Timestamp::from_micros(seconds * 1_000_000);
            let start = bucket_start(&zone, instant);
            prop_assert!(start <= instant && instant.as_micros() - start.as_micros() < 3_600_000_000);
            prop_assert_eq!(bucket_start(&zone, start), start);
            let calendar = Calendar::new(zone, AnchorDay::FIRST);
            prop_assert_eq!(calendar.period(Per::Day, start), calendar.period(Per::Day, instant));
        }
    }
}
