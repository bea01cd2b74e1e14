//! Calendar time: a tenant's periods and the hours of its own clock.
//!
//! A month is a calendar month in the tenant's zone, anchored on a day, never 30 days. Every function takes an
//! instant and gives UTC instants; the zone's rules come from the IANA database.

mod bucket;
mod calendar;
mod local;
mod named;
mod zone;

pub use bucket::bucket_start;
pub use calendar::{AnchorDay, AnchorDayError, Calendar, Period};
pub use local::LocalTime;
pub use named::{PeriodName, PeriodNameError};
pub use zone::{UnknownZone, Zone};
