//! Refusals, summed in memory per key, route, code and limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::admission::{Caller, Code};
use crate::model::{KeyId, Timestamp};
use crate::routes::RouteIndex;

/// Sums held at once; beyond that refusals are only in the metrics.
const MOST: usize = 16_384;

type Kind = (KeyId, Option<RouteIndex>, Code, Option<Arc<str>>);

/// One sum.
#[derive(Debug)]
pub(crate) struct Summed {
    pub(crate) caller: Arc<Caller>,
    pub(crate) route: Option<RouteIndex>,
    pub(crate) code: Code,
    pub(crate) limit: Option<Arc<str>>,
    pub(crate) at: Timestamp,
    pub(crate) requests: u64,
}

/// All sums since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    sums: Mutex<HashMap<Kind, Summed>>,
}

impl Refusals {
    /// Counts one refusal of a known caller.
    pub(crate) fn count(
        &self,
        caller: &Arc<Caller>,
        route: Option<RouteIndex>,
        code: Code,
        limit: Option<Arc<str>>,
        at: Timestamp,
    ) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = (caller.key, route, code, limit);
        if let Some(sum) = sums.get_mut(&kind) {
            sum.requests += 1;
        } else if sums.len() < MOST {
            let limit = kind.3.clone();
            sums.insert(kind, Summed { caller: Arc::clone(caller), route, code, limit, at, requests: 1 });
        } else {
            metrics::counter!("usage_gate_refusals_unsummed_total").increment(1);
        }
    }

    /// Puts back what the journal had no room for.
    pub(crate) fn put_back(&self, left: Vec<Summed>) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        for sum in left {
            let kind = (sum.caller.key, sum.route, sum.code, sum.limit.clone());
            match sums.get_mut(&kind) {
                Some(since) => since.requests += sum.requests,
                None => _ = sums.insert(kind, sum),
            }
        }
    }

    pub(crate) fn take(&self) -> Vec<Summed> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *sums).into_values().collect()
    }
}
