//! Accounts as documents.

use std::collections::HashMap;

use serde_json::{Value, json};
use usage_gate_core::UsageGate;
use usage_gate_core::model::{Key, Limit, LimitKind, Per, Plan, Tenant, Timestamp, User, UserId};
use usage_gate_core::store::StoreError;

pub(crate) fn plan(plan: &Plan) -> Value {
    json!({
        "id": plan.id,
        "version": plan.version,
        "name": plan.name,
        "currency": plan.currency,
        "limits": plan.limits.iter().map(limit).collect::<Vec<_>>(),
        "prices": plan.prices,
        "scopes": plan.scopes,
        "created_at": plan.created_at,
    })
}

fn limit(limit: &Limit) -> Value {
    let mut members = json!({
        "name": limit.name,
        "kind": limit.kind,
        "meter": limit.meter,
        "units": limit.units,
        "per": limit.per,
        "counted_by": limit.counted_by,
        "routes": limit.routes,
        "store_away": limit.store_away,
    });
    if let Some(members) = members.as_object_mut() {
        match limit.kind {
            LimitKind::Rate => members.insert("burst".into(), limit.burst.into()),
            LimitKind::Quota => members.insert("when_exceeded".into(), limit.when_exceeded.as_str().into()),
            LimitKind::Concurrency => None,
        };
    }
    members
}

pub(crate) fn tenant(tenant: &Tenant, now: Timestamp) -> Value {
    let (zone, anchor) = tenant.calendar.latest();
    json!({
        "id": tenant.id,
        "external_id": tenant.external_id,
        "name": tenant.name,
        "status": tenant.status,
        "plan": tenant.plan,
        "plan_version": tenant.plan_version,
        "time_zone": zone.name(),
        "anchor_day": anchor.get(),
        "calendar_from": tenant.calendar.settled(now).next.map(|(.., from)| from),
        "period": period(tenant, now),
        "metadata": serde_json::from_str::<Value>(&tenant.metadata).unwrap_or_else(|_| json!({})),
        "created_at": tenant.created_at,
    })
}

/// A tenant as its own users see it: without the operator's notes, which are not for their eyes.
pub(crate) fn own_tenant(tenant: &Tenant, now: Timestamp) -> Value {
    let mut document = self::tenant(tenant, now);
    if let Some(members) = document.as_object_mut() {
        members.remove("metadata");
    }
    document
}

/// The tenant's month.
pub(crate) fn period(tenant: &Tenant, now: Timestamp) -> Value {
    let period = tenant.calendar.period(Per::Month, now);
    json!({"start": period.start, "end": period.end})
}

pub(crate) fn user(user: &User) -> Value {
    json!({
        "id": user.id,
        "tenant": user.tenant,
        "external_id": user.external_id,
        "email": user.email,
        "name": user.name,
        "role": user.role,
        "created_at": user.created_at,
    })
}

pub(crate) fn key(key: &Key, user_name: Option<&str>, now: Timestamp) -> Value {
    let secrets = key.secrets.iter().map(|secret| {
        json!({
            "hint": secret.hint,
            "created_at": secret.created_at,
            "expires_at": secret.expires_at,
            "last_used_at": secret.last_used_at,
        })
    });
    json!({
        "id": key.id,
        "tenant": key.tenant,
        "user": key.user,
        "user_name": user_name,
        "name": key.name,
        "environment": key.environment,
        "scopes": key.scopes,
        "status": key.status(now),
        "hint": key.hint(),
        "last_used_at": key.last_used_at(),
        "secrets": secrets.collect::<Vec<_>>(),
        "allowed_addresses": key.allowed_addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "created_at": key.created_at,
    })
}

/// Keys with the names of their users, each looked up once.
pub(crate) async fn keys(gate: &UsageGate, keys: &[Key]) -> Result<Vec<Value>, StoreError> {
    let now = gate.clock().wall();
    let mut names: HashMap<UserId, Option<String>> = HashMap::new();
    let mut shown = Vec::with_capacity(keys.len());
    for one in keys {
        if let (Some(user), Some(accounts)) = (one.user, gate.accounts())
            && !names.contains_key(&user)
        {
            names.insert(user, accounts.user(user).await?.map(|user| user.name));
        }
        let name = one.user.and_then(|user| names.get(&user)?.as_deref());
        shown.push(key(one, name, now));
    }
    Ok(shown)
}
