//! Rates and requests open at once in memory: the pure rules behind a lock.

use std::collections::HashMap;

use super::MemoryStore;
use crate::model::Timestamp;
use crate::rates::bucket::Bucket;
use crate::rates::slots::Slots;
use crate::store::{CounterId, RateAnswer, RateCall, RateStore, StoreError};

/// For how long a node that is not heard of is counted.
const ACTIVE_MICROS: u64 = 60_000_000;
/// Calls after which what is as good as absent is forgotten, at least: then no call pays for more than its own rows.
const LEAST_CALLS: usize = 64;

/// The states of all counters, and when each node was last heard of.
#[derive(Debug, Default)]
pub(super) struct Rates {
    buckets: HashMap<CounterId, Bucket>,
    slots: HashMap<CounterId, Slots>,
    nodes: HashMap<String, u64>,
    requests: usize,
}

impl Rates {
    fn lease(&mut self, call: &RateCall, now: u64) -> RateAnswer {
        let mut answer = RateAnswer::default();
        for request in &call.rates {
            let kept = self.buckets.remove(&request.counter);
            let (bucket, grant) = Bucket::step(kept, now, None, request);
            self.buckets.insert(request.counter.clone(), bucket);
            answer.rates.push(grant);
        }
        for request in &call.slots {
            let kept = self.slots.remove(&request.counter);
            let (slots, grant) = Slots::step(kept, now, None, &call.node, request);
            self.slots.insert(request.counter.clone(), slots);
            answer.slots.push(grant);
        }
        self.nodes.insert(call.node.clone(), now);
        let active = self.nodes.values().filter(|heard| now.saturating_sub(**heard) < ACTIVE_MICROS).count();
        answer.active_nodes = u32::try_from(active).unwrap_or(u32::MAX);
        self.forget(call.rates.len() + call.slots.len(), now);
        answer
    }

    fn forget(&mut self, requests: usize, now: u64) {
        self.requests += requests + 1;
        if self.requests > LEAST_CALLS + self.buckets.len() + self.slots.len() + self.nodes.len() {
            self.requests = 0;
            self.buckets.retain(|_, bucket| now < bucket.forgotten);
            self.slots.retain(|_, slots| !slots.is_forgotten(now));
            self.nodes.retain(|_, heard| now.saturating_sub(*heard) < ACTIVE_MICROS);
        }
    }
}

fn micros(now: Timestamp) -> u64 {
    u64::try_from(now.as_micros()).unwrap_or(0)
}

#[async_trait::async_trait]
impl RateStore for MemoryStore {
    fn backend(&self) -> &'static str {
        "memory"
    }

    async fn lease_rates(&self, call: &RateCall) -> Result<RateAnswer, StoreError> {
        let mut rates = self.rates();
        // Read under the lock: the order of instants is the order of calls.
        Ok(rates.lease(call, micros(self.inner.clock.wall())))
    }
}
