//! Everything under the reserved prefix, put together: the portal, its sessions and the self-service API.

use axum::Router;
use axum::middleware::from_fn;
use axum::response::IntoResponse;
use axum::routing::post;
use tower_http::csrf::{CsrfLayer, ProtectionError};
use usage_gate_core::UsageGate;
use usage_gate_core::admission::Code;

use crate::answer::{self, Problem};
use crate::options::Portal;
use crate::portal_state::PortalState;
use crate::{portal as pages, self_service, session};

/// The portal and the self-service API under the portal's [prefix](Portal::prefix), to be merged into the host's router outside the gate's
/// layer: its requests are never metered.
///
/// ```
/// # use axum::{Router, routing::get}; use usage_gate_axum::Portal;
/// # use usage_gate_core::{UsageGate, clock::Clock, secret::Pepper, store::memory::MemoryStore};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gate = UsageGate::builder().store(MemoryStore::new(Clock::system())).pepper(Pepper::new(&[7; 32])).build().await?;
/// let portal = Portal::new().public_url("https://api.example.com")?.name("Northwind API");
/// let app: Router = Router::new()
///     .route("/v1/search", get(|| async { "found" }))
///     .layer(usage_gate_axum::layer(&gate))
///     .merge(usage_gate_axum::portal(&gate, &portal));
/// # drop(app); Ok(()) }
/// ```
///
/// What changes anything is taken from pages of this origin only (`Sec-Fetch-Site`, `Origin`), with our cookie as with the host's login.
pub fn portal(gate: &UsageGate, options: &Portal) -> Router {
    let state = PortalState::new(gate, options);
    let routes = Router::new()
        .merge(pages::routes(&state))
        .route("/sign-out", post(session::sign_out))
        .merge(self_service::routes(&state))
        .fallback(pages::no_such_page)
        .method_not_allowed_fallback(answer::no_such_method)
        .layer(cross_site(options))
        .layer(from_fn(answer::finish))
        .with_state(state);
    // As a service, because nesting a router leaves out the prefix with a slash at its end.
    Router::new().nest_service(&options.prefix, routes)
}

/// Refuses changes that another site's page asks for.
fn cross_site(options: &Portal) -> CsrfLayer<impl Fn(ProtectionError) -> axum::response::Response + Clone + use<>> {
    let mut layer = CsrfLayer::new();
    if let Some(url) = &options.public_url {
        // Behind a proxy that ends TLS the request looks like http and may have another host; the browser's word is the origin's.
        match layer.clone().add_trusted_origin(url.origin()) {
            Ok(trusting) => layer = trusting,
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "the public URL is no origin"),
        }
    }
    layer.with_rejection_response(|_| {
        Problem::new(Code::Forbidden, "this change was asked for by a page of another site").into_response()
    })
}
