//! Quotas in memory: the ledger behind a lock.

use std::time::Duration;

use super::MemoryStore;
use crate::store::quotas::RECALLS_LOOKED_FOR;
use crate::store::{
    CounterId, Durability, LeaseAnswer, LeaseCall, NodeIdentity, OpenLease, QuotaPromises, QuotaStore, StoreError,
    WindowQuery, WindowState,
};

#[async_trait::async_trait]
impl QuotaStore for MemoryStore {
    fn backend(&self) -> &'static str {
        "memory"
    }

    fn promises(&self) -> QuotaPromises {
        QuotaPromises::new(Durability::Process, true)
    }

    async fn register(&self, node: &NodeIdentity) -> Result<Vec<OpenLease>, StoreError> {
        let mut ledger = self.ledger();
        // Read under the lock: the order of instants is the order of calls.
        Ok(ledger.register(node, self.inner.clock.wall()))
    }

    async fn lease(&self, call: &LeaseCall) -> Result<LeaseAnswer, StoreError> {
        let answer = {
            let mut ledger = self.ledger();
            ledger.lease(call, self.inner.clock.wall()).map_err(|_| StoreError::superseded("lease units"))?
        };
        if answer.grants.iter().zip(&call.requests).any(|(grant, request)| grant.units < request.needed) {
            self.inner.recalled.send_replace(());
        }
        Ok(answer)
    }

    async fn windows(&self, queries: &[WindowQuery]) -> Result<Vec<WindowState>, StoreError> {
        Ok(self.ledger().windows(queries, self.inner.clock.wall()))
    }

    async fn subjects(&self, template: &WindowQuery, most: usize) -> Result<Vec<(CounterId, WindowState)>, StoreError> {
        Ok(self.ledger().subjects(template, most, self.inner.clock.wall()))
    }

    async fn recalls(&self) -> Result<bool, StoreError> {
        let mut recalled = self.inner.recalled.subscribe();
        Ok(tokio::time::timeout(RECALLS_LOOKED_FOR, recalled.changed()).await.is_ok())
    }

    async fn incarnation_age(&self, incarnation: &str) -> Result<Duration, StoreError> {
        let mut incarnations = self.incarnations();
        Ok(incarnations.age(incarnation, self.inner.clock.wall()))
    }
}
