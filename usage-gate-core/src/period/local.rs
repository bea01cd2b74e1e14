//! What a zone's clocks show: for pages that speak to people in their own days.

use jiff::civil::{Date, Time};

use super::Zone;
use crate::model::Timestamp;

/// What calendar and clock show in a zone at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the words say it")]
pub struct LocalTime {
    pub year: i16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    /// 0 for Sunday to 6 for Saturday.
    pub weekday: u8,
    /// Seconds that the clock is ahead of UTC.
    pub offset_seconds: i32,
}

impl Zone {
    /// What its clocks show at the instant.
    ///
    /// ```
    /// # use usage_gate_core::period::Zone;
    /// let tokyo: Zone = "Asia/Tokyo".parse()?;
    /// let local = tokyo.local("2026-11-24T05:32:08Z".parse()?);
    /// assert_eq!((local.day, local.hour, local.minute, local.weekday), (24, 14, 32, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn local(&self, instant: Timestamp) -> LocalTime {
        let shown = self.rules().to_datetime(instant.to_jiff());
        LocalTime {
            year: shown.year(),
            month: shown.month().unsigned_abs(),
            day: shown.day().unsigned_abs(),
            hour: shown.hour().unsigned_abs(),
            minute: shown.minute().unsigned_abs(),
            second: shown.second().unsigned_abs(),
            weekday: shown.weekday().to_sunday_zero_offset().unsigned_abs(),
            offset_seconds: self.rules().to_offset(instant.to_jiff()).seconds(),
        }
    }

    /// The instant at which the clocks show the time of day of `like`, `days` calendar days after the day that `from` is in. Where clocks
    /// skip that time it is the one after the gap, where they show it twice the first.
    ///
    /// ```
    /// # use usage_gate_core::period::Zone;
    /// let berlin: Zone = "Europe/Berlin".parse()?;
    /// let at = berlin.same_time(
    ///     "2026-09-30T22:00:00Z".parse()?, // 1 October 00:00
    ///     23,
    ///     "2026-11-24T13:00:00Z".parse()?, // 14:00, in winter time
    /// );
    /// assert_eq!(at.to_string(), "2026-10-24T12:00:00Z", "14:00, still in summer time");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn same_time(&self, from: Timestamp, days: i64, like: Timestamp) -> Timestamp {
        use jiff::ToSpan;
        let date: Date = self.rules().to_datetime(from.to_jiff()).date().saturating_add(days.days());
        let time: Time = self.rules().to_datetime(like.to_jiff()).time();
        let shown = date.to_datetime(time);
        self.rules().to_ambiguous_timestamp(shown).compatible().map_or(from, Timestamp::from_jiff)
    }

    /// Calendar days from the day that `from` is in to the day that `to` is in.
    #[must_use]
    pub fn days_between(&self, from: Timestamp, to: Timestamp) -> i64 {
        let date = |instant: Timestamp| self.rules().to_datetime(instant.to_jiff()).date();
        i64::from(date(from).until(date(to)).map_or(0, |span| span.get_days()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_time_of_a_shorter_month_may_be_in_the_next() {
        let utc = Zone::UTC;
        assert_eq!(
            utc.same_time(at("2026-02-01T00:00:00Z"), 30, at("2026-03-31T14:00:00Z")),
            at("2026-03-03T14:00:00Z")
        );
    }

    #[test]
    fn days_are_counted_by_the_calendar() {
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        // The last Sunday of March has 23 hours.
        assert_eq!(berlin.days_between(at("2026-03-28T23:00:00Z"), at("2026-03-29T22:00:00Z")), 1);
        assert_eq!(berlin.days_between(at("2026-03-28T23:00:00Z"), at("2026-03-29T21:59:59Z")), 0);
    }
}
