//! The admin listener: the management API, health and metrics.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use usage_gate_axum::{AdminTokens, Portal};
use usage_gate_core::UsageGate;
use usage_gate_core::admission::Code;

use super::{Drain, accept, public};

/// An operator's client that takes nothing for so long has gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the recorder sorts what came in; unsorted observations take memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// Everything that is served on it.
pub(crate) fn router(gate: &UsageGate, tokens: AdminTokens, portal: &Portal, metrics: PrometheusHandle) -> Router {
    Router::new()
        .merge(usage_gate_axum::admin(gate, tokens, portal))
        .merge(usage_gate_axum::health(gate))
        .route(
            "/metrics",
            get(move || {
                let text = metrics.render();
                async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
            }),
        )
        .fallback(|| async { public::refuse(Code::NotFound, "there is no such resource").map(axum::body::Body::new) })
}

/// Accepts until the drain begins.
pub(crate) async fn run(router: Router, listener: TcpListener, drain: Drain) {
    accept(listener, drain, Some(WRITE_TIMEOUT), |_| TowerToHyperService::new(router.clone())).await;
}

/// Keeps the recorder's memory small until the process ends.
pub(crate) async fn keep_up(metrics: PrometheusHandle) {
    let mut every = tokio::time::interval(UPKEEP);
    loop {
        every.tick().await;
        metrics.run_upkeep();
    }
}
