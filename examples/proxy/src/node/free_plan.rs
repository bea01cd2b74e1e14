//! The plan that a fresh gate starts with, so that a tenant can be made at once.

use std::time::Duration;

use tokio::task::JoinHandle;
use usage_gate_core::UsageGate;
use usage_gate_core::model::{CountedBy, Limit, LimitKind, Per, Plan, StoreAway, WhenExceeded};
use usage_gate_core::store::{PageRequest, StoreError, StoreErrorKind};

/// Between two tries while the store is away.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes the plan `free` if there is no plan at all: at once, or when the store is back, by the task that this gives.
pub(crate) async fn begin(gate: &UsageGate) -> Result<Option<JoinHandle<()>>, StoreError> {
    // It has just been found to be away: to wait for it once more would be for nothing.
    if gate.status().degraded.is_empty() {
        match ensure(gate).await {
            Err(fault) if fault.kind() == StoreErrorKind::Unavailable => {}
            outcome => return outcome.map(|()| None),
        }
    }
    let gate = gate.clone();
    Ok(Some(tokio::spawn(async move {
        while let Err(fault) = ensure(&gate).await {
            if fault.kind() != StoreErrorKind::Unavailable {
                tracing::error!(fault = &fault as &dyn std::error::Error, "the first plan cannot be made");
            }
            tokio::time::sleep(PAUSE).await;
        }
    })))
}

async fn ensure(gate: &UsageGate) -> Result<(), StoreError> {
    let Some(accounts) = gate.accounts() else { return Ok(()) };
    let any = accounts.plans(&PageRequest { after: None, size: 1 }).await?;
    if !any.items.is_empty() {
        return Ok(());
    }
    let limit = |name: &str, kind, units, per, burst, counted_by, store_away| Limit {
        name: name.into(),
        kind,
        meter: "requests".into(),
        units,
        per: Some(per),
        burst,
        counted_by,
        routes: None,
        when_exceeded: WhenExceeded::Block,
        store_away,
    };
    let plan = Plan {
        id: "free".into(),
        version: 1,
        name: "Free".into(),
        currency: "USD".into(),
        limits: vec![
            limit("burst", LimitKind::Rate, 10, Per::Second, 20, CountedBy::Key, StoreAway::Share),
            limit("month", LimitKind::Quota, 10_000, Per::Month, 10_000, CountedBy::Tenant, StoreAway::Exact),
        ],
        prices: Vec::new(),
        scopes: None,
        created_at: gate.clock().wall(),
    };
    accounts.create_plan(&plan).await
}
