//! Limits: how much of a meter may be used.

/// What a limit is: a token bucket, units in a calendar period, or requests open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Units per second, minute or hour, with a burst.
    Rate,
    /// Units per day, week, month or year of the tenant's calendar.
    Quota,
    /// Requests open at once.
    Concurrency,
}

impl LimitKind {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Quota => "quota",
            Self::Concurrency => "concurrency",
        }
    }
}

/// A unit of time that a limit is counted per.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words say it")]
pub enum Per {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Per {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// Seconds, for the units of a rate; `None` for those of a calendar.
    #[must_use]
    pub const fn seconds(self) -> Option<u64> {
        match self {
            Self::Second => Some(1),
            Self::Minute => Some(60),
            Self::Hour => Some(3600),
            Self::Day | Self::Week | Self::Month | Self::Year => None,
        }
    }

    /// Seconds that a period has at most: what `w` in `RateLimit-Policy` says of it.
    #[must_use]
    pub const fn longest_seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
            Self::Week => 7 * 86_400,
            Self::Month => 31 * 86_400,
            Self::Year => 366 * 86_400,
        }
    }
}

/// What a limit counts by: whose use goes into one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedBy {
    /// All keys of the tenant together.
    Tenant,
    /// All keys of one user; keys without a user are counted together.
    User,
    /// Each key alone.
    Key,
    /// Each client address alone (IPv6 by /64), within the tenant.
    Ip,
}

impl CountedBy {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Key => "key",
            Self::Ip => "ip",
        }
    }
}

/// What happens to a request that passes a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenExceeded {
    /// It is refused.
    #[default]
    Block,
    /// It is counted and shown, never refused.
    Allow,
}

impl WhenExceeded {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Allow => "allow",
        }
    }
}

/// What a node does for this limit while the limit's authority is away and nothing is leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreAway {
    /// Refuse with 503: never a unit too many. The default of quotas.
    Exact,
    /// Go on with this node's share of the rate. The default of rates and concurrency.
    Share,
    /// Refuse with 503.
    Refuse,
    /// Go on for at most this many units more a node and counter.
    Overdraft(u64),
}

/// One limit of a plan, with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limit {
    /// Unique in its plan; what clients see in headers and refusals.
    pub name: String,
    /// What kind of limit.
    pub kind: LimitKind,
    /// The meter whose units it counts.
    pub meter: String,
    /// Units per [`per`](Self::per); for concurrency the requests that may be open.
    pub units: u64,
    /// Per what; `None` for concurrency only.
    pub per: Option<Per>,
    /// Units that may pass at once, for rates; otherwise equal to `units`.
    pub burst: u64,
    /// Whose use is counted together.
    pub counted_by: CountedBy,
    /// Names of the routes it is for; `None` for all.
    pub routes: Option<Vec<String>>,
    /// What passing it means, for quotas.
    pub when_exceeded: WhenExceeded,
    /// What holds while the authority is away.
    pub store_away: StoreAway,
}
