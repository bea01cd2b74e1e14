//! What passed, whatever nodes and authorities say of it, and what was allowed to.

use std::collections::{BTreeMap, HashMap};

use crate::model::Timestamp;
use crate::store::{LeaseId, RateTerms};

/// A quota and the start of its period.
pub(super) type Key = (usize, Timestamp);

/// One quota in one period.
#[derive(Debug, Default, Clone)]
pub(super) struct Book {
    /// Units that passed.
    pub(super) used: i64,
    /// Version and cap of the latest plan that the ledger was asked with, and the highest cap that it has granted by.
    pub(super) latest: (u32, i64),
    pub(super) cap: i64,
    /// What may pass beyond it: cost that was found late; spent by nodes whose limit goes on while the ledger is away; unknown to a ledger that was put back
    /// to an earlier state.
    pub(super) late: i64,
    pub(super) overdrawn: i64,
    pub(super) forgotten: i64,
    /// Units that leases count and nobody used.
    pub(super) forfeited: i64,
    /// Units that were used, and of which no ledger can know: the table that said so is lost.
    pub(super) untold: i64,
}

impl Book {
    pub(super) const fn allowed(&self) -> i64 {
        self.cap + self.late + self.overdrawn + self.forgotten
    }
}

/// A lease that the ledger has granted.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) key: Key,
    pub(super) node: usize,
    /// Its period by the clock that nobody sets, in milliseconds.
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) size: i64,
    pub(super) granted_at: i64,
    pub(super) spent: i64,
    /// Once it is closed: with how many units as used.
    pub(super) closed: Option<i64>,
    /// The ledger was put back to a state that it is not in.
    pub(super) lost: bool,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) by_key: BTreeMap<Key, Book>,
    pub(super) leases: HashMap<LeaseId, Lease>,
    /// Units by quota that were on their way between a lease and these books when a process was killed: they are here or there.
    pub(super) unsure: [i64; 2],
    /// Whether a ledger was put back: what was closed since then may be open again.
    pub(super) restored: bool,
}

impl Books {
    pub(super) fn book(&mut self, key: Key) -> &mut Book {
        self.by_key.entry(key).or_default()
    }

    /// Units are used of a lease: A3, A4, A6, and the limit.
    pub(super) fn spend(&mut self, id: LeaseId, units: i64, now: i64, bounded: bool) -> Result<(), String> {
        let restored = self.restored;
        let Some(lease) = self.leases.get_mut(&id) else { return Err(format!("A5: nobody granted {id:?}")) };
        if now < lease.from || now >= lease.until {
            return Err(format!("A4: {id:?} is spent at {now}: {lease:?}"));
        }
        lease.spent += units;
        let unsure = self.unsure[lease.key.0];
        let most = lease.closed.filter(|_| !restored).unwrap_or(lease.size);
        if lease.spent > most + unsure {
            return Err(format!("A3, A6: too much is spent of {id:?}: {lease:?}, and {unsure} unsure"));
        }
        let key = lease.key;
        if lease.closed.is_some() {
            // It was closed as spent under a process that did not know.
            self.book(key).forfeited -= units;
        }
        self.use_units(key, units, bounded)
    }

    /// A difference is found on a lease, or on a debt, of which the ledger has not granted anything.
    pub(super) fn note(&mut self, id: LeaseId, units: i64) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.spent += units;
        if lease.closed.is_some() {
            let key = lease.key;
            self.book(key).forfeited -= units;
        }
    }

    /// Units pass.
    pub(super) fn use_units(&mut self, key: Key, units: i64, bounded: bool) -> Result<(), String> {
        let book = self.book(key);
        book.used += units;
        if bounded && book.used > book.allowed() {
            return Err(format!("the limit: {key:?} has {book:?}"));
        }
        Ok(())
    }

    /// A lease is closed as spent, since nobody can say what is left of it.
    pub(super) fn write_off(&mut self, id: LeaseId, reported: u64) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let spent = lease.size.max(i64::try_from(reported).unwrap()).max(lease.spent);
        lease.closed = Some(spent);
        let (key, nobodys) = (lease.key, spent - lease.spent);
        self.book(key).forfeited += nobodys;
    }

    /// A lease goes back, with so many units as used.
    pub(super) fn close(&mut self, id: LeaseId, used: i64) -> Result<(), String> {
        let Some(lease) = self.leases.get_mut(&id) else { return Ok(()) };
        lease.closed = Some(used);
        let unsure = self.unsure[lease.key.0];
        if lease.spent > used + unsure && !self.restored {
            return Err(format!("A6: {id:?} goes back with {used} units used: {lease:?}, and {unsure} unsure"));
        }
        Ok(())
    }
}

/// Units that pass of a rate, as a bucket that leaks: it may never hold more than the burst, which is the same as the bound for every interval.
#[derive(Debug, Default, Clone)]
pub(super) struct Leaking {
    level: i128,
    at: i64,
}

/// Parts of a unit of which every rate leaks a whole number in a millisecond.
const PARTS: i128 = 60_000;

/// Parts that a rate brings in so many milliseconds.
pub(super) fn parts(terms: &RateTerms, millis: i64) -> i128 {
    i128::from(terms.units) * i128::from(millis) * PARTS / (i128::from(terms.seconds) * 1_000)
}

impl Leaking {
    /// Whether `units` are within the burst, with so many parts more.
    pub(super) fn pass(&mut self, units: u64, now: i64, terms: &RateTerms, extra: i128) -> bool {
        let leaked = parts(terms, now - self.at);
        self.level = (self.level - leaked).max(0) + i128::from(units) * PARTS;
        self.at = now;
        self.level <= i128::from(terms.burst) * PARTS + extra
    }
}
