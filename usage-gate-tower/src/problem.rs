//! Refusals as problem details (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
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
    let limit = &state.limit;
    let mut members = json!({
        "name": limit.name,
        "kind": limit.kind.as_str(),
        "meter": limit.meter,
        "counted_by": limit.counted_by.as_str(),
        "subject": state.subject,
        "units": limit.units,
        "per": limit.per.map(usage_gate_core::model::Per::as_str),
        "when_exceeded": limit.when_exceeded.as_str(),
        "limit": state.ceiling,
        "used": state.used,
        "reserved": state.reserved,
        "remaining": state.remaining(),
        "over": state.over(),
        "period": state.period.map(|period| json!({"start": period.start, "end": period.end})),
        "resets_at": state.resets_at,
    });
    if let Some(members) = members.as_object_mut() {
        if let Some(name) = &state.subject_name {
            members.insert("subject_name".into(), name.as_str().into());
        }
        if let Some(subjects) = state.subjects {
            members.insert("subjects".into(), subjects.into());
        }
    }
    members
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
