//! Who may use the admin API.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use usage_gate_core::admission::Code;

use crate::answer::Problem;

/// Tokens that open the admin API; kept as hashes.
#[derive(Clone)]
pub struct AdminTokens(Arc<[[u8; 32]]>);

impl AdminTokens {
    /// One token with every right.
    #[must_use]
    pub fn new(token: impl AsRef<[u8]>) -> Self {
        Self([Sha256::digest(token.as_ref()).into()].into())
    }

    fn hold(&self, token: &[u8]) -> bool {
        // Hashes are compared, in constant time: neither content nor length of a token can be timed.
        let given: [u8; 32] = Sha256::digest(token).into();
        self.0.iter().fold(false, |found, known| found | bool::from(known.ct_eq(&given)))
    }
}

impl fmt::Debug for AdminTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminTokens(…)")
    }
}

pub(super) async fn check(State(tokens): State<AdminTokens>, request: Request, next: Next) -> Response {
    let Some(value) = request.headers().get(AUTHORIZATION) else {
        let detail = "send the admin token as Authorization: Bearer <token>";
        return Problem::new(Code::MissingToken, detail).into_response();
    };
    let token = value.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    match token {
        Some((_, token)) if tokens.hold(token.trim_ascii()) => next.run(request).await,
        _ => Problem::new(Code::InvalidToken, "this is not an admin token of this service").into_response(),
    }
}
