//! What a life finds in the lease table, and how it comes by it.
//!
//! Once the authority has heard of the life, [`inherit`](super::inherit) decides. While the authority is away, leases that were surely granted are spent on all the same: on the same boot of
//! the kernel the table says exactly what is left of them, and only their holder, or this successor of it, gives units back (A6). Everything else waits: what was only asked for, what was
//! being returned, what is owed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::driver::{EARLY_MICROS, LeaseDriver};
use super::inherit::{Fate, inherit};
use super::slot::{SlotState, TableEntry};
use super::table::Found;
use super::{LeaseEntry, Untold};
use crate::store::{CounterId, LeaseCall, LeaseReport, OpenLease, StoreError};

/// Leases that earlier lives left in the table, until the authority has said which of them it knows.
#[derive(Debug)]
pub(crate) struct FoundLeases {
    waiting: Vec<Found>,
    /// Spent on before the authority has heard of this life.
    spent_on: Vec<(CounterId, Arc<LeaseEntry>)>,
}

impl FoundLeases {
    pub(crate) const fn new(found: Vec<Found>) -> Self {
        Self { waiting: found, spent_on: Vec::new() }
    }
}

impl LeaseDriver {
    /// Spends on what earlier lives were granted although the authority, which is away, has not heard of this one.
    ///
    /// What they spent without a lease counts for what this life may overdraw, until the authority is told.
    pub(crate) fn spend_on(&self, found: &mut FoundLeases) {
        let (now, wall) = (self.clock.monotonic(), self.clock.wall());
        let spendable = |entry: &TableEntry| {
            entry.state == SlotState::Open && !entry.returning && entry.left > 0 && now < entry.deadline
        };
        for Found { slot, entry } in found.waiting.extract_if(.., |found| spendable(&found.entry)) {
            let lease = LeaseEntry::take_over(slot, &entry, entry.used(), now);
            // A4: the table does not say when a period begins by the authority's clock. It has begun when ours is past it by more than clocks differ.
            let surely_begun =
                if self.shared { entry.period.start.plus_micros(EARLY_MICROS) } else { entry.period.start };
            let from = now.plus_nanos(wall.micros_until(surely_begun).saturating_mul(1_000));
            let lease = if from > now { lease.from(from) } else { lease };
            found.spent_on.push((entry.counter, Arc::new(lease)));
        }
        self.counters.inherit(found.spent_on.iter().cloned(), now);
        let owed = found.waiting.iter().map(|found| &found.entry).filter(|entry| entry.used() > entry.size);
        self.counters.note_untold(owed.map(|entry| Untold {
            counter: entry.counter.clone(),
            period: entry.period,
            units: entry.used().saturating_sub(entry.size),
        }));
        self.table.make_room(0);
    }

    /// Takes over what earlier lives of this node have left: `open` at the authority, `found` in the table. Returns what is not spent on, and tells
    /// what they owe, in the first call of this life; before it asks for anything.
    ///
    /// # Errors
    /// [`StoreError`] if the store does not answer: what goes back is marked so, nothing else is changed here, and it is to be done again, by this life or the next, with what the authority has open then.
    pub(crate) async fn take_over(&self, open: &[OpenLease], found: &mut FoundLeases) -> Result<(), StoreError> {
        let now = self.clock.monotonic();
        let known: HashSet<_> = open.iter().map(|open| open.lease).collect();
        // A5: what the authority does not have open is not there. What was spent of it meanwhile its records say.
        let gone = found.spent_on.iter().filter(|(_, lease)| !known.contains(&lease.lease));
        gone.for_each(|(_, lease)| lease.give_up());
        // Those that are spent on are not given back with what the table lacks.
        let spent_on: Vec<&Arc<LeaseEntry>> = found.spent_on.iter().map(|(_, lease)| lease).collect();
        let ids: HashSet<_> = spent_on.iter().map(|lease| lease.lease).collect();
        let others: Vec<OpenLease> = open.iter().filter(|open| !ids.contains(&open.lease)).copied().collect();
        // Where leases are taken ahead of their period. Clocks of nodes and authority differ by less than that.
        let surely_begun = self.shared.then(|| self.clock.wall().plus_micros(-EARLY_MICROS));
        let mut plan = inherit(&others, found.waiting.iter().map(|found| &found.entry), now, surely_begun);
        let reported = spent_on.iter().filter(|lease| known.contains(&lease.lease));
        let reported: Vec<(Arc<LeaseEntry>, u64)> = reported.map(|lease| (Arc::clone(lease), lease.used())).collect();
        plan.reports.extend(reported.iter().map(|(lease, used)| LeaseReport { lease: lease.lease, used: *used }));
        for (found, _) in found.waiting.iter_mut().zip(&plan.fates).filter(|(_, fate)| **fate == Fate::Freed) {
            if found.entry.state == SlotState::Open {
                // A6: before the authority may have it. Whoever finds the entry, if the answer is never seen here, does not spend on it.
                found.slot.left().begin_return();
                found.entry.returning = true;
            }
        }
        let call =
            LeaseCall { reports: plan.reports, returns: plan.returns, debts: plan.debts, ..LeaseCall::new(&self.node) };
        if !call.is_empty() {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.store.lease(&call).await?;
        }
        for (lease, used) in &reported {
            lease.reported.fetch_max(*used, Ordering::Relaxed);
        }
        found.spent_on.clear();
        let mut left = Vec::new();
        for (found, fate) in found.waiting.drain(..).zip(plan.fates) {
            match fate {
                Fate::SpentOn => {
                    let used = found.entry.used();
                    let lease = LeaseEntry::take_over(found.slot, &found.entry, used, now);
                    left.push((found.entry.counter, Arc::new(lease)));
                }
                Fate::Freed => found.slot.release(),
            }
        }
        self.counters.inherit(left, now);
        self.counters.all_told();
        self.table.make_room(0);
        Ok(())
    }
}
