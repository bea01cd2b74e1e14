//! Numbers that look like chance and are the same for the same seed: SplitMix64, by Guy Steele and others (OOPSLA 2014).

/// A stream of numbers.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// A stream of its own for each seed and place.
    pub(super) fn new(seed: u64, place: u64) -> Self {
        let mut random = Self(seed ^ place.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `bound - 1`; 0 for a bound of 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // The remainder favours small numbers by less than anyone can see here.
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// Of both ends and what is between them.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least.saturating_add(self.below(most.saturating_sub(least).saturating_add(1)))
    }

    /// True in so many of a thousand.
    pub(super) fn hits(&mut self, in_a_thousand: u64) -> bool {
        self.below(1_000) < in_a_thousand
    }

    /// A whole number around so many thousandths, within an eighth; right in the long run for small ones too.
    pub(super) fn around(&mut self, thousandths: u64) -> u64 {
        let swayed = thousandths.saturating_mul(self.between(875, 1_125)) / 1_000;
        swayed.saturating_add(self.below(1_000)) / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let numbers = |seed, place| {
            let mut random = Random::new(seed, place);
            (0..4).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7, 1), numbers(7, 1));
        assert_ne!(numbers(7, 1), numbers(7, 2));
        assert_ne!(numbers(7, 1), numbers(8, 1));
    }

    #[test]
    fn small_numbers_are_right_in_the_long_run() {
        let mut random = Random::new(1, 1);
        let sum: u64 = (0..10_000).map(|_| random.around(300)).sum();
        assert!((2_800..3_200).contains(&sum), "{sum}");
    }
}
