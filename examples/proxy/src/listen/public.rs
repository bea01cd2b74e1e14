//! The public listener: the API behind the gate, and our own pages under the reserved prefix.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use usage_gate_axum::Portal;
use usage_gate_core::UsageGate;
use usage_gate_core::admission::{Code, Refusal};
use usage_gate_core::model::{AddressRange, RequestId};
use usage_gate_tower::source::client_address;
use usage_gate_tower::{ClientAddress, ResponseBody, UsageGateLayer, UsageGateService, problem};

use super::observe::{Durations, Observation, Observed};
use super::{Drain, MAX_HEAD, accept};
use crate::config::Config;
use crate::forward::{BoxError, Forward, Peer, UpstreamBody};

/// Everything that a request on the public listener meets.
#[derive(Debug)]
pub(crate) struct Public {
    gate: UsageGate,
    api: UsageGateService<Forward>,
    ours: Router,
    reserved: crate::config::ReservedPrefix,
    trusted: Vec<AddressRange>,
    client_ip_header: Option<HeaderName>,
    durations: Arc<Durations>,
}

impl Public {
    pub(crate) fn new(config: &Config, gate: &UsageGate, portal: &Portal) -> anyhow::Result<Self> {
        let reserved = config.server.reserved_prefix.clone();
        let ours = Router::new()
            .merge(usage_gate_axum::portal(gate, portal))
            .fallback(|| async { refuse(Code::NotFound, "there is no such page").map(axum::body::Body::new) });
        Ok(Self {
            api: UsageGateLayer::new(gate).layer(Forward::new(config, gate)?),
            ours,
            durations: Arc::new(Durations::new(gate.routes(), reserved.as_str())),
            reserved,
            trusted: config.server.trusted_proxies.clone(),
            client_ip_header: config.server.client_ip_header.clone(),
            gate: gate.clone(),
        })
    }

    /// Accepts until the drain begins.
    pub(crate) async fn run(self, config: &Config, listener: TcpListener, drain: Drain) {
        let public = Arc::new(self);
        accept(listener, drain, config.upstream.idle_timeout, |peer: SocketAddr| {
            let public = Arc::clone(&public);
            let address = peer.ip().to_canonical();
            let trusted = public.trusted.iter().any(|range| range.contains(address));
            hyper::service::service_fn(move |request| {
                let public = Arc::clone(&public);
                async move { Ok::<_, Infallible>(public.answer(request, Peer { address, trusted }).await) }
            })
        })
        .await;
    }

    async fn answer(&self, mut request: Request<Incoming>, peer: Peer) -> Response<Observed<PublicBody>> {
        let ours = self.reserved.covers(request.uri().path());
        let observation = Observation::begin(&self.durations, self.gate.routes(), &request, ours);
        let response = match check(&request) {
            Err((code, detail)) => refuse(code, detail).map(|body| PublicBody::Refusal { body }),
            Ok(()) => {
                let client = self.client(&request, peer.address);
                request.extensions_mut().insert(ClientAddress(client));
                if ours {
                    let response = self.ours.clone().oneshot(request).await;
                    response.unwrap_or_else(|never| match never {}).map(|body| PublicBody::Ours { body })
                } else {
                    request.extensions_mut().insert(peer);
                    let response = self.api.clone().oneshot(request).await;
                    response.unwrap_or_else(|never| match never {}).map(|body| PublicBody::Api { body })
                }
            }
        };
        observation.follow(response)
    }

    fn client(&self, request: &Request<Incoming>, peer: IpAddr) -> IpAddr {
        client_address(peer, request.headers(), &self.trusted, self.client_ip_header.as_ref())
    }
}

/// What no gate needs to look at.
fn check<B>(request: &Request<B>) -> Result<(), (Code, &'static str)> {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if fields.sum::<usize>() + target > MAX_HEAD {
        return Err((Code::HeadersTooLarge, "the request's head is larger than 32 KiB"));
    }
    // Both make a proxy do something else than forward: a tunnel, or an echo of what it adds.
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err((Code::MethodNotAllowed, "CONNECT and TRACE are not forwarded"));
    }
    // Servers that differ about which of two hosts counts disagree about what is asked for (RFC 9112, 3.2).
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        return Err((Code::InvalidRequest, "a request has exactly one Host"));
    }
    Ok(())
}

/// An answer outside the gate, with a request id of its own.
pub(super) fn refuse(code: Code, detail: &'static str) -> Response<Full<Bytes>> {
    let mut refusal = Refusal::new(code, detail);
    if code == Code::MethodNotAllowed {
        refusal.allow = Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".into());
    }
    problem::response::<Bytes>(&refusal, &RequestId::generate().to_string()).map(Full::new)
}

pin_project! {
    /// The body of an answer: the API's, a page's, or a refusal's.
    #[project = PublicBodyProjection]
    #[derive(Debug)]
    pub(crate) enum PublicBody {
        Api { #[pin] body: ResponseBody<UpstreamBody> },
        Ours { #[pin] body: axum::body::Body },
        Refusal { #[pin] body: Full<Bytes> },
    }
}

impl Body for PublicBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            PublicBodyProjection::Api { body } => body.poll_frame(cx),
            PublicBodyProjection::Ours { body } => body.poll_frame(cx).map_err(Into::into),
            PublicBodyProjection::Refusal { body } => body.poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Api { body } => body.is_end_stream(),
            Self::Ours { body } => body.is_end_stream(),
            Self::Refusal { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Api { body } => body.size_hint(),
            Self::Ours { body } => body.size_hint(),
            Self::Refusal { body } => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_code(request: http::request::Builder, expected: Option<Code>) {
        let request = request.body(()).unwrap();
        assert_eq!(check(&request).err().map(|(code, _)| code), expected);
    }

    #[test]
    fn a_head_is_bounded_and_has_one_host() {
        let get = || Request::get("/a").header(HOST, "a");
        check_code(get(), None);
        check_code(get().header("x-long", "a".repeat(33_000)), Some(Code::HeadersTooLarge));
        check_code(get().header(HOST, "b"), Some(Code::InvalidRequest));
        check_code(Request::get("/a"), Some(Code::InvalidRequest));
        check_code(Request::get("/a").version(Version::HTTP_10), None);
        check_code(get().method(Method::TRACE), Some(Code::MethodNotAllowed));
    }
}
