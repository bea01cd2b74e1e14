//! `/admin/v1/tenants`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use usage_gate_core::UsageGate;
use usage_gate_core::management::{self, TenantDraft, TenantPatch};
use usage_gate_core::model::{TenantId, TenantStatus};

use super::{PathText, accounts, id};
use crate::answer::{Problem, json, ok};
use crate::document::{Document, OptionalDocument, patch, present};
use crate::parameters::Parameters;
use crate::{page, show};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantDocument {
    name: String,
    plan: String,
    time_zone: Option<String>,
    anchor_day: Option<u64>,
    external_id: Option<String>,
    metadata: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantChange {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    plan: Option<String>,
    #[serde(default, deserialize_with = "present")]
    time_zone: Option<String>,
    #[serde(default, deserialize_with = "present")]
    anchor_day: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    external_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    metadata: Option<Map<String, Value>>,
}

/// A body that may be left out and has no members.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) async fn list(State(gate): State<UsageGate>, mut parameters: Parameters) -> Result<Response, Problem> {
    let request = page::page_request::<TenantId>(&mut parameters);
    let external_id = parameters.text("external_id");
    parameters.finish()?;
    let tenants = accounts(&gate)?.tenants(external_id.as_deref(), &request).await?;
    let now = gate.clock().wall();
    let shown = tenants.items.iter().map(|tenant| show::tenant(tenant, now)).collect();
    Ok(ok(&page::document(&tenants, shown, |tenant| tenant.id.to_string())))
}

pub(super) async fn create(
    State(gate): State<UsageGate>,
    Document(document): Document<TenantDocument>,
) -> Result<Response, Problem> {
    let draft = TenantDraft {
        external_id: document.external_id,
        name: document.name,
        plan: document.plan,
        time_zone: document.time_zone,
        anchor_day: document.anchor_day,
        metadata: document.metadata.map(|metadata| Value::Object(metadata).to_string()),
    };
    let tenant = management::create_tenant(&gate, draft).await?;
    Ok(json(StatusCode::CREATED, &show::tenant(&tenant, gate.clock().wall())))
}

pub(super) async fn read(State(gate): State<UsageGate>, PathText(text): PathText) -> Result<Response, Problem> {
    let found = accounts(&gate)?.tenant(id(&text, "tenant")?).await?;
    let tenant = found.ok_or_else(|| Problem::not_found("tenant"))?;
    Ok(ok(&show::tenant(&tenant, gate.clock().wall())))
}

pub(super) async fn change(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    Document(document): Document<TenantChange>,
) -> Result<Response, Problem> {
    let change = TenantPatch {
        external_id: patch(document.external_id),
        name: patch(document.name),
        plan: patch(document.plan),
        time_zone: patch(document.time_zone),
        anchor_day: patch(document.anchor_day),
        metadata: patch(document.metadata.map(|metadata| Value::Object(metadata).to_string())),
    };
    let tenant = management::change_tenant(&gate, id(&text, "tenant")?, change).await?;
    Ok(ok(&show::tenant(&tenant, gate.clock().wall())))
}

pub(super) async fn delete(State(gate): State<UsageGate>, PathText(text): PathText) -> Result<Response, Problem> {
    management::delete_tenant(&gate, id(&text, "tenant")?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn suspend(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    OptionalDocument(Nothing {}): OptionalDocument<Nothing>,
) -> Result<Response, Problem> {
    set_status(&gate, &text, TenantStatus::Suspended).await
}

pub(super) async fn resume(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    OptionalDocument(Nothing {}): OptionalDocument<Nothing>,
) -> Result<Response, Problem> {
    set_status(&gate, &text, TenantStatus::Active).await
}

async fn set_status(gate: &UsageGate, text: &str, status: TenantStatus) -> Result<Response, Problem> {
    let tenant = management::set_tenant_status(gate, id(text, "tenant")?, status).await?;
    Ok(ok(&show::tenant(&tenant, gate.clock().wall())))
}
