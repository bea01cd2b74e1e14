//! `Idempotency-Key` on `POST`: the same call twice is done once and answered twice.
//!
//! A name is its user's own: two users who choose the same one do not meet. Answers are kept in memory for 24 hours, at most 10,000 of them, never on disk: the answer to a new key holds its text. A restart
//! forgets them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use usage_gate_core::admission::Code;
use usage_gate_core::clock::Clock;
use usage_gate_core::model::{Timestamp, UserId};

use crate::answer::Problem;
use crate::document;
use crate::session::SignedIn;

const KEPT_MICROS: i64 = 24 * 3_600 * 1_000_000;
const MOST: usize = 10_000;

/// Calls that were made with a key.
#[derive(Debug, Clone)]
pub(crate) struct Idempotency {
    clock: Clock,
    calls: Arc<Mutex<HashMap<CallName, Call>>>,
}

/// Which call it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CallName {
    /// Who calls; `None` for operators.
    user: Option<UserId>,
    path: String,
    key: String,
}

#[derive(Debug)]
struct Call {
    body: [u8; 32],
    began: Timestamp,
    answer: Option<(StatusCode, HeaderMap, Bytes)>,
}

impl Idempotency {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, calls: Arc::default() }
    }

    /// Begins a call; an answer if it was made before.
    fn begin(&self, call: &CallName, body: [u8; 32]) -> Result<Option<Response>, Problem> {
        let now = self.clock.wall();
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = calls.get(call).filter(|known| known.began.plus_micros(KEPT_MICROS) > now) {
            if known.body != body {
                let detail = "this Idempotency-Key came with another body before: use a new key for a new call";
                return Err(Problem::new(Code::IdempotencyConflict, detail));
            }
            let Some((status, headers, body)) = &known.answer else {
                let detail = "the first call with this Idempotency-Key is still running: ask again";
                return Err(Problem::new(Code::IdempotencyInProgress, detail));
            };
            return Ok(Some((*status, headers.clone(), body.clone()).into_response()));
        }
        if calls.len() >= MOST {
            calls.retain(|_, known| known.began.plus_micros(KEPT_MICROS) > now);
        }
        if calls.len() >= MOST {
            let oldest = calls.iter().filter(|(_, known)| known.answer.is_some()).min_by_key(|(_, known)| known.began);
            if let Some(oldest) = oldest.map(|(call, _)| call.clone()) {
                calls.remove(&oldest);
            }
        }
        calls.insert(call.clone(), Call { body, began: now, answer: None });
        Ok(None)
    }

    fn end(&self, call: &CallName, answer: Option<(StatusCode, HeaderMap, Bytes)>) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        match (answer, calls.get_mut(call)) {
            (Some(answer), Some(known)) => known.answer = Some(answer),
            (None, _) => {
                calls.remove(call);
            }
            (Some(_), None) => {}
        }
    }
}

/// Middleware for `POST` with an `Idempotency-Key`.
pub(crate) async fn replay(State(idempotency): State<Idempotency>, request: Request, next: Next) -> Response {
    let key = request.headers().get("idempotency-key").filter(|_| *request.method() == Method::POST);
    let Some(key) = key else { return next.run(request).await };
    let Ok(key) = key.to_str().map(str::to_owned) else {
        return Problem::invalid("", "Idempotency-Key must be ASCII").into_response();
    };
    if key.is_empty() || key.len() > 255 {
        return Problem::invalid("", "Idempotency-Key must have 1 to 255 characters").into_response();
    }
    let (parts, body) = request.into_parts();
    let body = match document::read(Request::from_parts(parts.clone(), body)).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let user = parts.extensions.get::<SignedIn>().map(|signed_in| signed_in.user.id);
    let call = CallName { user, path: parts.uri.path().to_owned(), key };
    match idempotency.begin(&call, Sha256::digest(&body).into()) {
        Err(problem) => return problem.into_response(),
        Ok(Some(answer)) => return answer,
        Ok(None) => {}
    }
    // In a task of its own: a client that hangs up does not leave the call half done and its key in doubt.
    let (running, named) = (idempotency.clone(), call.clone());
    let run = tokio::spawn(async move {
        let response = next.run(Request::from_parts(parts, body.into())).await;
        // A problem's document is made further out: kept is what was done, not what was refused.
        if !response.status().is_success() {
            idempotency.end(&call, None);
            return response;
        }
        let (head, body) = response.into_parts();
        let Ok(body) = body.collect().await else {
            idempotency.end(&call, None);
            return Problem::new(Code::StoreUnavailable, "the answer broke off").into_response();
        };
        let body = body.to_bytes();
        idempotency.end(&call, Some((head.status, head.headers.clone(), body.clone())));
        Response::from_parts(head, body.into())
    });
    match run.await {
        Ok(response) => response,
        Err(_) => {
            // Otherwise the name would stay in progress for a day.
            running.end(&named, None);
            Problem::new(Code::StoreUnavailable, "the call did not end well: look before you repeat it").into_response()
        }
    }
}
