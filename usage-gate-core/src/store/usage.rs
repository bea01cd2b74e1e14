//! Where usage ends up.

use std::fmt::Debug;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{RefusalSample, StoreError};
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
    /// Taken of a quota by a process that was killed before it forwarded the request: never billed, and not given again.
    Forfeited,
}

impl Outcome {
    /// All of them; the place of one is its number in what is stored, so that none ever moves.
    pub(crate) const ALL: [Self; 6] =
        [Self::Billed, Self::Unbilled, Self::Aborted, Self::Indeterminate, Self::Test, Self::Forfeited];

    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Billed => "billed",
            Self::Unbilled => "unbilled",
            Self::Aborted => "aborted",
            Self::Indeterminate => "indeterminate",
            Self::Test => "test",
            Self::Forfeited => "forfeited",
        }
    }
}

/// How the units of a record were found out; the least sure of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Measured {
    /// Fixed by the route, stated by handler or upstream, or measured to the byte.
    #[default]
    Exact,
    /// Counted by the gate as it passed, because nobody stated it.
    Counted,
    /// Derived from sizes.
    Estimated,
}

impl Measured {
    /// All of them; the place of one is its number in what is stored, so that none ever moves.
    pub(crate) const ALL: [Self; 3] = [Self::Exact, Self::Counted, Self::Estimated];

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

/// A counter in 8 bytes, for records: the first of the SHA-256 of its text. Two counters of one gate never share one in practice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterTag(pub u64);

impl CounterTag {
    /// The tag of a counter by its text, as [`CounterId`](super::CounterId) writes it.
    #[must_use]
    pub fn of_text(counter: &str) -> Self {
        let hash = Sha256::digest(counter.as_bytes());
        Self(hash.iter().take(8).fold(0, |tag, byte| (tag << 8) | u64::from(*byte)))
    }
}

/// What a request took of one quota, as its leases count it: the sum of these over all records of a counter and period is what its ledger says
/// was used (B9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaUse {
    /// The lower half of the lease's id; in records of older programs 0 for units that were spent before there was a lease.
    pub lease: u64,
    /// Of which counter.
    pub counter: CounterTag,
    /// Start of the period, in whole seconds.
    pub period: Timestamp,
    /// Units; negative where a lease that had ended was credited on another one.
    pub units: i64,
}

/// Units of every meter that one request, or a sum of them, took; by [`MeterIndex`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnitTotals {
    numbers: [u64; MAX_METERS],
    /// A bit for each that is not 0: most meters of most requests are.
    used: u16,
}

impl UnitTotals {
    /// Units of one meter.
    #[must_use]
    pub const fn of(&self, meter: MeterIndex) -> u64 {
        self.numbers[meter.position()]
    }

    /// Units of all meters, in their order.
    pub(crate) const fn numbers(&self) -> &[u64; MAX_METERS] {
        &self.numbers
    }

    /// Positions of meters with units, a bit each.
    pub(crate) const fn used(&self) -> u16 {
        self.used
    }

    /// Sets units of one meter.
    pub const fn set(&mut self, meter: MeterIndex, units: u64) {
        let place = meter.position();
        self.numbers[place] = units;
        self.used = self.used & !(1 << place) | ((units != 0) as u16) << place;
    }

    /// Adds units of one meter.
    pub const fn add(&mut self, meter: MeterIndex, units: u64) {
        self.set(meter, self.of(meter).saturating_add(units));
    }
}

/// What one request used: made once, when it ends.
#[derive(Debug, Clone)]
pub struct UsageRecord {
    /// Its place in the stream.
    pub sequence: u64,
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
    /// How the units were found out.
    pub measured: Measured,
    /// The bucket of the tenant's clock that `at` is in.
    pub bucket: Timestamp,
    /// What was taken of quotas.
    pub quotas: Vec<QuotaUse>,
    /// What makes requests repeats of one another: on routes that bill retries once, of requests that carry an `Idempotency-Key`, the hash of it
    /// with key, method, target and body.
    pub retry: Option<u128>,
}

/// Refusals of one kind, summed: a flood of refused requests is a few of these.
#[derive(Debug, Clone)]
pub struct RefusalSum {
    /// Its place in the stream.
    pub sequence: u64,
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
    pub code: Arc<str>,
    /// The limit that refused first, if it was one.
    pub limit: Option<Arc<str>>,
    /// How many.
    pub requests: u64,
    /// The bucket of the tenant's clock.
    pub bucket: Timestamp,
}

/// What a rollup row is keyed by. Rows are ordered as stores keep them: those of one meter of one tenant are neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RollupKey {
    /// Whose.
    pub tenant: TenantId,
    /// Which meter, by name.
    pub meter: Arc<str>,
    /// Start of the hour of the tenant's clock.
    pub bucket: Timestamp,
    /// By which key; the nil key for what was forfeited.
    pub key: KeyId,
    /// How it ended: a word of [`Outcome`], or `refused:<code>`.
    pub outcome: Arc<str>,
    /// The limit that refused, for refusals.
    pub limit: Option<Arc<str>>,
    /// Which route.
    pub route: Arc<str>,
    /// Live or test.
    pub environment: Environment,
    /// The key's user.
    pub user: Option<UserId>,
}

/// What is added to a rollup row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RollupDelta {
    /// Units of the meter.
    pub units: u64,
    /// Calls that took them.
    pub requests: u64,
}

impl RollupDelta {
    /// Adds another; ends at the largest number.
    pub const fn add(&mut self, other: Self) {
        self.units = self.units.saturating_add(other.units);
        self.requests = self.requests.saturating_add(other.requests);
    }
}

/// Usage of one journal stream, from `first` to `last`, in one piece.
///
/// A sequence is a place in the stream, from 1. Every item has one in this range, in order; a place without an item is one that the journal
/// passed over. An empty batch (`last` one below `first`) moves only [`through`](Self::through).
#[derive(Debug, Clone)]
pub struct Batch {
    /// Which process life.
    pub stream: StreamId,
    /// The first place of the segment that all of it lies in.
    pub segment: u64,
    /// The first place.
    pub first: u64,
    /// The last place.
    pub last: u64,
    /// Everything of the stream that was settled before this instant is in it or before it.
    pub through: Timestamp,
    /// The meters of the gate that wrote it, by which units are told apart.
    pub meters: Meters,
    /// Requests, and units that were forfeited.
    pub records: Vec<UsageRecord>,
    /// Refusals.
    pub refusals: Vec<RefusalSum>,
    /// A few refusals one by one, for the request log: at most [`Batch::MOST_SAMPLES`] are taken. They have no place in the stream, so that they
    /// are lost with the process, and with a batch of which some is known already.
    pub samples: Vec<RefusalSample>,
}

impl Batch {
    /// Samples of refusals that one batch carries at most.
    pub const MOST_SAMPLES: usize = 64;

    /// A batch of items that get the places from `first` on, records before refusals: for usage that comes from elsewhere than a journal.
    #[must_use]
    pub fn numbered(
        stream: StreamId,
        first: u64,
        through: Timestamp,
        meters: Meters,
        mut records: Vec<UsageRecord>,
        mut refusals: Vec<RefusalSum>,
    ) -> Self {
        let places =
            records.iter_mut().map(|r| &mut r.sequence).chain(refusals.iter_mut().map(|refusal| &mut refusal.sequence));
        let mut next = first;
        for place in places {
            *place = next;
            next = next.saturating_add(1);
        }
        let last = next.saturating_sub(1);
        Self { stream, segment: first, first, last, through, meters, records, refusals, samples: Vec::new() }
    }

    /// The batch summed into rollup rows, each once and in key order, so that writers of several batches never deadlock.
    ///
    /// A meter that took no units has no row, except `requests`: every call is counted there.
    #[must_use]
    pub fn rollups(&self) -> Vec<(RollupKey, RollupDelta)> {
        crate::flush::rollup(self)
    }

    /// Rows of each kind that taking it in forgets at most: more than it adds, so that what is kept stays bounded.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub(crate) const fn forgotten_at_most(&self) -> usize {
        self.records.len().saturating_mul(2).saturating_add(64)
    }
}

/// Takes usage in.
///
/// # Contract
/// One call is one transaction, in this order:
///
/// 1. The row of the stream is locked before anything is read, so that the last commit of a dead predecessor is before it or after it.
/// 2. **B3** a sequence of a stream counts once: what is at or below the watermark is dropped, whatever else the batch holds. A batch that
///    begins beyond the place after the watermark is not taken in at all, since what lies between would never count: the watermark comes back
///    as it was, below `first`, and the caller goes on from there. So a database that was restored from a backup is healed.
/// 3. Repeats: a record with a [`retry`](UsageRecord::retry) tag that would be billed becomes [`Unbilled`](Outcome::Unbilled) if one of that tag
///    was billed less than 24 hours away from it, three times at most; the next one is billed and begins anew.
/// 4. Rollups are added in key order.
/// 5. What was taken of quotas is added by counter and period: B9 compares it with the ledger.
/// 6. The digest of the segment grows: a hash over all its items as they came, and their sums. It stays for 400 days at least, beyond the
///    segment itself, with the places of the repeats that were made free.
/// 7. Requests, and the samples of refusals, go into the request log, for seven days.
/// 8. **B4** the watermark moves to `last`, and `through` forward, in the same transaction.
///
/// What is kept for a time is forgotten in bounded steps, a few rows with each call.
///
/// After an error the caller reads [`watermark`](Self::watermark) and goes on from there: it alone is trusted.
#[async_trait::async_trait]
pub trait UsageSink: Send + Sync + Debug + 'static {
    /// What it is, in a word for operators, such as `postgres`: what `/readyz` names when it is away.
    fn backend(&self) -> &'static str {
        "store"
    }

    /// Takes a batch in and gives the watermark after it; one below `first` says that nothing was taken in.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable): the outcome is unknown.
    async fn accept(&self, batch: Batch) -> Result<u64, StoreError>;

    /// The last sequence of the stream that was taken in; 0 for none.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn watermark(&self, stream: StreamId) -> Result<u64, StoreError>;
}
