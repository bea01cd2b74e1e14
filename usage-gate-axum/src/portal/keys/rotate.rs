//! `keys/{id}/rotate`: a new secret, and for how long the old one goes on.

use askama::Template;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use usage_gate_core::management::rotate_key_as;
use usage_gate_core::model::{KeyId, RequestId};

use super::form::Sent;
use super::{Extras, SentForms, one, seen, show};
use crate::portal::frame::{self, Taste};
use crate::portal::locale::{Html, Words};
use crate::portal::message::{self, Trouble};
use crate::portal_state::PortalState;
use crate::session::SignedIn;

#[derive(Template)]
#[template(path = "rotate.html")]
struct RotateForm {
    w: &'static Words,
    prefix: String,
    id: String,
    token: String,
    overlaps: Vec<(u64, &'static str, bool)>,
    secret_state: Html,
}

/// A day is long enough for a deployment that takes the new secret.
const USUAL: u64 = 86_400;

/// `GET`: asks how.
pub(crate) async fn ask_to_rotate(State(state): State<PortalState>, Path(id): Path<String>, parts: Parts) -> Response {
    let taste = Taste::of(&parts);
    match ask(&state, taste, &id, &parts).await {
        Ok(page) => page,
        Err(trouble) => message::show(&state, &parts, &trouble).await,
    }
}

async fn ask(state: &PortalState, taste: Taste, id: &str, parts: &Parts) -> Result<Response, Trouble> {
    let (signed_in, key) = seen(state, parts, id).await?;
    let (gate, actor, language) = (state.gate(), signed_in.actor(), taste.language);
    actor.may_change(&key)?;
    let (w, now) = (language.words(), gate.clock().wall());
    let dates = frame::dates(&signed_in, language, now);
    let form = RotateForm {
        w,
        prefix: state.options().prefix.clone(),
        id: key.id.to_string(),
        token: RequestId::generate().to_string(),
        overlaps: [(0, w.end_now), (3_600, w.end_hour), (USUAL, w.end_day), (604_800, w.end_week)]
            .map(|(seconds, text)| (seconds, text, seconds == USUAL))
            .into(),
        secret_state: match key.last_used_at() {
            Some(at) => language.used_at(&dates.past(at)),
            None => Html::from(w.never_used),
        },
    };
    one(state, taste, &signed_in, language.rotate_name(&key.name), w.rotate_explained, &form)
}

/// `POST`: makes the new secret and shows it, once.
pub(crate) async fn rotate(
    State(state): State<PortalState>,
    Extension(forms): Extension<SentForms>,
    Path(id): Path<String>,
    parts: Parts,
    body: Bytes,
) -> Response {
    let signed_in = match SignedIn::find(&state, &parts).await {
        Ok(signed_in) => signed_in,
        Err(reason) => return message::show(&state, &parts, &reason.into()).await,
    };
    let (sent, user, gate) = (Sent::read(&body), signed_in.user.id, state.gate());
    let token = sent.text("idempotency_key");
    if !forms.take(user, token, gate.clock().wall()) {
        let extras = Extras { sent_already: true, ..Extras::default() };
        return show(&state, &parts, &signed_in, None, StatusCode::CONFLICT, extras).await;
    }
    let overlap = sent.text("overlap_seconds").parse().unwrap_or(USUAL);
    let rotated = match id.parse::<KeyId>() {
        Ok(id) => rotate_key_as(gate, &signed_in.actor(), id, overlap).await.map_err(Trouble::from),
        Err(_) => Err(Trouble::NotFound),
    };
    match rotated {
        Ok(issued) => {
            let extras = Extras { issued: Some((issued.key, issued.text)), ..Extras::default() };
            show(&state, &parts, &signed_in, None, StatusCode::OK, extras).await
        }
        Err(trouble) => {
            forms.give_back(user, token);
            message::show(&state, &parts, &trouble).await
        }
    }
}
