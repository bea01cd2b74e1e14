//! Random numbers from a seed: a run can be had again, as far as the system's own timing allows.

use std::ops::Range;

/// `SplitMix64`, Steele, Lea and Flood 2014: one word of state, and any seed is a good one.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of a range, each as likely as the next; the start of an empty range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        range.start + self.word() % width
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.within(0..times) == 0
    }

    /// A seed for somebody else.
    pub fn seed(&mut self) -> u64 {
        self.word()
    }

    /// One of the weights, by its place, as often as its share of their sum.
    ///
    /// # Panics
    /// If there are no weights.
    pub fn weighted(&mut self, weights: impl IntoIterator<Item = u64> + Clone) -> usize {
        let mut left = self.within(0..weights.clone().into_iter().sum());
        let found = weights.into_iter().position(|weight| {
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        });
        found.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_run_and_weights_are_shares() {
        let run = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.within(3..9)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(3).iter().all(|number| (3..9).contains(number)));
        let mut random = Random::new(7);
        let mut counts = [0_u32; 3];
        for _ in 0..4_000 {
            counts[random.weighted([1, 0, 3])] += 1;
        }
        assert!(counts[1] == 0 && (800..1_200).contains(&counts[0]), "{counts:?}");
    }
}
