//! Which incarnations of the server are known, and for how long at least.
//!
//! An incarnation is the server's `master_replid`, which changes at every start and every promotion. `run_id` does not: a server that was demoted and promoted again
//! has the same, though its data went back.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Monotonic};
use crate::store::{QuotaStore, StoreError};

/// More than a cluster has shards, each with an incarnation of its own.
const MOST_KNOWN: usize = 256;
/// For an answer of the ledger.
const LEDGER_TIME: Duration = Duration::from_millis(500);
/// Between two questions to a ledger that is away.
const ASK_AGAIN_NANOS: u64 = 1_000_000_000;

pub(super) struct Incarnations {
    ledger: Option<Arc<dyn QuotaStore>>,
    clock: Clock,
    known: Mutex<Vec<Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    incarnation: String,
    /// It is known since this long before `at`.
    age_micros: u64,
    at: Monotonic,
    /// Whether the ledger has said so. Else it may be older.
    settled: bool,
    asked_at: Monotonic,
}

impl Incarnations {
    pub(super) fn new(ledger: Option<Arc<dyn QuotaStore>>, clock: Clock) -> Self {
        Self { ledger, clock, known: Mutex::default() }
    }

    /// Those that are known, and for how many microseconds at least.
    pub(super) fn known(&self) -> Vec<(String, u64)> {
        let now = self.clock.monotonic();
        self.lock().iter().map(|known| (known.incarnation.clone(), known.age(now))).collect()
    }

    /// Remembers one that the server has named.
    pub(super) async fn learn(&self, incarnation: &str) {
        let (age_micros, settled) = self.ask(incarnation).await;
        // After the answer: the age is of some moment before it.
        let now = self.clock.monotonic();
        let mut all = self.lock();
        // What was there before answers too, until the last of a cluster's shards is gone.
        if all.len() >= MOST_KNOWN {
            all.remove(0);
        }
        match all.iter_mut().find(|known| known.incarnation == incarnation) {
            Some(known) => {
                // Both are true: the larger number says more.
                known.age_micros = known.age(now).max(age_micros);
                (known.at, known.settled, known.asked_at) = (now, settled, now);
            }
            None => {
                all.push(Known { incarnation: incarnation.to_owned(), age_micros, at: now, settled, asked_at: now })
            }
        }
    }

    /// Whether it is time to ask the ledger again about one.
    pub(super) fn is_unsettled(&self) -> bool {
        let now = self.clock.monotonic();
        self.lock().iter().any(|known| known.is_due(now))
    }

    /// Asks the ledger again about those that it could not be asked about.
    pub(super) async fn settle(&self) {
        let now = self.clock.monotonic();
        let mut unsettled = Vec::new();
        for known in self.lock().iter_mut().filter(|known| known.is_due(now)) {
            known.asked_at = now;
            unsettled.push(known.incarnation.clone());
        }
        for incarnation in unsettled {
            self.learn(&incarnation).await;
        }
    }

    /// How long the ledger knows it; 0 if the ledger cannot be asked.
    async fn ask(&self, incarnation: &str) -> (u64, bool) {
        let Some(ledger) = &self.ledger else { return (0, true) };
        // A call waits for this, and units are not to wait for long because another store is away.
        let answer = tokio::time::timeout(LEDGER_TIME, ledger.incarnation_age(incarnation)).await;
        match answer.unwrap_or_else(|elapsed| Err(StoreError::unavailable("read an incarnation's age", elapsed))) {
            Ok(age) => (micros(age), true),
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "how long this Valkey is known cannot be read"
                );
                (0, false)
            }
        }
    }

    /// As if all that is known had been known for longer.
    #[cfg(test)]
    pub(super) fn grow_older(&self, by: Duration) {
        self.lock().iter_mut().for_each(|known| known.age_micros += micros(by));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_due(&self, now: Monotonic) -> bool {
        !self.settled && now.nanos_since(self.asked_at) >= ASK_AGAIN_NANOS
    }

    fn age(&self, now: Monotonic) -> u64 {
        self.age_micros.saturating_add(now.nanos_since(self.at) / 1_000)
    }
}

impl fmt::Debug for Incarnations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().iter()).finish()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
