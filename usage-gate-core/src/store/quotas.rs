//! The authority of quotas: units are leased, spent from memory, reported and given back.

use std::fmt;
use std::fmt::Debug;
use std::net::{AddrParseError, IpAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{CounterTag, StoreError};
use crate::model::{KeyId, Per, StreamId, TenantId, Timestamp, UserId, number};
use crate::period::{Calendar, Period};

/// Whose use a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The tenant's.
    Tenant,
    /// One user's; `None` for keys without a user.
    User(Option<UserId>),
    /// One key's.
    Key(KeyId),
    /// One client address's; IPv6 cut to its /64.
    Ip(IpAddr),
}

impl fmt::Display for Subject {
    /// A stable text, unique in a tenant's limit, for stores that keep it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant => f.write_str("tenant"),
            Self::User(Some(user)) => write!(f, "{user}"),
            Self::User(None) => f.write_str("user:none"),
            Self::Key(key) => write!(f, "{key}"),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Subject {
    type Err = AddrParseError;

    /// Reads that text.
    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text {
            "tenant" => return Ok(Self::Tenant),
            "user:none" => return Ok(Self::User(None)),
            _ => {}
        }
        if let Ok(user) = text.parse() {
            return Ok(Self::User(Some(user)));
        }
        if let Ok(key) = text.parse() {
            return Ok(Self::Key(key));
        }
        text.parse().map(Self::Ip)
    }
}

/// What a quota is counted under. It does not name the plan or its version: use is kept when limits change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterId {
    /// Whose limit.
    pub tenant: TenantId,
    /// Whose use.
    pub subject: Subject,
    /// The limit's name in the plan.
    pub limit: Arc<str>,
    /// The meter's name.
    pub meter: Arc<str>,
    /// The unit of its period; rates and concurrency keep their counters under theirs (`Second` for concurrency).
    pub per: Per,
}

impl fmt::Display for CounterId {
    /// A stable text, unique per counter, for stores that key by text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}/", self.tenant, self.limit, self.meter, self.per.as_str())?;
        match self.subject {
            Subject::Ip(address) => write!(f, "ip:{address}"),
            subject => write!(f, "{subject}"),
        }
    }
}

impl CounterId {
    /// The counter in 8 bytes.
    #[must_use]
    pub fn tag(&self) -> CounterTag {
        CounterTag::of_text(&self.to_string())
    }
}

number!(
    /// One lease, named by the node before it asks.
    LeaseId
);

impl LeaseId {
    /// The lower half of the number, by which records cite the lease.
    #[must_use]
    pub fn tag(self) -> u64 {
        u64::try_from(self.0 & u128::from(u64::MAX)).unwrap_or(0)
    }
}

impl Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lse_{:032x}", self.0)
    }
}

/// Set in the tag of a debt, and never in that of a lease that was asked for: there the second bit of a UUID's variant is 0.
const DEBT: u64 = 1 << 62;
/// Set in both.
const VARIANT: u64 = 1 << 63;

impl LeaseId {
    /// A new id of a [`LeaseDebt`]. Whoever reads it in a record knows it from that of a granted lease.
    #[must_use]
    pub fn generate_debt() -> Self {
        Self(Self::generate().0 | u128::from(VARIANT | DEBT))
    }

    /// Whether this is the [`tag`](Self::tag) of a debt.
    #[must_use]
    pub const fn is_debt(tag: u64) -> bool {
        tag & (VARIANT | DEBT) == VARIANT | DEBT
    }
}

number!(
    /// Where a node keeps what it has leased: the same through restarts as long as the node knows what is left of every lease.
    TableId
);

impl Debug for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tab_{:032x}", self.0)
    }
}

/// Which node asks, and in which of its process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node's name, the same through restarts.
    pub node: String,
    /// This process life.
    pub boot: StreamId,
    /// Where it keeps its leases; looked at by [`QuotaStore::register`] only.
    pub table: TableId,
}

/// A lease that the authority has open for a node whose new life has registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenLease {
    /// Which.
    pub lease: LeaseId,
    /// Units that were granted.
    pub size: u64,
    /// Spent as far as it was reported.
    pub used: u64,
    /// Of which period.
    pub period: Period,
}

/// What a node has spent of an open lease so far. Cumulative: repeating or reordering reports does no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseReport {
    /// Which lease.
    pub lease: LeaseId,
    /// Units spent of it since it was granted; more than its size if it went into debt.
    pub used: u64,
}

/// Units that were spent where no lease of their period was open: a lease that is spent before it is known, and is closed as soon as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseDebt {
    /// Made by the node before it is spent ([`LeaseId::generate_debt`]): what is told of it counts once.
    pub lease: LeaseId,
    /// Of what.
    pub counter: CounterId,
    /// In which period, by the node's clock; it may have ended.
    pub period: Period,
    /// The limit's units in a period, for a window that nothing has used yet.
    pub cap: u64,
    /// Of that cap, as in a [`LeaseRequest`].
    pub cap_version: u32,
    /// Units spent. Where a smaller number of the same debt is booked, the difference is; a larger one stays.
    pub used: u64,
}

/// A wish for units of one counter.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// Made by the node before it asks: the same id gets the same grant.
    pub lease: LeaseId,
    /// Of what.
    pub counter: CounterId,
    /// The tenant's calendar, of which the authority computes the period by its own clock.
    pub calendar: Calendar,
    /// The limit's units in a period.
    pub cap: u64,
    /// A number that grows with every change of the terms: the feed position at which they were read. A window keeps the cap with the highest
    /// number it has seen, so that a node that is behind does not undo a change. Not the plan's version, which falls when a tenant moves to a
    /// younger plan.
    pub cap_version: u32,
    /// Units of the counter's meter wished for.
    pub want: u64,
    /// Whether use goes on beyond the cap (`when_exceeded = "allow"`): then the whole wish is granted always, and what exceeds
    /// the cap is booked as overrun.
    pub beyond_cap: bool,
    /// Whether to take units of the period that holds a minute from the authority's now: of the next one if it begins by then, so that its first
    /// instant is no stampede. They are spent in their own period only (A4); [`LeaseGrant::window`] says which that is.
    pub early: bool,
    /// Units that a waiting request needs at once, of `want`; 0 if nobody waits. So many are granted if they are there, whatever the share of a node is.
    /// If they are not, and other nodes have open leases of the window, those are [recalled](LeaseAnswer::recalled).
    pub needed: u64,
}

/// How far ahead of a period its units may be leased.
const EARLY_MICROS: i64 = 60 * 1_000_000;

impl LeaseRequest {
    /// The period that is asked for, by the authority's clock.
    pub(crate) fn period(&self, now: Timestamp) -> Period {
        self.calendar.period(self.counter.per, self.instant(now))
    }

    /// An instant in that period.
    pub(crate) const fn instant(&self, now: Timestamp) -> Timestamp {
        if self.early { now.plus_micros(EARLY_MICROS) } else { now }
    }
}

/// Everything a node tells and asks in one round trip; the store does all of it or nothing, in this order.
#[derive(Debug, Clone)]
pub struct LeaseCall {
    /// Who asks.
    pub node: NodeIdentity,
    /// Which call of this process life it is: larger than that of any before it, and the same when it is repeated. A call that is not newer than the
    /// latest that asked for units is a repeat, or has been overtaken: nothing new is granted to it.
    pub number: u64,
    /// What was spent of leases that stay open.
    pub reports: Vec<LeaseReport>,
    /// Leases that end here, with what was spent of them in the end: the rest goes back. It may be less than was reported, since requests that
    /// held units at that time may have given some back.
    pub returns: Vec<LeaseReport>,
    /// What was spent without a lease.
    pub debts: Vec<LeaseDebt>,
    /// New leases; sorted by counter, so that calls of several nodes do not deadlock.
    pub requests: Vec<LeaseRequest>,
}

impl LeaseCall {
    /// A call that says nothing yet, with a larger number than any that this process has made.
    ///
    /// ```
    /// use usage_gate_core::model::StreamId;
    /// use usage_gate_core::store::{LeaseCall, NodeIdentity, TableId};
    ///
    /// let node = NodeIdentity { node: "a".to_owned(), boot: StreamId::generate(), table: TableId::generate() };
    /// assert!(LeaseCall::new(&node).number < LeaseCall::new(&node).number);
    /// ```
    #[must_use]
    pub fn new(node: &NodeIdentity) -> Self {
        /// A process is one life of each of its nodes.
        static CALLS: AtomicU64 = AtomicU64::new(0);
        // Relaxed: a node makes its calls one after the other.
        let number = CALLS.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let (reports, returns, debts, requests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { node: node.clone(), number, reports, returns, debts, requests }
    }
}

/// One counter in one period, as its authority knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowState {
    /// The period.
    pub period: Period,
    /// The cap that holds.
    pub cap: u64,
    /// Sizes of open leases and use of closed ones, together; at most `cap` unless use went beyond it knowingly.
    pub granted: u64,
    /// Spent as far as it was reported; never more than `granted`, plus debts not yet booked.
    pub used: u64,
}

impl WindowState {
    /// Leased and not reported as spent.
    #[must_use]
    pub const fn reserved(&self) -> u64 {
        self.granted.saturating_sub(self.used)
    }
}

/// The answer to one [`LeaseRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Which request.
    pub lease: LeaseId,
    /// Units granted and debited: from 0 to what was wanted. With 0 there is no lease to return.
    pub units: u64,
    /// The counter after this call.
    pub window: WindowState,
}

/// The answer to a [`LeaseCall`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The authority's clock when it decided: deadlines are computed from it, never from the node's own.
    pub now: Timestamp,
    /// Nodes that hold leases here, this one included: grants are smaller where there are more.
    pub active_nodes: u32,
    /// One for each request, in their order.
    pub grants: Vec<LeaseGrant>,
    /// Open leases of this node that others need units of, ordered by id: all that were open when a window was recalled, at most once in 250 ms. To be
    /// given back as far as they are not in use; until then every answer names them.
    pub recalled: Vec<LeaseId>,
}

/// A question about a counter's present use.
#[derive(Debug, Clone)]
pub struct WindowQuery {
    /// Which.
    pub counter: CounterId,
    /// The tenant's calendar.
    pub calendar: Calendar,
    /// The limit's units, for a window that nothing has used yet.
    pub cap: u64,
}

/// How long granted units are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// As long as the process lives.
    Process,
    /// Through restarts and power loss, once a call has returned.
    Durable,
}

/// What a quota store promises; the conformance suite tests just that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaPromises {
    /// How long granted units are remembered.
    pub durability: Durability,
    /// Whether several nodes may lease from it.
    pub many_nodes: bool,
}

impl QuotaPromises {
    /// States the promises.
    #[must_use]
    pub const fn new(durability: Durability, many_nodes: bool) -> Self {
        Self { durability, many_nodes }
    }
}

/// The authority for quotas.
///
/// # Contract
/// - **A1** what is granted of a counter in a period is never more than its cap (or what was granted before the cap was lowered, or
///   booked as debt and overrun).
/// - **A2** granted = sizes of open leases + use of closed ones.
/// - **A5** what the store does not know creates no capacity: a report or return of an unknown or closed lease changes nothing.
/// - A debt is booked whatever the cap, once by its lease id, as granted and used of its period; the window is made if there is none. A period
///   so old that its window would be forgotten at once is passed over. Debts come after returns and before requests, so that what is granted
///   in the same call knows of them.
/// - A lease of which others need units is named to its holder in every answer until it is closed; only its holder gives it back (A6).
/// - A call is one transaction. Repeating it (after a lost answer) grants the same and debits nothing more. Where the first copy was granted nothing, so
///   is every other, whatever has become free meanwhile, and however late it comes: of each life the [number](LeaseCall::number) of its latest
///   call for units is kept, and a call that is not newer gets what is known by the ids of its leases, else 0. What it reports, returns and tells counts.
/// - A call of a process life that is not the node's latest is refused with
///   [`Superseded`](super::StoreErrorKind::Superseded).
///
/// The suite `conformance::quotas` tests it. Source: bounded counters, Balegas et al. 2015, arXiv 1503.09052.
#[async_trait::async_trait]
pub trait QuotaStore: Send + Sync + Debug + 'static {
    /// What it is, in a word for operators, such as `postgres`: what `/readyz` names when it is away.
    fn backend(&self) -> &'static str {
        "store"
    }

    /// What it promises.
    fn promises(&self) -> QuotaPromises;

    /// Announces a new process life of a node, and gives the leases that the node has open, ordered by id.
    ///
    /// Leases that earlier lives left open under the same [`table`](NodeIdentity::table) go over to the new life, which knows what is left of
    /// them. Under another table they are closed as spent: nobody can say what was left of them, and units are never given back by
    /// guess (A6). From here on calls of an earlier life are refused.
    ///
    /// Repeating it changes nothing and gives the same leases.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable): repeat it.
    async fn register(&self, node: &NodeIdentity) -> Result<Vec<OpenLease>, StoreError>;

    /// Leases units of several counters, each debited before this returns; takes reports and returns along.
    ///
    /// A grant may be smaller than wanted, down to 0, never larger. Exhausted is a grant of 0, not an error. A debt (a report
    /// above the lease's size) is booked against the counter, cap or no cap.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable): the outcome is unknown, repeat the same call;
    /// [`Superseded`](super::StoreErrorKind::Superseded): stop.
    async fn lease(&self, call: &LeaseCall) -> Result<LeaseAnswer, StoreError>;

    /// Present use of counters, in the order asked.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn windows(&self, queries: &[WindowQuery]) -> Result<Vec<WindowState>, StoreError>;

    /// The subjects of a tenant's limit that have been counted in the period that holds now, with their windows: at most `most`, the fullest
    /// first. `template` names tenant, limit, meter and per; its subject is not looked at.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn subjects(&self, template: &WindowQuery, most: usize) -> Result<Vec<(CounterId, WindowState)>, StoreError>;

    /// Waits until somebody may have recalled leases, or a second has passed, and says which of both. Which leases is in the answer to the next
    /// [`lease`](Self::lease).
    ///
    /// Only a hint: what is recalled while nobody waits here is not kept for the next who does. A store that cannot push keeps this, which is the second.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn recalls(&self) -> Result<bool, StoreError> {
        tokio::time::sleep(RECALLS_LOOKED_FOR).await;
        Ok(false)
    }

    /// How long ago, by the authority's clock, this incarnation of a rate store (a Valkey's `master_replid`) was first asked about. The first
    /// question is noted, and answered with zero.
    ///
    /// The first incarnation that a store is ever asked about may count as an hour old: nothing was lent before it that anybody could have forgotten.
    ///
    /// A store that keeps no note may always answer zero, as this does: an incarnation that seems new never owns more than an old one (R3).
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable).
    async fn incarnation_age(&self, incarnation: &str) -> Result<Duration, StoreError> {
        let _ = incarnation;
        Ok(Duration::ZERO)
    }
}

/// How long [`QuotaStore::recalls`] waits at most.
pub(crate) const RECALLS_LOOKED_FOR: Duration = Duration::from_secs(1);
