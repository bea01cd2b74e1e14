//! `POST keys`: makes a key and shows it, once.

use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use usage_gate_core::management::{ManagementError, create_key_as, grantable_scopes};

use super::form::{KeyForm, Sent};
use super::{Extras, SentForms, show};
use crate::portal::frame::{self, Taste};
use crate::portal::message;
use crate::portal_state::PortalState;
use crate::session::SignedIn;

pub(crate) async fn create(
    State(state): State<PortalState>,
    Extension(forms): Extension<SentForms>,
    parts: Parts,
    body: Bytes,
) -> Response {
    let (taste, gate) = (Taste::of(&parts), state.gate());
    let signed_in = match SignedIn::find(&state, &parts).await {
        Ok(signed_in) => signed_in,
        Err(reason) => return message::show(&state, &parts, &reason.into()).await,
    };
    let (sent, now, user) = (Sent::read(&body), gate.clock().wall(), signed_in.user.id);
    let token = sent.text("idempotency_key");
    if !forms.take(user, token, now) {
        let extras = Extras { sent_already: true, ..Extras::default() };
        return show(&state, &parts, &signed_in, None, StatusCode::CONFLICT, extras).await;
    }
    let made = match sent.draft(now) {
        Ok(draft) => create_key_as(gate, &signed_in.actor(), draft, false).await,
        Err(invalid) => Err(invalid.into()),
    };
    match made {
        Ok(issued) => {
            let extras = Extras { issued: Some((issued.key, issued.text)), ..Extras::default() };
            show(&state, &parts, &signed_in, None, StatusCode::OK, extras).await
        }
        Err(ManagementError::Invalid(invalid)) => {
            forms.give_back(user, token);
            let plan = match signed_in.plan(gate).await {
                Ok(plan) => plan,
                Err(error) => return message::show(&state, &parts, &error.into()).await,
            };
            let dates = frame::dates(&signed_in, taste.language, now);
            let form = KeyForm::to_create(&state, taste.language, &dates, &grantable_scopes(gate, &plan), now);
            let extras = Extras { form: Some(form.again(&sent, &invalid, taste.language)), ..Extras::default() };
            show(&state, &parts, &signed_in, None, StatusCode::BAD_REQUEST, extras).await
        }
        Err(error) => {
            forms.give_back(user, token);
            message::show(&state, &parts, &error.into()).await
        }
    }
}
