//! Whether the process runs, and whether it serves.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use serde_json::json;
use usage_gate_core::UsageGate;

use crate::answer;

/// `GET /healthz` (200: the process runs) and `GET /readyz`: 503 while draining, while usage cannot be recorded, or while the key store has been away since the start and nobody is known
/// from before. A store that is away otherwise is `200 {"status":"degraded"}`, so that a balancer does not remove every node at once.
pub fn health(gate: &UsageGate) -> Router {
    Router::new()
        .route("/healthz", get(|| async { answer::ok(&json!({"status": "ok"})) }))
        .route("/readyz", get(ready))
        .with_state(gate.clone())
}

async fn ready(State(gate): State<UsageGate>) -> Response {
    let status = gate.status();
    let (http, word) = match &status {
        status if status.draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        status if status.loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        status if !status.ready => (StatusCode::SERVICE_UNAVAILABLE, "journal_full"),
        status if status.degraded.is_empty() => (StatusCode::OK, "ready"),
        _ => (StatusCode::OK, "degraded"),
    };
    let mut document = json!({"status": word});
    for (name, stores) in [("degraded", &status.degraded), ("unusable", &status.unusable)] {
        if !stores.is_empty() {
            document[name] = json!(stores);
        }
    }
    answer::json(http, &document)
}
