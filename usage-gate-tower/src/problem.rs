//! Refusals as problem details (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};
use usage_gate_core::admission::{Code, LimitState, Refusal};

/// The media type of problem details.
pub const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The problem document of a refusal; `instance` is the request's id.
#[must_use]
pub fn json(refusal: &Refusal, instance: &str) -> Map<String, Value> {
    let code = refusal.code;
    let mut members = Map::new();
    members.insert("type".into(), code.problem_type().into());
    members.insert("title".into(), code.title().into());
    members.insert("status".into(), code.status().into());
    members.insert("detail".into(), refusal.detail.as_ref().into());
    if !instance.is_empty() {
        members.insert("instance".into(), instance.into());
    }
    members.insert("code".into(), code.as_str().into());
    if !refusal.violated.is_empty() {
        let names: Vec<Value> = refusal.violated.iter().map(|state| state.limit.name.as_str().into()).collect();
        members.insert("violated-policies".into(), names.into());
        members.insert("violated".into(), refusal.violated.iter().map(limit_state).collect::<Vec<_>>().into());
    }
    members
}

/// A limit state, as it is shown wherever a limit is shown.
#[must_use]
pub fn limit_state(state: &LimitState) -> Value {
    // Texts and numbers under names: nothing in it can fail.
    serde_json::to_value(state).unwrap_or_default()
}

/// The answer to a refused request.
#[must_use]
pub fn response<B: From<Bytes>>(refusal: &Refusal, instance: &str) -> Response<B> {
    document(refusal, instance, &json(refusal, instance))
}

/// The same with a document that has members of its own.
#[must_use]
pub fn document<B: From<Bytes>>(refusal: &Refusal, instance: &str, members: &Map<String, Value>) -> Response<B> {
    let body = serde_json::to_vec(members).unwrap_or_default();
    let mut response = Response::new(B::from(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(refusal.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, MEDIA_TYPE);
    // RFC 6585: a 429 must not be cached; nor does any other refusal make sense to the next caller.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(value) = HeaderValue::from_str(instance)
        && !instance.is_empty()
    {
        headers.insert(HeaderName::from_static("x-request-id"), value);
    }
    if let Some(seconds) = refusal.retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if let Some(allow) = refusal.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
        headers.insert(ALLOW, allow);
    }
    if refusal.code.status() == 401 {
        let challenge = match refusal.code {
            Code::MissingKey | Code::MissingToken => r#"Bearer realm="usage-gate""#,
            _ => r#"Bearer realm="usage-gate", error="invalid_token""#,
        };
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}
