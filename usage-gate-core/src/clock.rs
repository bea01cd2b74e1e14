//! The only reader of time.
//!
//! Two clocks: a monotonic one for deadlines and rates, and the wall clock for what is stored. The monotonic one is
//! `CLOCK_BOOTTIME` on Linux, because `Instant` stops while a machine sleeps, and a lease must end all the same.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::model::Timestamp;

/// Nanoseconds of a monotonic clock since an unknown start; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The instant this many nanoseconds later.
    #[must_use]
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Nanoseconds since `earlier`; 0 if that is later.
    #[must_use]
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where time comes from. Cheap to clone.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<ManualState>>);

impl Clock {
    /// The system's clocks.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// The monotonic clock.
    #[must_use]
    pub fn monotonic(&self) -> Monotonic {
        match &self.0 {
            // Relaxed: a test's clock orders nothing but itself.
            Some(manual) => Monotonic(manual.monotonic.load(Ordering::Relaxed)),
            None => system_monotonic(),
        }
    }

    /// The wall clock.
    #[must_use]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Some(manual) => Timestamp::from_micros(manual.wall.load(Ordering::Relaxed)),
            None => Timestamp::from_jiff(jiff::Timestamp::now()),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(manual)" } else { "Clock(system)" })
    }
}

fn system_monotonic() -> Monotonic {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let id = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let id = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Monotonic(seconds.saturating_mul(1_000_000_000).saturating_add(nanos).max(1))
}

#[derive(Debug)]
struct ManualState {
    monotonic: AtomicU64,
    wall: AtomicI64,
}

/// A clock that stands still until it is told to go on: a test of a month's end takes no month.
///
/// ```
/// # use usage_gate_core::clock::ManualClock;
/// let manual = ManualClock::at("2026-11-30T14:59:59Z".parse().unwrap());
/// let clock = manual.clock();
/// manual.advance_millis(1_000);
/// assert_eq!(clock.wall().to_string(), "2026-11-30T15:00:00Z");
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<ManualState>);

impl ManualClock {
    /// A clock that stands at this instant.
    #[must_use]
    pub fn at(wall: Timestamp) -> Self {
        Self(Arc::new(ManualState {
            monotonic: AtomicU64::new(1_000_000_000_000),
            wall: AtomicI64::new(wall.as_micros()),
        }))
    }

    /// What to give to the gate and its stores.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock(Some(Arc::clone(&self.0)))
    }

    /// Moves both clocks on.
    pub fn advance_millis(&self, millis: u32) {
        self.0.monotonic.fetch_add(u64::from(millis) * 1_000_000, Ordering::Relaxed);
        self.0.wall.fetch_add(i64::from(millis) * 1_000, Ordering::Relaxed);
    }

    /// Sets the wall clock, and moves the monotonic one on by as much as the wall clock went forward.
    pub fn set_wall(&self, wall: Timestamp) {
        let before = self.0.wall.swap(wall.as_micros(), Ordering::Relaxed);
        let forward = Timestamp::from_micros(before).micros_until(wall);
        self.0.monotonic.fetch_add(forward.saturating_mul(1_000), Ordering::Relaxed);
    }
}
