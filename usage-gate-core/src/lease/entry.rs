//! One lease as requests spend it: a compare-and-swap on what is left.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::QuotaTerms;
use super::left::Left;
use super::slot::{Granted, TableEntry, used_of};
use super::table::Slot;
use crate::clock::Monotonic;
use crate::model::Timestamp;
use crate::period::Period;
use crate::store::{CounterId, LeaseDebt, LeaseId, LeaseReport};

/// Units of one counter in one period, held by this node.
///
/// What is [`left`](super::left) may be negative: a debt, from cost that became known late. What is spent where there is no lease is one of size 0,
/// that is never anything but in debt. The word is in the lease table, where a crash leaves it as it is.
#[derive(Debug)]
pub(crate) struct LeaseEntry {
    pub(crate) lease: LeaseId,
    pub(crate) period: Period,
    /// The start of the period in whole seconds, as seats and records have it.
    pub(crate) period_start: Timestamp,
    /// A4: nothing is spent before here, and nothing from the deadline on.
    pub(crate) from: Monotonic,
    pub(crate) deadline: Monotonic,
    pub(crate) size: u64,
    /// Since when this life spends on it.
    pub(crate) since: Monotonic,
    /// What the authority was last told and acknowledged.
    pub(crate) reported: AtomicU64,
    slot: Slot,
    low_water: i64,
    low_told: AtomicBool,
    /// Others need units of it.
    recalled: AtomicBool,
}

impl LeaseEntry {
    /// A fresh lease, noted in its entry of the table.
    pub(crate) fn open(lease: LeaseId, slot: Slot, granted: &Granted, now: Monotonic) -> Self {
        slot.open(granted);
        Self::new(lease, slot, granted.period, granted.deadline, granted.size, now)
    }

    /// The same of a period that begins only later.
    pub(crate) fn from(mut self, begin: Monotonic) -> Self {
        self.from = begin;
        self
    }

    /// A debt, noted in its entry of the table. Nothing is ever left of it.
    pub(crate) fn owe(lease: LeaseId, slot: Slot, period: Period, now: Monotonic) -> Self {
        Self::new(lease, slot, period, Monotonic(0), 0, now)
    }

    /// A lease that an earlier life of this node has left. `reported` is what the authority knows of its use.
    pub(crate) fn take_over(slot: Slot, entry: &TableEntry, reported: u64, now: Monotonic) -> Self {
        slot.take_over(entry.used());
        let adopted = Self::new(entry.lease, slot, entry.period, entry.deadline, entry.size, now);
        adopted.reported.store(reported, Ordering::Relaxed);
        adopted
    }

    fn new(lease: LeaseId, slot: Slot, period: Period, deadline: Monotonic, size: u64, since: Monotonic) -> Self {
        let low_water = i64::try_from(size / 4).unwrap_or(i64::MAX);
        let (reported, low_told) = (AtomicU64::new(0), AtomicBool::new(false));
        let (from, recalled) = (Monotonic(0), AtomicBool::new(false));
        let period_start = period.start.floor_seconds();
        Self { lease, period, period_start, from, deadline, size, since, reported, slot, low_water, low_told, recalled }
    }

    /// For tests that break it.
    #[cfg(test)]
    pub(super) fn rebase(&self, base: u64) {
        self.slot.take_over(base);
    }

    /// The lower half of its id, by which records cite it.
    pub(crate) fn tag(&self) -> u64 {
        self.lease.tag()
    }

    fn word(&self) -> Left<'_> {
        self.slot.left()
    }

    /// Units that can be spent now.
    pub(crate) fn left(&self, now: Monotonic) -> u64 {
        let (left, returning) = self.word().read();
        if returning || !self.is_spendable(now) { 0 } else { u64::try_from(left).unwrap_or(0) }
    }

    fn is_spendable(&self, now: Monotonic) -> bool {
        self.from <= now && now < self.deadline
    }

    /// Whether nothing is left of it, whenever it is spent.
    pub(crate) fn is_spent(&self) -> bool {
        self.word().read().0 <= 0
    }

    /// Whether its period has not begun.
    pub(crate) fn is_early(&self, now: Monotonic) -> bool {
        now < self.from
    }

    /// Others need units of it: it goes back.
    pub(crate) fn recall(&self) {
        self.recalled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_recalled(&self) -> bool {
        self.recalled.load(Ordering::Relaxed)
    }

    /// Nothing more is spent of it, and it goes back with the next call.
    pub(crate) fn give_up(&self) {
        self.begin_return();
        self.recall();
    }

    /// Takes `units`, all or none.
    pub(crate) fn spend(&self, units: u64, now: Monotonic) -> bool {
        // A4: nothing of an ended period, or of one that has not begun.
        self.is_spendable(now) && i64::try_from(units).is_ok_and(|units| self.word().spend(units))
    }

    /// Books a difference found late: positive gives units back, negative takes more, into debt if need be.
    ///
    /// `false` if the lease is being returned: then the number has left, and another lease must take the difference.
    pub(crate) fn adjust(&self, units: i64) -> bool {
        self.word().adjust(units)
    }

    /// Gives units back, as far as this one counts as many as used; none if it is being returned. Gives how many.
    ///
    /// Requests may give back more than they took here, for leases that have gone back before; then others find less to give back.
    pub(crate) fn credit(&self, units: i64) -> i64 {
        self.word().credit(units, i64::try_from(self.size).unwrap_or(i64::MAX))
    }

    /// Marks it as returning and gives what was used of it; the same number every time.
    pub(crate) fn begin_return(&self) -> u64 {
        used_of(self.size, self.word().begin_return())
    }

    /// Begins the return of a debt, in the words of a call; `None` if all of it was given back.
    pub(crate) fn told(&self, counter: &CounterId, terms: &QuotaTerms) -> Option<LeaseDebt> {
        let used = self.begin_return();
        let (counter, cap, cap_version) = (counter.clone(), terms.cap, terms.cap_version);
        (used > 0).then_some(LeaseDebt { lease: self.lease, counter, period: self.period, cap, cap_version, used })
    }

    /// Begins its return, in the words of a call.
    pub(crate) fn returned(&self) -> LeaseReport {
        LeaseReport { lease: self.lease, used: self.begin_return() }
    }

    /// Units spent so far; more than its size in debt.
    pub(crate) fn used(&self) -> u64 {
        used_of(self.size, self.word().read().0)
    }

    /// Whether what is left has fallen so low that the next lease should be asked for; `true` once only.
    pub(crate) fn runs_low(&self) -> bool {
        self.word().glance() <= self.low_water
            && !self.low_told.load(Ordering::Relaxed)
            && !self.low_told.swap(true, Ordering::Relaxed)
    }

    /// Whether it is being returned.
    pub(crate) fn is_returning(&self) -> bool {
        self.word().read().1
    }

    /// The authority has closed it: its entry of the table is free once no request in flight holds it.
    pub(crate) fn release(&self) {
        self.slot.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::KernelBoot;
    use crate::lease::LeaseTable;
    use crate::mapped::Area;
    use crate::model::{Per, StreamId, TenantId, Timestamp};
    use crate::store::Subject;
    use std::sync::Arc;

    fn entry(size: u64) -> LeaseEntry {
        let counter = CounterId {
            tenant: TenantId::generate(),
            subject: Subject::Tenant,
            limit: "daily".into(),
            meter: "requests".into(),
            per: Per::Day,
        };
        let (lease, life) = (LeaseId::generate(), StreamId::generate());
        let (table, _) = LeaseTable::open(&Area::memory(), "a", life, KernelBoot::current()).unwrap();
        let period = Period { start: Timestamp::from_micros(0), end: Timestamp::from_micros(1_000_000) };
        let granted = Granted { period, deadline: Monotonic(1_000), size };
        LeaseEntry::open(lease, table.ask(lease, &counter).unwrap(), &granted, Monotonic(1))
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
    fn a4_nothing_is_spent_before_its_period_begins() {
        let entry = entry(10).from(Monotonic(500));
        assert!(!entry.spend(1, Monotonic(499)));
        assert_eq!((entry.left(Monotonic(499)), entry.is_spent()), (0, false));
        assert!(entry.spend(1, Monotonic(500)));
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
