//! When a key is busy: hours of the day, days of the week. Pure.

use jiff::civil::Weekday;

/// The habit of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rhythm {
    /// People at their desks.
    Office,
    /// People on their way and at home: evenings, and weekends more than weekdays.
    Leisure,
    /// A job at three in the morning, longer on Mondays.
    Nightly,
    /// A machine that asks all day, less when nobody reads it.
    Steady,
    /// Builds, when developers work.
    Builds,
    /// Once a day, at six.
    Morning,
}

/// Thousandths of a day's calls by hour.
const OFFICE: [u64; 24] = [2, 1, 1, 1, 2, 5, 10, 25, 60, 95, 105, 100, 60, 95, 105, 100, 90, 70, 40, 20, 8, 5, 3, 2];
const LEISURE: [u64; 24] =
    [25, 14, 8, 6, 6, 10, 22, 45, 55, 45, 40, 42, 58, 50, 42, 40, 42, 50, 62, 72, 80, 80, 64, 42];
const NIGHTLY: [u64; 24] = [0, 0, 0, 830, 140, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const STEADY: [u64; 24] =
    [30, 28, 28, 28, 30, 32, 36, 42, 48, 52, 52, 52, 50, 50, 52, 52, 50, 48, 46, 44, 42, 40, 36, 32];
const BUILDS: [u64; 24] = [0, 0, 0, 0, 0, 0, 0, 5, 30, 90, 130, 140, 60, 100, 140, 130, 90, 55, 20, 10, 0, 0, 0, 0];
const MORNING: [u64; 24] = [0, 0, 0, 0, 0, 0, 1_000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl Rhythm {
    /// Thousandths of a day's calls that fall into an hour.
    pub(super) fn hour(self, hour: i8) -> u64 {
        let day = match self {
            Self::Office => &OFFICE,
            Self::Leisure => &LEISURE,
            Self::Nightly => &NIGHTLY,
            Self::Steady => &STEADY,
            Self::Builds => &BUILDS,
            Self::Morning => &MORNING,
        };
        usize::try_from(hour).ok().and_then(|hour| day.get(hour)).copied().unwrap_or(0)
    }

    /// A day's calls in thousandths of a usual working day's.
    pub(super) fn day(self, day: Weekday) -> u64 {
        let weekend = matches!(day, Weekday::Saturday | Weekday::Sunday);
        match (self, day) {
            (Self::Nightly, Weekday::Monday) => 1_600,
            (Self::Office, _) if weekend => 320,
            (Self::Leisure, _) if weekend => 1_180,
            (Self::Nightly, _) if weekend => 550,
            (Self::Steady, _) if weekend => 380,
            (Self::Builds, _) if weekend => 80,
            (Self::Morning, _) if weekend => 500,
            _ => 1_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hours_of_a_day_are_about_all_of_it() {
        use Rhythm::{Builds, Leisure, Morning, Nightly, Office, Steady};
        for rhythm in [Office, Leisure, Nightly, Steady, Builds, Morning] {
            let sum: u64 = (0..24).map(|hour| rhythm.hour(hour)).sum();
            assert!((990..=1_010).contains(&sum), "{rhythm:?}: {sum}");
        }
    }
}
