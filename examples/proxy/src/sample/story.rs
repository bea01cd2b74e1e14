//! Who the customers are: two companies with their people, keys and habits.

use usage_gate_core::admission::Code;
use usage_gate_core::model::{
    CountedBy, Environment, Limit, LimitKind, Per, Plan, Role, StoreAway, Timestamp, WhenExceeded,
};

use super::cast::{Company, KeySketch, Life, Person, Refused};
use super::rhythm::Rhythm;
use super::routes::Path;

/// Exports that Acme has a day; its nightly job wants more on most days.
pub(super) const EXPORTS_A_DAY: u64 = 200;

pub(super) const ACME: Company = Company {
    number: 1,
    name: "Acme Robotics",
    external_id: "acme-robotics",
    plan: "team",
    zone: "Asia/Tokyo",
    made_days_ago: 96,
    people: &[
        Person { name: "Ann Sato", email: "ann.sato@acme.test", role: Role::Owner },
        Person { name: "Ben Ito", email: "ben.ito@acme.test", role: Role::Admin },
        Person { name: "Chiyo Mori", email: "chiyo.mori@acme.test", role: Role::Member },
        Person { name: "Dai Kato", email: "dai.kato@acme.test", role: Role::Viewer },
    ],
    keys: &[
        KeySketch {
            calls_a_day: 1_270,
            paths: &[(Path::Search, 640), (Path::Items, 360)],
            refused: &[Refused { code: Code::RateLimited, limit: Some("burst"), path: Path::Search, in_a_day: 2_000 }],
            spike: true,
            ..KeySketch::new("web-production", Some(0), &["search:read", "items:read"], Rhythm::Office, 92)
        },
        KeySketch {
            calls_a_day: 810,
            paths: &[(Path::Search, 1_000)],
            ..KeySketch::new("mobile-app", Some(0), &["search:read"], Rhythm::Leisure, 88)
        },
        KeySketch {
            calls_a_day: 360,
            paths: &[(Path::Items, 1_000)],
            exports: true,
            life: Life::Rotating,
            refused: &[Refused {
                code: Code::ConcurrencyLimited,
                limit: Some("open"),
                path: Path::Items,
                in_a_day: 900,
            }],
            ..KeySketch::new("nightly-import", Some(1), &["items:*"], Rhythm::Nightly, 90)
        },
        KeySketch {
            calls_a_day: 320,
            paths: &[(Path::Feed, 1_000)],
            life: Life::Ends { days_ahead: 6 },
            refused: &[Refused { code: Code::InsufficientScope, limit: None, path: Path::Exports, in_a_day: 800 }],
            ..KeySketch::new("partner-feed", None, &["feed:read"], Rhythm::Steady, 84)
        },
        KeySketch {
            calls_a_day: 165,
            paths: &[(Path::Search, 1_000)],
            life: Life::Ends { days_ahead: 97 },
            refused: &[Refused { code: Code::RateLimited, limit: Some("burst"), path: Path::Search, in_a_day: 14_000 }],
            ..KeySketch::new("ci", Some(2), &["search:read"], Rhythm::Builds, 80)
        },
        KeySketch {
            calls_a_day: 95,
            paths: &[(Path::Search, 1_000)],
            ..KeySketch::new("reports", Some(2), &["search:read"], Rhythm::Morning, 75)
        },
        KeySketch {
            environment: Environment::Test,
            calls_a_day: 24,
            paths: &[(Path::Search, 1_000)],
            quiet_for_days: 12,
            ..KeySketch::new("sandbox", Some(0), &["search:*"], Rhythm::Office, 91)
        },
        KeySketch {
            calls_a_day: 75,
            paths: &[(Path::Search, 1_000)],
            life: Life::Revoked { days_ago: 12 },
            quiet_for_days: 12,
            refused: &[Refused { code: Code::RevokedKey, limit: None, path: Path::Search, in_a_day: 2_200 }],
            ..KeySketch::new("old-website", Some(1), &["search:read"], Rhythm::Office, 94)
        },
    ],
    limits: acme_limits,
};

pub(super) const GLOBEX: Company = Company {
    number: 2,
    name: "Globex",
    external_id: "globex",
    plan: "starter",
    zone: "Europe/Berlin",
    made_days_ago: 71,
    people: &[Person { name: "Cleo Braun", email: "cleo.braun@globex.test", role: Role::Owner }],
    keys: &[
        KeySketch {
            calls_a_day: 190,
            paths: &[(Path::Search, 700), (Path::Items, 300)],
            refused: &[Refused { code: Code::RateLimited, limit: Some("burst"), path: Path::Search, in_a_day: 3_000 }],
            ..KeySketch::new("website", Some(0), &["search:read", "items:read"], Rhythm::Leisure, 70)
        },
        KeySketch {
            calls_a_day: 110,
            paths: &[(Path::Items, 1_000)],
            ..KeySketch::new("warehouse", Some(0), &["items:read"], Rhythm::Office, 64)
        },
        KeySketch {
            environment: Environment::Test,
            ..KeySketch::new("trial", Some(0), &["search:read"], Rhythm::Office, 71)
        },
    ],
    limits: globex_limits,
};

fn limit(name: &str, kind: LimitKind, meter: &str, units: u64, per: Option<Per>, counted_by: CountedBy) -> Limit {
    Limit {
        name: name.to_owned(),
        kind,
        meter: meter.to_owned(),
        units,
        per,
        burst: units,
        counted_by,
        routes: None,
        when_exceeded: WhenExceeded::Block,
        store_away: if kind == LimitKind::Quota { StoreAway::Exact } else { StoreAway::Share },
    }
}

/// `tokens` is what was used of the running month: the plan has a little less, so that one limit is always over.
fn acme_limits(tokens: u64) -> Vec<Limit> {
    use CountedBy::{Key, Tenant};
    use LimitKind::{Concurrency, Quota, Rate};
    vec![
        limit("month", Quota, "requests", 100_000, Some(Per::Month), Tenant),
        Limit {
            when_exceeded: WhenExceeded::Allow,
            routes: Some(vec![Path::Search.name().to_owned()]),
            ..limit("tokens", Quota, "output_tokens", a_little_less(tokens), Some(Per::Month), Tenant)
        },
        // Of its own route only: what an items call will cost of exports nobody knows before, and a full limit would refuse it.
        Limit {
            routes: Some(vec![Path::Exports.name().to_owned()]),
            ..limit("exports", Quota, super::EXPORTS, EXPORTS_A_DAY, Some(Per::Day), Tenant)
        },
        Limit { burst: 100, ..limit("burst", Rate, "requests", 50, Some(Per::Second), Key) },
        limit("open", Concurrency, "requests", 20, None, Tenant),
    ]
}

fn globex_limits(_: u64) -> Vec<Limit> {
    use CountedBy::{Key, Tenant};
    use LimitKind::{Quota, Rate};
    vec![
        limit("month", Quota, "requests", 20_000, Some(Per::Month), Tenant),
        Limit { burst: 10, ..limit("burst", Rate, "requests", 5, Some(Per::Second), Key) },
    ]
}

/// A round number of two digits and zeros, below all but the smallest ones.
fn a_little_less(used: u64) -> u64 {
    let less = used - used / 33;
    let mut scale = 1;
    while less / scale >= 100 {
        scale *= 10;
    }
    (less / scale * scale).max(1)
}

impl Company {
    /// The plan that it is on.
    pub(super) fn plan(&self, tokens_of_month: u64, now: Timestamp) -> Plan {
        let mut name = self.plan.to_owned();
        if let Some(first) = name.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Plan {
            id: self.plan.to_owned(),
            version: 1,
            name,
            currency: "USD".to_owned(),
            limits: (self.limits)(tokens_of_month),
            prices: Vec::new(),
            scopes: None,
            created_at: super::cast::days_ago(now, 120),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_less_is_round() {
        assert_eq!([0, 5, 1_000, 41_268_400].map(a_little_less), [1, 5, 970, 40_000_000]);
    }
}
