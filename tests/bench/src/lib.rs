//! Gates with everything on, for benchmarks: one key or a crowd of them, limits that never refuse.

mod crowd;
mod processor;
mod rollups;
mod rounds;
mod script;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use usage_gate_core::management::{self, KeyDraft, LimitDraft, PlanDraft, TenantDraft};
use usage_gate_core::model::{LimitKind, Per, RequestId, TenantId};
use usage_gate_core::routes::Route;
use usage_gate_core::secret::Pepper;
use usage_gate_core::store::sqlite::SqliteStore;
use usage_gate_core::{UsageGate, UsageGateBuilder};

pub use crowd::Crowd;
pub use processor::{Processes, Used};
pub use rollups::million_rows;
pub use rounds::{Body, Load, Spread, Turns, served, timed};
pub use script::ScriptARequest;

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
    pub folder: PathBuf,
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
pub async fn stage() -> Result<Stage, Box<dyn Error>> {
    stage_with(|gate| gate).await
}

/// The same without journal and seats.
///
/// # Errors
/// What the store or the gate says.
pub async fn unmetered_stage() -> Result<Stage, Box<dyn Error>> {
    stage_with(UsageGateBuilder::unmetered).await
}

async fn stage_with(change: impl FnOnce(UsageGateBuilder) -> UsageGateBuilder) -> Result<Stage, Box<dyn Error>> {
    let folder = new_folder()?;
    let store = SqliteStore::open(folder.join("usage-gate.db")).await?;
    let pepper = Pepper::new(&*Pepper::generate_bytes()?);
    let gate = change(served_here(UsageGate::builder(), &folder).store(store.clone()).pepper(pepper)).build().await?;
    let limits = vec![
        LimitDraft { per: Some(Per::Second), ..LimitDraft::new("burst", LimitKind::Rate, 1_000_000_000) },
        LimitDraft { per: Some(Per::Month), ..LimitDraft::new("month", LimitKind::Quota, 1_000_000_000_000) },
    ];
    let plan = management::create_plan(&gate, PlanDraft::new("bench", limits)).await?;
    let key = tenant_with_key(&gate, &plan.id).await?.1;
    Ok(Stage { gate, store, key, folder })
}

fn new_folder() -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("usage-gate-bench-{}", RequestId::generate()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// With the route of the requests, and its files in a folder.
fn served_here(gate: UsageGateBuilder, folder: &Path) -> UsageGateBuilder {
    gate.data_dir(folder).route(Route::get("/v1/search").named("search").scope("search:read"))
}

async fn tenant_with_key(gate: &UsageGate, plan: &str) -> Result<(TenantId, String), Box<dyn Error>> {
    let tenant = management::create_tenant(gate, TenantDraft::new("Bench", plan)).await?.id;
    Ok((tenant, key(gate, tenant).await?))
}

async fn key(gate: &UsageGate, tenant: TenantId) -> Result<String, Box<dyn Error>> {
    let draft = KeyDraft { scopes: vec!["search:read".to_owned()], ..KeyDraft::new("bench") };
    Ok(management::create_key(gate, tenant, draft).await?.text.to_string())
}
