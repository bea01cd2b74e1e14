//! The plan that a fresh gate starts with, so that a tenant can be made at once.

use usage_gate_core::UsageGate;
use usage_gate_core::model::{CountedBy, Limit, LimitKind, Per, Plan, StoreAway, WhenExceeded};
use usage_gate_core::store::{PageRequest, StoreError};

/// Makes the plan `free` if there is no plan at all.
pub(crate) async fn ensure(gate: &UsageGate) -> Result<(), StoreError> {
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
