//! Units that were taken of quotas by requests that went on without a record, because the host declared that they may while the journal is full.
//!
//! They are spent, and nobody is billed for them. Once there is room again they are recorded as forfeited, so that ledger and records say the same (B9).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::lease::Forfeit;
use crate::store::CounterTag;

/// Sums held at once; beyond that the ledger says more than the records, and a metric says so.
const MOST: usize = 16_384;

/// By lease, counter and period.
type Kind = (u64, CounterTag, i64);

/// All sums since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct Unrecorded {
    sums: Mutex<HashMap<Kind, Forfeit>>,
}

impl Unrecorded {
    /// Adds units of one lease.
    pub(crate) fn add(&self, units: Forfeit) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = (units.lease.tag(), units.counter.tag(), units.period.start.as_micros());
        if let Some(sum) = sums.get_mut(&kind) {
            sum.units = sum.units.saturating_add(units.units);
        } else if sums.len() < MOST {
            sums.insert(kind, units);
        } else {
            metrics::counter!("usage_gate_drift_units").increment(units.units);
        }
    }

    pub(crate) fn take(&self) -> Vec<Forfeit> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *sums).into_values().collect()
    }
}
