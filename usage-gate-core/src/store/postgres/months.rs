//! Makes the partitions of months before usage of them is taken in.

use std::collections::HashSet;
use std::sync::Mutex;

use deadpool_postgres::Client;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::usage::begin;
use crate::model::{Per, Timestamp};
use crate::period::{AnchorDay, Calendar, Zone};

/// No day of any zone begins longer than this before one of its hours.
const LONGEST_DAY_MICROS: i64 = 2 * 86_400 * 1_000_000;

/// Months whose partitions exist, by their first instants.
#[derive(Debug, Default)]
pub(super) struct Months {
    known: Mutex<HashSet<Timestamp>>,
}

impl Months {
    /// Makes what is missing for these buckets and their days, in transactions of their own: whoever makes a partition holds no other lock, and
    /// others need not wait for a batch.
    pub(super) async fn make(
        &self,
        client: &mut Client,
        buckets: impl Iterator<Item = Timestamp>,
    ) -> Result<(), Fault> {
        for month in self.missing(buckets) {
            let step = begin(client).await?;
            step.query_typed("SELECT usage_gate_partition($1)", &[(&month.as_micros(), Type::INT8)]).await?;
            step.commit().await?;
            self.known().insert(month);
        }
        Ok(())
    }

    /// After an error nothing is known: a partition may have been dropped, or a database restored that had fewer.
    pub(super) fn forget(&self) {
        self.known().clear();
    }

    fn missing(&self, buckets: impl Iterator<Item = Timestamp>) -> Vec<Timestamp> {
        let calendar = Calendar::new(Zone::UTC, AnchorDay::FIRST);
        let distinct: HashSet<Timestamp> = buckets.collect();
        let months: HashSet<Timestamp> = distinct
            .into_iter()
            .flat_map(|bucket| [bucket, bucket.plus_micros(-LONGEST_DAY_MICROS)])
            .map(|instant| calendar.period(Per::Month, instant).start)
            .collect();
        let known = self.known();
        months.into_iter().filter(|month| !known.contains(month)).collect()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<Timestamp>> {
        // A set is whole whatever a thread that panicked was about to do.
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
