//! A gate with everything on, for benchmarks: one tenant, one key, limits that never refuse.

mod rollups;

use std::net::{IpAddr, Ipv4Addr};

use usage_gate_core::management::{self, KeyDraft, LimitDraft, PlanDraft, TenantDraft};
use usage_gate_core::model::{LimitKind, Per, RequestId};
use usage_gate_core::routes::Route;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::sqlite::SqliteStore;
use usage_gate_core::{UsageGate, UsageGateBuilder};

pub use rollups::million_rows;

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

/// Makes the gate over SQLite in a temporary folder, with journal, seats and leases in mapped files beside it.
///
/// # Errors
/// What the store or the gate says.
pub async fn stage() -> Result<Stage, Box<dyn std::error::Error>> {
    stage_with(|gate| gate).await
}

/// The same without journal and seats.
///
/// # Errors
/// What the store or the gate says.
pub async fn unmetered_stage() -> Result<Stage, Box<dyn std::error::Error>> {
    stage_with(UsageGateBuilder::unmetered).await
}

async fn stage_with(
    change: impl FnOnce(UsageGateBuilder) -> UsageGateBuilder,
) -> Result<Stage, Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("usage-gate-bench-{}", RequestId::generate()));
    std::fs::create_dir_all(&folder)?;
    let store = SqliteStore::open(folder.join("usage-gate.db")).await?;
    let gate = UsageGate::builder()
        .store(store.clone())
        .data_dir(&folder)
        .pepper(Pepper::new(&*Pepper::generate_bytes()?))
        .route(Route::get("/v1/search").named("search").scope("search:read"));
    let gate = change(gate).build().await?;
    let limits = vec![
        LimitDraft { per: Some(Per::Second), ..LimitDraft::new("burst", LimitKind::Rate, 1_000_000_000) },
        LimitDraft { per: Some(Per::Month), ..LimitDraft::new("month", LimitKind::Quota, 1_000_000_000_000) },
    ];
    management::create_plan(&gate, PlanDraft::new("bench", limits)).await?;
    let tenant = management::create_tenant(&gate, TenantDraft::new("Bench", "bench")).await?;
    let draft = KeyDraft { scopes: vec!["search:read".to_owned()], ..KeyDraft::new("bench") };
    let issued = management::create_key(&gate, tenant.id, draft).await?;
    Ok(Stage { gate, store, key: issued.text.to_string(), folder })
}
