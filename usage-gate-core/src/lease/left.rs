//! What is left of a lease: one word that requests spend on.
//!
//! Twice the units, which may be negative (a debt), and the RETURNING mark in the lowest bit. Both are one word, so that no unit is spent or credited
//! after the number that goes back has been read.

use std::sync::atomic::Ordering;

use crate::mapped::Word;

const RETURNING: u64 = 1;

/// The word of a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left<'a>(pub(super) &'a Word);

impl Left<'_> {
    /// Units left and whether the lease is being returned.
    pub(super) fn read(self) -> (i64, bool) {
        // Acquire pairs with the exchange of `begin_return`: who sees the mark sees the number with it.
        parts(self.0.load(Ordering::Acquire))
    }

    /// The same for a look that decides nothing.
    pub(super) fn glance(self) -> i64 {
        parts(self.0.load(Ordering::Relaxed)).0
    }

    /// Begins with this many units.
    pub(super) fn begin(self, units: i64) {
        self.0.store(whole(units, false), Ordering::Relaxed);
    }

    /// Takes `units`, all or none.
    pub(super) fn spend(self, units: i64) -> bool {
        self.change(|left| (left >= units).then(|| left.saturating_sub(units)))
    }

    /// Adds units, or takes more of them than there are; `false` if the lease is being returned.
    pub(super) fn adjust(self, units: i64) -> bool {
        self.change(|left| Some(left.saturating_add(units)))
    }

    /// Adds units again that were taken elsewhere, as far as they were spent of a lease of this size. Gives how many.
    pub(super) fn credit(self, units: i64, size: i64) -> i64 {
        let mut given = 0;
        let credited = self.change(|left| {
            given = units.min(size.saturating_sub(left)).max(0);
            Some(left.saturating_add(given))
        });
        if credited { given } else { 0 }
    }

    fn change(self, mut next: impl FnMut(i64) -> Option<i64>) -> bool {
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            let (left, returning) = parts(seen);
            let Some(next) = next(left).filter(|_| !returning) else { return false };
            match self.0.compare_exchange_weak(seen, whole(next, false), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(current) => seen = current,
            }
        }
    }

    /// Marks the lease as returning and gives what is left of it: the same number every time.
    pub(super) fn begin_return(self) -> i64 {
        // AcqRel: every spend before the mark is in the number, none after it succeeds.
        parts(self.0.fetch_or(RETURNING, Ordering::AcqRel)).0
    }
}

pub(super) fn parts(word: u64) -> (i64, bool) {
    (word.cast_signed() >> 1, word & RETURNING != 0)
}

/// The largest numbers end where a word does.
fn whole(units: i64, returning: bool) -> u64 {
    units.clamp(i64::MIN / 2, i64::MAX / 2).cast_unsigned() << 1 | u64::from(returning)
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_numbers_end_where_a_word_does() {
        let word = Word::default();
        let left = Left(&word);
        left.begin(i64::MAX);
        assert_eq!(left.read(), (i64::MAX / 2, false));
        left.begin(i64::MIN);
        assert!(left.adjust(i64::MIN) && !left.spend(1));
        assert_eq!(left.begin_return(), i64::MIN / 2);
        assert_eq!(left.read(), (i64::MIN / 2, true));
    }

    #[test]
    fn no_more_is_credited_than_was_spent() {
        let word = Word::default();
        let left = Left(&word);
        left.begin(7);
        assert_eq!([left.credit(2, 10), left.credit(2, 10), left.credit(2, 10)], [2, 1, 0]);
        assert_eq!(left.begin_return(), 10);
        assert_eq!(left.credit(2, 20), 0);
    }
}
