//! Whether the process runs, and whether it serves.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde_json::json;
use usage_gate_core::UsageGate;

use crate::answer;

/// `GET /healthz` (200: the process runs) and `GET /readyz`: 503 while draining or while usage cannot be recorded. A store that is away is
/// `200 {"status":"degraded"}`, so that a balancer does not remove every node at once.
pub fn health(gate: &UsageGate) -> Router {
    Router::new()
        .route("/healthz", get(|| async { answer::ok(&json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .with_state(gate.clone())
}

async fn ready(State(gate): State<UsageGate>) -> Response {
    let status = gate.status();
    if !status.ready {
        let word = if status.draining { "draining" } else { "journal_full" };
        return answer::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": word}));
    }
    if status.degraded.is_empty() {
        answer::ok(&json!({"status": "ready"}))
    } else {
        answer::ok(&json!({"status": "degraded", "degraded": status.degraded}))
    }
}
