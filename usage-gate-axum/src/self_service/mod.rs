//! What end users may ask: with a key, who they are and how much is left.

mod me;

use axum::Router;
use axum::routing::get;
use usage_gate_core::UsageGate;

use crate::answer;

/// The self-service API, to be nested under the reserved prefix (`/usage-gate`). Its requests are never metered.
pub fn self_service(gate: &UsageGate) -> Router {
    Router::new()
        .route("/v1/me", get(me::me))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(axum::middleware::from_fn(answer::finish))
        .with_state(gate.clone())
}
