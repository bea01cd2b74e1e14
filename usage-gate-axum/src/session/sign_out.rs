//! `POST <prefix>/sign-out`: the session ends at the server and in the browser.

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, SET_COOKIE};
use usage_gate_core::ManagementError;
use usage_gate_core::management;

use super::cookie;
use super::enter::lead_to;
use crate::answer::Problem;
use crate::portal_state::PortalState;

/// Leads back to where the user came from, or to a page that says that they are signed out. Again is no error.
///
/// A user of the host's own login stays signed in to the host, which is the host's to end.
pub(crate) async fn sign_out(State(state): State<PortalState>, headers: HeaderMap) -> Result<Response, Problem> {
    let way_back = end(&state, &headers).await?;
    let mut response = lead_to(&way_back.unwrap_or_else(|| state.path("/signed-out")));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    headers.extend(cookie::forget(&state).map(|cookie| (SET_COOKIE, cookie)));
    Ok(response)
}

/// Ends the session of a request's cookie, if there is one, and gives where its user came from.
pub(crate) async fn end(state: &PortalState, headers: &HeaderMap) -> Result<Option<String>, ManagementError> {
    match cookie::session(state, headers) {
        Some(token) => Ok(management::end_session(state.gate(), &token).await?.and_then(|session| session.return_url)),
        None => Ok(None),
    }
}
