//! `keys/{id}/edit`: name, scopes and end of a key.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use http::request::Parts;
use usage_gate_core::management::{Invalid, ManagementError, change_key_as, grantable_scopes, key_as};
use usage_gate_core::model::KeyId;

use super::form::{KeyForm, Sent};
use super::one;
use crate::portal::frame::{self, Taste};
use crate::portal::message::{self, Trouble};
use crate::portal_state::PortalState;
use crate::session::SignedIn;

/// `GET`: the form.
pub(crate) async fn edit(State(state): State<PortalState>, Path(id): Path<String>, parts: Parts) -> Response {
    let taste = Taste::of(&parts);
    match form(&state, taste, &id, &parts, None).await {
        Ok(page) => page,
        Err(trouble) => message::show(&state, &parts, &trouble).await,
    }
}

/// `POST`: the change.
pub(crate) async fn change(
    State(state): State<PortalState>,
    Path(id): Path<String>,
    parts: Parts,
    body: Bytes,
) -> Response {
    let taste = Taste::of(&parts);
    match apply(&state, &id, &parts, &body).await {
        Ok(()) => Redirect::to(&state.path(&format!("/keys#{id}"))).into_response(),
        Err(Trouble::Invalid(invalid)) => {
            match form(&state, taste, &id, &parts, Some((&Sent::read(&body), &invalid))).await {
                Ok(page) => page,
                Err(trouble) => message::show(&state, &parts, &trouble).await,
            }
        }
        Err(trouble) => message::show(&state, &parts, &trouble).await,
    }
}

async fn apply(state: &PortalState, id: &str, parts: &Parts, body: &[u8]) -> Result<(), Trouble> {
    let signed_in = SignedIn::find(state, parts).await?;
    let (gate, actor) = (state.gate(), signed_in.actor());
    let id: KeyId = id.parse().map_err(|_| Trouble::NotFound)?;
    let mut patch = Sent::read(body).patch(gate.clock().wall()).map_err(ManagementError::from)?;
    let present = key_as(gate, &actor, id).await?;
    // Scopes that were not touched are not asked for anew: an operator may have given more than the plan lets users give.
    let held: Vec<String> = present.scopes.iter().map(ToString::to_string).collect();
    if let usage_gate_core::management::Patch::Set(wanted) = &patch.scopes
        && wanted.len() == held.len()
        && wanted.iter().all(|scope| held.contains(scope))
    {
        patch.scopes = usage_gate_core::management::Patch::Keep;
    }
    change_key_as(gate, &actor, id, patch).await?;
    Ok(())
}

async fn form(
    state: &PortalState,
    taste: Taste,
    id: &str,
    parts: &Parts,
    refused: Option<(&Sent, &Invalid)>,
) -> Result<Response, Trouble> {
    let signed_in = SignedIn::find(state, parts).await?;
    let (gate, actor, now) = (state.gate(), signed_in.actor(), state.gate().clock().wall());
    let key = key_as(gate, &actor, id.parse().map_err(|_| Trouble::NotFound)?).await?;
    actor.may_change(&key)?;
    let plan = crate::portal::plan(gate, &signed_in.tenant).await?;
    let dates = frame::dates(&signed_in, taste.language, now, now);
    let form = KeyForm::to_change(state, taste.language, &dates, &grantable_scopes(gate, &plan), &key, now);
    let (form, status) = match refused {
        Some((sent, invalid)) => (form.again(sent, invalid, taste.language), StatusCode::BAD_REQUEST),
        None => (form, StatusCode::OK),
    };
    let w = taste.language.words();
    let mut response = one(state, taste, &signed_in, taste.language.edit_name(&key.name), w.edit_explained, &form)?;
    *response.status_mut() = status;
    Ok(response)
}
