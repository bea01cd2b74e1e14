//! The pages: a user's month and their keys, in their language, with links and forms that work without a script.
//!
//! A page is made whole by the server; htmx swaps the limits while it is open and opens a panel in a row. Everything that a page needs is
//! embedded (`assets`), nothing is inline, and what somebody named is escaped by the templates.

mod assets;
mod enter;
mod frame;
mod keys;
mod locale;
mod message;
mod meter;
mod month;
mod preferences;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::header::{ACCEPT, AUTHORIZATION};
use http::request::Parts;
use tower_http::compression::CompressionLayer;

use crate::answer;
use crate::portal_state::PortalState;

pub(crate) use frame::Taste;

/// Bytes of a form: a name of 10,000 characters of any script is read, so that the answer can say what is wrong with it.
const MOST_FORM: usize = 256 * 1024;

/// Pages and their files, by path under the prefix.
pub(crate) fn routes(state: &PortalState) -> Router<PortalState> {
    let month = state.path("/month");
    Router::new()
        .route("/", get(move || async move { Redirect::to(&month) }))
        .route("/month", get(month::show))
        .route("/month/live", get(month::live))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{id}/edit", get(keys::edit).post(keys::change))
        .route("/keys/{id}/rotate", get(keys::ask_to_rotate).post(keys::rotate))
        .route("/keys/{id}/revoke", get(keys::ask_to_revoke).post(keys::revoke))
        .route("/preferences", post(preferences::choose))
        .route("/enter/{token}", enter::route())
        .route("/signed-out", get(enter::signed_out))
        .route("/assets/{name}", get(assets::asset))
        .layer(Extension(keys::SentForms::default()))
        .layer(DefaultBodyLimit::max(MOST_FORM))
        .layer(CompressionLayer::new())
}

/// What no route has: a page for a browser, a problem for a program.
pub(crate) async fn no_such_page(State(state): State<PortalState>, parts: Parts) -> Response {
    if wants_page(&parts) {
        return message::show(&state, &parts, &message::Trouble::NotFound).await;
    }
    answer::no_such_path().await.into_response()
}

/// Whether a browser asks, for somebody to look at.
fn wants_page(parts: &Parts) -> bool {
    parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accepts| accepts.contains("text/html"))
}

/// A command line that calls the API with a key.
fn curl(state: &PortalState, key: &str) -> String {
    let origin = state.options().public_url.as_ref().map_or("https://YOUR_HOST", |url| url.origin());
    let header = match state.gate().key_headers().first() {
        Some(name) if *name == AUTHORIZATION => format!("authorization: Bearer {key}"),
        Some(name) => format!("{name}: {key}"),
        None => format!("x-api-key: {key}"),
    };
    format!("curl '{origin}{}' \\\n  -H '{header}'", state.options().example)
}
