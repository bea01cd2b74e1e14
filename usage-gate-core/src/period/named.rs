//! Periods by their names: a month or a day of the tenant's own calendar.

use std::fmt;

use jiff::civil::Date;

use super::{Calendar, Period};
use crate::model::{Per, Timestamp};

/// A name such as `2026-11`, the month that begins in November, or `2026-11-15`, a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeriodName {
    first: Date,
    per: Per,
}

/// Text that names no period.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a month such as 2026-11, nor a day such as 2026-11-15")]
pub struct PeriodNameError;

impl fmt::Display for PeriodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.first.to_string();
        f.write_str(if self.per == Per::Month { text.get(..7).unwrap_or_default() } else { &text })
    }
}

impl std::str::FromStr for PeriodName {
    type Err = PeriodNameError;

    fn from_str(text: &str) -> Result<Self, PeriodNameError> {
        let (whole, per) = match text.len() {
            7 => (format!("{text}-01"), Per::Month),
            10 => (text.to_owned(), Per::Day),
            _ => return Err(PeriodNameError),
        };
        let first = whole.parse().map_err(|_| PeriodNameError)?;
        Ok(Self { first, per })
    }
}

impl PeriodName {
    /// The period of this name in a calendar: the one that begins in that month, or on that day.
    ///
    /// ```
    /// # use usage_gate_core::period::{AnchorDay, Calendar, PeriodName};
    /// let calendar = Calendar::new("Asia/Tokyo".parse()?, AnchorDay::new(15)?);
    /// let november = "2026-11".parse::<PeriodName>()?.of(&calendar);
    /// assert_eq!(november.start.to_string(), "2026-11-14T15:00:00Z");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn of(&self, calendar: &Calendar) -> Period {
        // Noon of a day that surely lies in it.
        let day = if self.per == Per::Month { self.first.last_of_month() } else { self.first };
        let noon = day.at(12, 0, 0, 0);
        let about =
            |zone: &super::Zone| zone.rules().to_ambiguous_timestamp(noon).compatible().map(Timestamp::from_jiff);
        let about_now = about(&calendar.zone).unwrap_or_default();
        let instant = about(calendar.zone_at(about_now)).unwrap_or(about_now);
        calendar.period(self.per, instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::period::AnchorDay;

    #[track_caller]
    fn check(zone: &str, anchor: u64, name: &str, expected: (&str, &str)) {
        let calendar = Calendar::new(zone.parse().unwrap(), AnchorDay::new(anchor).unwrap());
        let period = name.parse::<PeriodName>().unwrap().of(&calendar);
        assert_eq!((period.start.to_string().as_str(), period.end.to_string().as_str()), expected, "{name}");
    }

    #[test]
    fn a_month_is_the_one_that_begins_in_it() {
        check("UTC", 1, "2026-11", ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"));
        check("UTC", 31, "2026-02", ("2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z"));
        check("Pacific/Kiritimati", 15, "2026-11", ("2026-11-14T10:00:00Z", "2026-12-14T10:00:00Z"));
    }

    #[test]
    fn a_day_is_a_day_of_the_zone() {
        check("Pacific/Kiritimati", 1, "2026-11-15", ("2026-11-14T10:00:00Z", "2026-11-15T10:00:00Z"));
        check("Pacific/Pago_Pago", 1, "2026-11-15", ("2026-11-15T11:00:00Z", "2026-11-16T11:00:00Z"));
        assert!("2026-13".parse::<PeriodName>().is_err() && "2026".parse::<PeriodName>().is_err());
    }
}
