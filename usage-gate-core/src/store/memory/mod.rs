//! The memory store: all seven traits for one process, gone when it ends. For tests, trials and hosts that keep no usage.
//!
//! The quotas are the ledger of `lease/ledger.rs` itself, the rates the buckets of `rates/bucket.rs`; accounts and keys share one lock, so that a change and its place in the feed are one step.

mod accounts;
mod audit;
mod keys;
mod quotas;
mod rates;
mod reader;
mod sessions;
mod usage;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::clock::Clock;
use crate::lease::incarnations::Incarnations;
use crate::lease::ledger::Ledger;
use accounts::Accounts;
use rates::Rates;
use sessions::Sessions;
use usage::Usage;

/// Keeps everything in the memory of this process. Cheap to clone; clones share what is kept.
///
/// ```
/// # use usage_gate_core::{clock::Clock, store::{KeyStore, MemoryStore}};
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let store = MemoryStore::new(Clock::system());
/// assert_eq!(store.position().await?.0, 0);
/// # Ok::<(), usage_gate_core::store::StoreError>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    ledger: Mutex<Ledger>,
    incarnations: Mutex<Incarnations>,
    rates: Mutex<Rates>,
    usage: Mutex<Usage>,
    accounts: Mutex<Accounts>,
    sessions: Mutex<Sessions>,
    /// Rings when the feed of changes has grown.
    fed: watch::Sender<()>,
    /// Rings when leases may have been recalled.
    recalled: watch::Sender<()>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            inner: Arc::new(Inner {
                clock,
                ledger: Mutex::default(),
                incarnations: Mutex::default(),
                rates: Mutex::default(),
                usage: Mutex::default(),
                accounts: Mutex::default(),
                sessions: Mutex::default(),
                fed: watch::Sender::new(()),
                recalled: watch::Sender::new(()),
            }),
        }
    }

    /// Asserts A1 and A2 for every window.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn check_ledger(&self) {
        self.ledger().check();
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incarnations(&self) -> MutexGuard<'_, Incarnations> {
        self.inner.incarnations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.inner.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_usage(&self) -> MutexGuard<'_, Usage> {
        self.inner.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.inner.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_sessions(&self) -> MutexGuard<'_, Sessions> {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes accounts, and wakes who waits for changes of the feed.
    fn change<T>(&self, change: impl FnOnce(&mut Accounts) -> T) -> T {
        let outcome = change(&mut self.accounts());
        self.inner.fed.send_replace(());
        outcome
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (MemoryStore, ()) {
        (MemoryStore::new(Clock::system()), ())
    }

    mod keys {
        crate::conformance::key_store_tests!(super::fresh());
    }
    mod accounts {
        crate::conformance::account_store_tests!(super::fresh());
    }
    mod sessions {
        crate::conformance::session_store_tests!(super::fresh());
    }
    mod quotas {
        crate::conformance::quota_store_tests!(super::fresh());
    }
    mod rates {
        crate::conformance::rate_store_tests!(super::fresh());
    }
    mod usage {
        crate::conformance::usage_store_tests!(super::fresh());
    }

    #[tokio::test]
    async fn it_agrees_with_the_bucket() {
        let manual = crate::clock::ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let store = MemoryStore::new(manual.clock());
        crate::conformance::rates::agrees_with_the_bucket(&store, &manual).await;
    }

    #[tokio::test]
    async fn what_a_dead_node_had_comes_back_when_its_lease_ends() {
        let manual = crate::clock::ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let store = MemoryStore::new(manual.clock());
        crate::conformance::rates::what_a_dead_node_had_comes_back_when_its_lease_ends(&store, &manual).await;
    }

    #[tokio::test]
    async fn a_ledger_agrees_with_itself_and_keeps_its_invariants() {
        let manual = crate::clock::ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let store = MemoryStore::new(manual.clock());
        crate::conformance::quotas::agrees_with_the_ledger(&store, &manual).await;
    }

    #[tokio::test]
    async fn the_first_pepper_is_kept() {
        crate::conformance::keys::the_first_pepper_is_kept(&fresh().0).await;
    }

    #[tokio::test]
    async fn a_lease_of_an_ended_period_counts_in_its_own() {
        let manual = crate::clock::ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let store = MemoryStore::new(manual.clock());
        crate::conformance::quotas::a4_a_lease_of_an_ended_period_counts_in_its_own(&store, &manual).await;
    }

    #[tokio::test]
    async fn a_debt_of_an_ended_period_counts_in_its_own() {
        let manual = crate::clock::ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let store = MemoryStore::new(manual.clock());
        crate::conformance::quotas::a4_a_debt_of_an_ended_period_counts_in_its_own(&store, &manual).await;
    }

    #[tokio::test]
    async fn units_of_the_next_period_are_leased_a_minute_early() {
        let manual = crate::clock::ManualClock::at("2026-11-24T12:00:00Z".parse().unwrap());
        let store = MemoryStore::new(manual.clock());
        crate::conformance::quotas::a4_units_of_the_next_period_are_leased_a_minute_early(&store, &manual).await;
    }
}
