//! Takes usage in, all of it in one transaction (B4): rollups by hour and by day, what was taken of quotas, digest, request log, watermark.
//!
//! Statements that do not wait for one another's answers are sent together and worked off in their order, so that a batch is four round trips:
//! begin, what is known, what is added, commit. Rows that other nodes add to as well are locked in the same order by all: zones, repeats,
//! hours, days, what was taken of quotas, windows, debts. What is forgotten is skipped where it is locked.

use std::collections::BTreeMap;

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::IsolationLevel;
use tokio_postgres::types::Type;

use super::days::{self, ZonesLock};
use super::fault::Fault;
use super::quota_use::QuotaUses;
use super::value::{Id, to_column, units};
use super::{PostgresStore, digests, quota_use, repeats, requests, rollups};
use crate::clock::Clock;
use crate::flush::{self, Chain};
use crate::lease::ledger::DebtKey;
use crate::model::{StreamId, TenantId, Timestamp};
use crate::store::days::{Days, day_rows};
use crate::store::request_block::{Block, blocks};
use crate::store::watermark::after_watermark;
use crate::store::{AuditKey, Batch, RollupDelta, RollupKey, StoreError, UsageSink};

const WHAT: &str = "take usage in";

#[async_trait::async_trait]
impl UsageSink for PostgresStore {
    fn backend(&self) -> &'static str {
        "postgres"
    }

    async fn accept(&self, batch: Batch) -> Result<u64, StoreError> {
        // A box for what is large while it waits: once a batch.
        let accepted = self.run(WHAT, async |client| Box::pin(self.take_in(client, batch)).await).await;
        if accepted.is_err() {
            self.inner.months.forget();
        }
        accepted
    }

    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError> {
        self.run("read a watermark", async |client| {
            let sql = "SELECT watermark FROM stream WHERE stream = $1";
            let row = client.query_typed(sql, &[(&Id(stream.as_u128()), Type::UUID)]).await?;
            row.first().map_or(Ok(0), |row| units(row, 0))
        })
        .await
    }
}

impl PostgresStore {
    async fn take_in(&self, client: &mut Client, batch: Batch) -> Result<u64, Fault> {
        let buckets = buckets(&batch);
        self.inner.months.make(client, buckets.iter().map(|(_, bucket)| *bucket)).await?;
        // A zone begins hardly ever: then once more, while nobody else adds usage.
        for lock in [ZonesLock::Shared, ZonesLock::Alone] {
            let step = begin(client).await?;
            if let Some(before) = Before::read(&step, &batch, &buckets, lock).await? {
                return self.add(step, before, batch).await;
            }
        }
        Err(StoreError::unavailable(WHAT, "zones were not begun under their lock").into())
    }

    /// The steps of the contract that follow the lock of the stream's row, in their order.
    async fn add(&self, step: Transaction<'_>, before: Before, batch: Batch) -> Result<u64, Fault> {
        let Before { watermark, digest, late, days } = before;
        let hashed = aside(move || {
            // Of the items as they came, before any is made free: as the journal has them.
            let (batch, mut digest) = (after_watermark(batch, watermark)?, digest);
            let items = digest.take(&batch);
            Some((batch, digest, items))
        });
        let Some((mut batch, digest, items)) = hashed.await? else { return Ok(watermark) };
        repeats::make_free(&step, &mut batch).await?;
        let (batch, sums) = aside(move || (Sums::of(&batch), batch)).await.map(|(sums, batch)| (batch, sums))?;
        let (hours, days) = (sums.hours(), day_rows(&sums.rows, &days));
        let now = self.inner.clock.as_ref().map(Clock::wall);
        let after = watermark.max(batch.last);
        tokio::try_join!(biased;
            rollups::add_to_hours(&step, &hours),
            rollups::add_to_days(&step, &days),
            quota_use::add(&step, &sums.taken, late),
            quota_use::record_debts(&step, &sums.debts, now),
            digests::store(&step, &batch, digest, items, &sums.totals),
            requests::add(&step, batch.stream, batch.first, &sums.blocks),
            move_watermark(&step, &batch, after),
            forget(&step, &batch),
        )?;
        step.commit().await?;
        Ok(after)
    }
}

/// Begins a transaction that reads behind a lock what the lock's holder before has written, whatever is the database's default.
pub(super) async fn begin(client: &mut Client) -> Result<Transaction<'_>, Fault> {
    Ok(client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?)
}

/// What a batch adds to.
struct Before {
    watermark: u64,
    digest: Chain,
    /// Whether the stream is of a life that has died.
    late: bool,
    days: Days,
}

impl Before {
    /// Locks the row of the stream, and reads behind that lock. `None` if a zone begins and the lock of zones is shared.
    async fn read(
        step: &Transaction<'_>,
        batch: &Batch,
        buckets: &[(TenantId, Timestamp)],
        lock: ZonesLock,
    ) -> Result<Option<Self>, Fault> {
        let (watermark, digest, of_a_node, days) = tokio::try_join!(biased;
            lock_stream(step, batch.stream),
            digests::load(step, batch.stream, batch.segment),
            quota_use::is_of_a_node(step, batch.stream),
            days::begin(step, buckets, lock),
        )?;
        Ok(days.map(|days| Self { watermark, digest, late: !of_a_node, days }))
    }
}

/// Takes the row of a stream, so that the last commit of a dead predecessor is before this one or after it. Gives its watermark.
async fn lock_stream(step: &Transaction<'_>, stream: StreamId) -> Result<u64, Fault> {
    let stream = [(&Id(stream.as_u128()) as _, Type::UUID)];
    let (_, row) = tokio::try_join!(biased;
        step.execute_typed(
            "INSERT INTO stream (stream, watermark, through) VALUES ($1, 0, -9223372036854775808) ON CONFLICT DO NOTHING",
            &stream,
        ),
        step.query_typed_one("SELECT watermark FROM stream WHERE stream = $1 FOR UPDATE", &stream),
    )?;
    units(&row, 0)
}

async fn move_watermark(step: &Transaction<'_>, batch: &Batch, after: u64) -> Result<(), Fault> {
    step.execute_typed(
        "UPDATE stream SET watermark = $2, through = greatest(through, $3) WHERE stream = $1",
        &[
            (&Id(batch.stream.as_u128()), Type::UUID),
            (&to_column(after), Type::INT8),
            (&batch.through.as_micros(), Type::INT8),
        ],
    )
    .await?;
    Ok(())
}

/// What is kept for a time.
async fn forget(step: &Transaction<'_>, batch: &Batch) -> Result<(), Fault> {
    let most = i64::try_from(batch.forgotten_at_most()).unwrap_or(i64::MAX);
    tokio::try_join!(biased;
        repeats::forget(step, batch.through, most),
        requests::forget(step, batch.through, most),
        quota_use::forget(step, batch.through, most),
        digests::forget(step, batch.through, most),
    )?;
    Ok(())
}

/// What a batch adds, summed.
struct Sums {
    rows: Vec<(RollupKey, RollupDelta)>,
    taken: QuotaUses,
    debts: BTreeMap<DebtKey, i64>,
    totals: BTreeMap<AuditKey, RollupDelta>,
    blocks: Vec<Block>,
}

impl Sums {
    fn of(batch: &Batch) -> Self {
        let rows = batch.rollups();
        let (taken, debts, totals) = (flush::quota_use(batch), flush::debt_use(batch), flush::totals(&rows));
        Self { rows, taken, debts, totals, blocks: blocks(batch) }
    }

    fn hours(&self) -> Vec<rollups::Row<'_>> {
        self.rows.iter().map(|(key, delta)| (key.bucket, key, *delta)).collect()
    }
}

/// The buckets of each tenant, in order.
fn buckets(batch: &Batch) -> Vec<(TenantId, Timestamp)> {
    let records = batch.records.iter().map(|record| (record.tenant, record.bucket));
    let mut buckets: Vec<_> = records.chain(batch.refusals.iter().map(|sum| (sum.tenant, sum.bucket))).collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

/// Computes beside the threads that serve requests: a batch takes milliseconds.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::unavailable(WHAT, error).into())
}
