//! Who may use the admin API: a token that was given at the start, or one that a store keeps.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use usage_gate_core::admission::Code;
use usage_gate_core::model::{AdminRole, TokenHash};
use usage_gate_core::store::{SessionStore, StoreError};

use crate::answer::Problem;

/// Tokens that open the admin API; kept as hashes.
#[derive(Clone, Default)]
pub struct AdminTokens {
    given: Option<[u8; 32]>,
    store: Option<Arc<dyn SessionStore>>,
}

impl AdminTokens {
    /// One token with every right.
    #[must_use]
    pub fn new(token: impl AsRef<[u8]>) -> Self {
        Self { given: Some(Sha256::digest(token.as_ref()).into()), store: None }
    }

    /// No token of one's own, but those that a store keeps.
    #[must_use]
    pub fn kept_in(store: Arc<dyn SessionStore>) -> Self {
        Self { given: None, store: Some(store) }
    }

    /// Those that a store keeps, too.
    #[must_use]
    pub fn and_kept_in(mut self, store: Arc<dyn SessionStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// What a token may do; nothing if nobody knows it.
    async fn role(&self, token: &[u8]) -> Result<Option<AdminRole>, StoreError> {
        // Hashes are compared, in constant time: neither content nor length of a token can be timed.
        let hash: [u8; 32] = Sha256::digest(token).into();
        if self.given.is_some_and(|given| bool::from(given.ct_eq(&hash))) {
            return Ok(Some(AdminRole::Full));
        }
        match &self.store {
            Some(store) => Ok(store.admin_token(TokenHash(hash)).await?.map(|kept| kept.role)),
            None => Ok(None),
        }
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
    let role = match token {
        Some((_, token)) => tokens.role(token.trim_ascii()).await,
        None => Ok(None),
    };
    match role {
        Ok(Some(AdminRole::Read)) if !request.method().is_safe() => {
            Problem::new(Code::Forbidden, "this admin token may only read").into_response()
        }
        Ok(Some(_)) => next.run(request).await,
        Ok(None) => Problem::new(Code::InvalidToken, "this is not an admin token of this service").into_response(),
        Err(error) => Problem::from(error).into_response(),
    }
}
