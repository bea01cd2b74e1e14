//! `GET /admin/v1/tenants/{id}/limits`.

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::LimitView;
use usage_gate_core::model::{KeyId, TenantId, UserId};
use usage_gate_tower::problem;

use super::{PathText, accounts, id};
use crate::answer::{Problem, ok};
use crate::parameters::Parameters;

pub(super) async fn list(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let (user, key) = (parameters.parsed::<UserId>("user"), parameters.parsed::<KeyId>("key"));
    let view = LimitView { user, key, confined: false };
    parameters.finish()?;
    let id: TenantId = id(&text, "tenant")?;
    let accounts = accounts(&gate)?;
    let tenant = accounts.tenant(id).await?.ok_or_else(|| Problem::not_found("tenant"))?;
    if let Some(user) = view.user
        && accounts.user(user).await?.is_none_or(|user| user.tenant != id)
    {
        return Err(Problem::invalid("/user", "there is no user with this id in the tenant"));
    }
    if let Some(key) = view.key
        && accounts.key(key).await?.is_none_or(|key| key.tenant != id)
    {
        return Err(Problem::invalid("/key", "there is no key with this id in the tenant"));
    }
    let plan =
        accounts.plan(&tenant.plan, Some(tenant.plan_version)).await?.ok_or_else(|| Problem::not_found("plan"))?;
    let states = gate.limit_states(&tenant, &plan, view).await?;
    let items: Vec<_> = states.iter().map(problem::limit_state).collect();
    Ok(ok(&json!({"items": items, "next_cursor": null, "as_of": gate.clock().wall()})))
}
