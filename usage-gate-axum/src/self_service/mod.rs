//! What end users may ask: with a key, who they are and how much is left; signed in to the portal, their keys, usage and limits.
//!
//! The second is confined to the tenant of who is signed in, and to their role: the rules are in `management`. Every route is a row of one
//! table, which the tests go through role by role.

mod keys;
mod me;
mod requests;
mod session;
mod usage;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};

use crate::answer::Problem;
use crate::idempotency::{self, Idempotency};
use crate::portal_state::PortalState;
use crate::session::SignedIn;

/// A route of the API for users who are signed in.
struct Endpoint {
    method: &'static str,
    /// Under `<prefix>/v1`.
    path: &'static str,
    handler: fn() -> MethodRouter<PortalState>,
}

const fn row(method: &'static str, path: &'static str, handler: fn() -> MethodRouter<PortalState>) -> Endpoint {
    Endpoint { method, path, handler }
}

/// All of them: the router is built of nothing else.
const ENDPOINTS: [Endpoint; 14] = [
    row("GET", "/session", || get(session::read)),
    row("POST", "/session", || post(session::choose)),
    row("DELETE", "/session", || delete(session::end)),
    row("GET", "/keys", || get(keys::list)),
    row("POST", "/keys", || post(keys::create)),
    row("GET", "/keys/{id}", || get(keys::read)),
    row("PATCH", "/keys/{id}", || patch(keys::change)),
    row("DELETE", "/keys/{id}", || delete(keys::delete)),
    row("POST", "/keys/{id}/rotate", || post(keys::rotate)),
    row("POST", "/keys/{id}/revoke", || post(keys::revoke)),
    row("GET", "/usage", || get(usage::read)),
    row("GET", "/requests", || get(requests::list)),
    row("GET", "/limits", || get(usage::limits)),
    row("GET", "/periods", || get(usage::periods)),
];

/// Method and path, under the prefix, of every route of the self-service API that needs a portal session.
///
/// ```
/// assert!(usage_gate_axum::self_service_routes().any(|route| route == ("GET", "/v1/keys/{id}".to_owned())));
/// ```
pub fn self_service_routes() -> impl Iterator<Item = (&'static str, String)> {
    ENDPOINTS.iter().map(|endpoint| (endpoint.method, format!("/v1{}", endpoint.path)))
}

/// The self-service API under `/v1`. Its requests are never metered.
pub(crate) fn routes(state: &PortalState) -> Router<PortalState> {
    let api = ENDPOINTS
        .iter()
        .fold(Router::new(), |router, endpoint| router.route(endpoint.path, (endpoint.handler)()))
        // Of routes only: a path that is not there is not there for anybody.
        .route_layer(from_fn_with_state(Idempotency::new(state.gate().clock().clone()), idempotency::replay))
        .route_layer(from_fn_with_state(state.clone(), recognize));
    Router::new().route("/v1/me", get(me::me)).nest("/v1", api)
}

/// Finds out once who is signed in; nobody else gets any further.
async fn recognize(State(state): State<PortalState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    match SignedIn::find(&state, &parts).await {
        Ok(signed_in) => {
            parts.extensions.insert(signed_in);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(reason) => Problem::from(reason).into_response(),
    }
}
