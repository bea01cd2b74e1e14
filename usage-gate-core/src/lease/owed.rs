//! Units of a counter that were spent where no lease of their period is open: a debt is a lease that is spent before it is known.
//!
//! It happens where a limit goes on beyond its cap before the first lease is there, and where cost is found after the lease went back. The units go onto an
//! entry of the lease table that is taken for them, so that a crash leaves them as it leaves those of a lease, and records and seats cite that
//! entry. The driver tells the authority of it, which books it once by its id, spent and closed.
//!
//! A debt is told when no request in flight holds units of it any more: until then they may give some back, which can be booked nowhere else. A request
//! that goes on for very long is not waited for.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::counter::{LeaseSet, lock};
use super::slot::Owing;
use super::{LeaseEntry, LeaseTable, QuotaTerms, Return};
use crate::clock::Monotonic;
use crate::period::Period;
use crate::store::{CounterId, LeaseId};

/// How long a debt waits for those who hold units of it.
const MOST_WAIT_NANOS: u64 = 3_600 * 1_000_000_000;

/// Where a debt is noted, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Debtor<'a> {
    pub(crate) counter: &'a CounterId,
    pub(crate) table: &'a Arc<LeaseTable>,
    pub(crate) now: Monotonic,
}

/// The debts of one counter that the authority does not know of yet; few, mostly none.
#[derive(Debug, Default)]
pub(super) struct Owed {
    entries: ArcSwap<LeaseSet>,
    /// Held while the set is changed.
    changing: Mutex<()>,
}

impl Owed {
    /// Spends units (positive) of a period without a lease; `None` if they cannot be noted.
    pub(super) fn take(
        &self,
        units: i64,
        period: Period,
        terms: impl FnOnce() -> QuotaTerms,
        debtor: &Debtor<'_>,
    ) -> Option<Arc<LeaseEntry>> {
        if let Some(known) = self.add_to_known(units, period) {
            return Some(known);
        }
        let _changing = lock(&self.changing);
        if let Some(known) = self.add_to_known(units, period) {
            return Some(known);
        }
        let terms = terms();
        let (lease, owing) =
            (LeaseId::generate_debt(), Owing { period, cap: terms.cap, cap_version: terms.cap_version });
        let slot = debtor.table.owe(lease, debtor.counter, &owing)?;
        let entry = Arc::new(LeaseEntry::owe(lease, slot, period, debtor.now));
        // In the table before there are units on it, and on it before anybody else sees it.
        entry.adjust(units.saturating_neg());
        let entries = self.entries.load();
        self.entries.store(Arc::new(entries.iter().chain([&entry]).map(Arc::clone).collect()));
        Some(entry)
    }

    fn add_to_known(&self, units: i64, period: Period) -> Option<Arc<LeaseEntry>> {
        // Held before it is spent on: the driver sees by that that a request may give some back.
        let known: Vec<_> = self.entries.load().iter().filter(|entry| entry.period == period).map(Arc::clone).collect();
        known.into_iter().find(|entry| entry.adjust(units.saturating_neg()))
    }

    /// Units of a period that are owed.
    pub(super) fn used(&self, period: Period) -> u64 {
        let entries = self.entries.load();
        let used = entries.iter().filter(|entry| entry.period == period).map(|entry| entry.used());
        used.fold(0, u64::saturating_add)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.load().is_empty()
    }

    // --- what only the driver calls ---

    /// Debts that the authority is to be told of now.
    pub(super) fn to_tell(&self, now: Monotonic, why: Return) -> LeaseSet {
        let entries = self.entries.load();
        // The set holds one reference; more are requests in flight.
        let due = |entry: &&Arc<LeaseEntry>| {
            why == Return::All
                || Arc::strong_count(entry) == 1
                || entry.is_returning()
                || now.nanos_since(entry.since) > MOST_WAIT_NANOS
        };
        entries.iter().filter(due).map(Arc::clone).collect()
    }

    /// The authority knows of these.
    pub(super) fn told(&self, told: &[Arc<LeaseEntry>]) {
        if self.is_empty() {
            return;
        }
        let _changing = lock(&self.changing);
        let entries = self.entries.load();
        let left = entries.iter().filter(|entry| !told.iter().any(|told| Arc::ptr_eq(told, entry)));
        self.entries.store(Arc::new(left.map(Arc::clone).collect()));
    }
}
