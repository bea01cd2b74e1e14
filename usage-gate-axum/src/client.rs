//! The layer, with the client's address from Axum's `ConnectInfo` where nobody gave a better one.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use axum::extract::{ConnectInfo, FromRequestParts};
use http::request::Parts;
use http::{Extensions, Request};
use tower_layer::Layer;
use tower_service::Service;
use usage_gate_core::UsageGate;
use usage_gate_tower::{ClientAddress, UsageGateLayer, UsageGateService};

/// The client's address, as the layer knows it: what the host put into the extensions, else the peer of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) Option<IpAddr>);

impl Client {
    pub(crate) fn of(extensions: &Extensions) -> Self {
        let given = extensions.get::<ClientAddress>().map(|address| address.0);
        Self(given.or_else(|| extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip())))
    }
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// Puts a gate around an Axum router (or any service).
///
/// The client's address is [`ClientAddress`] in the request's extensions if a host behind proxies has put it there (see
/// [`client_address`](usage_gate_tower::source::client_address)), else the peer of the connection, which Axum knows if the app is served with
/// `into_make_service_with_connect_info::<SocketAddr>()`.
#[must_use]
pub fn layer(gate: &UsageGate) -> GateLayer {
    GateLayer { inner: UsageGateLayer::new(gate) }
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub struct GateLayer {
    inner: UsageGateLayer,
}

impl<S> Layer<S> for GateLayer {
    type Service = GateService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GateService { inner: self.inner.layer(inner) }
    }
}

/// The service that [`GateLayer`] makes.
#[derive(Debug, Clone)]
pub struct GateService<S> {
    inner: UsageGateService<S>,
}

impl<S, B> Service<Request<B>> for GateService<S>
where
    UsageGateService<S>: Service<Request<B>>,
{
    type Response = <UsageGateService<S> as Service<Request<B>>>::Response;
    type Error = <UsageGateService<S> as Service<Request<B>>>::Error;
    type Future = <UsageGateService<S> as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let extensions = request.extensions_mut();
        if extensions.get::<ClientAddress>().is_none()
            && let Some(ConnectInfo(peer)) = extensions.get::<ConnectInfo<SocketAddr>>().copied()
        {
            extensions.insert(ClientAddress(peer.ip()));
        }
        self.inner.call(request)
    }
}
