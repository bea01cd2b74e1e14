//! `/admin/v1/tenants/{id}/keys` and `/admin/v1/keys`.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use usage_gate_core::UsageGate;
use usage_gate_core::management;
use usage_gate_core::model::{KeyId, TenantId, UserId};

use super::{PathText, accounts, id};
use crate::answer::{Problem, ok};
use crate::document::{Document, OptionalDocument};
use crate::key_document::{KeyChange, KeyDocument, Revocation, Rotation, shown, with_text};
use crate::parameters::Parameters;
use crate::{page, show};

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
    let issued = management::create_key(&gate, id(&text, "tenant")?, document.draft()).await?;
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
    let key = management::change_key(&gate, id(&text, "key")?, document.patch()).await?;
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
    let issued = management::rotate_key(&gate, id(&text, "key")?, document.overlap()).await?;
    with_text(&gate, StatusCode::OK, &issued).await
}
