//! What end users may ask: with a key, who they are and how much is left.

mod me;

use axum::Router;
use axum::routing::get;

use crate::portal_state::PortalState;

/// The self-service API under `/v1`. Its requests are never metered.
pub(crate) fn routes(_: &PortalState) -> Router<PortalState> {
    Router::new().route("/v1/me", get(me::me))
}
