//! `<prefix>/v1/keys`: the keys that a user sees, and what they may do with them.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use usage_gate_core::UsageGate;
use usage_gate_core::management;
use usage_gate_core::model::{KeyId, UserId};

use crate::answer::{Problem, ok};
use crate::document::{Document, OptionalDocument};
use crate::key_document::{KeyChange, KeyDocument, Revocation, Rotation, shown, with_text};
use crate::parameters::Parameters;
use crate::path::{PathText, id};
use crate::session::SignedIn;
use crate::{page, show};

pub(super) async fn list(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let request = page::page_request::<KeyId>(&mut parameters);
    let user: Option<UserId> = parameters.parsed("user");
    parameters.finish()?;
    let keys = management::keys_as(&gate, &signed_in.actor(), user, &request).await?;
    let shown = show::keys(&gate, &keys.items).await?;
    Ok(ok(&page::document(&keys, shown, |key| key.id.to_string())))
}

pub(super) async fn create(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    Document(document): Document<KeyDocument>,
) -> Result<Response, Problem> {
    let shared = document.for_nobody();
    let issued = management::create_key_as(&gate, &signed_in.actor(), document.draft(), shared).await?;
    with_text(&gate, StatusCode::CREATED, &issued).await
}

pub(super) async fn read(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    PathText(text): PathText,
) -> Result<Response, Problem> {
    let key = management::key_as(&gate, &signed_in.actor(), id(&text, "key")?).await?;
    Ok(ok(&shown(&gate, &key).await?))
}

pub(super) async fn change(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    PathText(text): PathText,
    Document(document): Document<KeyChange>,
) -> Result<Response, Problem> {
    let id = id(&text, "key")?;
    let key = management::change_key_as(&gate, &signed_in.actor(), id, document.patch()).await?;
    Ok(ok(&shown(&gate, &key).await?))
}

pub(super) async fn delete(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    PathText(text): PathText,
) -> Result<Response, Problem> {
    let key = management::revoke_key_as(&gate, &signed_in.actor(), id(&text, "key")?, None).await?;
    Ok(ok(&shown(&gate, &key).await?))
}

pub(super) async fn revoke(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    PathText(text): PathText,
    OptionalDocument(document): OptionalDocument<Revocation>,
) -> Result<Response, Problem> {
    let key = management::revoke_key_as(&gate, &signed_in.actor(), id(&text, "key")?, document.reason).await?;
    Ok(ok(&shown(&gate, &key).await?))
}

pub(super) async fn rotate(
    State(gate): State<UsageGate>,
    signed_in: SignedIn,
    PathText(text): PathText,
    OptionalDocument(document): OptionalDocument<Rotation>,
) -> Result<Response, Problem> {
    let id = id(&text, "key")?;
    let issued = management::rotate_key_as(&gate, &signed_in.actor(), id, document.overlap()).await?;
    with_text(&gate, StatusCode::OK, &issued).await
}
