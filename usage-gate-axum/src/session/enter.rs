//! `GET <prefix>/enter/{token}`: a one-time link becomes a session.
//!
//! Only a person's visit uses a link up: `HEAD`, with which mail programs and chats look at links, and a browser's prefetch do not.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use usage_gate_core::admission::Code;
use usage_gate_core::management::{self, LinkError};

use super::cookie;
use crate::answer::Problem;
use crate::portal_state::PortalState;

/// `HEAD`: what mail programs and chats ask.
pub(crate) async fn looked_at() -> Response {
    private(StatusCode::NO_CONTENT.into_response())
}

/// Uses the link up, ends the session that the browser had, and leads to the first page with a new one.
pub(crate) async fn enter(state: &PortalState, token: &str, request: &Parts) -> Result<Response, LinkError> {
    let purpose = ["sec-purpose", "purpose"].iter().filter_map(|name| request.headers.get(*name));
    if purpose.filter_map(|value| value.to_str().ok()).any(|value| value.contains("prefetch")) {
        return Ok(private(StatusCode::NO_CONTENT.into_response()));
    }
    let begun = management::redeem_portal_link(state.gate(), token).await?;
    // The token is always a new one, so that nobody knows it beforehand; the old session must not go on beside it either.
    if let Some(before) = cookie::session(state, &request.headers)
        && let Err(error) = management::end_session(state.gate(), &before).await
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "the session before was not ended; it ends by itself");
    }
    let mut response = lead_to(&state.path("/"));
    response.headers_mut().extend(cookie::begin(state, &begun.token).map(|cookie| (SET_COOKIE, cookie)));
    Ok(private(response))
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        let detail = match error {
            LinkError::Management(error) => return error.into(),
            LinkError::Used => "this link was used before: a link works once; ask for another",
            LinkError::Expired => "this link is older than 15 minutes: ask for another",
            _ => "this is not a link of this service: ask for another",
        };
        Self::new(Code::InvalidToken, detail)
    }
}

/// 303, so that what comes next is read and not sent again.
pub(super) fn lead_to(place: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().extend(HeaderValue::from_str(place).ok().map(|place| (LOCATION, place)));
    response
}

/// Nothing keeps the answer, and no page that follows tells others where it was: the link is in its address.
pub(crate) fn private(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex"));
    response
}
