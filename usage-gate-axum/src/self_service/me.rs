//! `GET /usage-gate/v1/me`: the holder of a key about itself.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::json;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::LimitView;
use usage_gate_core::model::Per;
use usage_gate_core::store::{Dimension, UsageQuery};
use usage_gate_tower::problem;

use crate::answer::{Problem, ok};
use crate::client::Client;
use crate::show;

/// Outcomes that are use of the key; the others cost nothing.
const COUNTED: [&str; 3] = ["billed", "aborted", "test"];

pub(crate) async fn me(State(gate): State<UsageGate>, request: Request) -> Result<Response, Problem> {
    let Client(client) = Client::of(request.extensions());
    let caller = gate.authenticate(request.headers(), client).await?;
    let (resolved, now) = (&caller.source, gate.clock().wall());
    let view = LimitView { user: caller.user, key: Some(caller.key), confined: false };
    let limits = gate.limit_states(&resolved.tenant, &resolved.plan, view).await?;
    let user_name = resolved.user.as_ref().map(|user| user.name.as_str());

    let mut used: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    if let Some(reader) = gate.reader() {
        // Limits above are of this moment; usage beside them should not be a second older.
        crate::usage::freshen(&gate).await;
        let query = UsageQuery {
            group_by: [Dimension::Outcome].into(),
            tenant: Some(caller.tenant),
            key: Some(caller.key),
            size: 1_000,
            ..UsageQuery::new(
                resolved.tenant.calendar.period(Per::Month, now),
                resolved.tenant.calendar.zone_at(now).clone(),
            )
        };
        for item in reader.usage(&query).await?.items {
            let outcome = item.group.first().and_then(|(_, outcome)| outcome.as_deref()).unwrap_or_default();
            if COUNTED.contains(&outcome) {
                let sum = used.entry(item.meter).or_default();
                *sum = (sum.0.saturating_add(item.units), sum.1.saturating_add(item.requests));
            }
        }
    }
    let usage =
        used.iter().map(|(meter, (units, requests))| json!({"meter": meter, "units": units, "requests": requests}));
    Ok(ok(&json!({
        "key": show::key(&resolved.key, user_name, now),
        "user": resolved.user.as_ref().map(show::user),
        "tenant": show::own_tenant(&resolved.tenant, now),
        "plan": {"id": resolved.plan.id, "version": resolved.plan.version},
        "period": show::period(&resolved.tenant, now),
        "limits": limits.iter().map(problem::limit_state).collect::<Vec<_>>(),
        "usage": usage.collect::<Vec<_>>(),
    })))
}
