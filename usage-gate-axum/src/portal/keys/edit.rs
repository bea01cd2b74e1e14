//! `keys/{id}/edit`: name, scopes and end of a key.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;
use http::request::Parts;
use usage_gate_core::management::{Invalid, ManagementError, Patch, change_key_as, grantable_scopes};

use super::form::{KeyForm, Sent};
use super::{one, seen};
use crate::portal::frame::{self, Taste};
use crate::portal::message::{self, Trouble};
use crate::portal_state::PortalState;

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
    let (signed_in, present) = seen(state, parts, id).await?;
    let gate = state.gate();
    let mut patch = Sent::read(body).patch(gate.clock().wall()).map_err(ManagementError::from)?;
    // Scopes that were not touched are not asked for anew: an operator may have given more than the plan lets users give.
    let held: Vec<String> = present.scopes.iter().map(ToString::to_string).collect();
    if let Patch::Set(wanted) = &patch.scopes
        && wanted.len() == held.len()
        && wanted.iter().all(|scope| held.contains(scope))
    {
        patch.scopes = Patch::Keep;
    }
    change_key_as(gate, &signed_in.actor(), present.id, patch).await?;
    Ok(())
}

async fn form(
    state: &PortalState,
    taste: Taste,
    id: &str,
    parts: &Parts,
    refused: Option<(&Sent, &Invalid)>,
) -> Result<Response, Trouble> {
    let (signed_in, key) = seen(state, parts, id).await?;
    let (gate, now) = (state.gate(), state.gate().clock().wall());
    signed_in.actor().may_change(&key)?;
    let plan = signed_in.plan(gate).await?;
    let dates = frame::dates(&signed_in, taste.language, now);
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
