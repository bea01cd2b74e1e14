//! Instants of the wall clock, as stored and spoken: UTC, RFC 3339 with `Z`.

use std::fmt;
use std::str::FromStr;

/// An instant in UTC, to the microsecond.
///
/// ```
/// # use usage_gate_core::model::Timestamp;
/// let end: Timestamp = "2026-11-30T15:00:00Z".parse()?;
/// assert_eq!(end.as_micros(), 1_796_050_800_000_000);
/// assert_eq!(end.to_string(), "2026-11-30T15:00:00Z");
/// # Ok::<(), usage_gate_core::model::ParseTimestampError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// Text that is not an RFC 3339 instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 instant such as 2026-11-30T15:00:00Z")]
pub struct ParseTimestampError;

impl Timestamp {
    /// The earliest instant that the calendar can show (year -9999), in microseconds.
    const MIN: i64 = -377_705_023_201_000_000;
    /// The latest instant that the calendar can show (year 9999), in microseconds.
    const MAX: i64 = 253_402_207_200_000_000;

    /// The instant this many microseconds after 1970; clamped to the years -9999 to 9999.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(if micros < Self::MIN {
            Self::MIN
        } else if micros > Self::MAX {
            Self::MAX
        } else {
            micros
        })
    }

    /// Microseconds after 1970.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The instant this many seconds after 1970; clamped as [`from_micros`](Self::from_micros) does.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self::from_micros(seconds.saturating_mul(1_000_000))
    }

    /// Whole seconds after 1970, rounded down.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The same, without the fraction of a second.
    #[must_use]
    pub const fn floor_seconds(self) -> Self {
        Self::from_micros(self.as_seconds().saturating_mul(1_000_000))
    }

    /// The instant `micros` later (earlier if negative).
    #[must_use]
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// Microseconds from `self` until `later`; 0 if that has passed.
    #[must_use]
    pub fn micros_until(self, later: Self) -> u64 {
        u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0)
    }

    pub(crate) fn to_jiff(self) -> jiff::Timestamp {
        // The bounds above lie inside jiff's.
        jiff::Timestamp::from_microsecond(self.0).unwrap_or_default()
    }

    pub(crate) fn from_jiff(instant: jiff::Timestamp) -> Self {
        Self::from_micros(instant.as_microsecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_jiff(), f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, ParseTimestampError> {
        text.parse().map(Self::from_jiff).map_err(|_| ParseTimestampError)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
