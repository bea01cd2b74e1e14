//! Time zones by IANA name.

use std::fmt;
use std::str::FromStr;

/// A time zone of the IANA database, such as `Asia/Tokyo`.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(jiff::tz::TimeZone);

/// A name that the database does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown time zone `{0}`: use an IANA name such as Europe/Berlin")]
pub struct UnknownZone(String);

impl Zone {
    /// UTC.
    pub const UTC: Self = Self(jiff::tz::TimeZone::UTC);

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    pub(crate) const fn rules(&self) -> &jiff::tz::TimeZone {
        &self.0
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        // POSIX strings such as `EST5` have no history, hence only names.
        jiff::tz::TimeZone::get(name).map(Self).map_err(|_| UnknownZone(name.chars().take(64).collect()))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
