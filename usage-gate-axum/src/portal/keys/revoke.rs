//! `keys/{id}/revoke`: asks, with what the key did lately, and revokes.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use usage_gate_core::management::revoke_key_as;
use usage_gate_core::model::KeyId;

use super::{one, seen, used_this_period};
use crate::portal::frame::{self, Taste};
use crate::portal::locale::{Html, Words};
use crate::portal::message::{self, Trouble};
use crate::portal_state::PortalState;
use crate::session::SignedIn;

#[derive(Template)]
#[template(path = "revoke.html")]
struct RevokeForm {
    w: &'static Words,
    prefix: String,
    id: String,
    question: String,
    lately: Html,
    button: String,
}

/// `GET`: a page of its own, or the panel in the row if htmx asks.
pub(crate) async fn ask_to_revoke(State(state): State<PortalState>, Path(id): Path<String>, parts: Parts) -> Response {
    let taste = Taste::of(&parts);
    match ask(&state, taste, &id, &parts).await {
        Ok(page) => page,
        Err(trouble) => message::show(&state, &parts, &trouble).await,
    }
}

async fn ask(state: &PortalState, taste: Taste, id: &str, parts: &Parts) -> Result<Response, Trouble> {
    let (signed_in, key) = seen(state, parts, id).await?;
    let (gate, actor, language) = (state.gate(), signed_in.actor(), taste.language);
    actor.may_revoke(&key)?;
    let (w, now) = (language.words(), gate.clock().wall());
    let dates = frame::dates(&signed_in, language, now);
    let requests =
        used_this_period(gate, &signed_in.tenant, &actor).await?.get(&key.id.to_string()).copied().unwrap_or(0);
    let form = RevokeForm {
        w,
        prefix: state.options().prefix.clone(),
        id: key.id.to_string(),
        question: language.revoke_question(&key.name),
        lately: language.lately(key.last_used_at().map(|at| dates.past(at)).as_ref(), requests),
        button: language.revoke_name(&key.name),
    };
    if parts.headers.contains_key("hx-request") {
        return Ok(message::fragment(form.render().map_err(|_| Trouble::Away)?));
    }
    one(state, taste, &signed_in, language.revoke_name(&key.name), w.within_a_second, &form)
}

/// `POST`: revokes.
pub(crate) async fn revoke(State(state): State<PortalState>, Path(id): Path<String>, parts: Parts) -> Response {
    match apply(&state, &id, &parts).await {
        Ok(()) => Redirect::to(&state.path("/keys")).into_response(),
        Err(trouble) => message::show(&state, &parts, &trouble).await,
    }
}

async fn apply(state: &PortalState, id: &str, parts: &Parts) -> Result<(), Trouble> {
    let signed_in = SignedIn::find(state, parts).await?;
    let id: KeyId = id.parse().map_err(|_| Trouble::NotFound)?;
    revoke_key_as(state.gate(), &signed_in.actor(), id, None).await?;
    Ok(())
}
