//! A gate with everything on, for benchmarks: one tenant, one key, limits that never refuse.

use std::net::{IpAddr, Ipv4Addr};

use usage_gate_core::UsageGate;
use usage_gate_core::clock::Clock;
use usage_gate_core::model::{
    CountedBy, Environment, Key, KeyId, Limit, LimitKind, Per, Plan, Secret, StoreAway, Tenant, TenantId, TenantStatus,
    WhenExceeded,
};
use usage_gate_core::period::{AnchorDay, Calendar, Zone};
use usage_gate_core::routes::Route;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::AccountStore;
use usage_gate_core::store::sqlite::SqliteStore;

/// The gate, its store (whose calls can be counted) and the text of its key.
#[derive(Debug)]
pub struct Stage {
    /// The gate.
    pub gate: UsageGate,
    /// Its store.
    pub store: SqliteStore,
    /// A key with the scope `search:read`.
    pub key: String,
    /// Where the database is.
    pub folder: std::path::PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The address that benchmark requests come from.
pub const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// Makes the gate over SQLite in a temporary folder.
///
/// # Errors
/// What the store or the gate says.
pub async fn stage() -> Result<Stage, Box<dyn std::error::Error>> {
    let id = KeyId::generate();
    let folder = std::env::temp_dir().join(format!("usage-gate-bench-{id}"));
    std::fs::create_dir_all(&folder)?;
    let store = SqliteStore::open(folder.join("usage-gate.db")).await?;
    let now = Clock::system().wall();
    let limit = |name: &str, kind, units, per, counted_by| Limit {
        name: name.into(),
        kind,
        meter: "requests".into(),
        units,
        per: Some(per),
        burst: units,
        counted_by,
        routes: None,
        when_exceeded: WhenExceeded::Block,
        store_away: StoreAway::Exact,
    };
    let plan = Plan {
        id: "bench".into(),
        version: 1,
        name: "Bench".into(),
        currency: "USD".into(),
        limits: vec![
            limit("burst", LimitKind::Rate, 1_000_000_000, Per::Second, CountedBy::Key),
            limit("month", LimitKind::Quota, 1_000_000_000_000, Per::Month, CountedBy::Tenant),
        ],
        prices: Vec::new(),
        created_at: now,
    };
    store.create_plan(&plan).await?;
    let tenant = Tenant {
        id: TenantId::generate(),
        external_id: None,
        name: "Bench".into(),
        status: TenantStatus::Active,
        plan: "bench".into(),
        plan_version: 1,
        calendar: Calendar::new(Zone::UTC, AnchorDay::FIRST),
        metadata: "{}".into(),
        created_at: now,
        deleted_at: None,
    };
    store.create_tenant(&tenant).await?;
    let pepper = Pepper::new(&*Pepper::generate_bytes()?);
    let issued = pepper.issue("ug", Environment::Live)?;
    let secret = Secret {
        credential: issued.credential,
        hash: issued.hash,
        hint: issued.hint.clone(),
        created_at: now,
        expires_at: None,
        last_used_at: None,
    };
    let key = Key {
        id,
        tenant: tenant.id,
        user: None,
        name: "bench".into(),
        environment: Environment::Live,
        scopes: vec!["search:read".parse()?],
        secrets: vec![secret],
        allowed_addresses: Vec::new(),
        expires_at: None,
        revoked_at: None,
        revoke_reason: None,
        created_at: now,
    };
    store.create_key(&key).await?;
    let gate = UsageGate::builder()
        .store(store.clone())
        .pepper(pepper)
        .route(Route::get("/v1/search").named("search").scope("search:read"))
        .build()
        .await?;
    Ok(Stage { gate, store, key: issued.text.to_string(), folder })
}
