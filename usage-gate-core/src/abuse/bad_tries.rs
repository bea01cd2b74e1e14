//! How often each source lately came with a bad credential: a sketch of fixed size that remembers the busiest sources and forgets the others.
//!
//! Sets of eight sources each, the last to try first; a newcomer takes the place of the one that has been quiet longest. What that means:
//!
//! - **Memory** is 1.3 MB, taken at the start, whatever comes.
//! - **Nobody pays for another.** Each source has a count of its own. A count-min sketch of the same size would do harm just when it matters:
//!   its cells sum over sources, so that under an attack from 100,000 addresses whoever mistypes a key once would be shut out.
//! - **Escape** by being forgotten takes eight other sources in the same set between two tries. Sets are chosen by a keyed hash, so it
//!   cannot be aimed: with a try each three seconds, as many as stay unpunished anyway, it takes about 10,000 new addresses a second. Who has these
//!   does not need a second try from any.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Mutex, PoisonError};

use super::SourceHash;
use crate::clock::Monotonic;

const SETS: usize = 4_096;
const WAYS: usize = 8;

/// A minute is counted in spans of ten seconds. There are seven, since the present one has only begun: what came within a minute is
/// always counted, what is older than 70 seconds never.
const SPANS: usize = 7;
const SPAN_NANOS: u64 = 10 * 1_000_000_000;

/// The bad tries of many sources.
#[derive(Debug)]
pub(crate) struct BadTries {
    sets: Box<[Mutex<[Tries; WAYS]>]>,
    hash: SourceHash,
    most: NonZeroU16,
}

/// Those of one source.
#[derive(Debug, Clone, Copy, Default)]
struct Tries {
    source: Option<IpAddr>,
    /// The newest span that is counted, since the clock's start.
    span: u64,
    /// From the newest to the oldest.
    counts: [u16; SPANS],
}

impl BadTries {
    /// Nothing is counted yet; `most` tries in a minute are too many.
    pub(crate) fn new(hash: SourceHash, most: NonZeroU16) -> Self {
        Self { sets: (0..SETS).map(|_| Mutex::default()).collect(), hash, most }
    }

    /// Counts a bad try; `true` if that is one too many: then the source begins anew.
    pub(crate) fn count(&self, source: IpAddr, now: Monotonic) -> bool {
        let Some(set) = self.hash.place(source, &self.sets) else { return false };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let known = set.iter().position(|tries| tries.source == Some(source));
        // To the front; if the source is new, over the last one.
        let at = known.unwrap_or(WAYS - 1);
        if let Some(head) = set.get_mut(..=at) {
            head.rotate_right(1);
        }
        let [tries, ..] = &mut *set;
        if known.is_none() {
            *tries = Tries { source: Some(source), ..Tries::default() };
        }
        let too_many = tries.count(now.0 / SPAN_NANOS) >= u32::from(self.most.get());
        if too_many {
            *tries = Tries::default();
            // The empty place is the next to be taken.
            set.rotate_left(1);
        }
        too_many
    }
}

impl Tries {
    /// Counts one more; gives how many there are.
    fn count(&mut self, span: u64) -> u32 {
        // A request that read the clock before another and came here after it counts with that one.
        let passed = span.saturating_sub(self.span);
        self.span = self.span.max(span);
        let passed = usize::try_from(passed).unwrap_or(SPANS).min(SPANS);
        self.counts.rotate_right(passed);
        if let Some(fresh) = self.counts.get_mut(..passed) {
            fresh.fill(0);
        }
        let [newest, ..] = &mut self.counts;
        *newest = newest.saturating_add(1);
        self.counts.iter().copied().map(u32::from).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn tries(most: u16) -> BadTries {
        BadTries::new(SourceHash::random().unwrap(), NonZeroU16::new(most).unwrap())
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn the_twentieth_try_in_a_minute_is_one_too_many() {
        let tries = tries(20);
        let at = |try_number: u64| Monotonic(1_000 * SECOND + try_number * 3 * SECOND);
        for number in 0..19 {
            assert!(!tries.count(address(1), at(number)), "try {number}");
        }
        assert!(!tries.count(address(2), at(19)), "another source has its own count");
        assert!(tries.count(address(1), at(19)), "57 seconds after the first");
        assert!(!tries.count(address(1), at(19)), "then it begins anew");
    }

    #[test]
    fn a_slow_source_is_never_one_too_many() {
        let tries = tries(20);
        for number in 0..1_000 {
            assert!(!tries.count(address(1), Monotonic(number * 4 * SECOND)), "15 a minute");
        }
    }

    #[test]
    fn more_sources_than_places_make_nobody_guilty_and_hide_no_busy_one() {
        let tries = tries(20);
        let now = Monotonic(SECOND);
        // A busy source tries after each 500 others: over 4,096 sets it is not forgotten.
        let found = (0..10_000_000u32)
            .map_while(|number| {
                let guilty = tries.count(address(1_000 + number), now);
                assert!(!guilty, "each of these tries once");
                if number % 500 != 0 {
                    return Some(0);
                }
                (!tries.count(address(1), now)).then_some(1)
            })
            .sum::<u32>();
        assert_eq!(found, 19);
    }

    proptest! {
        /// Against a model that remembers every instant: what is too many within a minute is found, what is not within 70 seconds never is.
        #[test]
        fn counts_agree_with_an_exact_model(
            calls in prop::collection::vec((0u32..5, 0u64..20 * SECOND), 1..300),
            most in 1u16..8,
        ) {
            let tries = tries(most);
            let mut model: HashMap<u32, Vec<u64>> = HashMap::new();
            let mut now = 1_000 * SECOND;
            for (source, later) in calls {
                now += later;
                let known = model.entry(source).or_default();
                known.push(now);
                let within = |seconds: u64| known.iter().filter(|at| **at + seconds * SECOND > now).count();
                let (certain, possible) = (within(60) >= usize::from(most), within(70) >= usize::from(most));
                let found = tries.count(address(source), Monotonic(now));
                prop_assert!(!certain || found, "missed {most} in a minute");
                prop_assert!(!found || possible, "found {most} where there were not as many in 70 seconds");
                if found {
                    known.clear();
                }
            }
        }
    }
}
