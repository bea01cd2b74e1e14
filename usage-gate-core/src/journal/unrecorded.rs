//! Units that leases count and that no record of a request says.
//!
//! They are of requests that went on without a record, because the host declared that they may while the journal is full; of one that gave up what it had
//! taken, when the lease had just gone back; and of one that holds units on more leases than its record has room for. Once there is room they are put
//! into records of their own, which name no request, so that ledger and records say the same (B9).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lease::{Forfeit, LeaseEntry};
use crate::store::CounterTag;

/// Sums held at once; beyond that the ledger says more than the records, and a metric says so.
const MOST: usize = 16_384;

/// By lease, counter and period.
type Kind = (u64, CounterTag, i64);

/// Units of one lease. It stays in the table until they are recorded: what a crash leaves of them is found by that.
#[derive(Debug)]
pub(crate) struct Sum {
    pub(crate) forfeit: Forfeit,
    held: Option<Arc<LeaseEntry>>,
}

/// All sums since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct Unrecorded {
    sums: Mutex<HashMap<Kind, Sum>>,
}

impl Unrecorded {
    /// Adds units of one lease; fewer than none if it was credited.
    pub(crate) fn add(&self, forfeit: Forfeit, lease: Option<&Arc<LeaseEntry>>) {
        self.put_back(Sum { forfeit, held: lease.map(Arc::clone) });
    }

    /// Adds a sum that could not be recorded.
    pub(crate) fn put_back(&self, sum: Sum) {
        let mut sums = self.sums();
        let forfeit = &sum.forfeit;
        let kind = (forfeit.lease.tag(), forfeit.counter.tag(), forfeit.period.start.as_micros());
        if let Some(known) = sums.get_mut(&kind) {
            known.forfeit.units = known.forfeit.units.saturating_add(forfeit.units);
            known.forfeit.shown = known.forfeit.shown.saturating_add(forfeit.shown);
            known.held = known.held.take().or(sum.held);
        } else if sums.len() < MOST {
            sums.insert(kind, sum);
        } else {
            metrics::counter!("usage_gate_drift_units").increment(forfeit.units.unsigned_abs());
        }
    }

    /// All that is to be recorded.
    pub(crate) fn take(&self) -> Vec<Sum> {
        let taken = std::mem::take(&mut *self.sums());
        taken.into_values().filter(|sum| sum.forfeit.units != 0 || sum.forfeit.shown != 0).collect()
    }

    fn sums(&self) -> MutexGuard<'_, HashMap<Kind, Sum>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Per, TenantId, Timestamp};
    use crate::period::Period;
    use crate::store::{CounterId, LeaseId, Subject};

    #[test]
    fn b9_units_of_each_lease_are_summed() {
        let counter = CounterId {
            tenant: TenantId::from_u128(1),
            subject: Subject::Tenant,
            limit: "monthly".into(),
            meter: "requests".into(),
            per: Per::Month,
        };
        let start = Timestamp::from_micros(0);
        let of = |lease: u128, units: i64, shown| Forfeit {
            lease: LeaseId::from_u128(lease),
            counter: counter.clone(),
            period: Period { start, end: start },
            units,
            shown,
        };
        let unrecorded = Unrecorded::default();
        for forfeit in [of(1, 10, 3), of(2, -7, 0), of(1, 2, 2), of(3, 4, 0), of(3, -4, 0)] {
            unrecorded.add(forfeit, None);
        }
        let mut taken: Vec<Forfeit> = unrecorded.take().into_iter().map(|sum| sum.forfeit).collect();
        taken.sort_by_key(|forfeit| forfeit.lease);
        assert_eq!(taken, [of(1, 12, 5), of(2, -7, 0)]);
        assert!(unrecorded.take().is_empty());
    }
}
