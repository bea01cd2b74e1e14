//! Who calls during an outage: tenants with a limit each, and its policy.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use usage_gate_tests::cluster::{Cluster, Load};

/// Units a second of a rate, and its burst.
pub(super) const RATE: u32 = 30;
/// Units that a node may give of a quota while its authority is away, where that is the policy.
pub(super) const OVERDRAFT: usize = 20;

/// A limit and its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// A quota that is not nearly used up.
    Plenty,
    /// A quota that the outage outlasts, with `exact`.
    Exact,
    /// The same with an overdraft.
    Overdraft,
    /// A rate of which each node goes on with its part.
    Share,
    /// A rate that is refused without its authority.
    Refuse,
}

pub(super) const POLICIES: [Policy; 5] =
    [Policy::Plenty, Policy::Exact, Policy::Overdraft, Policy::Share, Policy::Refuse];

impl Policy {
    pub(super) const fn is_rate(self) -> bool {
        matches!(self, Self::Share | Self::Refuse)
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Plenty => "quota, far from its end",
            Self::Exact => "quota, `exact`",
            Self::Overdraft => "quota, `overdraft`",
            Self::Share => "rate, `share`",
            Self::Refuse => "rate, `refuse`",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Plenty => "plenty",
            Self::Exact => "exact",
            Self::Overdraft => "overdraft",
            Self::Share => "share",
            Self::Refuse => "refuse",
        }
    }

    fn limits(self, units: usize) -> Value {
        let quota = |units: usize, away: Value| json!([{"name": "month", "kind": "quota", "meter": "requests", "units": units, "per": "month", "counted_by": "tenant", "store_away": away}]);
        let rate = |away: &str| {
            json!([{"name": "burst", "kind": "rate", "meter": "requests", "units": RATE, "per": "second", "burst": RATE, "counted_by": "tenant",
                "store_away": away}])
        };
        match self {
            Self::Plenty => quota(1_000_000, json!("exact")),
            Self::Exact => quota(units, json!("exact")),
            Self::Overdraft => quota(units, json!({"overdraft": OVERDRAFT})),
            Self::Share => rate("share"),
            Self::Refuse => rate("refuse"),
        }
    }

    /// Clients, and the pause of each between two requests: together 20 to 60 requests a second.
    const fn pace(self) -> (u64, Duration) {
        match self {
            Self::Plenty => (4, Duration::from_millis(200)),
            Self::Exact | Self::Overdraft => (4, Duration::from_millis(100)),
            Self::Share | Self::Refuse => (4, Duration::from_millis(66)),
        }
    }
}

/// A tenant that calls.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) policy: Policy,
    pub(super) tenant: String,
    pub(super) key: String,
}

impl Caller {
    pub(super) async fn new(cluster: &Cluster, policy: Policy, quota: usize) -> Self {
        let (tenant, key) = cluster.key(policy.name(), policy.limits(quota)).await;
        Self { policy, tenant, key }
    }

    pub(super) fn load(&self, urls: &Arc<Mutex<Vec<String>>>) -> Load {
        let (clients, pause) = self.policy.pace();
        Load::start(clients, urls, &self.key, 1, pause)
    }
}
