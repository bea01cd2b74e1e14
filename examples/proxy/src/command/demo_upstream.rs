//! The API that the demo puts behind the gate: it knows nothing of keys.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Path, Query};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http_body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Interval;

/// Its routes.
pub(super) fn router() -> Router {
    Router::new()
        .route("/v1/search", get(search))
        .route("/v1/items/{id}", get(item))
        .route("/v1/exports", post(export))
        .route("/v1/feed", get(feed))
        .route("/v1/echo", any(echo))
        .route("/v1/stream", get(stream))
}

#[derive(Debug, Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
}

/// States what it cost itself: the gate counts it, and the caller does not see the header.
async fn search(Query(Search { q }): Query<Search>) -> impl IntoResponse {
    let items: Vec<Value> = (1..=3).map(|n| json!({"id": n, "title": format!("{q} {n}")})).collect();
    let tokens = 160 + 40 * q.len();
    ([("x-usage-gate-cost", format!("output_tokens={tokens}"))], Json(json!({"query": q, "items": items})))
}

async fn item(Path(id): Path<String>) -> Json<Value> {
    Json(json!({"id": id, "title": format!("item {id}")}))
}

async fn export() -> (StatusCode, Json<Value>) {
    (StatusCode::CREATED, Json(json!({"rows": 1_200})))
}

async fn feed() -> Json<Value> {
    Json(json!({"items": [{"id": 1, "title": "what is new"}]}))
}

/// Shows what an upstream learns: who calls, and never the key.
async fn echo(headers: HeaderMap, body: String) -> Json<Value> {
    let headers: serde_json::Map<String, Value> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    Json(json!({"headers": headers, "body": body}))
}

async fn stream() -> axum::body::Body {
    axum::body::Body::new(Ticks { left: 5, every: tokio::time::interval(Duration::from_millis(500)) })
}

/// A chunk every half second.
#[derive(Debug)]
struct Ticks {
    left: u32,
    every: Interval,
}

impl http_body::Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.every.poll_tick(cx).map(|_| {
            self.left -= 1;
            Some(Ok(Frame::data(format!("{} to go\n", self.left).into())))
        })
    }
}
