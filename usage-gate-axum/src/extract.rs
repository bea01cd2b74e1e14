//! Extractors for handlers behind the layer.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use usage_gate_core::admission;
use usage_gate_tower::GateContext;
use usage_gate_tower::problem::MEDIA_TYPE;

/// Who calls: key, user, tenant and plan as one immutable snapshot.
#[derive(Debug, Clone)]
pub struct Caller(pub Arc<admission::Caller>);

impl Deref for Caller {
    type Target = admission::Caller;

    fn deref(&self) -> &admission::Caller {
        &self.0
    }
}

/// Where a handler states what the request costs.
#[derive(Debug, Clone)]
pub struct Cost(GateContext);

impl Cost {
    /// Replaces the units of a meter that this request takes, until the response ends; the last word counts.
    ///
    /// `false` if the meter is not declared: then nothing is counted but the mistake, in a metric.
    pub fn set(&self, meter: &str, units: u64) -> bool {
        self.0.cost().set(meter, units)
    }
}

/// The handler is not behind the layer, or its route is public and has no caller: a mistake of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingLayer;

impl IntoResponse for MissingLayer {
    fn into_response(self) -> Response {
        let detail = "a handler asks for the caller, but is not behind usage_gate_axum::layer (UsageGateLayer), or its route is public";
        tracing::error!("{detail}");
        let document = serde_json::json!({
            "type": "urn:usage-gate:problem:layer_missing",
            "title": "The gate is not set up for this route",
            "status": 500,
            "detail": detail,
            "code": "layer_missing",
        });
        let headers = [(CONTENT_TYPE, MEDIA_TYPE), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        (StatusCode::INTERNAL_SERVER_ERROR, headers, document.to_string()).into_response()
    }
}

fn context(parts: &Parts) -> Result<&GateContext, MissingLayer> {
    parts.extensions.get::<GateContext>().ok_or(MissingLayer)
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
        context(parts)?.caller().map(|caller| Self(Arc::clone(caller))).ok_or(MissingLayer)
    }
}

impl<S: Sync> FromRequestParts<S> for Cost {
    type Rejection = MissingLayer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingLayer> {
        context(parts).map(|context| Self(context.clone()))
    }
}
