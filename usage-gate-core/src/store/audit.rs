//! What a store knows of usage twice, side by side, for [`verify`](crate::verify::verify).

#[cfg(any(feature = "sqlite", feature = "postgres"))]
use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{CounterTag, RollupDelta};
use crate::model::{StreamId, TenantId, Timestamp};
use crate::period::Period;

/// Digests, and what was taken of quotas, are kept this long: a year and a month.
const KEPT_MICROS: i64 = 400 * 86_400 * 1_000_000;

/// Digests of segments that were last added to before this instant are forgotten, and which repeats in them were free.
pub(crate) const fn digests_kept_since(through: Timestamp) -> Timestamp {
    through.plus_micros(-KEPT_MICROS)
}

/// What was taken of quotas in periods that began before this instant is forgotten: a period is told by its start, which can be a year before its end.
pub(crate) const fn quota_use_kept_since(through: Timestamp) -> Timestamp {
    through.plus_micros(-2 * KEPT_MICROS)
}

/// Which usage to audit.
#[derive(Debug, Clone, Copy)]
pub struct AuditQuery {
    /// Buckets, and starts of quota periods, in `[start, end)`.
    pub period: Period,
    /// Only this tenant's.
    pub tenant: Option<TenantId>,
}

impl AuditQuery {
    pub(crate) fn wants(&self, tenant: TenantId, at: Timestamp) -> bool {
        self.period.contains(at) && self.tenant.is_none_or(|wanted| wanted == tenant)
    }
}

/// What an audit tells usage apart by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditKey {
    /// Whose.
    pub tenant: TenantId,
    /// Which meter, by name.
    pub meter: Arc<str>,
    /// Start of the hour of the tenant's clock.
    pub bucket: Timestamp,
    /// How it ended: a word of [`Outcome`](super::Outcome), or `refused:<code>`.
    pub outcome: Arc<str>,
}

/// What was taken in of one segment of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentDigest {
    /// The first place that was taken in.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Items that were taken in: records and sums of refusals.
    pub items: u64,
    /// The running hash of those items.
    pub hash: [u8; 32],
    /// Their sums, as far as they are asked for.
    pub totals: BTreeMap<AuditKey, RollupDelta>,
}

/// A counter of a quota in one period: its ledger beside what records say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterAudit {
    /// The counter's text, or its tag in hex where the ledger has no such window.
    pub counter: String,
    /// Its tag in records.
    pub tag: CounterTag,
    /// Whose.
    pub tenant: TenantId,
    /// The meter's name; empty where the ledger has no such window.
    pub meter: String,
    /// The period's start.
    pub period_start: Timestamp,
    /// Sizes of open leases and use of closed ones.
    pub granted: u64,
    /// Use of closed leases.
    pub used_closed: u64,
    /// Sizes of open leases.
    pub open_size: u64,
    /// Use of open leases, as far as it was reported.
    pub open_used: u64,
    /// What records say that was taken.
    pub recorded: i64,
    /// Of that, what was spent without a lease and the ledger was not told of yet.
    pub owed: u64,
    /// What was taken before records said so: by a program without a journal.
    pub unrecorded: u64,
    /// What is counted as used though nobody said so, because the leases' holder had lost its table: records have of it what was used.
    pub written_off: u64,
}

impl CounterAudit {
    /// What records took of a counter that the ledger does not know.
    pub(crate) fn without_window(
        (tag, period_start): (CounterTag, Timestamp),
        tenant: TenantId,
        recorded: i64,
    ) -> Self {
        Self {
            counter: format!("{:016x}", tag.0),
            tag,
            tenant,
            meter: String::new(),
            period_start,
            granted: 0,
            used_closed: 0,
            open_size: 0,
            open_used: 0,
            recorded,
            owed: 0,
            unrecorded: 0,
            written_off: 0,
        }
    }

    /// What the ledger knows as used.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.used_closed.saturating_add(self.open_used)
    }
}

/// Everything of one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// How far each stream was taken in.
    pub watermarks: BTreeMap<StreamId, u64>,
    /// What usage pages are made of.
    pub rollups: BTreeMap<AuditKey, RollupDelta>,
    /// By stream and segment, those that have usage of what is asked for. The segment 0 of the nil stream is usage from before there were any.
    pub digests: BTreeMap<(StreamId, u64), SegmentDigest>,
    /// Records that were made free as repeats, by stream and place: they count as unbilled.
    pub freed: BTreeSet<(StreamId, u64)>,
    /// Quotas.
    pub counters: Vec<CounterAudit>,
}

/// Names, each made once: there are few, and many rows.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
#[derive(Default)]
pub(crate) struct Words {
    known: HashMap<String, Arc<str>>,
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl Words {
    pub(crate) fn of(&mut self, text: &str) -> Arc<str> {
        if let Some(word) = self.known.get(text) {
            return Arc::clone(word);
        }
        let word = Arc::<str>::from(text);
        self.known.insert(text.to_owned(), Arc::clone(&word));
        word
    }
}
