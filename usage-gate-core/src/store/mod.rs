//! The six storage traits and what implements them.
//!
//! Each has one job, so that a custom backend implements only what it has. [`KeyStore`], [`QuotaStore`] and [`UsageSink`]
//! stand behind the request path, never on it: a key is resolved once and cached, units are leased in bulk, usage
//! is shipped in batches. [`AccountStore`], [`SessionStore`] and [`UsageReader`] serve management, the portal and dashboards.
//!
//! Every backend has the same six file names: keys, quotas, usage, accounts, sessions, reader.

mod accounts;
mod audit;
mod error;
mod feed;
mod keys;
mod quotas;
mod rates;
mod reader;
mod requests;
mod sessions;
mod usage;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod days;
#[cfg_attr(
    not(any(feature = "sqlite", feature = "postgres")),
    expect(dead_code, reason = "a store in memory has no schema")
)]
mod migrate;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod move_up;
mod paging;
mod repeats;
mod request_block;
mod request_log;
mod watermark;

pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "valkey")]
pub mod valkey;

pub use accounts::{AccountStore, Change, ChangeOutcome, Page, PageRequest, UserFilter};
pub use audit::{Audit, AuditKey, AuditQuery, CounterAudit, SegmentDigest};
pub(crate) use audit::{digests_kept_since, quota_use_kept_since};
pub use error::{StoreError, StoreErrorKind};
pub use keys::{Changed, Changes, FeedPosition, KeyStore, LastUse, ResolvedKey};
pub use memory::MemoryStore;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
pub use move_up::{Compared, Comparison, MoveState, MoveUp, Moved};
#[cfg(feature = "postgres")]
pub use postgres::{OLDEST_POSTGRES, PostgresOptions, PostgresReport, PostgresStore};
pub use quotas::{
    CounterId, Durability, LeaseAnswer, LeaseCall, LeaseDebt, LeaseGrant, LeaseId, LeaseReport, LeaseRequest,
    NodeIdentity, OpenLease, QuotaPromises, QuotaStore, Subject, TableId, WindowQuery, WindowState,
};
pub use rates::{
    LONGEST_RATE_LEASE, RateAnswer, RateCall, RateGrant, RateLeaseId, RateReport, RateRequest, RateState, RateStore,
    RateTerms, SLOT_LEASE_TIME, SlotGrant, SlotRequest,
};
pub use reader::{Dimension, UsageItem, UsagePage, UsageQuery, UsageReader, Window};
pub use requests::{ParseRequestPlaceError, RefusalSample, RequestItem, RequestPage, RequestPlace, RequestQuery};
pub use sessions::{Redemption, SessionStore};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};
pub use usage::{
    Batch, CounterTag, Measured, Outcome, QuotaUse, RefusalSum, RollupDelta, RollupKey, UnitTotals, UsageRecord,
    UsageSink,
};
#[cfg(feature = "valkey")]
pub use valkey::{ValkeyOptions, ValkeyReport, ValkeyStore};

#[cfg(test)]
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod day_walk;
