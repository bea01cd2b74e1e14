//! Answers of the APIs: JSON, and problems that get the request's id where they leave.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use usage_gate_core::ManagementError;
use usage_gate_core::admission::{Code, Refusal};
use usage_gate_core::management::Invalid;
use usage_gate_core::model::RequestId;
use usage_gate_core::store::StoreError;
use usage_gate_tower::problem;

/// An error of an API.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    refusal: Box<Refusal>,
    faults: Option<Invalid>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Refusal::new(code, detail).into()
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no {what} here with this id"))
    }

    /// A parameter or member that cannot be used.
    pub(crate) fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Invalid::at(pointer, detail).into()
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self { refusal: Box::new(refusal), faults: None }
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let refusal = Refusal::new(Code::InvalidRequest, invalid.to_string());
        Self { refusal: Box::new(refusal), faults: Some(invalid) }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        // The driver's words are for the log only.
        tracing::warn!(error = &error as &dyn std::error::Error, "a store did not answer");
        Refusal::new(Code::StoreUnavailable, "the store did not answer; nothing is known to have changed")
            .retry_after(1)
            .into()
    }
}

impl From<ManagementError> for Problem {
    fn from(error: ManagementError) -> Self {
        match error {
            ManagementError::Invalid(invalid) => invalid.into(),
            ManagementError::NotFound(what) => Self::not_found(what),
            ManagementError::Conflict { field } => {
                let detail = "is taken by another: choose one that is not";
                let refusal = Refusal::new(Code::Conflict, format!("{field} {detail}"));
                Self { refusal: Box::new(refusal), faults: Some(Invalid::at(format!("/{field}"), detail)) }
            }
            ManagementError::Forbidden(detail) => Self::new(Code::Forbidden, detail),
            ManagementError::Suspended => Self::new(Code::TenantSuspended, ManagementError::Suspended.to_string()),
            ManagementError::Store(error) => error.into(),
            other => {
                tracing::error!(error = &other as &dyn std::error::Error, "management is not possible");
                Refusal::new(Code::StoreUnavailable, "accounts cannot be managed here").retry_after(60).into()
            }
        }
    }
}

impl IntoResponse for Problem {
    /// A shell that [`finish`] fills in, since only it knows the request's id.
    fn into_response(self) -> Response {
        let mut response = StatusCode::from_u16(self.refusal.code.status()).unwrap_or_default().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// JSON with a status; never cached, since it is about accounts.
pub(crate) fn json(status: StatusCode, document: &Value) -> Response {
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, document.to_string()).into_response()
}

/// 200 with JSON.
pub(crate) fn ok(document: &Value) -> Response {
    json(StatusCode::OK, document)
}

/// Middleware: gives the request an id, and the answer that id and, if it is a problem, its document.
pub(crate) async fn finish(mut request: Request, next: Next) -> Response {
    let id = RequestId::generate();
    // For pages, which tell it themselves.
    request.extensions_mut().insert(id);
    let text = id.to_string();
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        // What was set on the shell, such as `Allow`, is the answer's.
        let set = std::mem::take(response.headers_mut());
        let mut members = problem::json(&problem.refusal, &text);
        if let Some(invalid) = &problem.faults {
            let faults = invalid.faults.iter().map(|fault| json!({"pointer": fault.pointer, "detail": fault.detail}));
            members.insert("errors".into(), faults.collect::<Vec<_>>().into());
        }
        response = problem::document::<Body>(&problem.refusal, &text, &members);
        for (name, value) in set.into_iter().filter_map(|(name, value)| Some((name?, value))) {
            if name != CONTENT_LENGTH {
                response.headers_mut().entry(name).or_insert(value);
            }
        }
    }
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    response
}

pub(crate) async fn no_such_path() -> Problem {
    Problem::new(Code::NotFound, "there is nothing at this path")
}

pub(crate) async fn no_such_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path does not take this method; see Allow")
}
