//! The penalty box: sources that are shut out, each until its own time.
//!
//! A table of fixed size (8,192 places, 0.3 MB) that has the sources themselves, so that nobody is shut out for another. A set that is full gives
//! up the source that is released first. Released ones stay as long as there is room, and are shut out twice as long the next time.
//!
//! Who is in is a question of time alone: nothing has to be taken out. Two times answer it for nearly everyone without a lock: the last release of
//! all, and the last release of the source's set.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::SourceHash;
use crate::clock::Monotonic;

const SETS: usize = 1_024;
const WAYS: usize = 8;

/// Doubling ends here, unless the first time is longer already: addresses change hands.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Who offends again within an hour of the release is a repeater.
const REMEMBERED_NANOS: u64 = 3_600 * 1_000_000_000;

/// Sources that are shut out.
#[derive(Debug)]
pub(crate) struct PenaltyBox {
    sets: Box<[Set]>,
    hash: SourceHash,
    /// Nanoseconds for the first offence.
    first: u64,
    /// The last release of all, on the monotonic clock.
    last_release: AtomicU64,
}

#[derive(Debug, Default)]
struct Set {
    /// The last release of those in this set.
    last_release: AtomicU64,
    places: Mutex<[Place; WAYS]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    source: Option<IpAddr>,
    release: u64,
    /// How often it was put in, each time within the memory of the last.
    offences: u32,
}

impl PenaltyBox {
    /// An empty one; `first` is for how long a first offence shuts a source out.
    pub(crate) fn new(hash: SourceHash, first: Duration) -> Self {
        let sets = (0..SETS).map(|_| Set::default()).collect();
        Self { sets, hash, first: nanos(first), last_release: AtomicU64::new(0) }
    }

    /// Whether any source may be in, which the common path asks first.
    pub(crate) fn is_empty(&self, now: Monotonic) -> bool {
        // Acquire: pairs with Release in `put`. Who sees the time finds the source behind the lock.
        self.last_release.load(Ordering::Acquire) <= now.0
    }

    /// How long the source is still shut out, if it is.
    pub(crate) fn time_left(&self, source: IpAddr, now: Monotonic) -> Option<Duration> {
        if self.is_empty(now) {
            return None;
        }
        let set = self.hash.place(source, &self.sets)?;
        // Acquire: as above.
        if set.last_release.load(Ordering::Acquire) <= now.0 {
            return None;
        }
        let places = set.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.iter().find(|place| place.source == Some(source))?;
        let left = place.release.saturating_sub(now.0);
        (left > 0).then(|| Duration::from_nanos(left))
    }

    /// Shuts a source out; gives for how long. Who is in stays in as it is.
    pub(crate) fn put(&self, source: IpAddr, now: Monotonic) -> Duration {
        let Some(set) = self.hash.place(source, &self.sets) else { return Duration::ZERO };
        let mut places = set.places.lock().unwrap_or_else(PoisonError::into_inner);
        let known = places.iter().position(|place| place.source == Some(source));
        let oldest = || places.iter().enumerate().min_by_key(|(_, place)| place.release).map(|(at, _)| at);
        let Some(place) = known.or_else(oldest).and_then(|at| places.get_mut(at)) else { return Duration::ZERO };
        if known.is_none() || now.0.saturating_sub(place.release) > REMEMBERED_NANOS {
            *place = Place { source: Some(source), ..Place::default() };
        }
        if place.release <= now.0 {
            place.release = now.0.saturating_add(self.penalty(place.offences));
            place.offences = place.offences.saturating_add(1);
        }
        let release = place.release;
        drop(places);
        // Release: pairs with Acquire in `is_empty` and `time_left`.
        set.last_release.fetch_max(release, Ordering::Release);
        self.last_release.fetch_max(release, Ordering::Release);
        Duration::from_nanos(release.saturating_sub(now.0))
    }

    fn penalty(&self, offences_before: u32) -> u64 {
        let longest = nanos(LONGEST).max(self.first);
        let doubled = 2u64.checked_pow(offences_before).and_then(|times| self.first.checked_mul(times));
        doubled.unwrap_or(longest).min(longest)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const MINUTE: Duration = Duration::from_secs(60);

    fn penalty_box() -> PenaltyBox {
        PenaltyBox::new(SourceHash::random().unwrap(), MINUTE)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic((1_000 + seconds) * SECOND)
    }

    #[test]
    fn a_source_is_in_until_its_time() {
        let penalty_box = penalty_box();
        assert!(penalty_box.is_empty(at(0)));
        assert_eq!(penalty_box.put(address(1), at(0)), MINUTE);
        assert_eq!(penalty_box.time_left(address(1), at(0)), Some(MINUTE));
        assert_eq!(penalty_box.time_left(address(2), at(0)), None);
        assert_eq!(penalty_box.put(address(1), at(20)), MINUTE - Duration::from_secs(20), "it is in already");
        assert_eq!(penalty_box.time_left(address(1), at(59)), Some(Duration::from_secs(1)));
        assert_eq!(penalty_box.time_left(address(1), at(60)), None);
        assert!(penalty_box.is_empty(at(60)));
    }

    #[test]
    fn repeaters_stay_twice_as_long_up_to_a_quarter_of_an_hour() {
        let penalty_box = penalty_box();
        let mut now = 0;
        for minutes in [1, 2, 4, 8, 15, 15] {
            assert_eq!(penalty_box.put(address(1), at(now)), MINUTE * minutes);
            now += u64::from(minutes) * 60 + 3_000;
        }
        now += 3_700;
        assert_eq!(penalty_box.put(address(1), at(now)), MINUTE, "forgotten after an hour without offence");
    }

    #[test]
    fn a_first_time_longer_than_a_quarter_of_an_hour_is_not_doubled() {
        let hour = Duration::from_secs(3_600);
        let penalty_box = PenaltyBox::new(SourceHash::random().unwrap(), hour);
        assert_eq!(penalty_box.put(address(1), at(0)), hour);
        assert_eq!(penalty_box.put(address(1), at(4_000)), hour);
    }

    #[test]
    fn more_offenders_than_places_make_nobody_guilty() {
        let penalty_box = penalty_box();
        for number in 0..100_000 {
            penalty_box.put(address(number), at(0));
        }
        assert!((0..100_000).all(|number| penalty_box.time_left(address(1_000_000 + number), at(1)).is_none()));
        let held = (0..100_000).filter(|number| penalty_box.time_left(address(*number), at(1)).is_some()).count();
        assert_eq!(held, SETS * WAYS);
    }

    proptest! {
        #[test]
        fn releases_agree_with_a_simple_model(
            calls in prop::collection::vec((0u32..6, any::<bool>(), 0u64..2_000), 1..200),
        ) {
            let penalty_box = penalty_box();
            // Release and offences of each source, in seconds.
            let mut model: HashMap<u32, (u64, u32)> = HashMap::new();
            let mut now = 0;
            for (source, offends, later) in calls {
                now += later;
                let known = model.get(&source).copied();
                let left = known.map_or(0, |(release, _)| release.saturating_sub(now));
                if offends {
                    if left == 0 {
                        let before = known.filter(|(release, _)| now - release <= 3_600).map_or(0, |(_, offences)| offences);
                        let penalty = (60 << before.min(10)).min(900);
                        model.insert(source, (now + penalty, before + 1));
                        prop_assert_eq!(penalty_box.put(address(source), at(now)), Duration::from_secs(penalty));
                    } else {
                        prop_assert_eq!(penalty_box.put(address(source), at(now)), Duration::from_secs(left));
                    }
                }
                let left = model.get(&source).map_or(0, |(release, _)| release.saturating_sub(now));
                let expected = (left > 0).then(|| Duration::from_secs(left));
                prop_assert_eq!(penalty_box.time_left(address(source), at(now)), expected);
            }
        }
    }
}
