//! The task that ships: takes records from the recorder, numbers them, gives them to the sink, and trusts only its watermark.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::Clock;
use crate::journal::{Recorder, Refusals};
use crate::metrics::Metrics;
use crate::model::{Meters, StreamId, TenantId, Timestamp};
use crate::period::bucket_start;
use crate::routes::Routes;
use crate::store::{Batch, RefusalSum, StoreError, UsageRecord, UsageSink};

/// Records in one batch, at most: a bound on the sink's transaction.
const MOST_RECORDS: usize = 32_768;

/// The flusher of this process life's stream.
#[derive(Debug)]
pub(crate) struct Flusher {
    pub(crate) sink: Arc<dyn UsageSink>,
    pub(crate) stream: StreamId,
    pub(crate) clock: Clock,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) meters: Meters,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether the sink failed last.
    pub(crate) away: AtomicBool,
    /// The batch whose outcome is unknown, and the last sequence given out. One flush at a time.
    pub(crate) progress: tokio::sync::Mutex<Progress>,
}

/// How far the stream has been shipped.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    last: u64,
    through: Timestamp,
    unacknowledged: Option<Batch>,
}

impl Flusher {
    /// Runs until the future is dropped.
    pub(crate) async fn run(&self) {
        let mut pause = Duration::from_secs(1);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // While the sink is away a full queue is no reason to press it.
                () = self.recorder.half_full(), if !self.away.load(Ordering::Relaxed) => {}
            }
            match self.flush().await {
                Ok(()) => pause = Duration::from_secs(1),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn Error, retry_in = ?pause, "usage is kept and will be shipped again");
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    /// Ships all that was recorded before the call.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let mut progress = self.progress.lock().await;
        loop {
            // A batch that was left over says nothing of what came since: another follows it.
            let fresh = progress.unacknowledged.is_none();
            if fresh {
                let batch = self.next_batch(&progress);
                progress.last = batch.last;
                progress.through = batch.through;
                progress.unacknowledged = Some(batch);
            }
            let Some(batch) = &progress.unacknowledged else { return Ok(()) };
            let records = batch.records.len();
            let outcome = self.ship(batch).await;
            self.away.store(outcome.is_err(), Ordering::Relaxed);
            self.metrics.flushed(outcome.is_ok());
            outcome?;
            progress.unacknowledged = None;
            self.recorder.shipped(records);
            if fresh && records < MOST_RECORDS {
                return Ok(());
            }
        }
    }

    async fn ship(&self, batch: &Batch) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) && batch.last >= batch.first {
            // B4: after an unknown outcome only the watermark tells whether the batch is in.
            if self.sink.watermark(self.stream).await? >= batch.last {
                return Ok(());
            }
        }
        self.sink.accept(batch).await.map(|_| ())
    }

    fn next_batch(&self, progress: &Progress) -> Batch {
        let last = progress.last;
        // Read before the records are taken: what was settled before this instant is in the batch.
        let now = self.clock.wall();
        let mut buckets = Buckets::default();
        let taken = self.recorder.take(MOST_RECORDS);
        // A full batch may have left some in the queue: then nothing is known to be complete.
        let through = if taken.len() < MOST_RECORDS { now } else { progress.through };
        let records: Vec<UsageRecord> = (last + 1..)
            .zip(taken)
            .map(|(sequence, record)| {
                let bucket = buckets.start(&record.caller, record.at);
                UsageRecord {
                    sequence,
                    request: record.request,
                    at: record.at,
                    tenant: record.caller.tenant,
                    user: record.caller.user,
                    key: record.caller.key,
                    environment: record.caller.environment,
                    route: self.route_name(Some(record.route)),
                    status: record.status,
                    outcome: record.outcome,
                    units: record.units,
                    measured: crate::store::Measured::Exact,
                    bucket,
                    quotas: record.quotas.into_vec(),
                    retry: None,
                }
            })
            .collect();
        let after = last + u64::try_from(records.len()).unwrap_or(u64::MAX);
        let refusals: Vec<RefusalSum> = (after + 1..)
            .zip(self.refusals.take())
            .map(|(sequence, sum)| RefusalSum {
                sequence,
                tenant: sum.caller.tenant,
                user: sum.caller.user,
                key: sum.caller.key,
                environment: sum.caller.environment,
                route: self.route_name(sum.route),
                code: sum.code.as_str().into(),
                limit: sum.limit,
                requests: sum.requests,
                bucket: buckets.start(&sum.caller, sum.at),
            })
            .collect();
        let count = u64::try_from(records.len() + refusals.len()).unwrap_or(u64::MAX);
        self.metrics.recorded(records.len());
        Batch {
            stream: self.stream,
            segment: 1,
            first: last + 1,
            last: last + count,
            through,
            meters: self.meters.clone(),
            records,
            refusals,
        }
    }

    fn route_name(&self, route: Option<crate::routes::RouteIndex>) -> Arc<str> {
        route.and_then(|route| self.routes.route(route)).map_or_else(|| Arc::from(""), |route| Arc::clone(&route.name))
    }
}

/// Bucket starts of one batch: the zone's rules are asked once per tenant and quarter of an hour, which no change of clocks divides.
#[derive(Debug, Default)]
struct Buckets {
    starts: HashMap<(TenantId, i64), Timestamp>,
}

impl Buckets {
    fn start(&mut self, caller: &crate::admission::Caller, at: Timestamp) -> Timestamp {
        let quarter = at.as_seconds().div_euclid(900);
        *self.starts.entry((caller.tenant, quarter)).or_insert_with(|| {
            let zone = caller.source.tenant.calendar.zone_at(at);
            bucket_start(zone, at)
        })
    }
}
