//! The authority of rates and of requests open at once, where several nodes share them. Class R of the protocols.
//!
//! It is apart from [`QuotaStore`](super::QuotaStore), because what it keeps is short-lived and need not be durable: a Valkey does it, which would be no ledger.
//! One node needs none: its own memory is the authority.

use std::fmt;
use std::fmt::Debug;
use std::time::Duration;

use tokio::sync::watch;

use super::{CounterId, StoreError};
use crate::model::number;

/// A rate: a bucket of `burst` units that refills by `units` in `seconds`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateTerms {
    /// Units that come back in [`seconds`](Self::seconds); at least 1.
    pub units: u64,
    /// 1, 60 or 3600.
    pub seconds: u64,
    /// Units that may pass at once; at least 1.
    pub burst: u64,
}

impl RateTerms {
    /// For how long units of this rate are lent: a quarter of the time in which the bucket refills, from 50 ms to 1 s. Short leases of small buckets,
    /// because what a dead node held is lost to the others until it ends.
    #[must_use]
    pub fn lease_time(&self) -> Duration {
        self.refill_time().checked_div(4).unwrap_or_default().clamp(Duration::from_millis(50), LONGEST_RATE_LEASE)
    }

    /// The time in which an empty bucket is full again.
    #[must_use]
    pub fn refill_time(&self) -> Duration {
        let micros = u128::from(self.burst) * u128::from(self.seconds) * 1_000_000 / u128::from(self.units.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// Into how many parts a unit is divided, so that a microsecond refills a whole number of them; and that number.
    #[must_use]
    pub fn parts(&self) -> (u64, u64) {
        let (units, micros) = (self.units.max(1), self.seconds.max(1).saturating_mul(1_000_000));
        let common = greatest_common_divisor(units, micros);
        (micros / common, units / common)
    }

    /// Whether an authority may keep it that forgets when it restarts, and that counts in numbers of 53 bits, as Lua does: the bucket refills within a minute, and
    /// all that it holds, in [`parts`](Self::parts), and what one microsecond more adds, is such a number. Below 150 million units a second the minute decides.
    #[must_use]
    pub fn are_short_lived(&self) -> bool {
        let (scale, refill) = self.parts();
        let most = u128::from(self.burst) * u128::from(scale) + u128::from(refill);
        most <= 1 << 53 && self.refill_time() <= Duration::from_secs(60)
    }
}

const fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// The longest [`RateTerms::lease_time`] of all rates: whoever does not know with which terms units were lent waits for so long.
pub const LONGEST_RATE_LEASE: Duration = Duration::from_secs(1);

number!(
    /// Units of a rate that are lent to a node, named by the node before it asks.
    RateLeaseId
);

impl Debug for RateLeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rls_{:032x}", self.0)
    }
}

/// What a node has spent of one of its leases. Cumulative: repeating or reordering it does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateReport {
    /// Which lease.
    pub lease: RateLeaseId,
    /// Units spent of it since it was granted, of which none comes back to it.
    pub spent: u64,
}

/// What a node tells and wishes of one rate.
#[derive(Debug, Clone)]
pub struct RateRequest {
    /// Which counter; `per` is the unit of the rate.
    pub counter: CounterId,
    /// The terms, as this node knows them. They hold for this call: raising or lowering a rate keeps what is in the bucket, up to the burst.
    pub terms: RateTerms,
    /// What was spent of leases that stay open.
    pub spent: Vec<RateReport>,
    /// Leases that end here: what is left of them goes back into the bucket.
    pub returned: Vec<RateReport>,
    /// Made by the node before it asks: the same id gets the same grant, as long as its lease lasts. A grant of nothing makes no lease.
    pub lease: RateLeaseId,
    /// Units wished for; with 0 nothing is granted.
    pub want: u64,
}

/// What became of a [`RateRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateGrant {
    /// Units lent, from 0 to what was wanted, for [`RateTerms::lease_time`] from the moment at which the authority decided: a node counts from when it sent
    /// the call, and stops a little sooner.
    pub units: u64,
    /// The bucket afterwards.
    pub state: RateState,
}

/// A bucket, as its authority knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    /// Whole units that nobody holds.
    pub level: u64,
    /// Units lent and not told as spent: they occupy the bucket until they are spent or dead.
    pub outstanding: u64,
    /// Until one unit more is free, if nothing else happens; zero while the bucket is full. Nothing frees a unit by time while all of the burst is lent: then it
    /// is the time until the first lease ends.
    pub next_in: Duration,
}

/// What a node tells and wishes of the places of one limit of requests open at once.
#[derive(Debug, Clone)]
pub struct SlotRequest {
    /// Which counter.
    pub counter: CounterId,
    /// Rises with every wish of this node, its later lives included (microseconds of a clock that goes on while the process does not). A late call that is older than what
    /// was last heard of the node changes nothing: it would take away places that the node has been given since.
    pub sequence: u64,
    /// Requests open at once, over all nodes.
    pub limit: u64,
    /// Places of this node that it has and keeps: it must be told at least every third of [`SLOT_LEASE_TIME`]. Less than it had gives the rest back.
    pub keep: u64,
    /// Further places wished for.
    pub more: u64,
}

/// For how long a node that is not heard of keeps its places.
pub const SLOT_LEASE_TIME: Duration = Duration::from_secs(6);

/// What became of a [`SlotRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotGrant {
    /// Places of this node from now on: what it keeps, and what was added.
    pub slots: u64,
    /// Places of all other nodes.
    pub elsewhere: u64,
}

/// Everything that a node tells and asks in one round trip.
#[derive(Debug, Clone)]
pub struct RateCall {
    /// The node's name.
    pub node: String,
    /// At most one for each counter.
    pub rates: Vec<RateRequest>,
    /// At most one for each counter.
    pub slots: Vec<SlotRequest>,
}

/// The answer to a [`RateCall`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RateAnswer {
    /// One for each rate, in their order.
    pub rates: Vec<RateGrant>,
    /// One for each limit of requests open at once, in their order.
    pub slots: Vec<SlotGrant>,
    /// Nodes that were heard of within the last minute, this one included.
    pub active_nodes: u32,
    /// Counters that have no answer in this call, each with why: what is kept of them cannot be read. What stands in their place above says nothing. They are asked for
    /// again, and the others are not affected.
    pub broken: Vec<(CounterId, String)>,
}

/// The authority for rates and concurrency of several nodes.
///
/// # Contract
/// - **R1** what is in a bucket and what is lent of it and not spent are never more than its burst together; so in any interval of length t at most
///   `burst + rate x t` units pass over all nodes.
/// - Units die with their lease, which ends by the authority's clock; leases end in the order of time, so that the bucket refills in between.
/// - **R3** what the authority has forgotten, because it was restarted empty, or because a replica took over that was behind, is owned by nobody: nothing is granted
///   before every lease that could have been lent before has ended, and then the bucket begins empty. A counter that is not there for longer than that is one
///   that was never used, and begins full.
/// - Requests of one call are independent of each other; each is done whole or not at all. Repeating a call grants the same.
///
/// The suite `conformance::rates` tests it. Source: leases with a bounded life, Gray and Cheriton 1989; token bucket, RFC 2697.
#[async_trait::async_trait]
pub trait RateStore: Send + Sync + Debug + 'static {
    /// What it is, in a word for operators, such as `postgres`: what `/readyz` names when it is away.
    fn backend(&self) -> &'static str {
        "store"
    }

    /// Takes reports and gives units and places.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable): the outcome is unknown, repeat the same call.
    async fn lease_rates(&self, call: &RateCall) -> Result<RateAnswer, StoreError>;

    /// Tells all nodes that keys, tenants or plans have changed, if this store has a bell. Nothing depends on it: what it fails to tell is found by the next look at the feed.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable): nobody may have heard it.
    async fn ring(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// What is marked as changed when any node has rung; it may be for nothing. `None` without a bell. Called on a Tokio runtime.
    fn rung(&self) -> Option<watch::Receiver<()>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_as_many_parts_as_whole_numbers_need() {
        let parts = |units, seconds| RateTerms { units, seconds, burst: 1 }.parts();
        assert_eq!(parts(100, 1), (10_000, 1));
        assert_eq!(parts(7, 60), (60_000_000, 7));
        assert_eq!(parts(3_000_000, 1), (1, 3));
    }

    #[test]
    fn long_and_very_fast_rates_are_not_for_authorities_that_forget() {
        let short = |units, seconds, burst| RateTerms { units, seconds, burst }.are_short_lived();
        assert!(short(1, 1, 60) && short(60, 3_600, 1) && short(149_999_999, 1, 60 * 149_999_999));
        assert!(!short(1, 1, 61) && !short(59, 3_600, 1) && !short(299_999_999, 1, 60 * 299_999_999));
    }

    #[test]
    fn leases_of_small_buckets_are_short() {
        let time = |units, seconds, burst| RateTerms { units, seconds, burst }.lease_time().as_millis();
        assert_eq!(time(100, 1, 100), 250);
        assert_eq!(time(100, 1, 20), 50);
        assert_eq!(time(60, 60, 60), 1_000);
        assert_eq!(time(1, 3_600, u64::MAX), 1_000);
    }
}
