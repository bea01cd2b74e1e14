//! The way in and the way out, as pages.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get};
use http::StatusCode;
use http::request::Parts;
use usage_gate_core::management::LinkError;

use super::frame::{Frame, Taste};
use super::message::{self, Message, Trouble};
use crate::answer::Problem;
use crate::client::Client;
use crate::portal_state::PortalState;
use crate::session::{self, SignedIn};

/// `GET enter/{token}`, and `HEAD`, which uses nothing up.
pub(crate) fn route() -> MethodRouter<PortalState> {
    get(enter).head(session::looked_at)
}

async fn enter(
    State(state): State<PortalState>,
    Client(client): Client,
    Path(token): Path<String>,
    parts: Parts,
) -> Response {
    let (taste, gate) = (Taste::of(&parts), state.gate());
    // Links are guessed like keys, and whoever guesses is shut out from both.
    if let Err(refusal) = gate.check_source(client) {
        if super::wants_page(&parts) {
            return message::show(&state, &parts, &Trouble::Blocked(refusal.retry_after)).await;
        }
        return Problem::from(refusal).into_response();
    }
    let error = match session::enter(&state, &token, &parts).await {
        Ok(response) => return response,
        Err(error) => error,
    };
    // Somebody pressed reload, or the link twice: it was theirs, and they are in.
    if matches!(error, LinkError::Used) && SignedIn::find(&state, &parts).await.is_ok() {
        return session::private(Redirect::to(&state.path("/month")).into_response());
    }
    if matches!(error, LinkError::Unknown) {
        gate.note_bad_credential(client);
    }
    session::private(match error {
        // A program that follows a link is answered in its own way.
        error if !super::wants_page(&parts) => Problem::from(error).into_response(),
        LinkError::Management(error) => message::show(&state, &parts, &Trouble::from(error)).await,
        _ => {
            let frame = Frame::new(&state, taste, "", &state.path("/month"));
            let w = frame.w;
            let page = Message::new(frame, w.link_title, w.link_text).advice(w.ended_advice);
            message::html(StatusCode::UNAUTHORIZED, &page, None)
        }
    })
}

/// `GET signed-out`: where signing out leads if nobody knows where the user came from.
pub(crate) async fn signed_out(State(state): State<PortalState>, parts: Parts) -> Response {
    let frame = Frame::new(&state, Taste::of(&parts), "", &state.path("/signed-out"));
    let w = frame.w;
    let page = Message::new(frame, w.signed_out_title, w.signed_out_text).advice(w.ended_advice);
    message::html(StatusCode::OK, &page, None)
}
