//! Units that were taken of quotas by requests that went on without a record, because the host declared that they may while the journal is full.
//!
//! They are spent, and nobody is billed for them. Once there is room again they are recorded as forfeited, so that ledger and records say the same (B9).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lease::Forfeit;
use crate::model::Timestamp;
use crate::store::CounterTag;

/// Sums held at once; beyond that the ledger says more than the records, and a metric says so.
const MOST: usize = 16_384;

/// By lease, counter and period.
type Kind = (u64, CounterTag, i64);

/// All sums since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct Unrecorded {
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    taken: HashMap<Kind, Forfeit>,
    /// By counter and period. A credit may be booked on another lease than the units that it gives back.
    credits: HashMap<(CounterTag, i64), u64>,
}

impl Unrecorded {
    /// Adds units of one lease.
    pub(crate) fn add(&self, units: Forfeit) {
        let mut sums = self.sums();
        let kind = (units.lease.tag(), units.counter.tag(), units.period.start.as_micros());
        if let Some(sum) = sums.taken.get_mut(&kind) {
            sum.units = sum.units.saturating_add(units.units);
        } else if sums.taken.len() < MOST {
            sums.taken.insert(kind, units);
        } else {
            metrics::counter!("usage_gate_drift_units").increment(units.units.unsigned_abs());
        }
    }

    /// Takes units back that were given back.
    pub(crate) fn credit(&self, counter: CounterTag, start: Timestamp, units: u64) {
        let mut sums = self.sums();
        let kind = (counter, start.as_micros());
        if sums.credits.len() < MOST || sums.credits.contains_key(&kind) {
            let credit = sums.credits.entry(kind).or_default();
            *credit = credit.saturating_add(units);
        } else {
            metrics::counter!("usage_gate_drift_units").increment(units);
        }
    }

    /// What is taken and was not given back. Credits beyond that wait for the units that they are of.
    pub(crate) fn take(&self) -> Vec<Forfeit> {
        let mut sums = self.sums();
        let Sums { taken, credits } = &mut *sums;
        let mut left = Vec::with_capacity(taken.len());
        for ((_, counter, start), mut forfeit) in taken.drain() {
            if let Some(credit) = credits.get_mut(&(counter, start)) {
                let back = forfeit.units.min(i64::try_from(*credit).unwrap_or(i64::MAX));
                forfeit.units = forfeit.units.saturating_sub(back);
                *credit = credit.saturating_sub(back.unsigned_abs());
            }
            if forfeit.units > 0 {
                left.push(forfeit);
            }
        }
        credits.retain(|_, credit| *credit > 0);
        left
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Per, TenantId};
    use crate::period::Period;
    use crate::store::{CounterId, LeaseId, Subject};

    #[test]
    fn b9_what_was_given_back_is_not_forfeited() {
        let counter = CounterId {
            tenant: TenantId::from_u128(1),
            subject: Subject::Tenant,
            limit: "monthly".into(),
            meter: "requests".into(),
            per: Per::Month,
        };
        let start = Timestamp::from_micros(0);
        let of = |lease: u128, units| Forfeit {
            lease: LeaseId::from_u128(lease),
            counter: counter.clone(),
            period: Period { start, end: start },
            units,
        };
        let sum = |left: Vec<Forfeit>| left.iter().map(|forfeit| forfeit.units).sum::<i64>();
        let unrecorded = Unrecorded::default();
        unrecorded.add(of(1, 10));
        unrecorded.add(of(2, 2));
        unrecorded.credit(counter.tag(), start, 7);
        assert_eq!(sum(unrecorded.take()), 5);
        unrecorded.credit(counter.tag(), start, 3);
        assert_eq!(sum(unrecorded.take()), 0);
        unrecorded.add(of(1, 4));
        assert_eq!(sum(unrecorded.take()), 1, "the credit has waited");
    }
}
