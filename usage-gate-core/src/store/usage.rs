//! Where usage ends up.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use super::StoreError;
use crate::model::{
    Environment, KeyId, MAX_METERS, MeterIndex, Meters, RequestId, StreamId, TenantId, Timestamp, UserId,
};

/// How a request ended, for the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Served and billed.
    Billed,
    /// Served with a status that is not in the route's `bill_on`.
    Unbilled,
    /// The client left while the body streamed; billed for what was handed to it.
    Aborted,
    /// Forwarded, but no response head was ever released.
    Indeterminate,
    /// Served to a test key: shown, never billed.
    Test,
}

impl Outcome {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Billed => "billed",
            Self::Unbilled => "unbilled",
            Self::Aborted => "aborted",
            Self::Indeterminate => "indeterminate",
            Self::Test => "test",
        }
    }
}

/// How the units of a request became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Measured {
    /// Measured by us, or told by the upstream.
    #[default]
    Exact,
    /// The upstream did not tell the tokens: counted from the deltas that passed.
    Counted,
    /// Neither: estimated from the sizes of what was asked and answered.
    Estimated,
}

impl Measured {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Counted => "counted",
            Self::Estimated => "estimated",
        }
    }
}

/// Units of every meter that one request, or a sum of them, took; by [`MeterIndex`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitTotals([u64; MAX_METERS]);

impl UnitTotals {
    /// Units of one meter.
    #[must_use]
    pub const fn of(&self, meter: MeterIndex) -> u64 {
        self.0[meter.position()]
    }

    /// Sets units of one meter.
    pub const fn set(&mut self, meter: MeterIndex, units: u64) {
        self.0[meter.position()] = units;
    }

    /// Adds units of one meter.
    pub const fn add(&mut self, meter: MeterIndex, units: u64) {
        self.0[meter.position()] = self.0[meter.position()].saturating_add(units);
    }
}

/// What one request used: made once, when it ends.
#[derive(Debug, Clone)]
pub struct UsageRecord {
    /// Which request.
    pub request: RequestId,
    /// When it was admitted.
    pub at: Timestamp,
    /// Whose.
    pub tenant: TenantId,
    /// The key's user, if it has one.
    pub user: Option<UserId>,
    /// By which key.
    pub key: KeyId,
    /// Live or test.
    pub environment: Environment,
    /// Which route, by name.
    pub route: Arc<str>,
    /// The response's status; 0 without a head.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Units by meter.
    pub units: UnitTotals,
    /// The bucket of the tenant's clock that `at` is in.
    pub bucket: Timestamp,
}

/// Refusals of one kind, summed: a flood of refused requests is a few of these.
#[derive(Debug, Clone)]
pub struct RefusalSum {
    /// Whose.
    pub tenant: TenantId,
    /// The key's user, if it has one.
    pub user: Option<UserId>,
    /// By which key.
    pub key: KeyId,
    /// Live or test.
    pub environment: Environment,
    /// Which route, by name; empty if none matched.
    pub route: Arc<str>,
    /// The refusal's code, such as `rate_limited`.
    pub code: &'static str,
    /// The limit that refused first, if it was one.
    pub limit: Option<Arc<str>>,
    /// How many.
    pub requests: u64,
    /// The bucket of the tenant's clock.
    pub bucket: Timestamp,
}

/// What a rollup row is keyed by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RollupKey {
    /// Whose.
    pub tenant: TenantId,
    /// Start of the hour of the tenant's clock.
    pub bucket: Timestamp,
    /// The key's user.
    pub user: Option<UserId>,
    /// By which key.
    pub key: KeyId,
    /// Live or test.
    pub environment: Environment,
    /// Which route.
    pub route: Arc<str>,
    /// Which meter, by name.
    pub meter: Arc<str>,
    /// How it ended: a word of [`Outcome`], or `refused:<code>`.
    pub outcome: Arc<str>,
    /// The limit that refused, for refusals.
    pub limit: Option<Arc<str>>,
}

/// What is added to a rollup row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RollupDelta {
    /// Units of the meter.
    pub units: u64,
    /// Calls that took them.
    pub requests: u64,
}

/// Usage of one journal stream, from `first` to `last`, in one piece.
///
/// Sequences number what the stream holds (records and refusal sums) from 1 without a gap. An empty batch (`last` one below `first`)
/// moves only [`through`](Self::through).
#[derive(Debug, Clone)]
pub struct Batch {
    /// Which process life.
    pub stream: StreamId,
    /// Sequence of the first item.
    pub first: u64,
    /// Sequence of the last item.
    pub last: u64,
    /// Everything of the stream that was settled before this instant is in it or before it.
    pub through: Timestamp,
    /// The gate's meters, by which units are told apart.
    pub meters: Meters,
    /// Requests.
    pub records: Vec<UsageRecord>,
    /// Refusals.
    pub refusals: Vec<RefusalSum>,
}

impl Batch {
    /// The batch summed into rollup rows, in key order, so that writers of several batches never deadlock.
    ///
    /// A meter that took no units has no row, except `requests`: every call is counted there.
    #[must_use]
    pub fn rollups(&self) -> BTreeMap<RollupKey, RollupDelta> {
        crate::flush::rollup(self)
    }
}

/// Takes usage in.
///
/// # Contract
/// - **B3** a sequence of a stream counts once: what is at or below the watermark is dropped, whatever else the batch holds.
/// - **B4** watermark and usage move in one transaction.
///
/// After an error the caller reads [`watermark`](Self::watermark) and goes on from there: it alone is trusted.
#[async_trait::async_trait]
pub trait UsageSink: Send + Sync + Debug + 'static {
    /// Takes a batch in and gives the watermark after it.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable): the outcome is unknown.
    async fn accept(&self, batch: &Batch) -> Result<u64, StoreError>;

    /// The last sequence of the stream that was taken in; 0 for none.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError>;
}
