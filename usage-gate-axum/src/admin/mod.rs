//! The admin API: `/admin/v1`, for operators and their backends.

mod keys;
mod limits;
mod plans;
mod portal_sessions;
mod requests;
mod tenants;
mod token;
mod usage;
mod users;

use std::sync::Arc;

use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use usage_gate_core::UsageGate;
use usage_gate_core::store::AccountStore;

pub use token::AdminTokens;

use crate::answer::{self, Problem};
use crate::idempotency::{self, Idempotency};
use crate::options::Portal;
use crate::path::{PathText, id};

/// The admin API under `/admin/v1`, for a listener that only operators reach. It makes links into `portal`.
pub fn admin(gate: &UsageGate, tokens: AdminTokens, portal: &Portal) -> Router {
    let routes = Router::new()
        .route("/plans", get(plans::list).post(plans::create))
        .route("/plans/{id}", get(plans::read).put(plans::replace))
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route("/tenants/{id}", get(tenants::read).patch(tenants::change).delete(tenants::delete))
        .route("/tenants/{id}/suspend", post(tenants::suspend))
        .route("/tenants/{id}/resume", post(tenants::resume))
        .route("/tenants/{id}/limits", get(limits::list))
        .route("/tenants/{id}/users", get(users::list).post(users::create))
        .route("/users/{id}", get(users::read).patch(users::change).delete(users::delete))
        .route("/tenants/{id}/keys", get(keys::list).post(keys::create))
        .route("/keys/{id}", get(keys::read).patch(keys::change).delete(keys::delete))
        .route("/keys/{id}/revoke", post(keys::revoke))
        .route("/keys/{id}/rotate", post(keys::rotate))
        .route("/usage", get(usage::read))
        .route("/requests", get(requests::list))
        .route("/portal-sessions", post(portal_sessions::create))
        .layer(Extension(portal_sessions::LinkBase::new(portal)))
        .with_state(gate.clone());
    let routes = routes.fallback(answer::no_such_path).method_not_allowed_fallback(answer::no_such_method);
    Router::new()
        .nest("/admin/v1", routes)
        // Nesting leaves out the prefix with a slash at its end.
        .route("/admin/v1/", any(answer::no_such_path))
        .layer(from_fn_with_state(Idempotency::new(gate.clock().clone()), idempotency::replay))
        .layer(from_fn_with_state(tokens, token::check))
        .layer(from_fn(answer::finish))
}

fn accounts(gate: &UsageGate) -> Result<&Arc<dyn AccountStore>, Problem> {
    gate.accounts().ok_or_else(|| usage_gate_core::ManagementError::NoAccounts.into())
}
