//! One lease as requests spend it: a compare-and-swap on what is left.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use crate::clock::Monotonic;
use crate::period::Period;
use crate::store::LeaseId;

/// Units of one counter in one period, held by this node.
///
/// `left` and the RETURNING mark share one word (twice the units, plus the mark), so that no unit is spent or credited after the
/// number that goes back has been read. It may be negative: a debt, from cost that became known late.
#[derive(Debug)]
pub(crate) struct LeaseEntry {
    pub(crate) lease: LeaseId,
    pub(crate) period: Period,
    /// A4: nothing is spent from here on.
    pub(crate) deadline: Monotonic,
    pub(crate) size: u64,
    /// What the authority was last told and acknowledged.
    pub(crate) reported: AtomicU64,
    word: AtomicI64,
    low_water: i64,
    low_told: AtomicBool,
}

const RETURNING: i64 = 1;

impl LeaseEntry {
    /// A fresh lease; `debt` units of it are spent already.
    pub(crate) fn new(lease: LeaseId, period: Period, deadline: Monotonic, size: u64, debt: u64) -> Self {
        let signed = |units: u64| i64::try_from(units).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
        Self {
            lease,
            period,
            deadline,
            size,
            reported: AtomicU64::new(0),
            word: AtomicI64::new((signed(size) - signed(debt)) * 2),
            low_water: signed(size / 4),
            low_told: AtomicBool::new(false),
        }
    }

    /// Units that can be spent now.
    pub(crate) fn left(&self, now: Monotonic) -> u64 {
        // Acquire pairs with the CAS of `begin_return`: who sees the mark sees the number with it.
        let word = self.word.load(Ordering::Acquire);
        if word & RETURNING != 0 || now >= self.deadline { 0 } else { u64::try_from(word >> 1).unwrap_or(0) }
    }

    /// Takes `units`, all or none.
    pub(crate) fn spend(&self, units: u64, now: Monotonic) -> bool {
        let Ok(units) = i64::try_from(units) else {
            return false;
        };
        if now >= self.deadline {
            return false;
        }
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word & RETURNING != 0 || word >> 1 < units {
                return false;
            }
            match self.word.compare_exchange_weak(word, word - units * 2, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(current) => word = current,
            }
        }
    }

    /// Books a difference found late: positive gives units back, negative takes more, into debt if need be.
    ///
    /// `false` if the lease is being returned: then the number has left, and another lease must take the difference.
    pub(crate) fn adjust(&self, units: i64) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word & RETURNING != 0 {
                return false;
            }
            let changed = word.saturating_add(units.saturating_mul(2)) & !RETURNING;
            match self.word.compare_exchange_weak(word, changed, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(current) => word = current,
            }
        }
    }

    /// Marks it as returning and gives what was used of it; the same number every time.
    pub(crate) fn begin_return(&self) -> u64 {
        // AcqRel: every spend before the mark is in the number, none after it succeeds.
        let word = self.word.fetch_or(RETURNING, Ordering::AcqRel);
        self.used_of(word)
    }

    /// Units spent so far; more than its size in debt.
    pub(crate) fn used(&self) -> u64 {
        self.used_of(self.word.load(Ordering::Acquire))
    }

    fn used_of(&self, word: i64) -> u64 {
        let left = word >> 1;
        if left >= 0 {
            self.size.saturating_sub(left.unsigned_abs())
        } else {
            self.size.saturating_add(left.unsigned_abs())
        }
    }

    /// Whether what is left has fallen so low that the next lease should be asked for; `true` once only.
    pub(crate) fn runs_low(&self) -> bool {
        self.word.load(Ordering::Relaxed) >> 1 <= self.low_water
            && !self.low_told.load(Ordering::Relaxed)
            && !self.low_told.swap(true, Ordering::Relaxed)
    }

    /// Whether it is being returned.
    pub(crate) fn is_returning(&self) -> bool {
        self.word.load(Ordering::Acquire) & RETURNING != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use std::sync::Arc;

    fn entry(size: u64) -> LeaseEntry {
        let period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(1_000_000) };
        LeaseEntry::new(LeaseId::generate(), period, Monotonic(1_000), size, 0)
    }

    #[test]
    fn a3_no_more_is_spent_than_was_leased_however_many_spend() {
        let entry = Arc::new(entry(1_000));
        let spenders: Vec<_> = (0..4)
            .map(|_| {
                let entry = Arc::clone(&entry);
                std::thread::spawn(move || (0..1_000).filter(|_| entry.spend(1, Monotonic(1))).count())
            })
            .collect();
        let spent: usize = spenders.into_iter().map(|spender| spender.join().unwrap()).sum();
        assert_eq!((spent, entry.used(), entry.left(Monotonic(1))), (1_000, 1_000, 0));
    }

    #[test]
    fn a4_nothing_is_spent_from_the_deadline_on() {
        let entry = entry(10);
        assert!(entry.spend(1, Monotonic(999)));
        assert!(!entry.spend(1, Monotonic(1_000)));
    }

    #[test]
    fn a_returning_lease_keeps_its_number() {
        let entry = entry(10);
        assert!(entry.spend(4, Monotonic(1)));
        assert_eq!(entry.begin_return(), 4);
        assert!(!entry.spend(1, Monotonic(1)) && !entry.adjust(2) && !entry.adjust(-2));
        assert_eq!(entry.begin_return(), 4);
    }

    #[test]
    fn late_cost_goes_into_debt_and_is_seen_as_use() {
        let entry = entry(10);
        assert!(entry.spend(10, Monotonic(1)) && entry.adjust(-3));
        assert_eq!((entry.used(), entry.left(Monotonic(1))), (13, 0));
        assert!(entry.adjust(5) && entry.spend(2, Monotonic(1)));
        assert_eq!(entry.used(), 10);
    }
}
