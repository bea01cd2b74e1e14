//! `/admin/v1/tenants/{id}/keys` and `/admin/v1/keys`.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use usage_gate_core::UsageGate;
use usage_gate_core::management::{self, IssuedToCaller, KeyDraft, KeyPatch};
use usage_gate_core::model::{Environment, Key, KeyId, TenantId, Timestamp, UserId};

use super::{PathText, accounts, id};
use crate::answer::{Problem, json, ok};
use crate::document::{Document, OptionalDocument, patch, present};
use crate::parameters::Parameters;
use crate::{page, show};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyDocument {
    name: String,
    user: Option<UserId>,
    environment: Option<Environment>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    allowed_addresses: Vec<String>,
    expires_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyChange {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    allowed_addresses: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Option<Timestamp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revocation {
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    overlap_seconds: Option<u64>,
}

/// A day: long enough for a deployment that takes the new secret.
const USUAL_OVERLAP: u64 = 86_400;

pub(super) async fn list(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let request = page::page_request::<KeyId>(&mut parameters);
    let user: Option<UserId> = parameters.parsed("user");
    parameters.finish()?;
    let tenant: TenantId = id(&text, "tenant")?;
    let accounts = accounts(&gate)?;
    if accounts.tenant(tenant).await?.is_none() {
        return Err(Problem::not_found("tenant"));
    }
    let keys = accounts.keys(tenant, user, &request).await?;
    let shown = show::keys(&gate, &keys.items).await?;
    Ok(ok(&page::document(&keys, shown, |key| key.id.to_string())))
}

pub(super) async fn create(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    Document(document): Document<KeyDocument>,
) -> Result<Response, Problem> {
    let draft = KeyDraft {
        name: document.name,
        user: document.user,
        environment: document.environment,
        scopes: document.scopes,
        allowed_addresses: document.allowed_addresses,
        expires_at: document.expires_at,
    };
    let issued = management::create_key(&gate, id(&text, "tenant")?, draft).await?;
    with_text(&gate, StatusCode::CREATED, &issued).await
}

pub(super) async fn read(State(gate): State<UsageGate>, PathText(text): PathText) -> Result<Response, Problem> {
    let key = accounts(&gate)?.key(id(&text, "key")?).await?.ok_or_else(|| Problem::not_found("key"))?;
    Ok(ok(&shown(&gate, &key).await?))
}

pub(super) async fn change(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    Document(document): Document<KeyChange>,
) -> Result<Response, Problem> {
    let change = KeyPatch {
        name: patch(document.name),
        scopes: patch(document.scopes),
        allowed_addresses: patch(document.allowed_addresses),
        expires_at: patch(document.expires_at),
    };
    let key = management::change_key(&gate, id(&text, "key")?, change).await?;
    Ok(ok(&shown(&gate, &key).await?))
}

pub(super) async fn delete(State(gate): State<UsageGate>, PathText(text): PathText) -> Result<Response, Problem> {
    let key = management::revoke_key(&gate, id(&text, "key")?, None).await?;
    Ok(ok(&shown(&gate, &key).await?))
}

pub(super) async fn revoke(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    OptionalDocument(document): OptionalDocument<Revocation>,
) -> Result<Response, Problem> {
    let key = management::revoke_key(&gate, id(&text, "key")?, document.reason).await?;
    Ok(ok(&shown(&gate, &key).await?))
}

pub(super) async fn rotate(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    OptionalDocument(document): OptionalDocument<Rotation>,
) -> Result<Response, Problem> {
    let overlap = document.overlap_seconds.unwrap_or(USUAL_OVERLAP);
    let issued = management::rotate_key(&gate, id(&text, "key")?, overlap).await?;
    with_text(&gate, StatusCode::OK, &issued).await
}

async fn shown(gate: &UsageGate, key: &Key) -> Result<Value, Problem> {
    let mut shown = show::keys(gate, std::slice::from_ref(key)).await?;
    Ok(shown.pop().unwrap_or_default())
}

/// The key with its text: the only answers that have it.
async fn with_text(gate: &UsageGate, status: StatusCode, issued: &IssuedToCaller) -> Result<Response, Problem> {
    let mut document = shown(gate, &issued.key).await?;
    if let Some(members) = document.as_object_mut() {
        members.insert("key".into(), issued.text.as_str().into());
    }
    Ok(json(status, &document))
}
