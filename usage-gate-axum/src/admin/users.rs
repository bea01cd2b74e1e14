//! `/admin/v1/tenants/{id}/users` and `/admin/v1/users`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use usage_gate_core::UsageGate;
use usage_gate_core::management::{self, UserDraft, UserPatch};
use usage_gate_core::model::{Role, TenantId, UserId};
use usage_gate_core::store::UserFilter;

use super::{PathText, accounts, id};
use crate::answer::{Problem, json, ok};
use crate::document::{Document, patch, present};
use crate::parameters::Parameters;
use crate::{page, show};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserDocument {
    email: String,
    name: Option<String>,
    role: Option<Role>,
    external_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserChange {
    #[serde(default, deserialize_with = "present")]
    email: Option<String>,
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    role: Option<Role>,
    #[serde(default, deserialize_with = "present")]
    external_id: Option<Option<String>>,
}

pub(super) async fn list(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let request = page::page_request::<UserId>(&mut parameters);
    let external_id = parameters.text("external_id");
    parameters.finish()?;
    let tenant: TenantId = id(&text, "tenant")?;
    let accounts = accounts(&gate)?;
    if accounts.tenant(tenant).await?.is_none() {
        return Err(Problem::not_found("tenant"));
    }
    let users = accounts.users(&UserFilter { tenant: Some(tenant), external_id }, &request).await?;
    let shown = users.items.iter().map(show::user).collect();
    Ok(ok(&page::document(&users, shown, |user| user.id.to_string())))
}

pub(super) async fn create(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    Document(document): Document<UserDocument>,
) -> Result<Response, Problem> {
    let draft = UserDraft {
        external_id: document.external_id,
        email: document.email,
        name: document.name,
        role: document.role,
    };
    let user = management::create_user(&gate, id(&text, "tenant")?, draft).await?;
    Ok(json(StatusCode::CREATED, &show::user(&user)))
}

pub(super) async fn read(State(gate): State<UsageGate>, PathText(text): PathText) -> Result<Response, Problem> {
    let user = accounts(&gate)?.user(id(&text, "user")?).await?.ok_or_else(|| Problem::not_found("user"))?;
    Ok(ok(&show::user(&user)))
}

pub(super) async fn change(
    State(gate): State<UsageGate>,
    PathText(text): PathText,
    Document(document): Document<UserChange>,
) -> Result<Response, Problem> {
    let change = UserPatch {
        external_id: patch(document.external_id),
        email: patch(document.email),
        name: patch(document.name),
        role: patch(document.role),
    };
    let user = management::change_user(&gate, id(&text, "user")?, change).await?;
    Ok(ok(&show::user(&user)))
}

pub(super) async fn delete(State(gate): State<UsageGate>, PathText(text): PathText) -> Result<Response, Problem> {
    management::delete_user(&gate, id(&text, "user")?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
