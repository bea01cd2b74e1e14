//! The suites that any implementation of a store trait runs on itself.
//!
//! Each case is a function named for what it expects; a macro makes one `#[tokio::test]` of each. The macro's argument is an
//! expression, evaluated for every test, that gives a new and empty store and something to hold until the test is over (a guard that
//! removes a folder, or `()`):
//!
//! ```
//! # #![allow(unused)]
//! # use usage_gate_core::{clock::Clock, model::Meters, store::MemoryStore};
//! async fn new_store() -> (MemoryStore, ()) {
//!     (MemoryStore::new(Clock::system()), ())
//! }
//!
//! mod keys {
//!     usage_gate_core::conformance::key_store_tests!(super::new_store().await);
//! }
//! # fn main() {}
//! ```
//!
//! | suite | the store implements |
//! | --- | --- |
//! | `key_store_tests` | [`KeyStore`](crate::store::KeyStore) and [`AccountStore`] |
//! | `account_store_tests` | the same two |
//! | `session_store_tests` | [`SessionStore`](crate::store::SessionStore) |
//! | `quota_store_tests` | [`QuotaStore`](crate::store::QuotaStore) |
//! | `rate_store_tests` | [`RateStore`](crate::store::RateStore) |
//! | `usage_store_tests` | [`UsageSink`](crate::store::UsageSink) and [`UsageReader`](crate::store::UsageReader) |
//!
//! A store that takes a [`Clock`](crate::clock::Clock) calls [`quotas::agrees_with_the_ledger`] as well,
//! [`quotas::a4_a_lease_of_an_ended_period_counts_in_its_own`], [`quotas::a4_a_debt_of_an_ended_period_counts_in_its_own`],
//! [`quotas::a4_units_of_the_next_period_are_leased_a_minute_early`], [`rates::what_a_dead_node_had_comes_back_when_its_lease_ends`], and [`rates::agrees_with_the_bucket`] or, if it
//! may forget, [`rates::agrees_with_the_bucket_through_incarnations`].

#![expect(
    clippy::missing_panics_doc,
    reason = "every case panics where a store breaks its contract: that is what it is for"
)]

pub mod accounts;
pub mod keys;
mod quota_races;
mod quota_recalls;
mod quota_walk;
pub mod quotas;
mod rate_walk;
pub mod rates;
pub mod requests;
pub mod sessions;
pub mod usage;

use crate::model::{
    CountedBy, Environment, Key, KeyId, Limit, LimitKind, Per, Plan, Role, Secret, SecretHash, StoreAway, Tenant,
    TenantId, TenantStatus, Timestamp, User, UserId, WhenExceeded,
};
use crate::period::{AnchorDay, Calendar, Zone};
use crate::secret::CredentialId;
use crate::store::AccountStore;

#[doc(inline)]
pub use crate::{
    account_store_tests, key_store_tests, quota_store_tests, rate_store_tests, session_store_tests, usage_store_tests,
};

/// Makes a test of each named case.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($suite:ident, $make:expr, $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (store, _guard) = $make;
                $crate::conformance::$suite::$case(&store).await;
            }
        )*
    };
}

/// An instant at which all the suites' accounts are made.
pub(crate) fn instant() -> Timestamp {
    Timestamp::from_micros(1_790_000_000_000_000)
}

/// A plan with a quota.
pub(crate) fn plan(id: &str) -> Plan {
    Plan {
        id: id.to_owned(),
        version: 1,
        name: "Starter".to_owned(),
        currency: "EUR".to_owned(),
        limits: vec![Limit {
            name: "monthly".to_owned(),
            kind: LimitKind::Quota,
            meter: "requests".to_owned(),
            units: 1_000,
            per: Some(Per::Month),
            burst: 1_000,
            counted_by: CountedBy::Tenant,
            routes: None,
            when_exceeded: WhenExceeded::Block,
            store_away: StoreAway::Exact,
        }],
        prices: Vec::new(),
        scopes: None,
        created_at: instant(),
    }
}

/// A tenant of a plan, with a change of its calendar under way.
pub(crate) fn tenant(plan: &Plan) -> Tenant {
    let zone: Zone = "Asia/Tokyo".parse().expect("a zone of the database");
    let calendar = Calendar::new(Zone::UTC, AnchorDay::FIRST).changed(zone, AnchorDay::FIRST, instant());
    Tenant {
        id: TenantId::generate(),
        external_id: None,
        name: "Acme".to_owned(),
        status: TenantStatus::Active,
        plan: plan.id.clone(),
        plan_version: plan.version,
        calendar: Calendar { since: Some(instant().plus_micros(-1)), ..calendar },
        metadata: r#"{"crm":7}"#.to_owned(),
        created_at: instant(),
        deleted_at: None,
    }
}

/// A user of a tenant.
pub(crate) fn user(tenant: &Tenant, email: &str) -> User {
    User {
        id: UserId::generate(),
        tenant: tenant.id,
        external_id: None,
        email: email.to_owned(),
        name: "Ada".to_owned(),
        role: Role::Member,
        created_at: instant(),
        deleted_at: None,
    }
}

/// A credential that no one else has.
pub(crate) fn credential() -> CredentialId {
    // The low digits are the random ones.
    let digits = crate::model::encode_u128::<22>(uuid::Uuid::now_v7().as_u128());
    let text = str::from_utf8(digits.last_chunk::<17>().expect("22 digits")).expect("base62 is ASCII");
    CredentialId::from_text(text).expect("17 digits")
}

/// A secret with a hash of its own.
pub(crate) fn secret(mark: u8) -> Secret {
    Secret {
        credential: credential(),
        hash: SecretHash([mark; 32]),
        hint: "ug_live_7Qm2…3dEf".to_owned(),
        created_at: instant(),
        expires_at: None,
        last_used_at: None,
    }
}

/// A key of a tenant, of a user if given.
pub(crate) fn key(tenant: &Tenant, user: Option<&User>) -> Key {
    Key {
        id: KeyId::generate(),
        tenant: tenant.id,
        user: user.map(|user| user.id),
        name: "backend".to_owned(),
        environment: Environment::Live,
        scopes: vec!["search:*".parse().expect("a scope")],
        secrets: vec![secret(1)],
        allowed_addresses: vec!["10.0.0.0/8".parse().expect("a range")],
        expires_at: Some(instant().plus_micros(1)),
        revoked_at: None,
        revoke_reason: None,
        created_at: instant(),
    }
}

/// A plan, a tenant, a user and a key of theirs, stored.
pub(crate) async fn account<S: AccountStore>(store: &S) -> (Plan, Tenant, User, Key) {
    let plan = plan("starter");
    store.create_plan(&plan).await.expect("the plan is new");
    let tenant = tenant(&plan);
    store.create_tenant(&tenant).await.expect("the tenant is new");
    let user = user(&tenant, "ada@example.com");
    store.create_user(&user).await.expect("the user is new");
    let key = key(&tenant, Some(&user));
    store.create_key(&key).await.expect("the key is new");
    (plan, tenant, user, key)
}
